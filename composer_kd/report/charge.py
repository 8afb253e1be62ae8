"""Teachers' training: sunk, charged, and after how many runs it has paid for itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from composer_kd.report.costs import check_cost
from composer_kd.report.curves import Curve
from composer_kd.report.interval import Estimate, resampled
from composer_kd.report.lines import median_over_common, of_means, of_resamples, savings
from composer_kd.report.rows import Row, read_rows


@dataclass(frozen=True)
class Charged:
    """Rows whose cost holds the training of their teachers.

    Attributes:
        rows: The rows, in their order; the cost is NaN where that of a teacher is unknown.
        unknown: Why it is, by run folder.
    """

    rows: list[Row]
    unknown: dict[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TeachersCost:
    """What it took to make the teachers of some runs, each counted once.

    Attributes:
        cost: Their cost together; NaN if that of one is unknown.
        teachers: How many they are, the teachers' teachers among them.
        why: What is unknown; empty if nothing is.
    """

    cost: float
    teachers: int
    why: str = ''


@dataclass(frozen=True)
class BreakEven:
    """After how many later runs charged teachers have paid for themselves.

    Attributes:
        method: Name of the method.
        baseline: Name of the baseline.
        teachers: Number of different teachers of the method's runs.
        teachers_cost: What they cost together; NaN if unknown.
        saving: Cost that one run saves at equal quality: the median over the qualities both reach.
        runs: Number of later runs; ``None`` if never, or if it cannot be told.
        low: With the saving at the upper end of its interval.
        high: With the saving at its lower end; ``None`` if it may be never.
        why: Why there is no number, or what stands in the way; empty if nothing does.
    """

    method: str
    baseline: str
    teachers: int
    teachers_cost: float
    saving: Estimate
    runs: int | None
    low: int | None
    high: int | None
    why: str = ''


def with_teachers(rows: Iterable[Row]) -> list[Row]:
    """The rows, and those of their teachers, and of the teachers' teachers, whose run folders are there to be read."""
    found = {row.folder.resolve(): row for row in rows}
    waiting = list(found.values())
    while waiting:
        for teacher in waiting.pop().teachers:
            if teacher.resolve() in found or not (teacher / 'record.json').is_file():
                continue
            try:
                [row] = read_rows([teacher])
            except (OSError, ValueError):
                continue
            found[teacher.resolve()] = row
            waiting.append(row)
    return list(found.values())


def charged(rows: Iterable[Row], all_rows: Iterable[Row], cost: str = 'train_seconds') -> Charged:
    """Each run's cost with that of its teachers and of their teachers, each counted once a run.

    It answers what a run costs to somebody who makes the teachers for this run alone. For a search or a sequence,
    where the teachers are earlier runs of it, the total cost of the runs holds them already.

    Args:
        rows: The runs.
        all_rows: These and the runs that taught them, see :func:`with_teachers`.
        cost: The cost that is changed, a name in ``report.costs.COSTS``; the others stay.
    """
    book = _Book(all_rows, cost)
    found, unknown = [], {}
    for row in rows:
        spent = book.of([row])
        if spent.why:
            unknown[row.folder] = spent.why
        own = row.costs.get(cost, math.nan)
        found.append(replace(row, costs={**row.costs, cost: own + spent.cost}))
    return Charged(found, unknown)


def teachers_cost(rows: Iterable[Row], all_rows: Iterable[Row], cost: str = 'train_seconds') -> TeachersCost:
    """What all teachers of those runs cost together, each counted once.

    Args:
        rows: The runs of one method.
        all_rows: These and the runs that taught them, see :func:`with_teachers`.
        cost: A name in ``report.costs.COSTS``.
    """
    return _Book(all_rows, cost).of(rows)


