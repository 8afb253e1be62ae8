"""The parts of a report: which plots and tables answer which question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from composer_kd.report.asked import Asked
from composer_kd.report.charge import BreakEven, break_even, charged, teachers_cost, with_teachers
from composer_kd.report.collect import curves
from composer_kd.report.costs import TIMED, with_costs
from composer_kd.report.curves import Curve
from composer_kd.report.headline import comparison_headline, search_headline, sequence_headline
from composer_kd.report.lines import common, of_means
from composer_kd.report.overhead import cut, split
from composer_kd.report.pareto import pareto, points
from composer_kd.report.plain import PlainTable
from composer_kd.report.plots import Plot
from composer_kd.report.plots_chains import best_over_cost, best_over_runs, cost_over_steps, quality_over_steps
from composer_kd.report.plots_curves import quality_over_cost, speedup_over_quality
from composer_kd.report.plots_overhead import overhead_split
from composer_kd.report.rows import Row
from composer_kd.report.search import chains, mean_best
from composer_kd.report.search_gain import search_gain
from composer_kd.report.sequence import sequence
from composer_kd.report.speedup import SpeedUp, speedup
from composer_kd.report.stored import live_method, stored_costs, stored_headline
from composer_kd.report.tables import cost_table, quality_table, speedup_at_table, speedup_table
from composer_kd.report.tables_costs import break_even_table, cut_table, overhead_table, pareto_table, stored_table
from composer_kd.report.tables_studies import best_runs_table, search_table, sequence_gain_table, sequence_table

# Qualities at which the plot of the speed-up is drawn.
_DRAWN = 31


@dataclass(frozen=True)
class Section:
    """A part of a report: plots and tables on one question."""

    title: str
    plots: list[Plot] = field(default_factory=list)
    tables: list[PlainTable] = field(default_factory=list)


@dataclass
class Findings:
    """What was found in some runs.

    Attributes:
        headline: The answer, the first line first.
        sections: Plots and tables.
        notes: How to read them.
        left_out: Why a run was left out, by run folder.
    """

    headline: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)


class Priced(NamedTuple):
    """Rows as read, the same with the costs asked for, and these with the rows of teachers from elsewhere."""

    raw: list[Row]
    rows: list[Row]
    everyone: list[Row]


def price(rows: Sequence[Row], asked: Asked) -> Priced:
    """The rows in the order of their methods, with the costs that were asked for, and those of their teachers."""
    order = {method: place for place, method in enumerate(asked.looks)}
    rows = sorted(rows, key=lambda row: order.get(row.method, -1))
    everyone = with_costs(with_teachers(rows), asked.price, asked.steady)
    # with_teachers() puts what it adds behind what it was given.
    return Priced(list(rows), everyone[:len(rows)], everyone)


def find(priced: Priced, asked: Asked) -> Findings:
    """What the runs say, each kind of study on its own.

    Args:
        priced: The runs.
        asked: What to report of them.

    Raises:
        ValueError: If two runs are one and the same by method, seed and duration or place.
    """
    found = Findings()
    kinds = {'search': _search, 'sequence': _sequence}
    by_kind: dict[str, list[int]] = {}
    for number, row in enumerate(priced.rows):
        if not row.is_earlier:
            kind = row.kind if row.kind in kinds and row.index is not None else 'comparison'
            by_kind.setdefault(kind, []).append(number)
    for kind, numbers in by_kind.items():
        part = Priced([priced.raw[n] for n in numbers], [priced.rows[n] for n in numbers], priced.everyone)
        kinds.get(kind, _comparison)(part, asked, found)
        _stored(part.rows, asked, found)
    if not by_kind:
        found.headline.append('Nothing to report yet: only earlier runs, which others are to learn from, are there.')
    found.notes += _general_notes(asked, by_kind)
    return found


def _comparison(priced: Priced, asked: Asked, found: Findings) -> None:
    rows = priced.rows
    if asked.charged:
        with_theirs = charged(rows, priced.everyone, asked.cost)
        rows = with_theirs.rows
        found.left_out |= {folder: f'its cost is unknown: {why}' for folder, why in with_theirs.unknown.items()}
    collected = curves(rows, asked.metric, asked.cost, asked.higher_is_better)
    found.left_out |= {folder: why for folder, why in collected.left_out.items() if folder not in found.left_out}
    drawn = collected.curves
    if not drawn:
        found.headline.append('Nothing to compare yet: no run has finished with that quality and cost.')
        return
    base = drawn.get(asked.baseline or '')
    pairs = [_speedups(base, curve) for name, curve in drawn.items() if base is not None and name != asked.baseline]
    results = [pair.told for pair in pairs]
    paid = _break_evens(priced, asked) if base is not None else []
    if base is None:
        found.headline.append(
            'Nothing is compared: ' + (f"the baseline '{asked.baseline}' has no finished run." if asked.baseline else
                                       'no method without distillation to compare with; name one as the baseline.'),
        )
    else:
        taught = any(row.distilled for row in rows) and not any(
            row.distilled for row in rows if row.method == asked.baseline
        )
        found.headline += comparison_headline(results, asked.in_words, asked.cost, paid, asked.charged, taught)
    front = pareto(points(drawn), asked.higher_is_better)
    found.sections.append(Section(
        'Quality and its cost',
        [quality_over_cost(drawn, asked.label, asked.cost, asked.looks, cost_label=asked.cost_label,
                           front=[(point.cost, point.quality) for point in front])],
        [quality_table(drawn, asked.label), pareto_table(front, asked.label, asked.cost, asked.cost_label)],
    ))
    if results:
        plot = speedup_over_quality([pair.drawn for pair in pairs], asked.label, asked.looks)
        found.sections.append(Section(
            'Speed-up at equal quality', [plot] if plot is not None else [],
            [speedup_table(results), speedup_at_table(results),
             *([break_even_table(paid, asked.cost, asked.cost_label)] if paid else [])],
        ))
        found.notes += [
            'Speed-up is the cost of the baseline to reach a quality over that of the method: 1.25 is a quarter '
            'faster. It is read between runs with full schedules, never beyond them; the median is over all qualities '
            'that both reach.',
            'Intervals come from resampling seeds. Gained or lost: the whole interval lies on one side of 1; else the '
            'two cannot be told apart from noise.',
        ]
    _overhead(priced.raw, asked, found)


class _SpeedUps(NamedTuple):
    told: SpeedUp
    drawn: SpeedUp


def _speedups(base: Curve, curve: Curve) -> _SpeedUps:
    """The speed-up with the qualities for a table, and with those for a plot, from one resampling."""
    told = base.mean_quality.tolist()
    sign = 1.0 if base.higher_is_better else -1.0
    low, high = (sign * float(end[0]) for end in common(of_means(base), of_means(curve)))
    grid = np.linspace(low, high, _DRAWN).tolist() if sign * low <= sign * high else []
    whole = speedup(base, curve, [*told, *grid])
    return _SpeedUps(
        replace(whole, at={quality: whole.at[quality] for quality in told}),
        replace(whole, at={quality: whole.at[quality] for quality in sorted({*told, *grid})}),
    )


def _break_evens(priced: Priced, asked: Asked) -> list[BreakEven]:
    """Of all methods with teachers that are runs; never with their cost in the curves."""
    drawn = curves(priced.rows, asked.metric, asked.cost, asked.higher_is_better).curves
    found = []
    for method in asked.looks:
        mine = [row for row in priced.rows if row.method == method and row.finished]
        if method in drawn and asked.baseline in drawn and method != asked.baseline and any(r.distilled for r in mine):
            spent = teachers_cost(mine, priced.everyone, asked.cost)
            found.append(break_even(drawn[asked.baseline], drawn[method], spent))
    return found


def _overhead(rows: Sequence[Row], asked: Asked, found: Findings) -> None:
    if asked.baseline is None or not any(row.kd_seconds > 0 for row in rows):
        return
    taught = {row.method for row in rows if row.distilled}
    rows = [row for row in rows if row.distilled or row.method not in taught]  # a first step had no teacher yet
    splits = [one for one in split(rows, asked.baseline) if one.method in taught]
    if not splits:
        return
    plot = overhead_split(splits, asked.baseline)
    tables = [overhead_table(splits, asked.baseline)]
    if asked.reference is not None:
        cuts = cut(rows, asked.baseline, asked.reference, asked.metric, asked.higher_is_better)
        tables.append(cut_table(cuts, asked.reference, asked.baseline))
    if not any(row.index is not None and row.kind in ('search', 'sequence') for row in rows):
        tables.append(cost_table(rows, asked.baseline))
    found.sections.append(Section('Overhead of distillation', [plot] if plot is not None else [], tables))


def _stored(rows: Sequence[Row], asked: Asked, found: Findings) -> None:
    if not any(row.stores for row in rows):
        return
    live = live_method(rows, asked.reference)
    costs = stored_costs(rows, asked.baseline, live, asked.cost)
    found.headline += stored_headline(costs, asked.baseline, live, asked.cost)
    found.sections.append(Section(
        'Stored answers', [], [stored_table(costs, asked.baseline, live, asked.cost, asked.cost_label)],
    ))


def _search(priced: Priced, asked: Asked, found: Findings) -> None:
    searches = chains(priced.rows, asked.metric, asked.cost, asked.higher_is_better)
    means = {method: mean_best(mine) for method, mine in searches.items()}
    base = searches.get(asked.baseline or '')
    gains = [search_gain(base, mine) for name, mine in searches.items() if base and name != asked.baseline]
    found.headline += search_headline(gains, asked.in_words, asked.cost)
    plots = [
        best_over_cost(searches, means, asked.label, asked.cost, asked.cost_label, asked.looks),
        best_over_runs(searches, means, asked.label, asked.looks),
    ]
    found.sections.append(Section(
        'Hyperparameter search', [plot for plot in plots if plot is not None],
        [*([search_table(gains, asked.label)] if gains else []), best_runs_table(searches, asked.label)],
    ))


def _sequence(priced: Priced, asked: Asked, found: Findings) -> None:
    result = sequence(priced.rows, asked.metric, asked.baseline, asked.cost, asked.higher_is_better)
    found.headline += sequence_headline(result, asked.in_words)
    result = replace(result, metric=asked.label)
    plots = [
        quality_over_steps(result, asked.label, asked.looks), cost_over_steps(result, asked.cost_label, asked.looks),
    ]
    found.sections.append(Section(
        'Continual retraining', [plot for plot in plots if plot is not None],
        [*([sequence_gain_table(result)] if result.gains else []),
         sequence_table(result, cost_label=asked.cost_label)],
    ))
    _overhead(priced.raw, asked, found)


def _general_notes(asked: Asked, kinds: Mapping[str, object]) -> list[str]:
    seconds = asked.cost in ('train_seconds', 'gpu_hours', 'money')
    found = [
        'Cost holds everything of a training but evaluation and saving; teachers and KD loss are in it.' if seconds else
        f'Cost: {asked.cost_label}.',
    ]
    if asked.charged:
        found.append('Each run is charged with the training of its teachers and of theirs, each once a run, as if they '
                     'had been made for it alone.' + (
                         ' In a search or a sequence the teachers are runs of it and counted anyway; earlier runs from '
                         'elsewhere are not.'
                         if {'search', 'sequence'} & set(kinds) else ''))
    elif 'comparison' in kinds:
        found.append('The training of the teachers is not charged: they were there. With --teachers charged it is.')
    if asked.steady and asked.cost in TIMED:
        found.append('Training time is taken at the median time of a batch of each method, since other work on a '
                     'machine makes single runs slow; intervals of speed-up and saving draw these medians anew. Runs '
                     'without a teacher that compute the same have one price.')
    return found
