"""Tables of a comparison: quality per duration, what distillation cost, what it saved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from composer_kd.report.curves import Curve
from composer_kd.report.interval import Estimate
from composer_kd.report.plain import Cell, Number, PlainTable, estimate_number, mean_sd_number, remarks
from composer_kd.report.rows import Row
from composer_kd.report.speedup import SpeedUp

PARTIAL = '* not both get there in every resample; the interval is over those where they do.'


def quality_table(curves: Mapping[str, Curve], metric: str, digits: int = 4) -> PlainTable:
    """Quality at the end of training: a row for each method, a column for each duration.

    Args:
        curves: By method.
        metric: Name of the quality, for the title.
        digits: Decimals.

    Example:
        >>> from composer_kd.report.curves import Point
        >>> curve = Curve.of('kd', [Point('1ep', seed, 10.0, 0.5 + seed / 10) for seed in (0, 1, 2)])
        >>> quality_table({'kd': curve}, 'accuracy', digits=2).rows[0][0]
        'kd'
    """
    durations = _durations(curves.values())
    seeds = sorted({len(curve.seeds) for curve in curves.values()}) or [0]
    many = f'{seeds[0]}' if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]}'
    many += ' seed' if many == '1' else ' seeds'
    rows: list[tuple[Cell, ...]] = []
    for method, curve in curves.items():
        values = [
            curve.quality[curve.durations.index(duration)] if duration in curve.durations else np.array([])
            for duration in durations
        ]
        rows.append((method, *(mean_sd_number(row.tolist(), digits) for row in values)))
    return PlainTable(
        f'{metric} at the end of training,\nmean ± sd over {many}', ('method', *durations), tuple(rows),
        name='quality',
    )


def cost_table(rows: Sequence[Row], baseline: str = 'baseline') -> PlainTable:
    """What distillation cost: seconds, overhead, and how much longer than the baseline of the same duration and seed.

    Args:
        rows: The runs; those that did not finish, and those that only taught, are left out.
        baseline: The method that the last column compares with.
    """
    names = ('KD on,\nof batches', 'KD time', 'overhead,\nwhole run', 'overhead,\nKD steps', f'longer than\n{baseline}')
    finished = [row for row in rows if row.finished and not row.is_earlier]
    alone = {(row.duration, row.seed): row.costs['train_seconds'] for row in finished if row.method == baseline}
    found: list[tuple[Cell, ...]] = []
    for method in dict.fromkeys(row.method for row in finished):
        mine = [row for row in finished if row.method == method]
        pairs = [row.costs['train_seconds'] / alone[row.duration, row.seed] - 1
                 for row in mine if alone.get((row.duration, row.seed), 0) > 0]
        active, seconds = (float(np.mean(values)) for values in (
            [row.active_share for row in mine], [row.kd_seconds for row in mine],
        ))
        found.append((
            method,
            Number(active, f'{100 * active:.0f} %'),
            Number(seconds, f'{seconds:.2f} s'),
            mean_sd_number((row.overhead for row in mine), 1, percent=True),
            mean_sd_number((row.step_overhead for row in mine if row.step_overhead is not None), 1, percent=True),
            '' if method == baseline else _quartiles(pairs),
        ))
    return PlainTable(
        'Cost of distillation, mean ± sd over all runs; last column: median [quartiles] of pairs', ('method', *names),
        tuple(found), name='cost-of-distillation',
    )


def speedup_table(results: Sequence[SpeedUp], digits: int = 4) -> PlainTable:
    """Median speed-up at equal quality with its interval and the verdict: a row for each method.

    Args:
        results: All against the same baseline.
        digits: Decimals of a quality.
    """
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        common = '-'
        if result.common is not None:
            common = f'{result.common[0]:.{digits}f} to {result.common[1]:.{digits}f}'
        rows.append((result.method, estimate_number(result.median), common, result.verdict))
    return PlainTable(
        _title(results), ('method', 'median', 'over qualities', 'verdict'), tuple(rows),
        remarks((result.method, result.note) for result in results), name='speed-up',
    )


def speedup_at_table(results: Sequence[SpeedUp], digits: int = 4) -> PlainTable:
    """Speed-up at chosen qualities, and the largest one: a row for each method, a dash where it does not get there.

    Args:
        results: All against the same baseline.
        digits: Decimals of a quality.
    """
    qualities = list(dict.fromkeys(quality for result in results for quality in result.at))
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        largest = Number(None, '-')
        if result.maximum is not None:
            largest = Number(result.maximum, f'{result.maximum:.2f}\nat {result.maximum_at:.{digits}f}')
        cells = [
            estimate_number(result.at[quality], between='\n') if quality in result.at else Number(None, '-')
            for quality in qualities
        ]
        rows.append((result.method, *cells, largest))
    partial = any(_partial(estimate) for result in results for estimate in result.at.values())
    return PlainTable(
        _title(results), ('method', *(f'at {quality:.{digits}f}' for quality in qualities), 'largest'), tuple(rows),
        (PARTIAL,) if partial else (), name='speed-up-at',
    )


def _title(results: Sequence[SpeedUp]) -> str:
    if not results:
        return 'Speed-up at equal quality'
    return (
        f'Speed-up at equal quality, with {100 * results[0].level:.0f} % interval:\n'
        f'cost of {results[0].baseline} / cost of the method'
    )


def _partial(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.usable < estimate.resamples


def _quartiles(values: Sequence[float]) -> Number:
    usable = [value for value in values if math.isfinite(value)]
    if not usable:
        return Number(None, '-')
    low, middle, high = (float(np.quantile(usable, share)) for share in (0.25, 0.5, 0.75))
    return Number(middle, f'{100 * middle:.0f} [{100 * low:.0f},{100 * high:.0f}] %', low, high)


def _durations(curves: Iterable[Curve]) -> list[str]:
    """Durations of all methods, by what they cost on average."""
    costs: dict[str, list[float]] = {}
    for curve in curves:
        for duration, cost in zip(curve.durations, curve.mean_cost.tolist(), strict=True):
            costs.setdefault(duration, []).append(cost)
    return sorted(costs, key=lambda duration: sum(costs[duration]) / len(costs[duration]))
