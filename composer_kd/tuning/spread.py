"""A time that was measured several times over."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """Seconds: the median, the quartiles, and of how many."""

    seconds: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float], floor: float | None = None) -> Spread:
        """The spread of some measurements.

        Args:
            values: In seconds, one or more.
            floor: What the median cannot be below, where it is a difference of larger times; ``None`` for anything.

        Example:
            >>> Spread.of([1.0, 5.0, 2.0, 3.0, 4.0])
            Spread(seconds=3.0, low=2.0, high=4.0, count=5)
        """
        low = middle = high = values[0]
        if len(values) > 1:
            low, middle, high = statistics.quantiles(values, n=4, method='inclusive')
        if floor is not None and middle < floor:
            middle, high = floor, max(floor, high)
        return cls(middle, min(low, middle), high, len(values))
