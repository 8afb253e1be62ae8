"""Tables of costs: the Pareto front, charged teachers, overhead and how much of it is cut, stored answers."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.report.charge import BreakEven
from composer_kd.report.costs import COSTS
from composer_kd.report.overhead import Cut, OverheadSplit
from composer_kd.report.pareto import ParetoPoint
from composer_kd.report.plain import Cell, Number, PlainTable, cost_number, estimate_number, plain_number, remarks
from composer_kd.report.stored import StoredCost


def pareto_table(
    front: Sequence[ParetoPoint], metric: str, cost: str = 'train_seconds', cost_label: str = '', digits: int = 4,
) -> PlainTable:
    """The Pareto front, cheapest first.

    Args:
        front: From :func:`composer_kd.report.pareto`.
        metric: Name of the quality.
        cost: A name in ``report.costs.COSTS``.
        cost_label: Name of the cost in words; empty for that in ``COSTS``.
        digits: Decimals of a quality.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            point.method, point.duration, cost_number(point.cost),
            plain_number(point.quality, digits), Number(point.runs, str(point.runs)),
        )
        for point in front
    ]
    return PlainTable(
        f'Pareto front of {metric} against cost:\n{cost_label or COSTS.get(cost, cost)}',
        ('method', 'duration', 'mean cost', 'mean quality', 'runs'), tuple(rows),
        ('Read off means: which of two near points is on the front may be noise.',) if rows else ('No run to show.',),
        'pareto',
    )


def break_even_table(results: Sequence[BreakEven], cost: str = 'train_seconds', cost_label: str = '') -> PlainTable:
    """After how many later runs teachers have paid for themselves: a row for each method.

    Args:
        results: All against the same baseline.
        cost: A name in ``report.costs.COSTS``.
        cost_label: Name of the cost in words; empty for that in ``COSTS``.
    """
    rows: list[tuple[Cell, ...]] = []
    for result in results:
        runs = Number(None, '-')
        if result.runs is not None:
            interval = ''
            if result.low is not None:
                interval = f" [{result.low}, {'never' if result.high is None else result.high}]"
            runs = Number(result.runs, f'{result.runs}{interval}', result.low, result.high)
        saving = result.saving
        text = '-' if saving.value is None else cost_number(saving.value).text
        if saving.low is not None and saving.high is not None:
            text += f' [{cost_number(saving.low).text}, {cost_number(saving.high).text}]'
        rows.append((
            result.method, Number(result.teachers, str(result.teachers)), cost_number(result.teachers_cost),
            Number(saving.value, text, saving.low, saving.high), runs,
        ))
    baseline = results[0].baseline if results else 'the baseline'
    return PlainTable(
        f"Teachers' training charged: runs after which it has paid for itself\n{cost_label or COSTS.get(cost, cost)}",
        ('method', 'teachers', "teachers'\ncost", 'saved by a run at\nequal quality', 'paid after\nruns'),
        tuple(rows),
        (
            f'Saved: cost of {baseline} less that of the method, median over the qualities both reach.',
            *remarks((result.method, result.why) for result in results),
        ), 'break-even',
    )


