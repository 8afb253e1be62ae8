"""The speed-up at equal quality, with its spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from composer_kd.report.curves import Array, Curve

Verdict = Literal['gained', 'lost', 'cannot be told apart from noise', 'no common quality']

# Qualities at which a ratio is taken between the lowest and the highest that both methods reach.
_GRID = 201
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A speed-up with its spread over resampled seeds.

    Attributes:
        value: The speed-up of the seed-means, above 1 where the method is cheaper; ``None`` if not both get there.
        low: Lower end of the interval; ``None`` where there are too few seeds for one.
        high: Upper end.
        usable: Resamples in which both reach the quality, out of ``resamples``; the interval is over these.
        resamples: Resamples drawn.
        verdict: See :func:`speedup`.
    """

    value: float | None
    low: float | None
    high: float | None
    usable: int
    resamples: int
    verdict: Verdict


@dataclass(frozen=True)
class SpeedUp:
    """How much cheaper a method reaches the qualities that the baseline reaches too.

    Attributes:
        baseline: Name of the baseline.
        method: Name of the method.
        common: The worst and the best quality that both reach, in that order; ``None`` where there is none.
        median: The median speed-up over that range.
        maximum: The largest speed-up in it. It is picked for being large: a figure to look at, not to test.
        maximum_at: The quality where it is.
        at: Speed-up by quality, for the chosen qualities.
        seeds: Number of seeds of the baseline and of the method.
        level: Level of the intervals.
        note: What stands in the way of an answer; empty if nothing does.
    """

    baseline: str
    method: str
    common: tuple[float, float] | None
    median: Estimate
    maximum: float | None
    maximum_at: float | None
    at: dict[float, Estimate] = field(default_factory=dict)
    seeds: tuple[int, int] = (0, 0)
    level: float = 0.9
    note: str = ''

    @property
    def verdict(self) -> Verdict:
        """The verdict on the median."""
        return self.median.verdict


class _Lines:
    """Piecewise linear quality over cost, one line a row: the cost at which each first reaches a quality."""

    def __init__(self, cost: Array, quality: Array, log_cost: bool) -> None:
        self.log_cost = log_cost
        order = np.argsort(cost, axis=1)
        self.cost = np.take_along_axis(np.log(cost) if log_cost else cost, order, axis=1)
        # A training that costs more and ends worse is no step back: the cheaper one can be had.
        self.best = np.maximum.accumulate(np.take_along_axis(quality, order, axis=1), axis=1)

    def cost_of(self, quality: Array) -> Array:
        """``(rows, qualities)`` to costs of that shape; NaN where the line does not reach, or starts above."""
        first, end = self.best[:, :1], self.best[:, -1:]
        # A mean of equal numbers may be off by a rounding; a quality asked for by its decimals is still reached.
        reached = (quality >= first - _ROUNDING) & (quality <= end + _ROUNDING)
        quality = np.clip(quality, first, end)
        above = (self.best[:, None, :] < quality[:, :, None]).sum(-1)
        last = self.best.shape[1] - 1
        left, right = np.clip(above - 1, 0, last), np.clip(above, 0, last)
        b0, b1 = (np.take_along_axis(self.best, index, axis=1) for index in (left, right))
        c0, c1 = (np.take_along_axis(self.cost, index, axis=1) for index in (left, right))
        with np.errstate(invalid='ignore', divide='ignore'):
            share = np.where(b1 > b0, (quality - b0) / (b1 - b0), 0.0)
        cost = c0 + share * (c1 - c0)
        return np.where(reached, np.exp(cost) if self.log_cost else cost, np.nan)


def _ratios(baseline: _Lines, method: _Lines, quality: Array) -> Array:
    return np.asarray(baseline.cost_of(quality) / method.cost_of(quality))


