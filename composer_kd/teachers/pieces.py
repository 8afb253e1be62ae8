"""Batches in runs, and microbatches of which some answers are stored and some asked for."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches import batch_size_of


def runs(batches: list[int]) -> list[tuple[int, int]]:
    """Ascending numbers as first and last + 1 of those that follow one another."""
    breaks = [0, *(i for i in range(1, len(batches)) if batches[i] != batches[i - 1] + 1), len(batches)]
    return [(batches[a], batches[b - 1] + 1) for a, b in pairwise(breaks)]


def size_of(batch: Any) -> int:
    """The samples of a microbatch."""
    size = batch_size_of(batch)
    assert size is not None, 'a microbatch holds a tensor'
    return size


def device_of(batch: Any) -> torch.device:
    """Where its tensors lie."""
    if isinstance(batch, Tensor):
        return batch.device
    parts = batch.values() if isinstance(batch, Mapping) else batch
    return next(device_of(part) for part in parts if isinstance(part, (Tensor, Mapping, list, tuple)))


def woven(counts: Tensor, kept: Tensor, gone: Tensor, raw: Tensor, asked: list[int]) -> Tensor:
    """Rows that were read and rows that were asked for, in the order of the samples."""
    sizes = counts.clone()
    sizes[gone] = torch.tensor(asked)
    missing = torch.zeros(len(counts), dtype=torch.bool)
    missing[gone] = True
    of_asked = missing.repeat_interleave(sizes)
    woven = torch.empty(len(of_asked), raw.shape[1], dtype=raw.dtype, device=raw.device)
    woven[of_asked.to(raw.device)] = raw
    woven[(~of_asked).to(raw.device)] = kept.to(raw.device)
    return woven