def overhead_table(splits: Sequence[OverheadSplit], baseline: str = 'baseline') -> PlainTable:
    """Where the overhead of distillation goes, in percent of the baseline's time of a batch: a row for each method.

    Args:
        splits: From :func:`composer_kd.report.split`.
        baseline: Name of the baseline.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            one.method, *(
                plain_number(share, 1, percent=True)
                for share in (one.teacher, one.loss, one.data, one.rest, one.total)
            ), Number(one.pairs, str(one.pairs)),
        )
        for one in splits
    ]
    return PlainTable(
        f'Overhead of distillation, as a share of the training time of a batch of {baseline}; medians over runs',
        ('method', 'teacher', 'KD loss', 'data', 'rest', 'total', 'runs'), tuple(rows),
        (
            'Rest: the total less the others; the backward pass through the KD loss is in it, and the noise of the '
            'machine, which may bring it below 0.',
            *remarks((one.method, one.why) for one in splits),
        ), 'overhead',
    )


def cut_table(
    cuts: Sequence[Cut], reference: str, baseline: str = 'baseline', level: float = 0.9, digits: int = 4,
) -> PlainTable:
    """How much of the reference's overhead each method cuts, and the quality it keeps: a row for each.

    Args:
        cuts: From :func:`composer_kd.report.cut`.
        reference: The method whose overhead is cut.
        baseline: The method without distillation.
        level: Level of the intervals.
        digits: Decimals of a quality.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            one.method,
            estimate_number(one.kd, 0, percent=True, between='\n'),
            estimate_number(one.wall, 0, percent=True, between='\n'),
            estimate_number(one.to_reference, digits, signed=True, between='\n'),
            estimate_number(one.to_baseline, digits, signed=True, between='\n'),
            one.to_baseline.verdict,
        )
        for one in cuts
    ]
    reasons = []
    for one in cuts:
        parts = {
            'KD time': one.kd.why, 'training time': one.wall.why, f'quality less {reference}': one.to_reference.why,
            f'quality less {baseline}': one.to_baseline.why,
        }
        if one.why or len(set(parts.values())) == 1:
            reasons.append((one.method, one.why or one.kd.why))
        else:
            reasons += [(f'{one.method}, {name}', why) for name, why in parts.items()]
    return PlainTable(
        f'Share of the overhead of {reference} that is cut, and the quality kept, with {100 * level:.0f} % interval',
        (
            'method', 'cut of\nKD time', 'cut of\ntraining time', f'quality less\n{reference}',
            f'quality less\n{baseline}', f'against\n{baseline}',
        ),
        tuple(rows),
        (
            'KD time: recorded in teachers and KD loss, a batch. Training time: what a batch takes longer than one of '
            f'{baseline}. Quality: at equal duration, paired over seeds.',
            *remarks(reasons),
        ), 'overhead-cut',
    )


def stored_table(
    costs: Sequence[StoredCost], baseline: str | None, reference: str | None, cost: str = 'train_seconds',
    cost_label: str = '', level: float = 0.9,
) -> PlainTable:
    """What all runs of each method cost together, and what stored answers have to do with it: a row for each.

    Args:
        costs: From :func:`composer_kd.report.stored_costs`.
        baseline: The method without teachers.
        reference: The method with live teachers.
        cost: A name in ``report.costs.COSTS``.
        cost_label: Name of the cost in words; empty for that in ``COSTS``.
        level: Level of the intervals.
    """
    rows: list[tuple[Cell, ...]] = [
        (
            one.method, cost_number(one.total), estimate_number(one.to_baseline, between='\n'),
            estimate_number(one.to_reference, between='\n'), Number(one.asked, f'{one.asked:,}'),
            plain_number(one.share, 1, percent=True),
            Number(one.size, '-' if not one.stored else 'unknown' if one.size is None else f'{one.size / 1e6:.3g} MB'),
            Number(one.seconds, f'{one.seconds:.3g} s' if one.stored else '-'),
        )
        for one in costs
    ]
    return PlainTable(
        f'All runs together, with live and with stored teachers, with {100 * level:.0f} % interval:\n'
        f'{cost_label or COSTS.get(cost, cost)}',
        (
            'method', 'total, mean of\nreplicates', f"ratio to\n{baseline or 'no baseline'}",
            f"ratio to\n{reference or 'live teachers'}", 'samples\nasked', 'answers\nread', 'stores\non disk',
            'spent\non stores',
        ),
        tuple(rows),
        (
            'Total: every run of a replicate, those too that wrote the stores; where replicates have a teacher in '
            'common, the first of them wrote for all. Asked: samples of which teachers were asked, in all runs. Spent: '
            'storing, opening and finishing stores, in all runs; every cost that is a time holds it, and reading too.',
            *remarks((one.method, one.why) for one in costs),
        ), 'stored-answers',
    )
