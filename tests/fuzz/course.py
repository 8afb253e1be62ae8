"""Trainings drawn at random, walked through batch by batch in plain numbers, and what of them is distilled.

Written from the README and the docstrings alone: nothing here calls what it is held against, but for the random number
of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from types import SimpleNamespace
from typing import Any

from composer.core import Time, TimeUnit
from hypothesis import strategies as st

UNITS = ('ep', 'ba', 'sp', 'tok', 'iter')
_MOST = 60


class Hand(int):
    """One hand of a clock, read as Composer's times are; theirs take a while to make."""

    value = property(int)


@dataclass(frozen=True)
class Moment:
    """The start of a batch."""

    ba: int = 0
    ep: int = 0
    sp: int = 0
    tok: int = 0
    iter: int = 0
    in_epoch: int = 0

    @cached_property
    def stamp(self) -> Any:
        return SimpleNamespace(
            batch=Hand(self.ba), epoch=Hand(self.ep), sample=Hand(self.sp), token=Hand(self.tok), iteration=Hand(self.iter),
            batch_in_epoch=Hand(self.in_epoch),
        )


@dataclass(frozen=True)
class Training:
    """A training: what its epochs hold, and how long it is."""

    sizes: tuple[int, ...]
    tokens: int
    duration: tuple[int, str]
    sized: bool = True
    iteration: int | None = None

    @cached_property
    def max_duration(self) -> Time[int]:
        return Time.from_timestring(''.join(map(str, self.duration)))

    def state(self, moment: Moment = Moment(), seed: int = 17) -> Any:
        """What a schedule sees of Composer's state."""
        length = Time(len(self.sizes), TimeUnit.BATCH) if self.sized else None
        return SimpleNamespace(
            timestamp=moment.stamp, max_duration=self.max_duration, dataloader_len=length, rank_zero_seed=seed,
        )

    @cached_property
    def batches(self) -> list[Moment]:
        """All batches, the clocks going as Composer's do."""
        now, (value, unit), found = dict.fromkeys(UNITS, 0), self.duration, []
        while True:
            for place, size in enumerate(self.sizes):
                if now[unit] >= value:
                    return found
                found.append(Moment(**now, in_epoch=place))
                now = {**now, 'ba': now['ba'] + 1, 'sp': now['sp'] + size, 'tok': now['tok'] + size * self.tokens}
            now['ep'] += 1
            if self.iteration and now['ep'] % self.iteration == 0:
                now['iter'] += 1


@dataclass(frozen=True)
class Said:
    """A time as it is written, and what it is."""

    text: str | int
    value: Fraction
    unit: str

    def __str__(self) -> str:
        return self.text if isinstance(self.text, str) else f'{self.text}ba'

    def over(self, moment: Moment, training: Training) -> bool:
        """Whether a batch that starts then starts at this time or later."""
        if self.unit != 'dur':
            return getattr(moment, self.unit) >= self.value
        value, unit = training.duration
        if unit == 'ep' and training.sized:  # a share of epochs is exact to the batch
            return moment.ba >= self.value * value * len(training.sizes)
        return getattr(moment, unit) >= self.value * value


def active(training: Training, start: Said, end: Said, every: tuple[int, str]) -> list[Moment]:
    """The batches that window and interval leave."""
    inside = [m for m in training.batches if start.over(m, training) and not end.over(m, training)]
    count, unit = every
    return [m for m in inside if (getattr(m, unit) - getattr(inside[0], unit)) % count == 0]


def written(every: tuple[int, str]) -> str:
    return f'{every[0]}{every[1]}'


def opens_late(start: Said, end: Said, training: Training) -> bool:
    """Whether the window closes before it opens in this training, in units that can be compared."""
    length = len(training.sizes) if training.sized else None
    value, unit = training.duration

    def told(time):
        if time.unit == 'dur':
            return (time.value * value * length, 'ba') if unit == 'ep' and length else (time.value * value, unit)
        return time.value, time.unit

    (first, one), (last, other) = told(start), told(end)
    per = {'ba': 1, 'ep': length}
    if one == other:
        return first > last
    first = 0 if first == 0 else first * per[one] if per.get(one) else None
    last = 0 if last == 0 else last * per[other] if per.get(other) else None
    return None not in (first, last) and first > last


@st.composite
def trainings(draw: Any, plain: bool = False) -> Training:
    """Short trainings; plain ones have batches of one size and a length."""
    length = draw(st.integers(1, 9))
    if plain:
        sizes = (draw(st.integers(1, 9)),) * length
    else:
        whole = draw(st.integers(1, 9))
        sizes = draw(st.one_of(
            st.tuples(*[st.integers(1, 9)] * length), st.integers(1, whole).map(lambda last: (*[whole] * (length - 1), last)),
        ))
    tokens = draw(st.sampled_from([0, 1, 7]))
    sized = plain or draw(st.booleans())
    units = ['ba', 'sp', *(['tok'] if tokens else []), *(['ep'] if sized else [])]
    unit = draw(st.sampled_from(units))
    most = {'ba': _MOST, 'ep': max(1, _MOST // length), 'sp': 5 * _MOST, 'tok': 5 * _MOST * tokens}[unit]
    iteration = None if plain else draw(st.sampled_from([None, None, 1, 2]))
    return Training(sizes, tokens, (draw(st.integers(1, most)), unit), sized, iteration)


@st.composite
def times(draw: Any, units: tuple[str, ...] = ('dur', *UNITS)) -> Said:
    """A time in any unit, in any of the ways in which it may be written."""
    unit = draw(st.sampled_from(units))
    if unit == 'dur':
        digits, places = draw(st.sampled_from([(0, 0), (1, 0), (5, 1), (25, 2), (1, 1), (3, 1), (333, 3)]) | st.integers(
            0, 6).flatmap(lambda n: st.tuples(st.integers(0, 10**n), st.just(n))))
        value = Fraction(digits, 10**places)
        plain = f'{digits}e-{places}' if places else f'{digits}'
        written = f'{digits / 10**places:.{places}f}' if places else plain
        return Said(f'{draw(st.sampled_from([plain, written]))}dur', value, unit)
    value = draw(st.integers(0, 12) | st.integers(0, 400) | st.integers(10**9 - 2, 10**9 + 2))
    text = draw(st.sampled_from([f'{value}{unit}', f'{value}.0{unit}', f'{value}e0{unit}', f'{value}{unit.upper()}']))
    if unit == 'ba' and draw(st.booleans()):
        return Said(value, Fraction(value), unit)
    return Said(text, Fraction(value), unit)


intervals = st.tuples(st.integers(1, 6), st.sampled_from(['ba', 'ep']))
