"""Rows of runs that nobody made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer_kd.report import Row

METRIC = 'test/MulticlassAccuracy'


def make_row(
    method: str = 'baseline', duration: str = '1ep', seed: int = 0, *, quality: float | None = 0.5, seconds: float = 10.0,
    batches: float = 10.0, folder: str | None = None, **changes: Any,
) -> Row:
    gpus = changes.get('gpu_count', 0)
    fields: dict[str, Any] = {
        'folder': Path(folder or f'{method}-{duration}-seed{seed}-{changes.get("index", 0)}'), 'run_name': 'a',
        'method': method, 'duration': duration, 'seed': seed, 'finished': True,
        'quality': {} if quality is None else {METRIC: quality},
        'costs': {
            'train_seconds': seconds, 'wall_seconds': 2 * seconds, 'gpu_hours': seconds / 3600 * max(gpus, 1),
            'flops': 1e6 * seconds, 'samples': 32 * batches, 'batches': batches,
        },
        'kd_seconds': 0.0, 'active_share': 0.0, 'step_overhead': None, 'replicate': seed, 'state': 'finished',
    }
    return Row(**(fields | changes))