def _common(baseline: _Lines, method: _Lines) -> tuple[Array, Array]:
    """Ends of the range both reach, one row each; the first lies above the second where there is none."""
    return np.maximum(baseline.best[:, 0], method.best[:, 0]), np.minimum(baseline.best[:, -1], method.best[:, -1])


def _median_ratio(baseline: _Lines, method: _Lines) -> Array:
    low, high = _common(baseline, method)
    grid = low[:, None] + np.linspace(0.0, 1.0, _GRID) * (high - low)[:, None]
    # Rounding may put the last quality above the range.
    grid = np.minimum(grid, high[:, None])
    return np.asarray(np.median(_ratios(baseline, method, np.where((low <= high)[:, None], grid, np.nan)), axis=1))


def _resampled(
    curve: Curve, resamples: int, generator: np.random.Generator, log_cost: bool,
) -> tuple[_Lines, NDArray[np.bool_]]:
    """Lines of resampled seeds, and which of them have a run for every duration."""
    count = len(curve.seeds)
    # One draw for all durations: a seed stands for one way the whole series could have gone.
    drawn = generator.integers(count, size=(resamples, count))
    there = ~np.isnan(curve.quality[:, drawn])
    number = there.sum(-1)
    with np.errstate(invalid='ignore'):
        cost, quality = (
            (np.where(there, np.nan_to_num(values[:, drawn]), 0.0).sum(-1) / number).T
            for values in (curve.cost, _signed(curve))
        )
    return _Lines(cost, quality, log_cost), np.asarray((number > 0).all(axis=0))


def _signed(curve: Curve) -> Array:
    return curve.quality if curve.higher_is_better else -curve.quality


def _estimate(value: float, draws: Array, seeds: int, level: float) -> Estimate:
    usable = draws[np.isfinite(draws)]
    if np.isnan(value):
        return Estimate(None, None, None, len(usable), len(draws), 'no common quality')
    if seeds < 2 or not len(usable):
        return Estimate(value, None, None, len(usable), len(draws), 'cannot be told apart from noise')
    # The plain percentile interval is too short for few seeds; this one has the length of Student's interval where
    # the estimate is a mean (the expanded percentile interval, Hesterberg 2014, arXiv 1411.5279).
    tail = NormalDist().cdf(-np.sqrt(seeds / (seeds - 1)) * float(stats.t.ppf((1 + level) / 2, seeds - 1)))
    low, high = (float(np.quantile(usable, share)) for share in (tail, 1 - tail))
    verdict: Verdict = 'cannot be told apart from noise'
    # A resample without an answer speaks for neither side, so all of them are counted, not the usable ones alone.
    if seeds > 2 and np.sum(usable > 1) >= (1 - tail) * len(draws):
        verdict = 'gained'
    elif seeds > 2 and np.sum(usable < 1) >= (1 - tail) * len(draws):
        verdict = 'lost'
    return Estimate(value, low, high, len(usable), len(draws), verdict)


