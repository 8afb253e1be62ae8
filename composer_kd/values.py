"""A number that stands still or follows one of Composer's schedulers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from composer.core import State, Timestamp, TimeUnit

from composer_kd.components import SCHEDULERS, build
from composer_kd.names import check_keys, described

_PROBES = 65


class Value:
    """A setting that may change over the training.

    Args:
        spec: A number, a Composer scheduler (or any function of the state), or ``{scheduler_name: {setting: value}}``
            with the scheduler's snake-case name: ``{'linear': {'alpha_i': 0.9, 'alpha_f': 0.1}}``. What the scheduler
            returns **is** the value. Note that Composer's ``constant`` scheduler returns 1 once its ``t_max`` is over.
        where: What it is, for messages.
        above: The value must be above this...
        at_least: ...or at least this.

    Raises:
        TypeError: If ``spec`` is none of these.
        ValueError: For a number out of range or an unknown scheduler or setting.

    Example:
        >>> Value(0.9, 'kd_loss_weight', at_least=0).constant
        0.9
    """

    def __init__(
        self, spec: Any, where: str, above: float | None = None, at_least: float | None = None,
    ) -> None:
        self.spec = spec
        self.where = where
        self._above, self._at_least = above, at_least
        self.constant: float | None = None
        self._scheduler: Callable[[Any], float] | None = None
        if isinstance(spec, (int, float)) and not isinstance(spec, bool):
            self.constant = self._checked(spec, '')
        elif isinstance(spec, Mapping):
            if len(spec) != 1:
                raise ValueError(
                    f'{where}: expected a number or one scheduler, as in {{linear: {{alpha_i: 0.9, alpha_f: 0.1}}}}, '
                    f'got {len(spec)} keys: {dict(spec)}.',
                )
            (name, settings), = spec.items()
            check_keys({name: None}, SCHEDULERS.names(), where)
            if settings is not None and not isinstance(settings, Mapping):
                raise TypeError(
                    f"{where}.{name}: expected a mapping of the scheduler's settings, got {type(settings).__name__}: "
                    f'{settings!r}.',
                )
            self._scheduler = build(SCHEDULERS, str(name), settings, f'{where}.{name}')
        elif callable(spec):
            self._scheduler = spec
        else:
            raise TypeError(
                f'{where}: expected a number, a Composer scheduler or {{scheduler_name: settings}}, got '
                f'{type(spec).__name__}: {spec!r}.',
            )

    def _checked(self, value: float, when: str) -> float:
        if self._above is not None:
            fine, limit = value > self._above, f'above {self._above:g}'
        else:
            assert self._at_least is not None
            fine, limit = value >= self._at_least, f'of {self._at_least:g} or more'
        if not (fine and value <= sys.float_info.max):
            raise ValueError(f'{self.where}: expected a finite number {limit}, got {value!r}{when}.')
        return float(value)

    def at(self, state: State) -> float:
        """The value for the batch that ``state`` is at.

        Raises:
            ValueError: If the scheduler returns a number out of range.
        """
        if self.constant is not None:
            return self.constant
        assert self._scheduler is not None
        return self._checked(float(self._scheduler(state)), f' at batch {int(state.timestamp.batch)}')

    def look_ahead(self, state: State) -> None:
        """Call the scheduler at moments spread over the whole training, so that what it refuses shows now.

        Raises:
            ValueError: If a value is out of range, or the scheduler cannot be called.
        """
        if self.constant is not None:
            return
        assert self._scheduler is not None
        duration, length = state.max_duration, state.dataloader_len
        assert duration is not None
        in_batches = duration.unit == TimeUnit.EPOCH and length is not None
        total = int(duration.value) * (int(length) if in_batches and length is not None else 1)
        for probe in range(_PROBES):
            hand = (total - 1) * probe // (_PROBES - 1)  # the last batch starts one before the end
            hands: dict[str, Any] = {duration.unit.name.lower(): hand}
            if in_batches and length is not None:
                hands = {'batch': hand, 'epoch': hand // max(int(length), 1)}
            moment = SimpleNamespace(timestamp=Timestamp(**hands), max_duration=duration, dataloader_len=length)
            try:
                value = float(self._scheduler(moment))
            except AttributeError:
                return  # a user's own function may read more of the state than schedulers do; it is checked as it runs
            except (ValueError, TypeError, RuntimeError, AssertionError) as error:
                raise ValueError(f'{self.where}: {type(self._scheduler).__name__} refused: {error}') from error
            self._checked(value, f' from {type(self._scheduler).__name__} at {hand} of {total} of the training')

    @property
    def source(self) -> str:
        """The number, or the scheduler with its settings, as text that is the same in every process."""
        return described(self.spec if self.constant is None else self.constant)

    def describe(self) -> Any:
        """The value as a plain type, for logs and records."""
        if self.constant is not None:
            return self.constant
        if isinstance(self.spec, Mapping):
            (name, settings), = self.spec.items()
            return {str(name): dict(settings or {})}
        return type(self.spec).__name__
