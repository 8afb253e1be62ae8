"""When distillation is on, how strongly, and which teachers answer: pure functions of (seed, clock).

Nothing here keeps or draws from a random generator. Every choice is a hash of the seed and the batch index, so it is
the same on every rank, after every restart, and no other random number of the training moves.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from composer.core import Time, Timestamp, TimeUnit

from composer_kd.times import parse_time

SAMPLING = ('random', 'round_robin', 'by_rank')

_SMALLEST = 2.0**-54
"""In the place of a drawn zero, which has no logarithm."""

_HANDS = {unit: unit.name.lower() for unit in TimeUnit}


@dataclass(frozen=True)
class Clock:
    """Where the training stands at the start of a batch; all counted from zero."""

    batch: int = 0
    epoch: int = 0
    sample: int = 0
    token: int = 0
    iteration: int = 0
    batch_in_epoch: int = 0

    @classmethod
    def of(cls, timestamp: Timestamp) -> Clock:
        """The clock of a Composer timestamp."""
        return cls(
            timestamp.batch.value, timestamp.epoch.value, timestamp.sample.value, timestamp.token.value,
            timestamp.iteration.value, timestamp.batch_in_epoch.value,
        )

    def read(self, unit: TimeUnit) -> int:
        """The hand of that unit."""
        return int(getattr(self, _HANDS[unit]))


@dataclass(frozen=True)
class Bound:
    """A moment of the training: reached once the clock's ``unit`` is at ``value`` or past it."""

    unit: TimeUnit
    value: Fraction

    def reached(self, clock: Clock) -> bool:
        """Whether the clock is at the moment or past it."""
        return clock.read(self.unit) >= self._first

    @cached_property
    def _first(self) -> int:
        # clocks count whole numbers, and comparing fractions every batch is slow
        return math.ceil(self.value)

    def in_batches(self, batches_per_epoch: int | None) -> Fraction | None:
        """The moment in batches, or ``None`` where that depends on what the batches hold."""
        if self.value == 0 or self.unit == TimeUnit.BATCH:
            return self.value
        if self.unit == TimeUnit.EPOCH and batches_per_epoch is not None:
            return self.value * batches_per_epoch
        return None


def resolve(time: Time[float], max_duration: Time[int], batches_per_epoch: int | None, where: str) -> Bound:
    """The moment of the training that ``time`` names.

    A fraction of a duration in epochs is counted in batches, as Composer's own elapsed duration moves in whole epochs.

    Raises:
        ValueError: If a fraction of a duration in epochs is asked for and the dataloader does not know its length.
    """
    if time.unit != TimeUnit.DURATION:
        return Bound(time.unit, Fraction(int(time.value)))
    # str(): the shortest decimal that gives the float is what was written, and 0.1 of 10 batches is then exactly 1.
    share = Fraction(str(time.value))
    if max_duration.unit != TimeUnit.EPOCH:
        return Bound(max_duration.unit, share * int(max_duration.value))
    if batches_per_epoch is None:
        if share in (0, 1):
            return Bound(TimeUnit.EPOCH, share * int(max_duration.value))
        raise ValueError(
            f"{where}: '{time.value:g}dur' of a duration in epochs needs the number of batches of an epoch, and this "
            'dataloader has no length. Give the time in ba, sp, tok or ep, or set train_subset_num_batches.',
        )
    return Bound(TimeUnit.BATCH, share * int(max_duration.value) * batches_per_epoch)


@dataclass(frozen=True)
class Interval:
    """Every ``every``-th batch or epoch of the window, its first included."""

    every: int
    unit: TimeUnit

    @classmethod
    def parse(cls, value: str | int | Time[int], where: str = 'interval') -> Interval:
        """``4`` and ``'4ba'`` are every 4th batch, ``'10ep'`` every 10th epoch.

        Raises:
            ValueError: For any other unit, and for anything below one.
        """
        time = parse_time(value, where)
        if time.unit not in (TimeUnit.BATCH, TimeUnit.EPOCH) or time.value < 1:
            raise ValueError(
                f"{where}: expected a number of batches or epochs of 1 or more (4, '4ba', '10ep'), got {value!r}.",
            )
        return cls(int(time.value), time.unit)


@dataclass(frozen=True)
class Anchor:
    """The window's first batch, and its epoch: intervals count from there."""

    batch: int
    epoch: int