def speedup(
    baseline: Curve,
    method: Curve,
    qualities: Sequence[float] | None = None,
    *,
    level: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
    log_cost: bool = False,
) -> SpeedUp:
    """Cost without a method to reach a quality / cost with it.

    The mean over seeds of each duration is one point; between points quality is linear in cost, made monotone by a
    running maximum; nothing is extrapolated. The ratio is taken at the chosen qualities and over the range that both
    reach, evenly in quality.

    The interval comes from resampling seeds with replacement, of each method on its own, the same seeds for all
    durations of a method. The verdict is ``gained`` if the interval lies above 1, ``lost`` if below, else ``cannot be
    told apart from noise``; fewer than three seeds of either, or resamples that do not overlap, can tell nothing.
    ``no common quality``: the seed-means do not both reach it.

    Args:
        baseline: Runs without the method.
        method: Runs with it.
        qualities: Where to take the ratio; ``None`` for the baseline's mean quality at each duration.
        level: Level of the intervals, between 0 and 1.
        resamples: Number of resamples, at least 1.
        seed: Seed of the resampling.
        log_cost: Interpolate over the logarithm of cost. Quality gains less with each doubling of the cost, so straight
            lines over cost run below the truth between points: each method looks better at its own points than
            between them. The logarithm brings that down where durations lie far apart.

    Returns:
        The speed-up: 2 means that the method reaches the same quality at half the cost.

    Raises:
        ValueError: If the curves differ in which direction is better, or ``level`` or ``resamples`` is out of range.

    Example:
        >>> from composer_kd.report.curves import Point
        >>> base = Curve.of('baseline', [Point(f'{n}ep', s, 10.0 * n, 0.1 * n) for n in (1, 2, 3) for s in (1, 2, 3)])
        >>> fast = Curve.of('kd', [Point(f'{n}ep', s, 5.0 * n, 0.1 * n) for n in (1, 2, 3) for s in (1, 2, 3)])
        >>> result = speedup(base, fast)
        >>> round(result.median.value, 3), result.verdict
        (2.0, 'gained')
    """
    if baseline.higher_is_better != method.higher_is_better:
        raise ValueError(
            f"Higher is better for one of '{baseline.method}' and '{method.method}' and worse for the other; "
            f'expected curves of the same quality. Collect both with the same metric.',
        )
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f'Expected 0 < level < 1 and resamples >= 1, got level {level} and resamples {resamples}.')
    sign = 1.0 if baseline.higher_is_better else -1.0
    base_mean, mean = (_Lines(c.mean_cost[None], sign * c.mean_quality[None], log_cost) for c in (baseline, method))
    generator = np.random.default_rng(seed)
    base_draws, base_whole = _resampled(baseline, resamples, generator, log_cost)
    draws, whole = _resampled(method, resamples, generator, log_cost)
    keep = base_whole & whole
    counts = (len(baseline.seeds), len(method.seeds))
    fewest = min(counts)

    at: dict[float, Estimate] = {}
    for quality in baseline.mean_quality.tolist() if qualities is None else qualities:
        value = _ratios(base_mean, mean, np.array([[sign * quality]]))[0, 0]
        drawn = _ratios(base_draws, draws, np.full((resamples, 1), sign * quality))[:, 0]
        at[float(quality)] = _estimate(value, np.where(keep, drawn, np.nan), fewest, level)

    low, high = (float(end[0]) for end in _common(base_mean, mean))
    median = _estimate(
        float(_median_ratio(base_mean, mean)[0]),
        np.where(keep, _median_ratio(base_draws, draws), np.nan), fewest, level,
    )
    common = maximum = maximum_at = None
    if low <= high:
        common = (sign * low, sign * high)
        # The ratio of two linear functions has its extremes at the ends of a piece.
        kinks = np.concatenate([base_mean.best[0], mean.best[0], np.linspace(low, high, _GRID)])
        kinks = kinks[(kinks >= low) & (kinks <= high)]
        ratios = _ratios(base_mean, mean, kinks[None])[0]
        best = int(np.argmax(ratios))
        maximum, maximum_at = float(ratios[best]), sign * float(kinks[best])
    return SpeedUp(
        baseline.method, method.method, common, median, maximum, maximum_at, at, counts, level,
        _note((base_mean, mean), common, median, fewest, (baseline.method, method.method)),
    )


def _note(
    means: tuple[_Lines, _Lines],
    common: tuple[float, float] | None,
    median: Estimate,
    seeds: int,
    names: tuple[str, str],
) -> str:
    if common is None:
        better = int(means[1].best[0, 0] > means[0].best[0, -1])
        return (
            f"the worst of '{names[better]}' is better than the best of '{names[1 - better]}': "
            f'add shorter runs of the first or longer ones of the second'
        )
    if seeds < 3:
        return f'{seeds} seed(s) cannot tell a gain from noise: make at least 3, better 5'
    if median.usable < median.resamples:
        return f'the two overlap in {median.usable} of {median.resamples} resamples; the interval is over those'
    return ''
