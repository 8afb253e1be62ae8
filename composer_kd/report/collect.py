"""Rows into curves."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from composer_kd.names import nearest
from composer_kd.report.costs import TIMED, check_cost
from composer_kd.report.curves import Curve, Point
from composer_kd.report.rows import Row, read_rows
from composer_kd.runs.study import lower_is_better

_STOPPED = {'pruned': 'it was pruned', 'failed': 'it failed'}


@dataclass(frozen=True)
class Collected:
    """Curves, and what did not get into them.

    Attributes:
        curves: By method, in the order in which the methods were met.
        left_out: Why a run was left out, by run folder.
    """

    curves: dict[str, Curve]
    left_out: dict[Path, str] = field(default_factory=dict)


def metric_names(rows: Iterable[Row]) -> list[str]:
    """Metrics (``label/metric``) that any of the rows has, sorted."""
    return sorted({name for row in rows for name in row.quality})


def is_higher_better(metric: str, said: bool | None = None) -> bool:
    """Whether a high value of a metric is a good one: as said, else told from its name."""
    return not lower_is_better(metric) if said is None else said


def check_metric(rows: Iterable[Row], metric: str) -> None:
    """Refuse a metric that no run was evaluated with at its end.

    Raises:
        ValueError: With the nearest name and all names.
    """
    known = metric_names(rows)
    if metric not in known:
        raise ValueError(
            f"No run was evaluated at its end with the metric '{metric}'.{nearest(metric, known)} "
            f"Metrics of these runs: {', '.join(known) or 'none'}.",
        )


def curves(
    rows: Iterable[Row], metric: str, cost: str = 'train_seconds', higher_is_better: bool | None = None,
) -> Collected:
    """Quality over cost of each method.

    Only runs that finished and were evaluated at their end count: half a schedule has not the quality of a short one.
    Runs that were made to teach others are no curve.

    Args:
        rows: The runs.
        metric: The quality, ``label/metric``.
        cost: A name in ``report.costs.COSTS``.
        higher_is_better: Whether a high value is a good one; ``None`` to tell from the name of the metric.

    Raises:
        ValueError: If no run has the metric, the cost is unknown, or two runs share method, duration and seed.
    """
    rows = [row for row in rows if not row.is_earlier]
    check_cost(cost, 1.0 if any(cost in row.costs for row in rows) else None)
    check_metric(rows, metric)
    points: dict[str, list[Point]] = {}
    left_out: dict[Path, str] = {}
    for row in rows:
        value, spent = row.quality.get(metric), row.costs.get(cost, math.nan)
        if not row.finished:
            left_out[row.folder] = _STOPPED.get(row.state, 'it did not finish')
        elif value is None:
            left_out[row.folder] = f'its end was not evaluated with {metric}'
        elif not math.isfinite(value):
            left_out[row.folder] = f'it ended with {metric} {value}'
        elif not (math.isfinite(spent) and spent > 0):
            left_out[row.folder] = f'it recorded no {cost}'
        else:
            price = row.costs.get('seconds_per_batch', math.nan) if cost in TIMED else math.nan
            points.setdefault(row.method, []).append(Point(row.duration, row.seed, spent, value, price))
    better = is_higher_better(metric, higher_is_better)
    return Collected({method: Curve.of(method, found, better) for method, found in points.items()}, left_out)


def collect(
    paths: Iterable[str | os.PathLike[str]],
    metric: str,
    cost: str = 'train_seconds',
    higher_is_better: bool | None = None,
) -> Collected:
    """:func:`read_rows`, then :func:`curves`."""
    return curves(read_rows(paths), metric, cost, higher_is_better)
