"""Quality over cost, one curve a method."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

class Point(NamedTuple):
    """One finished run: its duration, its seed, what it cost and the quality it ended with.

    ``price`` is what a batch of it cost as it was recorded, where the cost is at the median price of its method.
    """

    duration: str
    seed: int
    cost: float
    quality: float
    price: float = np.nan


@dataclass(frozen=True)
class Curve:
    """One method: runs of several durations, each with its full schedule, and several seeds of each.

    Attributes:
        method: Its name.
        durations: The durations, cheapest first.
        seeds: The seeds.
        cost: ``(durations, seeds)``, positive; NaN where there is no run.
        quality: ``(durations, seeds)``; NaN where there is no run.
        higher_is_better: Whether a higher quality is a better one.
        price: ``(durations, seeds)``, what a batch cost as recorded, where ``cost`` is at the median of these; else
            ``None``. Resamples draw it with the seeds.
    """

    method: str
    durations: tuple[str, ...]
    seeds: tuple[int, ...]
    cost: Array
    quality: Array
    higher_is_better: bool = True
    price: Array | None = None

    @classmethod
    def of(cls, method: str, points: Iterable[Point], higher_is_better: bool = True) -> Curve:
        """The curve of those runs.

        Raises:
            ValueError: If there is no run, two of the same duration and seed, a cost that is not positive, or a quality
                that is not finite.

        Example:
            >>> curve = Curve.of('baseline', [Point('2ep', 1, 20.0, 0.9), Point('1ep', 1, 10.0, 0.8)])
            >>> curve.durations, curve.mean_quality.tolist()
            (('1ep', '2ep'), [0.8, 0.9])
        """
        found: dict[tuple[str, int], Point] = {}
        for point in points:
            if (point.duration, point.seed) in found:
                raise ValueError(
                    f"'{method}': two runs of duration {point.duration} with seed {point.seed}. A seed is one "
                    f'replicate of a method: give the runs different tags or leave one out.',
                )
            if not (np.isfinite(point.cost) and point.cost > 0 and np.isfinite(point.quality)):
                raise ValueError(
                    f"'{method}', duration {point.duration}, seed {point.seed}: expected a cost above 0 and a finite "
                    f'quality, got cost {point.cost} and quality {point.quality}. Leave the run out or make it again.',
                )
            found[point.duration, point.seed] = point
        if not found:
            raise ValueError(f"'{method}': expected at least one finished run, got none.")
        seeds = sorted({point.seed for point in found.values()})
        names = {point.duration for point in found.values()}
        order = sorted(names, key=lambda d: float(np.mean([p.cost for p in found.values() if p.duration == d])))

        def table(what: str) -> Array:
            rows = [[getattr(found[d, s], what) if (d, s) in found else np.nan for s in seeds] for d in order]
            return np.array(rows, dtype=float)

        price = table('price')
        return cls(
            method, tuple(order), tuple(seeds), table('cost'), table('quality'), higher_is_better,
            price if np.isfinite(price).any() else None,
        )

    @property
    def mean_cost(self) -> Array:
        """Mean over the seeds, for each duration."""
        return np.asarray(np.nanmean(self.cost, axis=1))

    @property
    def mean_quality(self) -> Array:
        """Mean over the seeds, for each duration."""
        return np.asarray(np.nanmean(self.quality, axis=1))
