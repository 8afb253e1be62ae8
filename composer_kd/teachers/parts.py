"""A microbatch in parts, where a teacher is asked about fewer samples at once than the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.batches import Key, batch_size_of, cut, target_of

Part = tuple[Any, Tensor | None, Tensor | None]
"""A part of a batch, its positions, and their places among all."""


def parts_of(batch: Any, positions: Tensor | None, size: int | None, target_key: Key) -> list[Part]:
    """A microbatch in parts of ``size`` samples: each with its own positions, and their places among all."""
    samples = batch_size_of(batch)
    if size is None or samples is None or samples <= size:
        return [(batch, positions, None)]
    found: list[Part] = []
    for begin in range(0, samples, size):
        part = cut(batch, slice(begin, begin + size))
        if positions is None:
            found.append((part, None, None))
            continue
        length = target_of(batch, target_key).shape[1]
        places = ((positions >= begin * length) & (positions < (begin + size) * length)).nonzero().squeeze(1)
        found.append((part, positions[places] - begin * length, places))
    return found


def joined(said: Sequence[Tensor], places: Sequence[Tensor | None]) -> Tensor:
    """The answers to the parts of a microbatch as one, each row in its place."""
    if len(said) == 1:
        return said[0]
    whole = torch.cat(list(said))
    order = [where for where in places if where is not None]
    return whole if not order else torch.empty_like(whole).index_copy_(0, torch.cat(order), whole)
