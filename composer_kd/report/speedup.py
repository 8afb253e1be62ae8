"""The speed-up at equal quality, with its spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from composer_kd.report.curves import Curve
from composer_kd.report.interval import MINIMUM_SEEDS, Estimate, Verdict, count_of, resampled
from composer_kd.report.lines import GRID, Lines, common, median_over_common, of_means, of_resamples, ratios


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
    base_mean, mean = (of_means(curve, log_cost) for curve in (baseline, method))
    generator = np.random.default_rng(seed)
    base_draws, base_whole = of_resamples(baseline, resamples, generator, log_cost)
    draws, whole = of_resamples(method, resamples, generator, log_cost)
    keep = base_whole & whole
    counts = (len(baseline.seeds), len(method.seeds))
    fewest = min(counts)

    at: dict[float, Estimate] = {}
    for quality in baseline.mean_quality.tolist() if qualities is None else qualities:
        value = ratios(base_mean, mean, np.array([[sign * quality]]))[0, 0]
        drawn = ratios(base_draws, draws, np.full((resamples, 1), sign * quality))[:, 0]
        at[float(quality)] = resampled(value, np.where(keep, drawn, np.nan), fewest, level)

    low, high = (float(end[0]) for end in common(base_mean, mean))
    median = resampled(
        float(median_over_common(base_mean, mean)[0]),
        np.where(keep, median_over_common(base_draws, draws), np.nan), fewest, level,
    )
    reached = maximum = maximum_at = None
    if low <= high:
        reached = (sign * low, sign * high)
        # The ratio of two linear functions has its extremes at the ends of a piece.
        kinks = np.concatenate([base_mean.best[0], mean.best[0], np.linspace(low, high, GRID)])
        kinks = kinks[(kinks >= low) & (kinks <= high)]
        found = ratios(base_mean, mean, kinks[None])[0]
        best = int(np.argmax(found))
        maximum, maximum_at = float(found[best]), sign * float(kinks[best])
    return SpeedUp(
        baseline.method, method.method, reached, median, maximum, maximum_at, at, counts, level,
        _note((base_mean, mean), reached, median, fewest, (baseline.method, method.method)),
    )


def _note(
    means: tuple[Lines, Lines],
    reached: tuple[float, float] | None,
    median: Estimate,
    seeds: int,
    names: tuple[str, str],
) -> str:
    if reached is None:
        better = int(means[1].best[0, 0] > means[0].best[0, -1])
        return (
            f"the worst of '{names[better]}' is better than the best of '{names[1 - better]}': "
            f'add shorter runs of the first or longer ones of the second'
        )
    if seeds < MINIMUM_SEEDS:
        return f"{count_of(seeds, 'seed')} cannot tell a gain from noise: make at least 3, better 5"
    if median.usable < median.resamples:
        return f'the two overlap in {median.usable} of {median.resamples} resamples; the interval is over those'
    return ''
