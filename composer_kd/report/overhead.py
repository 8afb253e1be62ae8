"""Where the overhead of distillation goes, and how much of it a cheaper setting cuts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from composer_kd.report.collect import is_higher_better
from composer_kd.report.interval import Estimate, geometric_mean_of, mean_of, nothing, ratio_of
from composer_kd.report.rows import Row

Key = tuple[str, int, int]


@dataclass(frozen=True)
class OverheadSplit:
    """What distillation adds to a batch, as shares of the baseline's training time of a batch.

    Attributes:
        method: Name of the method.
        teacher: In the teachers, as recorded; ``None`` if nothing can be said.
        loss: In the KD loss, as recorded.
        data: More waiting for data than the baseline; ``None`` if not all runs recorded it: it is in the rest then.
        rest: What is left of the total: the loss's backward pass, losses of other models, noise of the machine.
        total: Training time of a batch / the baseline's, less 1.
        pairs: Runs of the method that had a baseline to compare with.
        paired: Whether each was compared with the baseline of its own duration and seed.
        why: Why there is nothing, or what to know; empty if there is nothing to say.
    """

    method: str
    teacher: float | None
    loss: float | None
    data: float | None
    rest: float | None
    total: float | None
    pairs: int
    paired: bool
    why: str = ''


@dataclass(frozen=True)
class Cut:
    """How much of the reference's overhead a method cuts, and the quality it keeps.

    Attributes:
        method: Name of the method.
        kd: Share of the reference's recorded KD seconds a batch that the method does not spend: 0.8 is 80 % less.
        wall: The same of the overhead in training time a batch over the baseline's, with all that is not recorded.
        to_reference: Quality less that of the reference at equal duration, in the metric's unit.
        to_baseline: Quality less that of the baseline at equal duration.
        why: What is missing; empty if nothing is.
    """

    method: str
    kd: Estimate
    wall: Estimate
    to_reference: Estimate
    to_baseline: Estimate
    why: str = ''


def split(rows: Iterable[Row], baseline: str) -> list[OverheadSplit]:
    """Overhead of each method, split into teacher, loss, data and the rest.

    Each finished run is compared with the baseline's run of the same duration and seed; where a method has no such
    pair, with the baseline's median batch. Teacher, loss, data and total are medians over the runs, and the rest is the
    total less the others, so that the parts add up; a rest below 0 is noise of the machine.

    Args:
        rows: The runs, their training time as recorded rather than at a steady price.
        baseline: Name of the method without distillation.

    Returns:
        One split for each other method that has finished runs, in the order they are met.
    """
    by_method = _finished(rows)
    base = by_method.get(baseline, {})
    return [_split(method, mine, base) for method, mine in by_method.items() if method != baseline]


def _split(method: str, mine: Mapping[Key, Row], base: Mapping[Key, Row]) -> OverheadSplit:
    if not base:
        return OverheadSplit(method, None, None, None, None, None, 0, False, 'no finished baseline')
    paired = [(row, _batch(base[key]), _waiting(base[key])) for key, row in mine.items() if key in base]
    pairs = paired
    if not paired:
        time, waiting = (median(what(row) for row in base.values()) for what in (_batch, _waiting))
        pairs = [(row, time, waiting) for row in mine.values()]
    teacher, loss, data, total = (
        median(values) for values in zip(*(
            (
                row.teacher_seconds / row.costs['batches'] / time,
                row.loss_seconds / row.costs['batches'] / time,
                (_waiting(row) - waiting) / time,
                _batch(row) / time - 1,
            ) for row, time, waiting in pairs
        ), strict=True)
    )
    # Any NaN makes a median meaningless, wherever it was sorted to.
    told = all(math.isfinite(_waiting(row)) and math.isfinite(waiting) for row, _, waiting in pairs)
    rest = total - teacher - loss - (data if told else 0.0)
    notes = [] if paired else ["compared with the baseline's median batch: no pair of equal duration and seed"]
    notes += [] if told else ['waiting for data was not recorded: it is in the rest']
    return OverheadSplit(
        method, teacher, loss, data if told else None, rest, total, len(pairs), bool(paired), '; '.join(notes),
    )


def cut(
    rows: Iterable[Row],
    baseline: str,
    reference: str,
    metric: str,
    higher_is_better: bool | None = None,
    level: float = 0.9,
) -> list[Cut]:
    """Share of the reference's overhead that each method cuts, and the quality it keeps.

    A seed is one replicate: its figure is the mean over the durations that both methods have for it. The share cut of
    KD time is 1 - the geometric mean over seeds of the ratio to the reference's, with Student's interval of the
    logarithms. The share cut of training time is 1 - mean over seeds / mean of the reference, with Fieller's interval,
    since an overhead so measured may be near 0 or below. Differences of quality are means over seeds with Student's
    interval. All are paired over seeds.

    Args:
        rows: The runs, their training time as recorded rather than at a steady price.
        baseline: Name of the method without distillation.
        reference: The method whose overhead is cut, such as always-on distillation with five teachers.
        metric: The quality, ``label/metric``.
        higher_is_better: Whether a high value is a good one; ``None`` to tell from the name of the metric.
        level: Level of the intervals, between 0 and 1.

    Returns:
        One for each method with distillation but the reference, in the order they are met.
    """
    by_method = _finished(rows)
    base, full = by_method.get(baseline, {}), by_method.get(reference, {})
    better = is_higher_better(metric, higher_is_better)
    found = []

    def quality(row: Row) -> float:
        return row.quality.get(metric, math.nan)

    for method, mine in by_method.items():
        if method in (baseline, reference) or not any(row.distilled for row in mine.values()):
            continue
        spent = _by_seed(lambda row: row.kd_seconds / row.costs['batches'], mine, full)
        longer = _by_seed(lambda row: _batch(row) / _batch(base[_key(row)]) - 1, mine, full, base)
        kept = [
            mean_of([a - b for a, b in zip(*_by_seed(quality, mine, other), strict=True)], level, better)
            for other in (full, base)
        ]
        missing = [name for name, there in ((baseline, base), (reference, full)) if not there]
        found.append(Cut(
            method, _cut_of(*spent, level, ratio=_geometric), _cut_of(*longer, level, ratio=ratio_of), kept[0], kept[1],
            f"no finished run of {' and '.join(map(repr, missing))}" if missing else '',
        ))
    return found


def _geometric(mine: Sequence[float], theirs: Sequence[float], level: float) -> Estimate:
    # A logarithm takes no 0: a method whose window never opened, or a reference without distillation.
    if any(value <= 0 for value in (*mine, *theirs)):
        return ratio_of(mine, theirs, level)
    return geometric_mean_of([a / b for a, b in zip(mine, theirs, strict=True)], level, higher_is_better=False)


def _cut_of(
    mine: list[float], theirs: list[float], level: float, ratio: Callable[[list[float], list[float], float], Estimate],
) -> Estimate:
    """1 - the ratio."""
    kept = ratio(mine, theirs, level)
    if kept.value is None:
        why = 'no pair of equal duration and seed' if not mine else 'the reference has no overhead to cut'
        return nothing(why, kept.seeds)
    low, high = (None if end is None else 1 - end for end in (kept.high, kept.low))
    return Estimate(1 - kept.value, low, high, 0, 0, kept.verdict, kept.seeds, kept.why)


def _by_seed(
    value: Callable[[Row], float], mine: Mapping[Key, Row], *others: Mapping[Key, Row],
) -> tuple[list[float], list[float]]:
    """The value of mine and of the first of the others, by seed: means over the durations that all have."""
    pairs: dict[int, list[tuple[float, float]]] = {}
    for key, row in mine.items():
        if all(key in other for other in others):
            pair = value(row), value(others[0][key])
            if all(map(math.isfinite, pair)):
                pairs.setdefault(key[-1], []).append(pair)
    own, theirs = ([fmean(pair[side] for pair in pairs[seed]) for seed in sorted(pairs)] for side in (0, 1))
    return own, theirs


def _finished(rows: Iterable[Row]) -> dict[str, dict[Key, Row]]:
    """Finished runs that trained, by method, then by duration, step and replicate."""
    found: dict[str, dict[Key, Row]] = {}
    for row in rows:
        if row.finished and not row.is_earlier and row.costs['batches'] > 0 and row.costs['train_seconds'] > 0:
            found.setdefault(row.method, {})[_key(row)] = row
    return found


def _key(row: Row) -> Key:
    return row.duration, row.index or 0, row.replicate


def _batch(row: Row) -> float:
    return row.costs['train_seconds'] / row.costs['batches']


def _waiting(row: Row) -> float:
    return row.data_seconds / row.costs['batches']
