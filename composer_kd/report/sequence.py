"""Continual retraining: quality and cost of each step of a sequence, with and without the earlier steps as teachers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from composer_kd.report.collect import check_metric, is_higher_better
from composer_kd.report.costs import check_cost
from composer_kd.report.interval import Estimate, Verdict, count_of, geometric_mean_of, mean_of, nothing
from composer_kd.report.rows import Row


@dataclass(frozen=True)
class StepResult:
    """One method at one step.

    Attributes:
        step: Its place in the sequence, from 0.
        method: Name of the method.
        quality: By replicate, of the runs that finished.
        mean_quality: Mean over these; NaN without any.
        mean_cost: Mean cost of this step over the replicates, failed runs too; NaN where it is unknown.
        mean_total: Mean cost of this step and all before it, over the replicates that have them all.
        difference: Quality less the baseline's at the same step, paired; no value for the baseline itself.
        distilled: Whether any run of it had a teacher.
        why: What is missing; empty if nothing is.
    """

    step: int
    method: str
    quality: dict[int, float]
    mean_quality: float
    mean_cost: float
    mean_total: float
    difference: Estimate
    distilled: bool
    why: str = ''


@dataclass(frozen=True)
class SequenceGain:
    """What a method gains over a sequence, paired over replicates.

    Attributes:
        baseline: Name of the baseline.
        method: Name of the method.
        steps: Steps over which ``difference`` is taken: those with teachers.
        difference: Quality less the baseline's: mean over those steps, then over replicates.
        last: The same at the last step.
        cost_ratio: Total cost of all steps / the baseline's; above 1 where the method is dearer.
        why: What stands in the way of an answer; empty if nothing does.
    """

    baseline: str
    method: str
    steps: tuple[int, ...]
    difference: Estimate
    last: Estimate
    cost_ratio: Estimate
    why: str = ''

    @property
    def verdict(self) -> Verdict:
        """The verdict on quality; the cost stands beside it."""
        return self.difference.verdict


@dataclass(frozen=True)
class SequenceResult:
    """All methods of a sequence.

    Attributes:
        metric: The quality.
        cost: The cost, a name in ``report.costs.COSTS``.
        higher_is_better: Whether a higher quality is a better one.
        baseline: Name of the baseline; ``None`` if there is none to compare with.
        steps: Steps that any run made.
        methods: By method, one result a step.
        gains: One for each method but the baseline.
    """

    metric: str
    cost: str
    higher_is_better: bool
    baseline: str | None
    steps: tuple[int, ...]
    methods: dict[str, list[StepResult]]
    gains: list[SequenceGain]


def sequence(
    rows: Iterable[Row],
    metric: str,
    baseline: str | None,
    cost: str = 'train_seconds',
    higher_is_better: bool | None = None,
    level: float = 0.9,
) -> SequenceResult:
    """Each step of a sequence, method by method, and what a method gains over the baseline.

    A gain is a difference of quality at the same step, so at the same data and duration; what it costs is told beside
    it. Differences are means over replicates and the ratio of total costs is a geometric mean, paired, each with
    Student's interval (of the logarithms for the ratio).

    Args:
        rows: The runs; those without the tag ``index``, and runs that only taught, are left out.
        metric: The quality, ``label/metric``.
        baseline: Name of the method without distillation; ``None``, or one that is not there: nothing is compared.
        cost: A name in ``report.costs.COSTS``.
        higher_is_better: Whether a high value is a good one; ``None`` to tell from the name of the metric.
        level: Level of the intervals, between 0 and 1.

    Raises:
        ValueError: If no run has the metric, the cost is unknown, or two runs share method, replicate and step.
    """
    rows = [row for row in rows if row.index is not None and not row.is_earlier]
    check_cost(cost, 1.0)
    check_metric(rows, metric)
    better = is_higher_better(metric, higher_is_better)
    found: dict[str, dict[int, dict[int, Row]]] = {}
    for row in rows:
        assert row.index is not None
        runs = found.setdefault(row.method, {}).setdefault(row.index, {})
        if row.replicate in runs:
            raise ValueError(
                f"'{row.method}', step {row.index}: two runs of replicate {row.replicate}, "
                f"'{runs[row.replicate].folder}' and '{row.folder}'. Give the folder of one study, or give the runs "
                f'different tags.',
            )
        runs[row.replicate] = row
    steps = tuple(sorted({step for runs in found.values() for step in runs}))
    base = found.get(baseline, {}) if baseline is not None else {}
    methods = {
        method: [
            _step(method, step, runs, base if method != baseline else {}, metric, cost, steps, better, level)
            for step in steps
        ]
        for method, runs in found.items()
    }
    gains = [
        _gain(str(baseline), method, results, methods[str(baseline)], found[method], base, cost, steps, better, level)
        for method, results in methods.items() if base and method != baseline
    ]
    return SequenceResult(metric, cost, better, baseline if base else None, steps, methods, gains)


def _qualities(runs: Mapping[int, Row], metric: str) -> dict[int, float]:
    values = {number: row.quality.get(metric, math.nan) for number, row in sorted(runs.items()) if row.finished}
    return {number: value for number, value in values.items() if math.isfinite(value)}


def _totals(runs: Mapping[int, Mapping[int, Row]], steps: Iterable[int], cost: str) -> dict[int, float]:
    """Cost of all those steps together, by replicate; without the replicates that lack one or its cost."""
    per_step = [runs.get(step, {}) for step in steps]
    everywhere = set.intersection(*(set(made) for made in per_step)) if per_step else set()
    totals = {number: math.fsum(made[number].costs.get(cost, math.nan) for made in per_step) for number in everywhere}
    return {number: totals[number] for number in sorted(totals) if math.isfinite(totals[number])}


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return fmean(numbers) if numbers else math.nan


def _step(
    method: str,
    step: int,
    runs: Mapping[int, Mapping[int, Row]],
    base: Mapping[int, Mapping[int, Row]],
    metric: str,
    cost: str,
    steps: tuple[int, ...],
    better: bool,
    level: float,
) -> StepResult:
    here = runs.get(step, {})
    quality, theirs = _qualities(here, metric), _qualities(base.get(step, {}), metric)
    difference = nothing('it is the baseline, or there is none')
    if base:
        difference = mean_of([value - theirs[n] for n, value in quality.items() if n in theirs], level, better)
    so_far = [earlier for earlier in steps if earlier <= step]
    why = '' if quality else 'no run of it finished with that quality' if here else 'no run of it was made'
    return StepResult(
        step, method, quality, _mean(quality.values()), _mean(_totals(runs, [step], cost).values()),
        _mean(_totals(runs, so_far, cost).values()), difference, any(row.distilled for row in here.values()), why,
    )


def _gain(
    baseline: str,
    method: str,
    mine: list[StepResult],
    theirs: list[StepResult],
    runs: Mapping[int, Mapping[int, Row]],
    base: Mapping[int, Mapping[int, Row]],
    cost: str,
    steps: tuple[int, ...],
    better: bool,
    level: float,
) -> SequenceGain:
    taught = tuple(result.step for result in mine if result.distilled)
    differences: dict[int, list[float]] = {}
    for result, beside in zip(mine, theirs, strict=True):
        for replicate in result.quality.keys() & beside.quality.keys() if result.step in taught else ():
            differences.setdefault(replicate, []).append(result.quality[replicate] - beside.quality[replicate])
    # A replicate that lacks a step would stand for other steps than the rest do.
    whole = [fmean(found) for _, found in sorted(differences.items()) if len(found) == len(taught)]
    difference = mean_of(whole, level, better) if taught else nothing('no step had a teacher')
    own, other = _totals(runs, steps, cost), _totals(base, steps, cost)
    both = sorted(own.keys() & other.keys())
    ratio = geometric_mean_of(
        [own[number] / other[number] for number in both if other[number] > 0], level, higher_is_better=False,
    )
    notes = [difference.why] if difference.value is None else []
    if len(whole) < len(differences):
        notes.append(f"{count_of(len(differences) - len(whole), 'replicate')} without all steps left out")
    if taught and len(whole) < 3:
        notes.append(f"{count_of(len(whole), 'replicate')} cannot tell a gain from noise: make at least 3, better 5")
    return SequenceGain(baseline, method, taught, difference, mine[-1].difference, ratio, '; '.join(notes))
