"""Metric values and times as a record keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

import torch


def utc_now() -> str:
    """The time, UTC, ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec='seconds').replace('+00:00', 'Z')


def scalars(values: Mapping[str, Any]) -> dict[str, float]:
    """Metric values that are one number; those of a mapping under ``name/key``, others left out."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update({f'{name}/{key}': number for key, number in scalars(value).items()})
        elif isinstance(value, int | float) or (isinstance(value, torch.Tensor) and value.numel() == 1):
            found[name] = float(value)
    return found