class _Book:
    """Rows by folder, and what their teachers cost."""

    def __init__(self, rows: Iterable[Row], cost: str) -> None:
        check_cost(cost, 1.0)
        self.cost = cost
        self.by_folder: Mapping[Path, Row] = {row.folder.resolve(): row for row in rows}

    def of(self, rows: Iterable[Row]) -> TeachersCost:
        """The teachers of those rows, theirs, and so on; a run that taught others does not pay for itself."""
        why: list[str] = []
        seen: dict[Path, float] = {}
        waiting = list(rows)
        while waiting:
            row = waiting.pop()
            why += [f'{other} is no run, so what it cost is unknown' for other in row.other_teachers]
            if row.active_share > 0 and not row.teachers and not row.other_teachers:
                why.append(f"{row.folder.name} does not say who taught it")
            for teacher in row.teachers:
                path = teacher.resolve()
                if path in seen:
                    continue
                known = self.by_folder.get(path)
                seen[path] = known.costs.get(self.cost, math.nan) if known is not None else math.nan
                if known is None:
                    why.append(f"the run of teacher '{teacher.name}' is not there")
                    continue
                if not math.isfinite(seen[path]):
                    why.append(f"teacher '{teacher.name}' recorded no {self.cost}")
                waiting.append(known)
        total = math.nan if why else math.fsum(seen.values())
        return TeachersCost(total, len(seen), '; '.join(dict.fromkeys(why)))


def break_even(
    baseline: Curve,
    method: Curve,
    teachers: TeachersCost,
    *,
    level: float = 0.9,
    resamples: int = 2000,
    seed: int = 0,
    log_cost: bool = False,
) -> BreakEven:
    """After how many later runs the training of the teachers has paid for itself.

    One run saves the cost of the baseline less that of the method at equal quality: the median over the qualities that
    the means of both reach, evenly in quality, read as :func:`composer_kd.report.speedup` reads them, with the interval
    of the same resamples. The teachers have paid for themselves after ``ceil(their cost / that saving)`` runs of the
    lengths compared here.

    Args:
        baseline: Runs without the method.
        method: Runs with it, teachers not charged.
        teachers: What its teachers cost, in the cost of the curves.
        level: Level of the interval, between 0 and 1.
        resamples: Number of resamples, at least 1.
        seed: Seed of the resampling.
        log_cost: Interpolate over the logarithm of cost.

    Raises:
        ValueError: If the curves differ in which direction is better.

    Example:
        >>> from composer_kd.report.curves import Point
        >>> base = Curve.of('baseline', [Point(f'{n}ep', s, 10.0 * n, 0.1 * n) for n in (1, 2, 3) for s in (1, 2, 3)])
        >>> fast = Curve.of('kd', [Point(f'{n}ep', s, 5.0 * n, 0.1 * n) for n in (1, 2, 3) for s in (1, 2, 3)])
        >>> found = break_even(base, fast, TeachersCost(35.0, 1))
        >>> round(found.saving.value, 6), found.runs  # 10 a run
        (10.0, 4)
    """
    if baseline.higher_is_better != method.higher_is_better:
        raise ValueError(
            f"Higher is better for one of '{baseline.method}' and '{method.method}' and worse for the other; "
            f'expected curves of the same quality. Collect both with the same metric.',
        )
    generator = np.random.default_rng(seed)
    base_draws, base_whole = of_resamples(baseline, resamples, generator, log_cost)
    draws, whole = of_resamples(method, resamples, generator, log_cost)
    value = float(median_over_common(of_means(baseline, log_cost), of_means(method, log_cost), savings)[0])
    drawn = np.where(base_whole & whole, median_over_common(base_draws, draws, savings), np.nan)
    saving = resampled(value, drawn, min(len(baseline.seeds), len(method.seeds)), level, null=0.0)
    runs, low, high = (_runs(teachers.cost, one) for one in (saving.value, saving.high, saving.low))
    why = teachers.why or ('' if teachers.teachers else 'it had no teachers')
    if not why and saving.value is None:
        why = 'the two reach no quality in common'
    elif not why and saving.verdict == 'lost':
        why = 'never: a run with it costs more than one without'
    elif not why and runs is None:
        why = 'a run saves nothing at equal quality'
    elif not why and saving.verdict != 'gained':
        why = 'whether a run saves anything cannot be told apart from noise'
    return BreakEven(
        method.method, baseline.method, teachers.teachers, teachers.cost, saving, runs, low, high, why,
    )


def _runs(cost: float, saving: float | None) -> int | None:
    if saving is None or not saving > 0 or not math.isfinite(cost):
        return None
    # A rounding must not ask for one run more.
    return math.ceil(cost / saving * (1 - 1e-12))