@dataclass(frozen=True)
class Window:
    """The part of the training in which distillation may be on: from ``start``, up to and without ``end``."""

    start: Bound
    end: Bound

    def contains(self, clock: Clock) -> bool:
        """Whether the batch that starts at this clock lies in the window."""
        return self.start.reached(clock) and not self.end.reached(clock)

    def closed(self, clock: Clock) -> bool:
        """Whether no later batch can lie in the window: clocks do not run back."""
        return self.end.reached(clock)

    def anchor(self, batches_per_epoch: int | None) -> Anchor | None:
        """The first batch where it is known beforehand; ``None`` where it shows only when it is reached."""
        first = self.start.in_batches(batches_per_epoch)
        if first == 0:
            return Anchor(0, 0)
        if first is None or batches_per_epoch is None:
            return None
        return Anchor(math.ceil(first), math.ceil(first) // batches_per_epoch)


def uniform(seed: int, batch: int, stream: str) -> float:
    """A number in [0, 1) that depends on its arguments alone.

    Args:
        seed: The run's seed (rank zero's, the same on all ranks).
        batch: The index of the batch.
        stream: What the number decides, so that two decisions on one batch do not share a number.

    Example:
        >>> uniform(17, 3, 'on') == uniform(17, 3, 'on')
        True
    """
    digest = hashlib.blake2b(f'{seed}/{batch}/{stream}'.encode(), digest_size=8).digest()
    return (int.from_bytes(digest, 'big') >> 11) / (1 << 53)


def is_on(clock: Clock, anchor: Anchor, interval: Interval, probability: float, seed: int) -> bool:
    """Whether distillation is on for a batch in the window, the one that starts at ``clock``.

    Args:
        clock: The clock at the batch's start.
        anchor: The window's first batch.
        interval: Every how many batches or epochs of the window.
        probability: The share, 0 to 1, of the remaining batches that is kept, each by its own draw.
        seed: The run's seed.
    """
    passed = clock.batch - anchor.batch if interval.unit == TimeUnit.BATCH else clock.epoch - anchor.epoch
    if passed % interval.every:
        return False
    return probability >= 1 or uniform(seed, clock.batch, 'on') < probability


def choose(
    clock: Clock, anchor: Anchor, interval: Interval, weights: Sequence[float], count: int, sampling: str, seed: int,
    rank: int = 0, ranks: int = 1,
) -> tuple[int, ...]:
    """Which teachers answer on a rank, for a batch on which distillation is on.

    ``'random'`` draws ``count`` of them without replacement, each next one with a chance in proportion to its weight
    (exponential keys, Efraimidis and Spirakis 2006). ``'round_robin'`` goes through the pool, ``count`` a turn.
    ``'by_rank'`` goes through it over the ranks first and the turns then, so that the ranks ask different teachers.

    Args:
        clock: The clock at the batch's start.
        anchor: The window's first batch.
        interval: Every how many batches or epochs of the window.
        weights: The teachers' weights, above zero.
        count: How many answer on a rank.
        sampling: ``'random'``, ``'round_robin'`` or ``'by_rank'``.
        seed: The run's seed.
        rank: The rank; of no consequence but for ``'by_rank'``.
        ranks: How many there are.

    Returns:
        Indices of the teachers in ascending order.
    """
    total = len(weights)
    if count >= total:
        return tuple(range(total))
    if sampling in ('round_robin', 'by_rank'):
        turn = _turn(clock, anchor, interval)
        return _in_turn(turn * ranks + rank if sampling == 'by_rank' else turn, count, total)
    # log(-log(u)) - log(w) orders as u^(1/w) does the other way round, without overflow for any weights.
    draws = [max(uniform(seed, clock.batch, f'teacher {i}'), _SMALLEST) for i in range(total)]
    keys = [math.log(-math.log(draw)) - math.log(weight) for draw, weight in zip(draws, weights, strict=True)]
    return tuple(sorted(sorted(range(total), key=lambda i: keys[i])[:count]))


def _turn(clock: Clock, anchor: Anchor, interval: Interval) -> int:
    """How many batches before this one the interval has left."""
    passed = clock.batch - anchor.batch
    if interval.unit == TimeUnit.BATCH:
        return passed // interval.every
    if clock.epoch == anchor.epoch:
        return passed
    # Epochs are of one length, which the clock tells even where the dataloader does not.
    length = (clock.batch - clock.batch_in_epoch) // clock.epoch
    first = (anchor.epoch + 1) * length - anchor.batch
    rounds = (clock.epoch - anchor.epoch) // interval.every
    return first + (rounds - 1) * length + clock.batch_in_epoch


def askers(
    clock: Clock, anchor: Anchor, interval: Interval, weights: Sequence[float], count: int, sampling: str, seed: int,
    ranks: int,
) -> dict[int, int]:
    """The teachers that answer for a batch on any rank, and on how many of ``ranks``; else as :func:`choose`."""
    if sampling != 'by_rank':
        return dict.fromkeys(choose(clock, anchor, interval, weights, count, sampling, seed), ranks)
    return dict(Counter(
        i for rank in range(ranks) for i in choose(clock, anchor, interval, weights, count, sampling, seed, rank, ranks)
    ))


def _in_turn(turn: int, count: int, total: int) -> tuple[int, ...]:
    return tuple(sorted((turn * count + i) % total for i in range(count)))


def ever_asked(total: int, count: int, sampling: str, rank: int, ranks: int) -> frozenset[int]:
    """The teachers that a rank asks at any time; the others need not be kept there.

    Args:
        total: How many teachers there are.
        count: How many answer for a batch on a rank.
        sampling: As in :func:`choose`, and so are ``rank`` and ``ranks``.
        rank: The rank.
        ranks: How many there are.

    Example:
        >>> [sorted(ever_asked(4, 1, 'by_rank', rank, 2)) for rank in (0, 1)]
        [[0, 2], [1, 3]]
    """
    if sampling != 'by_rank':
        return frozenset(range(total))
    return frozenset(i for turn in range(total) for i in _in_turn(turn * ranks + rank, count, total))


def describe(window: Window) -> Mapping[str, str]:
    """The bounds as plain strings (``{'start': '0 ba', 'end': '70 ba'}``), exact, for logs and checkpoints."""
    bounds = {'start': window.start, 'end': window.end}
    return {name: f'{bound.value} {bound.unit.value}' for name, bound in bounds.items()}


def restore(described: Mapping[str, str]) -> Window:
    """The window that :func:`describe` described."""
    def bound(text: str) -> Bound:
        value, unit = text.split()
        return Bound(TimeUnit(unit), Fraction(value))
    return Window(bound(described['start']), bound(described['end']))
