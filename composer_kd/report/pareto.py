"""The Pareto front of quality against cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from composer_kd.report.curves import Curve


class ParetoPoint(NamedTuple):
    """A method at a duration: mean cost and mean quality over its seeds, and how many runs those are."""

    method: str
    duration: str
    cost: float
    quality: float
    runs: int


def points(curves: Mapping[str, Curve]) -> list[ParetoPoint]:
    """Every method at every duration, cheapest first within a method."""
    return [
        ParetoPoint(method, duration, cost, quality, int(np.isfinite(row).sum()))
        for method, curve in curves.items()
        for duration, cost, quality, row in zip(
            curve.durations, curve.mean_cost.tolist(), curve.mean_quality.tolist(), curve.quality, strict=True,
        )
    ]


def pareto(points: Iterable[ParetoPoint], higher_is_better: bool = True) -> list[ParetoPoint]:
    """The points that no other point beats: none is as cheap and as good, and cheaper or better.

    It is read off means: which of two near points is on it may be noise.

    Args:
        points: The points; those whose cost or quality is not finite are left out.
        higher_is_better: Whether a higher quality is a better one.

    Returns:
        The front in order of cost; points equal in both are all on it.

    Example:
        >>> front = pareto([ParetoPoint('a', '1ep', 1.0, 0.5, 3), ParetoPoint('a', '2ep', 2.0, 0.4, 3),
        ...                 ParetoPoint('b', '1ep', 2.0, 0.6, 3)])
        >>> [(point.method, point.duration) for point in front]
        [('a', '1ep'), ('b', '1ep')]
    """
    sign = 1.0 if higher_is_better else -1.0
    usable = [point for point in points if np.isfinite(point.cost) and np.isfinite(point.quality)]
    front: list[ParetoPoint] = []
    for point in sorted(usable, key=lambda p: (p.cost, -sign * p.quality)):
        if not front or sign * point.quality > sign * front[-1].quality or point[2:4] == front[-1][2:4]:
            front.append(point)
    return front
