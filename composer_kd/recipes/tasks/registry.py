"""Data by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from composer_kd.names import Registry

DATA: Registry[Callable[..., Any]] = Registry('data', 'composer_kd.data')
"""Functions ``build(batch_size, seed, train, **settings)`` that return a DataLoader or a Composer DataSpec.

``batch_size`` is that of one rank, ``seed`` the run's, and ``train`` says whether the data is shuffled and augmented
(the recipe's ``train_data``) or read in order, the same each time (an evaluator's).
"""
