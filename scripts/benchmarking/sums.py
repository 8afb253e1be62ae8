"""What is made of measured seconds: medians, quartiles, ratios round by round, and how cost grows."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarking.turns import Measured

CLIFF = 2.6
"""A doubling of the work that costs more than this many times as much is told as a cliff."""

FLAT, LINEAR = 0.25, (0.75, 1.25)
"""Slopes on two logarithmic axes: at most this is flat; between these is linear."""


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    def told(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles; of fewer than three values, the least and the most.

    Raises:
        ValueError: For none.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError('expected values to take the median of, got none.')
    if len(ordered) < 3:
        return Spread(statistics.median(ordered), ordered[0], ordered[-1])
    low, middle, high = statistics.quantiles(ordered, n=4, method='inclusive')
    return Spread(middle, low, high)


def by_round(
    measured: Measured, names: Sequence[str], value: Callable[..., float], relative: bool = True,
) -> Spread | None:
    """Something of several variants' seconds, made in every round that all of them share.

    Where memory did not let all of them run beside each other, they share none. Each is then taken as so many times
    the reference of its own rounds, and the spread is that of the first.

    Args:
        measured: The group.
        names: The variants, in the order of ``value``'s arguments.
        value: From seconds of each.
        relative: Whether the value does not change where all seconds are multiplied by the same. Otherwise there is
            none for variants that share no round.

    Returns:
        ``None`` where it cannot be told.
    """
    rows = [measured.seconds.get(name, {}) for name in names]
    if not all(rows):
        return None
    shared = set(rows[0]).intersection(*rows[1:])
    if shared:
        return spread(value(*(row[number] for row in rows)) for number in sorted(shared))
    if not relative:
        return None
    reference = measured.seconds.get(measured.reference, {})
    parts = [[row[number] / reference[number] for number in row if number in reference] for row in rows]
    if not all(parts):
        return None
    others = [statistics.median(found) for found in parts[1:]]
    return spread(value(first, *others) for first in parts[0])


def ratio(measured: Measured, over: str, under: str) -> Spread | None:
    """How many times as long one variant takes as another."""
    return by_round(measured, [over, under], lambda a, b: a / b)


def memory_ratio(measured: Measured, over: str, under: str) -> float | None:
    """How many times as much memory one variant takes as another."""
    if not measured.memory.get(over) or not measured.memory.get(under):
        return None
    return measured.memory[over] / measured.memory[under]


def seconds(measured: Measured, name: str) -> Spread | None:
    """Of one step."""
    found = measured.seconds.get(name)
    return spread(found.values()) if found else None


def fastest(measured: Measured, names: Iterable[str]) -> str | None:
    """The one of them whose median is least, or ``None`` where none was measured."""
    found = {name: seconds(measured, name) for name in names}
    medians = {name: each.median for name, each in found.items() if each is not None}
    return min(medians, key=lambda name: medians[name]) if medians else None


def told(measured: Measured, names: Iterable[str]) -> dict[str, Any]:
    """A group for JSON: by variant seconds, peak memory, every round and the first step's loss; or why none."""
    found: dict[str, Any] = {}
    for name in names:
        if name in measured.failed:
            found[name] = {'failed': measured.failed[name]}
        elif name in measured.seconds:
            found[name] = {
                'seconds': spread(measured.seconds[name].values()).told(), 'memory': measured.memory.get(name),
                'rounds': measured.seconds[name], 'first_loss': measured.facts.get(name, {}).get('loss'),
            }
    return found


@dataclass(frozen=True)
class Growth:
    """How a cost grows with the work.

    Attributes:
        slope: Of a line through the logarithms of both; ``None`` for fewer than two points above zero.
        last: The slope between the last two points alone, where what does not grow counts for least.
        kind: ``'flat'``, ``'linear'``, ``'below linear'`` or ``'above linear'``, by :attr:`last`.
        cliffs: Pairs of neighbouring points between which a doubling costs more than :data:`CLIFF` times as much.
    """

    slope: float | None
    last: float | None
    kind: str
    cliffs: list[tuple[float, float]]


def growth(points: Sequence[tuple[float, float]]) -> Growth:
    """How the second number of each pair grows with the first.

    Example:
        >>> growth([(1, 2.0), (2, 4.0), (4, 8.0)])
        Growth(slope=1.0, last=1.0, kind='linear', cliffs=[])
        >>> growth([(1, 1.0), (2, 3.0)]).cliffs
        [(1, 2)]
    """
    there = sorted((x, y) for x, y in points if x > 0 and y > 0)
    if len(there) < 2:
        return Growth(None, None, 'not known', [])
    logs = [(math.log(x), math.log(y)) for x, y in there]
    slope = statistics.linear_regression(*zip(*logs, strict=True)).slope
    slopes = [(d - b) / (c - a) for (a, b), (c, d) in itertools.pairwise(logs)]
    cliffs = [
        (low, high) for ((low, _), (high, _)), each in zip(itertools.pairwise(there), slopes, strict=True)
        if 2 ** each > CLIFF
    ]
    last = slopes[-1]
    kind = ('flat' if last <= FLAT else 'below linear' if last < LINEAR[0] else
            'linear' if last <= LINEAR[1] else 'above linear')
    return Growth(round(slope, 3), round(last, 3), kind, cliffs)
