"""A recipe that trains in a second, and changes to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer_kd.recipes import Recipe, parse_recipe


def plain(**changes: Any) -> dict[str, Any]:
    """The recipe as plain data: two epochs of six batches."""
    return {
        'run_name': 'tiny',
        'model': {'name': 'digits_resnet', 'width': 4},
        'train_data': {'name': 'digits', 'batch_size': 16, 'train_size': 100, 'noise': 0.2, 'shift': 1},
        'evaluators': {'test': {'data': {'name': 'digits', 'split': 'test', 'batch_size': 128}}},
        'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.1, 'momentum': 0.9},
        'scheduler': {'name': 'cosine_annealing_with_warmup', 't_warmup': '2ba'},
        'max_duration': '2ep',
        'progress_bar': False,
        **changes,
    }


def recipe(folder: Path, **changes: Any) -> Recipe:
    return parse_recipe(plain(run_folder=str(folder), **changes))
