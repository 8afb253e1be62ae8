"""Quality over cost as lines between points: the cost at which each first reaches a quality, for many lines at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from composer_kd.report.curves import Array, Curve

GRID = 201
"""Qualities at which two lines are compared between the lowest and the highest that both reach."""

_ROUNDING = 1e-12
_PRICES = 1  # seed


class Lines:
    """Piecewise linear quality over cost, one line a row: the cost at which each first reaches a quality.

    Args:
        cost: ``(rows, points)``, in any order.
        quality: Of the same shape; higher is better.
        log_cost: Whether lines are straight over the logarithm of cost.
    """

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
        with np.errstate(invalid='ignore', divide='ignore'):
            slope = np.diff(self.cost, axis=1) / np.diff(self.best, axis=1)
        slope = np.where(np.diff(self.best, axis=1) > 0, slope, 0.0)
        cost = np.repeat(self.cost[:, :1], quality.shape[1], axis=1)
        # A piece at a time, in place: there are few pieces, and many qualities of many lines.
        for piece in range(slope.shape[1]):
            left = self.best[:, piece:piece + 1]
            there = quality - left
            there *= slope[:, piece:piece + 1]
            there += self.cost[:, piece:piece + 1]
            np.copyto(cost, there, where=quality > left)
        return np.where(reached, np.exp(cost) if self.log_cost else cost, np.nan)


def of_means(curve: Curve, log_cost: bool = False) -> Lines:
    """The line through the means over the seeds."""
    return Lines(curve.mean_cost[None], _upwards(curve, curve.mean_quality)[None], log_cost)


def of_resamples(
    curve: Curve, resamples: int, generator: np.random.Generator, log_cost: bool = False,
) -> tuple[Lines, NDArray[np.bool_]]:
    """Lines of resampled seeds, and which of them have a run for every duration."""
    count = len(curve.seeds)
    # One draw for all durations: a seed stands for one way the whole series could have gone.
    drawn = generator.integers(count, size=(resamples, count))
    there = ~np.isnan(curve.quality[:, drawn])
    number = there.sum(-1)
    with np.errstate(invalid='ignore'):
        cost, quality = (
            (np.where(there, np.nan_to_num(values[:, drawn]), 0.0).sum(-1) / number).T
            for values in (curve.cost, _upwards(curve, curve.quality))
        )
    if curve.price is not None:
        # The median price is an estimate too, and taken anew. The methods of one seed run next to each other in time:
        # with the same seeds drawn for all curves, what slowed them all down cancels.
        same = np.random.default_rng(_PRICES).integers(count, size=(resamples, count))
        prices = np.nanmedian(np.moveaxis(curve.price[:, same], 1, 0).reshape(resamples, -1), axis=1)
        cost = cost * (prices / np.nanmedian(curve.price))[:, None]
    return Lines(cost, quality, log_cost), np.asarray((number > 0).all(axis=0))


def common(baseline: Lines, method: Lines) -> tuple[Array, Array]:
    """Ends of the range both reach, one row each; the first lies above the second where there is none."""
    return np.maximum(baseline.best[:, 0], method.best[:, 0]), np.minimum(baseline.best[:, -1], method.best[:, -1])


def ratios(baseline: Lines, method: Lines, quality: Array) -> Array:
    """Cost of the baseline / cost of the method at those qualities."""
    return np.asarray(baseline.cost_of(quality) / method.cost_of(quality))


def savings(baseline: Lines, method: Lines, quality: Array) -> Array:
    """Cost of the baseline less that of the method at those qualities."""
    return np.asarray(baseline.cost_of(quality) - method.cost_of(quality))


def median_over_common(
    baseline: Lines, method: Lines, what: Callable[[Lines, Lines, Array], Array] = ratios,
) -> Array:
    """The median over the range both reach, evenly in quality; NaN where there is none."""
    low, high = common(baseline, method)
    grid = low[:, None] + np.linspace(0.0, 1.0, GRID) * (high - low)[:, None]
    # Rounding may put the last quality above the range.
    grid = np.minimum(grid, high[:, None])
    return np.asarray(np.median(what(baseline, method, np.where((low <= high)[:, None], grid, np.nan)), axis=1))


def _upwards(curve: Curve, quality: Array) -> Array:
    return quality if curve.higher_is_better else -quality
