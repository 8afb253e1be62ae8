"""Estimates over seeds: what was found, its interval, and whether that tells a gain from noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]
Verdict = Literal['gained', 'lost', 'cannot be told apart from noise', 'no common quality']
NOISE: Verdict = 'cannot be told apart from noise'

MINIMUM_SEEDS = 3
"""Seeds below which no verdict is given."""


def count_of(number: int, thing: str) -> str:
    """So many things, in words.

    Example:
        >>> count_of(1, 'seed'), count_of(3, 'seed')
        ('1 seed', '3 seeds')
    """
    return f'{number} {thing}' if number == 1 else f'{number} {thing}s'


@dataclass(frozen=True)
class Estimate:
    """A figure with its spread over seeds.

    Attributes:
        value: The figure; ``None`` if nothing can be said.
        low: Lower end of the interval; ``None`` where there are too few seeds for one.
        high: Upper end.
        usable: Resamples that have an answer, out of ``resamples``; the interval is over these.
        resamples: Resamples drawn; 0 for an interval in closed form.
        verdict: Which side of no effect the interval lies on; fewer than three seeds cannot tell.
        seeds: Seeds, or pairs of them, that it rests on.
        why: Why there is no value or no interval; empty if there is.
    """

    value: float | None
    low: float | None
    high: float | None
    usable: int
    resamples: int
    verdict: Verdict
    seeds: int = 0
    why: str = ''


def nothing(why: str, seeds: int = 0, verdict: Verdict = NOISE) -> Estimate:
    """An estimate of which nothing can be said, with the reason."""
    return Estimate(None, None, None, 0, 0, verdict, seeds, why)


def resampled(value: float, draws: Array, seeds: int, level: float, null: float = 1.0) -> Estimate:
    """The expanded percentile interval (Hesterberg 2014, arXiv 1411.5279) of a figure for which more is better.

    The plain percentile interval is too short for few seeds; this one has the length of Student's interval where the
    figure is a mean. The verdict counts all resamples: one without an answer speaks for neither side.

    Args:
        value: The figure of all seeds; NaN if there is none.
        draws: The figure of each resample of the seeds; NaN if it has none.
        seeds: Number of seeds, the smaller of the two of a comparison.
        level: Level of the interval, between 0 and 1.
        null: The figure of no effect.

    Example:
        >>> resampled(1.5, np.array([1.4, 1.5, 1.6]), 3, 0.9).verdict
        'gained'
    """
    usable = draws[np.isfinite(draws)]
    if np.isnan(value):
        return Estimate(None, None, None, len(usable), len(draws), 'no common quality', seeds, 'no common quality')
    value = float(value)
    if seeds < 2 or not len(usable):
        why = 'one seed has no spread' if seeds < 2 else 'no resample has an answer'
        return Estimate(value, None, None, len(usable), len(draws), NOISE, seeds, why)
    tail = NormalDist().cdf(-np.sqrt(seeds / (seeds - 1)) * student(seeds, level))
    low, high = (float(np.quantile(usable, share)) for share in (tail, 1 - tail))
    verdict = NOISE
    if seeds >= MINIMUM_SEEDS and np.sum(usable > null) >= (1 - tail) * len(draws):
        verdict = 'gained'
    elif seeds >= MINIMUM_SEEDS and np.sum(usable < null) >= (1 - tail) * len(draws):
        verdict = 'lost'
    return Estimate(value, low, high, len(usable), len(draws), verdict, seeds)


def mean_of(values: Sequence[float], level: float = 0.9, higher_is_better: bool = True) -> Estimate:
    """The mean of paired differences with Student's interval.

    In closed form, since a resampled mean never leaves the range of its pairs: with three of them a percentile
    interval, however expanded, holds the truth in at most 3 cases of 4.

    Args:
        values: One difference for each pair; those that are not finite are left out.
        level: Level of the interval, between 0 and 1.
        higher_is_better: Whether a positive difference is a gain.

    Returns:
        The verdict is against 0.

    Example:
        >>> found = mean_of([0.01, 0.02, 0.03])
        >>> round(found.value, 4), round(found.low, 4), round(found.high, 4), found.verdict
        (0.02, 0.0031, 0.0369, 'gained')
    """
    numbers = np.array([value for value in values if np.isfinite(value)], dtype=float)
    count = len(numbers)
    if not count:
        return nothing('no pairs')
    value = float(numbers.mean())
    if count < 2:
        return Estimate(value, None, None, 0, 0, NOISE, count, 'one pair has no spread')
    half = student(count, level) * float(numbers.std(ddof=1)) / np.sqrt(count)
    low, high = float(value - half), float(value + half)
    return Estimate(value, low, high, 0, 0, _verdict(low, high, 0.0, higher_is_better, count), count)


def geometric_mean_of(ratios: Sequence[float], level: float = 0.9, higher_is_better: bool = True) -> Estimate:
    """The geometric mean of paired ratios: :func:`mean_of` their logarithms, against 1.

    Example:
        >>> round(geometric_mean_of([1.0, 2.0, 4.0]).value, 4)
        2.0
    """
    found = mean_of(np.log([ratio for ratio in ratios if ratio > 0]).tolist(), level, higher_is_better)

    def back(number: float | None) -> float | None:
        return None if number is None else float(np.exp(number))

    return Estimate(back(found.value), back(found.low), back(found.high), 0, 0, found.verdict, found.seeds, found.why)


def ratio_of(costs: Sequence[float], reference: Sequence[float], level: float = 0.9) -> Estimate:
    """Mean / mean of the reference, paired, with Fieller's interval (1954); below 1 is a gain.

    For quantities that may be near 0 or below; :func:`geometric_mean_of` is for those that cannot.

    Fieller's interval holds the ratios at which the mean of ``costs - ratio * reference`` has 0 in its Student's
    interval. It has two ends only where the reference's mean can itself be told from 0.

    Args:
        costs: One for each pair; pairs in which either is not finite are left out.
        reference: As many.
        level: Level of the interval, between 0 and 1.

    Returns:
        The verdict is against 1.

    Raises:
        ValueError: If there are not as many of one as of the other.

    Example:
        >>> round(ratio_of([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]).value, 3)
        0.5
    """
    pairs = np.array(list(zip(costs, reference, strict=True)), dtype=float).reshape(-1, 2)
    above, below = pairs[np.isfinite(pairs).all(axis=1)].T
    count = len(above)
    if not count:
        return nothing('no pairs')
    top, bottom = float(above.mean()), float(below.mean())
    if bottom <= 0:
        return nothing('what it is a share of is not above 0', count)
    if count < 2:
        return Estimate(top / bottom, None, None, 0, 0, NOISE, count, 'one pair has no spread')
    square = student(count, level) ** 2 / count
    (s_top, s_both), (_, s_bottom) = np.cov(above, below).tolist()
    a, b, c = bottom**2 - square * s_bottom, top * bottom - square * s_both, top**2 - square * s_top
    if a <= 0:
        return Estimate(
            top / bottom, None, None, 0, 0, NOISE, count, 'what it is a share of cannot be told apart from 0',
        )
    # Not negative but for rounding, where the reference's mean can be told from 0.
    root = np.sqrt(max(b * b - a * c, 0.0))
    low, high = float((b - root) / a), float((b + root) / a)
    return Estimate(top / bottom, low, high, 0, 0, _verdict(low, high, 1.0, False, count), count)


def student(count: int, level: float) -> float:
    """The quantile of Student's distribution for a two-sided interval over ``count`` values, at least 2."""
    return float(stdtrit(count - 1, (1 + level) / 2))


def _verdict(low: float, high: float, null: float, higher_is_better: bool, count: int) -> Verdict:
    if count < MINIMUM_SEEDS or low <= null <= high:
        return NOISE
    return 'gained' if (low > null) == higher_is_better else 'lost'
