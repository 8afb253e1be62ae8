"""What distillation does on each batch: the schedule, bound to one training."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer.core import State, Time
from composer.utils import dist

from composer_kd import schedule
from composer_kd.schedule import Anchor, Clock, Window
from composer_kd.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """One loss of a batch.

    Attributes:
        index: Which of the training's.
        weight: By which it is multiplied.
        temperature: Of the loss, where it follows a scheduler.
    """

    index: int
    weight: float = 1.0
    temperature: float | None = None


@dataclass(frozen=True)
class Decision:
    """One batch's: whether, how strongly, which losses, and whom to ask.

    ``teachers`` are those of this rank; ``askers`` says of every teacher that any rank asks how many ranks do.
    """

    on: bool = False
    kd_loss_weight: float = 0.0
    parts: tuple[Part, ...] = ()
    teachers: tuple[int, ...] = ()
    weights: Mapping[int, float] = field(default_factory=dict)
    askers: Mapping[int, int] = field(default_factory=dict)
    shown_temperature: float | None = None
    closed: bool = False

    def metrics(self, names: Sequence[str], losses: Sequence[str] = ()) -> dict[str, float]:
        """What is logged of the decision: ``kd/active``, ``kd/weight``, ``kd/temperature``, ``kd/teacher/NAME``, and
        of several losses ``kd/weight/LABEL`` of each.
        """
        shown = {'kd/active': float(self.on), 'kd/weight': self.kd_loss_weight}
        if self.on and self.shown_temperature is not None:
            shown['kd/temperature'] = self.shown_temperature
        weights = {part.index: part.weight for part in self.parts}
        shown |= {f'kd/weight/{label}': weights.get(i, 0.0) for i, label in enumerate(losses)}
        return {**shown, **{f'kd/teacher/{name}': float(i in self.askers) for i, name in enumerate(names)}}


_OFF, _CLOSED = Decision(), Decision(closed=True)


class Plan:
    """The schedule of one training. It keeps no random state: only the window, as resolved when the training began."""

    def __init__(self, settings: Settings) -> None:
        self._s = settings
        self._window: Window | None = None
        self._own: list[Window | None] = []
        self._anchor: Anchor | None = None
        self._seed = 0

    def fit_start(self, state: State) -> None:
        """Resolve the window, or keep the one that an earlier part of the training resolved.

        Raises:
            ValueError: If the window's start lies after its end, or a scheduler gives a value out of range.
        """
        assert state.max_duration is not None
        length = None if state.dataloader_len is None else int(state.dataloader_len)
        window = Window(*(
            schedule.resolve(time, state.max_duration, length, where)
            for time, where in ((self._s.start, 'start'), (self._s.end, 'end'))
        ))
        first, last = window.start.in_batches(length), window.end.in_batches(length)
        if window.start.unit == window.end.unit and window.start.value > window.end.value:
            raise ValueError(
                f"start: '{self._s.plain['start']}' is {float(window.start.value):g} {window.start.unit.value} of this "
                f"training, after end '{self._s.plain['end']}', which is {float(window.end.value):g}. Give a start "
                'before the end.',
            )
        if first is not None and last is not None and first > last:
            raise ValueError(
                f"start: '{self._s.plain['start']}' is batch {float(first):g} of this training, after end "
                f"'{self._s.plain['end']}', which is batch {float(last):g}. Give a start before the end.",
            )
        if self._window is None:
            self._window = window
            self._anchor = window.anchor(length)
        elif window != self._window:
            log.warning(
                'Distillation keeps the window it had when this training began (%s); for its present length '
                'start=%s and end=%s would be %s.', schedule.describe(self._window), self._s.plain['start'],
                self._s.plain['end'], schedule.describe(window),
            )
        whole = schedule.resolve(Time.from_timestring('1dur'), state.max_duration, length, 'max_duration')
        if window.start.unit == whole.unit and window.start.value >= whole.value and self._s.plain['start'] != '1dur':
            log.warning(
                'Distillation is never on: start=%s lies at or after the end of this training (%s).',
                self._s.plain['start'], state.max_duration,
            )
        self._seed = state.rank_zero_seed if self._s.seed is None else self._s.seed
        self._resolve_own(state, length)
        losses = (value for entry in self._s.entries for value in (entry.weight, entry.temperature))
        for value in (self._s.kd_loss_weight, *losses):
            if value is not None:
                value.look_ahead(state)

    def _resolve_own(self, state: State, length: int | None) -> None:
        """Resolve the windows that losses have of their own, or keep those of an earlier part of the training."""
        assert state.max_duration is not None
        assert self._window is not None
        if self._own:
            return
        for entry in self._s.entries:
            if entry.start is None and entry.end is None:
                self._own.append(None)
                continue
            own = Window(*(
                whole if time is None else schedule.resolve(time, state.max_duration, length, f'{entry.label}.{key}')
                for key, time, whole in (
                    ('start', entry.start, self._window.start), ('end', entry.end, self._window.end),
                )
            ))
            self._own.append(own)
            first, last = (
                [bound.in_batches(length) for bound in bounds]
                for bounds in ((own.start, self._window.start), (own.end, self._window.end))
            )
            latest, earliest = (max(b for b in first if b is not None), min(b for b in last if b is not None)) if (
                None not in first and None not in last
            ) else (0, 1)
            if latest >= earliest:
                log.warning(
                    "The loss '%s' is never on: its start=%s and end=%s leave no batch of the window (%s).",
                    entry.label, entry.plain['start'], entry.plain['end'], schedule.describe(self._window),
                )

    def closed(self, state: State) -> bool:
        """Whether distillation is over for good."""
        assert self._window is not None
        return self._closed(Clock.of(state.timestamp))

    def _closed(self, clock: Clock) -> bool:
        assert self._window is not None
        return self._window.closed(clock) or all(own is not None and own.closed(clock) for own in self._own)

    def batches(self, state: State, index: int) -> Sequence[int] | None:
        """The batches, from this one on, in which some rank asks a teacher; ``None`` where that is not known."""
        assert self._window is not None
        length = None if state.dataloader_len is None else int(state.dataloader_len)
        assert state.max_duration is not None
        whole = schedule.resolve(Time.from_timestring('1dur'), state.max_duration, length, 'max_duration')
        bounds = [bound.in_batches(length) for bound in (self._window.start, self._window.end, whole)]
        by_rank = self._s.sampling == 'by_rank' and dist.get_world_size() > 1  # each asks for its own samples alone
        own = [None if one is None else (one.start.in_batches(length), one.end.in_batches(length)) for one in self._own]
        unknown = any(one is not None and None in one for one in own)
        if length is None or by_rank or unknown or any(bound is None for bound in bounds):
            return None
        start, end, over = (math.ceil(bound) for bound in bounds if bound is not None)
        window = range(max(int(state.timestamp.batch), start), min(end, over))
        s, anchor = self._s, self._anchor or Anchor(start, start // length)
        shares = [spec.weight for spec in s.specs]
        always = None in own
        if always and s.interval.every == 1 and s.probability >= 1 and s.teachers_per_batch >= len(shares):
            return window
        found = []
        for batch in window:
            clock = Clock(batch=batch, epoch=batch // length, batch_in_epoch=batch % length)
            if not always and not any(one is not None and one.contains(clock) for one in self._own):
                continue
            if schedule.is_on(clock, anchor, s.interval, s.probability, self._seed) and index in schedule.askers(
                clock, anchor, s.interval, shares, s.teachers_per_batch, s.sampling, self._seed, dist.get_world_size(),
            ):
                found.append(batch)
        return found

    def decide(self, state: State) -> Decision:
        """The decision for the batch that ``state`` is at."""
        assert self._window is not None
        clock = Clock.of(state.timestamp)
        if self._closed(clock):
            return _CLOSED
        if not self._window.start.reached(clock):
            return _OFF
        if self._anchor is None:
            self._anchor = Anchor(clock.batch, clock.epoch)
        s = self._s
        if not schedule.is_on(clock, self._anchor, s.interval, s.probability, self._seed):
            return _OFF
        parts = self._parts(clock, state)
        if not parts:
            return _OFF
        shares = [spec.weight for spec in s.specs]
        rank, ranks = dist.get_global_rank(), dist.get_world_size()
        draw = (clock, self._anchor, s.interval, shares, s.teachers_per_batch, s.sampling, self._seed)
        askers = schedule.askers(*draw, ranks)
        chosen = schedule.choose(*draw, rank, ranks) if s.sampling == 'by_rank' else tuple(askers)
        # Teachers drawn by weight have had their share in the draw; in the average they are equal.
        drawn = s.sampling == 'random' and len(chosen) < len(shares)
        return Decision(
            True, s.kd_loss_weight.at(state), parts, chosen, {i: 1.0 if drawn else shares[i] for i in chosen}, askers,
            self._shown(parts),
        )

    def _parts(self, clock: Clock, state: State) -> tuple[Part, ...]:
        """The losses that are on in a batch of the window on which distillation is."""
        return tuple(
            Part(i, entry.weight.at(state), None if entry.temperature is None else entry.temperature.at(state))
            for i, (entry, own) in enumerate(zip(self._s.entries, self._own, strict=True))
            if own is None or own.contains(clock)
        )

    def _shown(self, parts: Sequence[Part]) -> float | None:
        """The temperature, where all losses that are on and have one have the same."""
        heats = {
            self._s.entries[part.index].fixed_temperature if part.temperature is None else part.temperature
            for part in parts if self._s.entries[part.index].has_temperature
        }
        return heats.pop() if len(heats) == 1 else None

    def held(self) -> frozenset[int]:
        """The teachers that this rank asks at any time."""
        s = self._s
        return schedule.ever_asked(
            len(s.specs), s.teachers_per_batch, s.sampling, dist.get_global_rank(), dist.get_world_size(),
        )

    def state_dict(self) -> dict[str, Any]:
        """The window and its first batch, in plain types."""
        own = [None if one is None else dict(schedule.describe(one)) for one in self._own]
        return {
            'window': dict(schedule.describe(self._window)) if self._window else {},
            **({'windows_of_losses': own} if any(own) else {}),
            'anchor': [self._anchor.batch, self._anchor.epoch] if self._anchor else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the window of the training that is resumed, unless start or end are other ones now."""
        said, now = state.get('settings', {}), self._s.canonical
        if any(said.get(key, now[key]) != now[key] for key in ('start', 'end')):
            self._window = self._anchor = None
            self._own = []
            return
        if state.get('window'):
            self._window = schedule.restore(state['window'])
        if state.get('windows_of_losses') and said.get('loss') == now['loss']:
            self._own = [None if one is None else schedule.restore(one) for one in state['windows_of_losses']]
        if state.get('anchor'):
            self._anchor = Anchor(*state['anchor'])
