"""Reports as comma-separated values: a file for each table, and one with a line for each run."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from composer_kd.report.collect import metric_names
from composer_kd.report.costs import COSTS
from composer_kd.report.plain import PlainTable
from composer_kd.report.rows import Row


def write_csv(tables: Sequence[PlainTable], rows: Sequence[Row], folder: str | os.PathLike[str]) -> list[Path]:
    """Write every table, and the runs as ``runs.csv``.

    Args:
        tables: Each goes to a file of its name; a name that comes again gets a number.
        rows: The runs.
        folder: Where to; it is made if it is missing.

    Returns:
        The files.

    Raises:
        OSError: If a file cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = [write_runs(rows, folder / 'runs.csv')]
    taken = {'runs'}
    for table in tables:
        again = (f'{table.name}-{number}' for number in count(2))
        name = next(name for name in chain([table.name], again) if name not in taken)
        taken.add(name)
        path = folder / f'{name}.csv'
        path.write_text(table.to_csv(), encoding='utf-8', newline='')
        files.append(path)
    return files


def write_runs(rows: Sequence[Row], path: str | os.PathLike[str]) -> Path:
    """Write a line for each run: what it was, what it cost, what it reached; empty where it recorded nothing."""
    metrics = metric_names(rows)
    costs = [cost for cost in COSTS if any(cost in row.costs for row in rows)]
    params = sorted({key for row in rows for key in row.params})
    path = Path(path)
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([
            'folder', 'run', 'method', 'role', 'state', 'duration', 'seed', 'replicate', 'index', 'teachers', *costs,
            'kd_seconds', 'teacher_seconds', 'loss_seconds', 'data_seconds', 'active_share',
            'asked', 'stored', 'store_seconds', *metrics, *params,
        ])
        for row in rows:
            writer.writerow([
                row.folder, row.run_name, row.method, row.role, row.state, row.duration, row.seed, row.replicate,
                _cell(row.index), ' '.join([*(teacher.name for teacher in row.teachers), *row.other_teachers]),
                *(_cell(row.costs.get(cost)) for cost in costs), _cell(row.kd_seconds), _cell(row.teacher_seconds),
                _cell(row.loss_seconds), _cell(row.data_seconds), _cell(row.active_share),
                row.asked, row.stored, _cell(row.store_seconds),
                *(_cell(row.quality.get(metric)) for metric in metrics),
                *(_cell(row.params.get(key)) for key in params),
            ])
    return path


def _cell(value: Any) -> Any:
    return '' if value is None or (isinstance(value, float) and math.isnan(value)) else value
