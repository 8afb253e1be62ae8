"""Tables of searches and sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from composer_kd.report.costs import COSTS
from composer_kd.report.interval import count_of
from composer_kd.report.plain import (
    Cell,
    Number,
    PlainTable,
    cost_number,
    estimate_number,
    mean_sd_number,
    plain_number,
    remarks,
    text_of,
)
from composer_kd.report.search import Chain
from composer_kd.report.search_gain import SearchGain
from composer_kd.report.sequence import SequenceResult


def search_table(gains: Sequence[SearchGain], metric: str, level: float = 0.9, digits: int = 4) -> PlainTable:
    """What a method saves a search: a row for each.

    Args:
        gains: All against the same baseline.
        metric: Name of the quality.
        level: Level of the intervals.
        digits: Decimals of a quality.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            gain.method,
            estimate_number(gain.cost_ratio, between='\n'),
            estimate_number(gain.at_equal_cost, digits, signed=True, between='\n'),
            estimate_number(gain.after_equal_runs, digits, signed=True, between='\n'),
            estimate_number(gain.total_ratio, between='\n'),
            gain.verdict,
        )
        for gain in gains
    ]
    baseline = gains[0].baseline if gains else 'the baseline'
    runs = ', '.join(str(count) for count in sorted({gain.runs for gain in gains if gain.runs}))
    return PlainTable(
        f'Searches compared with {baseline}, paired over replicates, with {100 * level:.0f} % interval:\n{metric}',
        (
            'method', 'speed-up', 'better for the\nsame total cost', f'better after\n{runs or "as many"} runs',
            'cost of\nthese, ratio', 'verdict',
        ),
        tuple(rows),
        (
            f'Speed-up: total cost of {baseline} up to the best quality that every search reached / that of the '
            f'method, pruned and failed runs counted. Better: best quality so far less that of {baseline}.',
            *remarks(
                (gain.method, f"{count_of(gain.replicates, 'pair')} of searches; all reached {gain.quality:.{digits}f}")
                for gain in gains if gain.quality is not None and gain.replicates
            ),
            *remarks((gain.method, gain.why) for gain in gains),
        ), 'search',
    )


def best_runs_table(searches: Mapping[str, Sequence[Chain]], metric: str, digits: int = 4) -> PlainTable:
    """The best run of each search and what it tried: a row for each search.

    Args:
        searches: By method.
        metric: Name of the quality.
        digits: Decimals of a quality.
    """
    every = [chain for found in searches.values() for chain in found]
    keys = list(dict.fromkeys(key for chain in every for step in chain.steps for key in step.params))
    rows: list[tuple[Cell, ...]] = []
    for chain in every:
        best = chain.best_step
        states = [step.state for step in chain.steps]
        short = {key: key.rpartition('.')[2] for key in keys}
        unique = len(set(short.values())) == len(keys)
        cells = [
            f'{short[key] if unique else key} {text_of(_param(best.params[key]))}'
            for key in keys if best is not None and key in best.params
        ]
        made = f'{len(states)}'
        lost = [f'{states.count(state)} {state}' for state in ('pruned', 'failed', 'unfinished') if state in states]
        rows.append((
            chain.method, str(chain.replicate), made + (f" ({', '.join(lost)})" if lost else ''),
            plain_number(chain.best, digits),
            'none finished' if best is None else f'{best.folder.name}: {", ".join(cells) or "nothing varied"}',
        ))
    return PlainTable(
        f'Best run of each search: {metric}', ('method', 'replicate', 'runs', 'best', 'which'), tuple(rows),
        name='best-runs',
    )


def sequence_table(result: SequenceResult, digits: int = 4, cost_label: str = '') -> PlainTable:
    """Quality and cost of each step: a row for each method and step.

    Args:
        result: The sequence.
        digits: Decimals of a quality.
        cost_label: Name of the cost in words; empty for that in ``report.costs.COSTS``.
    """
    rows: list[tuple[Cell, ...]] = []
    for method, steps in result.methods.items():
        for one in steps:
            told = one.difference.value is not None
            rows.append((
                method, Number(one.step + 1, str(one.step + 1)), mean_sd_number(one.quality.values(), digits),
                estimate_number(one.difference, digits, signed=True, between='\n'),
                one.difference.verdict if told else one.why, cost_number(one.mean_cost), cost_number(one.mean_total),
            ))
    taught = [
        (method, 'teachers at step ' + ', '.join(str(one.step + 1) for one in steps if one.distilled))
        for method, steps in result.methods.items() if any(one.distilled for one in steps)
    ]
    return PlainTable(
        f'{result.metric} step by step, mean ± sd over replicates; cost: {cost_label or COSTS.get(result.cost)}',
        (
            'method', 'step', 'quality', f'less {result.baseline}', 'verdict', 'cost of\nthe step', 'cost\nso far',
        ),
        tuple(rows), remarks(taught), 'sequence-steps',
    )


def sequence_gain_table(result: SequenceResult, digits: int = 4, level: float = 0.9) -> PlainTable:
    """What a method gains over the whole sequence: a row for each.

    Args:
        result: The sequence.
        digits: Decimals of a quality.
        level: Level of the intervals.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            gain.method,
            estimate_number(gain.difference, digits, signed=True, between='\n'),
            estimate_number(gain.last, digits, signed=True, between='\n'),
            estimate_number(gain.cost_ratio, between='\n'),
            gain.verdict,
        )
        for gain in result.gains
    ]
    return PlainTable(
        f'Retraining compared with {result.baseline}, paired over replicates, with {100 * level:.0f} % interval:\n'
        f'{result.metric}',
        ('method', 'quality, mean of steps\nwith teachers', 'quality,\nlast step', 'total cost,\nratio', 'verdict'),
        tuple(rows), remarks((gain.method, gain.why) for gain in result.gains), 'sequence',
    )


def _param(value: object) -> Cell:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return '-' if value is None else str(value)
    return Number(value, f'{value:.4g}' if isinstance(value, float) else str(value))
