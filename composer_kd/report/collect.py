"""Run folders read into rows, and rows into curves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from composer_kd.names import nearest
from composer_kd.report.curves import Curve, Point
from composer_kd.runs import Record, RunFolder

COSTS = {
    'train_seconds': 'Training time (s, without evaluation)',
    'wall_seconds': 'Wall time (s, with evaluation)',
    'flops': 'Training FLOPs (estimate)',
    'samples': 'Samples trained on',
    'batches': 'Batches trained on',
}
"""What can stand for cost, and its name with the unit."""

_LOWER = ('loss', 'entropy', 'perplexity', 'error', 'mse', 'mae')


@dataclass(frozen=True)
class Row:
    """One run, as a report needs it.

    Attributes:
        folder: The run folder, as it was given.
        run_name: Its name.
        method: The tag ``method``; without one ``distillation`` or ``baseline``, after what the run did.
        duration: ``max_duration`` that it was started with.
        seed: Its seed; -1 without one.
        finished: Whether it reached that duration.
        quality: Values at the end of training by ``label/metric``; empty if the end was not evaluated.
        costs: Cost by name, see ``COSTS``; NaN where the run did not record it.
        kd_seconds: Seconds spent on distillation; 0 without it.
        active_share: Share of the batches on which distillation was on; 0 without it.
        step_overhead: Time spent on KD / time of the same steps without it, as the algorithm measured it.
    """

    folder: Path
    run_name: str
    method: str
    duration: str
    seed: int
    finished: bool
    quality: dict[str, float]
    costs: dict[str, float]
    kd_seconds: float
    active_share: float
    step_overhead: float | None

    @property
    def overhead(self) -> float:
        """Seconds spent on distillation / the other seconds of the training; NaN before the first step."""
        other = self.costs['train_seconds'] - self.kd_seconds
        return self.kd_seconds / other if other > 0 else math.nan

    @classmethod
    def of(cls, folder: Path, record: Record) -> Row:
        """The row of a record."""
        kd = record.kd
        last = record.evaluations[-1] if record.evaluations else None
        quality = {}
        if last is not None and last.batch == record.batches:
            quality = {f'{label}/{name}': v for label, values in last.metrics.items() for name, v in values.items()}
        return cls(
            folder=folder,
            run_name=record.run_name,
            method=record.tags.get('method', 'distillation' if kd is not None else 'baseline'),
            duration=record.max_duration,
            seed=record.seed if record.seed is not None else -1,
            finished=record.status == 'finished',
            quality=quality,
            costs={
                'train_seconds': record.train_seconds,
                'wall_seconds': record.wall_seconds,
                'flops': math.nan if record.flops.total is None else record.flops.total,
                'samples': float(record.samples),
                'batches': float(record.batches),
            },
            kd_seconds=kd.kd_seconds if kd else 0.0,
            active_share=kd.active_batches / record.batches if kd and record.batches else 0.0,
            step_overhead=kd.overhead if kd else None,
        )


@dataclass(frozen=True)
class Collected:
    """Curves, and what did not get into them.

    Attributes:
        curves: By method, in the order in which the methods were met.
        left_out: Why a run was left out, by run folder.
    """

    curves: dict[str, Curve]
    left_out: dict[Path, str] = field(default_factory=dict)


def read_rows(paths: Iterable[str | os.PathLike[str]]) -> list[Row]:
    """Rows of run folders.

    Args:
        paths: Run folders, and folders that hold run folders at any depth.

    Returns:
        One row for each run, sorted by path within each of ``paths``; a run met twice is read once.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no run folder in a path, or a record cannot be read.
    """
    rows: dict[Path, Row] = {}
    for given in paths:
        path = Path(given)
        folders = [path] if (path / 'record.json').exists() else sorted(p.parent for p in path.rglob('record.json'))
        # Of a path without any, the reader says what is wrong with it.
        for folder in folders or [path]:
            rows.setdefault(folder.resolve(), Row.of(folder, RunFolder(folder).read_record()))
    return list(rows.values())


def at_median_price(rows: Iterable[Row]) -> list[Row]:
    """Rows whose training time is their number of batches times their method's median time of a batch.

    On a machine that others use too, the time of a single run says more about the others than about the run; what a
    batch of a method costs is the same in all its runs. Only for methods whose share of batches with distillation does
    not depend on the duration, as with windows in ``dur`` and intervals.

    Args:
        rows: Runs on one kind of machine; those without a batch are left as they are.

    Returns:
        The rows, in their order, with another ``costs['train_seconds']``.
    """
    rows = list(rows)
    prices: dict[str, list[float]] = {}
    for row in rows:
        if row.costs['batches'] > 0:
            prices.setdefault(row.method, []).append(row.costs['train_seconds'] / row.costs['batches'])
    return [
        replace(row, costs={**row.costs, 'train_seconds': row.costs['batches'] * median(prices[row.method])})
        if row.costs['batches'] > 0 else row
        for row in rows
    ]


def metric_names(rows: Iterable[Row]) -> list[str]:
    """Metrics (``label/metric``) that any of the rows has, sorted."""
    return sorted({name for row in rows for name in row.quality})


def lower_is_better(metric: str) -> bool:
    """Whether a metric is one to be low, told from its name (losses, errors, perplexity).

    Example:
        >>> lower_is_better('eval/LanguageCrossEntropy'), lower_is_better('eval/MulticlassAccuracy')
        (True, False)
    """
    name = metric.rpartition('/')[2].lower()
    return any(word in name for word in _LOWER)


def curves(
    rows: Iterable[Row], metric: str, cost: str = 'train_seconds', higher_is_better: bool | None = None,
) -> Collected:
    """Quality over cost of each method.

    Only runs that finished and were evaluated at their end count: half a schedule has not the quality of a short one.

    Args:
        rows: The runs.
        metric: The quality, ``label/metric``.
        cost: A name in ``COSTS``.
        higher_is_better: Whether a high value is a good one; ``None`` to tell from the name of the metric.

    Raises:
        ValueError: If no run has the metric, the cost is unknown, or two runs share method, duration and seed.
    """
    rows = list(rows)
    if cost not in COSTS:
        raise ValueError(f"Unknown cost '{cost}'.{nearest(cost, COSTS)} Known: {', '.join(COSTS)}.")
    known = metric_names(rows)
    if metric not in known:
        raise ValueError(
            f"No run was evaluated at its end with the metric '{metric}'.{nearest(metric, known)} "
            f"Metrics of these runs: {', '.join(known) or 'none'}.",
        )
    points: dict[str, list[Point]] = {}
    left_out: dict[Path, str] = {}
    for row in rows:
        value, spent = row.quality.get(metric), row.costs[cost]
        if not row.finished:
            left_out[row.folder] = 'it did not finish'
        elif value is None:
            left_out[row.folder] = f'its end was not evaluated with {metric}'
        elif not math.isfinite(value):
            left_out[row.folder] = f'it ended with {metric} {value}'
        elif not (math.isfinite(spent) and spent > 0):
            left_out[row.folder] = f'it recorded no {cost}'
        else:
            points.setdefault(row.method, []).append(Point(row.duration, row.seed, spent, value))
    better = not lower_is_better(metric) if higher_is_better is None else higher_is_better
    return Collected({method: Curve.of(method, found, better) for method, found in points.items()}, left_out)


def collect(
    paths: Iterable[str | os.PathLike[str]],
    metric: str,
    cost: str = 'train_seconds',
    higher_is_better: bool | None = None,
) -> Collected:
    """:func:`read_rows`, then :func:`curves`."""
    return curves(read_rows(paths), metric, cost, higher_is_better)
