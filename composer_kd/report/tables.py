"""Tables for the terminal: quality per duration, what distillation cost, what it saved."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from composer_kd.report.collect import Row
from composer_kd.report.curves import Curve
from composer_kd.report.speedup import Estimate, SpeedUp


def mean_sd(values: Iterable[float], digits: int = 4, percent: bool = False) -> str:
    """Mean and sample standard deviation as text; the deviation of a single value is left out, and so are NaNs.

    Example:
        >>> mean_sd([1.0, 2.0, 3.0], 2), mean_sd([0.5], 1, percent=True), mean_sd([])
        ('2.00 ± 1.00', '50.0 %', '-')
    """
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return '-'
    scale, unit = (100.0, ' %') if percent else (1.0, '')
    text = f'{scale * float(np.mean(numbers)):.{digits}f}'
    if len(numbers) > 1:
        text += f' ± {scale * float(np.std(numbers, ddof=1)):.{digits}f}'
    return text + unit


def quality_table(curves: Mapping[str, Curve], metric: str, digits: int = 4) -> Table:
    """Quality at the end of training: a row for each method, a column for each duration.

    Args:
        curves: By method.
        metric: Name of the quality, for the title.
        digits: Decimals.
    """
    durations = _durations(curves.values())
    seeds = sorted({len(curve.seeds) for curve in curves.values()})
    many = f'{seeds[0]}' if len(seeds) == 1 else f'{seeds[0]} to {seeds[-1]}'
    table = Table(title=f'{metric} at the end of training,\nmean ± sd over {many} seeds')
    table.add_column('method')
    for duration in durations:
        table.add_column(duration, justify='right', no_wrap=True)
    for method, curve in curves.items():
        cells = []
        for duration in durations:
            row = curve.quality[curve.durations.index(duration)] if duration in curve.durations else np.array([])
            cells.append(mean_sd(row.tolist(), digits))
        table.add_row(method, *cells)
    return table


def cost_table(rows: Sequence[Row], baseline: str = 'baseline') -> Table:
    """What distillation cost: seconds, overhead, and how much longer than the baseline of the same duration and seed.

    Args:
        rows: The runs; those that did not finish are left out.
        baseline: The method that the last column compares with.
    """
    table = Table(title='Cost of distillation, mean ± sd over all runs; last column: median \\[quartiles] of pairs')
    table.add_column('method')
    names = ('KD on,\nof batches', 'KD time', 'overhead,\nwhole run', 'overhead,\nKD steps', f'longer than\n{baseline}')
    for name in names:
        table.add_column(name, justify='right', no_wrap=True)
    finished = [row for row in rows if row.finished]
    alone = {(row.duration, row.seed): row.costs['train_seconds'] for row in finished if row.method == baseline}
    for method in dict.fromkeys(row.method for row in finished):
        mine = [row for row in finished if row.method == method]
        pairs = [row.costs['train_seconds'] / alone[row.duration, row.seed] - 1
                 for row in mine if alone.get((row.duration, row.seed), 0) > 0]
        table.add_row(
            method,
            f'{100 * float(np.mean([row.active_share for row in mine])):.0f} %',
            f'{float(np.mean([row.kd_seconds for row in mine])):.2f} s',
            mean_sd((row.overhead for row in mine), 1, percent=True),
            mean_sd((row.step_overhead for row in mine if row.step_overhead is not None), 1, percent=True),
            '' if method == baseline else _quartiles(pairs),
        )
    return table


def speedup_table(results: Sequence[SpeedUp], digits: int = 4) -> Table:
    """Median speed-up at equal quality with its interval and the verdict: a row for each method.

    Args:
        results: All against the same baseline.
        digits: Decimals of a quality.
    """
    table = Table(title=_title(results), caption='\n'.join(_notes(results)) or None, caption_justify='left')
    table.add_column('method', overflow='fold')
    table.add_column('median', justify='right', no_wrap=True)
    table.add_column('over qualities', justify='right', no_wrap=True)
    table.add_column('verdict')
    for result in results:
        common = '-'
        if result.common is not None:
            common = f'{result.common[0]:.{digits}f} to {result.common[1]:.{digits}f}'
        table.add_row(result.method, _ratio(result.median), common, result.verdict)
    return table


def speedup_at_table(results: Sequence[SpeedUp], digits: int = 4) -> Table:
    """Speed-up at chosen qualities, and the largest one: a row for each method, a dash where it does not get there.

    Args:
        results: All against the same baseline.
        digits: Decimals of a quality.
    """
    qualities = list(dict.fromkeys(quality for result in results for quality in result.at))
    table = Table(title=_title(results), show_lines=True)
    table.add_column('method', overflow='fold')
    for quality in qualities:
        table.add_column(f'at {quality:.{digits}f}', justify='right', no_wrap=True)
    table.add_column('largest', justify='right', no_wrap=True)
    for result in results:
        largest = '-'
        if result.maximum is not None:
            largest = f'{result.maximum:.2f}\nat {result.maximum_at:.{digits}f}'
        cells = [_ratio(result.at[quality], '\n') if quality in result.at else '-' for quality in qualities]
        table.add_row(result.method, *cells, largest)
    if any(_partial(estimate) for result in results for estimate in result.at.values()):
        table.caption = '* not both get there in every resample; the interval is over those where they do.'
    return table


def to_text(table: Table, width: int = 120) -> str:
    """A table as plain text, as for a log or a file."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _title(results: Sequence[SpeedUp]) -> str:
    if not results:
        return 'Speed-up at equal quality'
    return (
        f'Speed-up at equal quality, with {100 * results[0].level:.0f} % interval:\n'
        f'cost of {results[0].baseline} / cost of the method'
    )


def _notes(results: Sequence[SpeedUp]) -> list[str]:
    return [f'{result.method}: {result.note}.' for result in results if result.note]


def _ratio(estimate: Estimate, between: str = ' ') -> str:
    if estimate.value is None:
        return '-'
    # Rich reads text in brackets as style, hence the backslash.
    interval = '' if estimate.low is None else f'{between}\\[{estimate.low:.2f}, {estimate.high:.2f}]'
    return f"{estimate.value:.2f}{interval}{'*' if _partial(estimate) else ''}"


def _partial(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.usable < estimate.resamples


def _quartiles(values: Sequence[float]) -> str:
    if not values:
        return '-'
    low, middle, high = (100 * float(np.quantile(values, share)) for share in (0.25, 0.5, 0.75))
    return f'{middle:.0f} \\[{low:.0f},{high:.0f}] %'


def _durations(curves: Iterable[Curve]) -> list[str]:
    """Durations of all methods, by what they cost on average."""
    costs: dict[str, list[float]] = {}
    for curve in curves:
        for duration, cost in zip(curve.durations, curve.mean_cost.tolist(), strict=True):
            costs.setdefault(duration, []).append(cost)
    return sorted(costs, key=lambda duration: sum(costs[duration]) / len(costs[duration]))
