"""A sample as one view of it shows it: the key of its answer, and a fingerprint of what it looks like."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.batches import POSITIONS, batch_size_of

_INDEX_BITS = 40
_HASH = xxhash.xxh3_64_intdigest
Keys = NDArray[np.int64]


def key_of(view: int, index: int) -> int:
    """One number for a view and a sample's index, both 0 or more; indices below 2**40, views below 2**23.

    Example:
        >>> split_key(key_of(3, 17))
        (3, 17)
    """
    return (view << _INDEX_BITS) | index


def split_key(key: int) -> tuple[int, int]:
    """View and index of a key."""
    return key >> _INDEX_BITS, key & ((1 << _INDEX_BITS) - 1)


def keys_of(view: int | NDArray[np.int64], indices: Sequence[int] | NDArray[np.int64]) -> Keys:
    """The keys of some samples in one view, or each in its own, ``(N,)`` int64."""
    return np.asarray(indices, np.int64) | (np.asarray(view, np.int64) << _INDEX_BITS)


def fingerprints(batch: Any) -> NDArray[np.uint64]:
    """A number for each sample of a batch that follows from every bit of its inputs and labels, in their order.

    Of a text, what ``attention_mask`` hides is left out: how far a batch is padded depends on its longest text.

    Args:
        batch: Tensors in host memory, alone or in a mapping or sequence; those of another length than the batch, and
            positions that count through the whole batch, are left out.

    Returns:
        Shape ``(N,)``.

    Example:
        >>> images = torch.zeros(2, 3)
        >>> one, other = fingerprints((images, torch.tensor([0, 1])))
        >>> bool(one == other)
        False
    """
    size = batch_size_of(batch) or 0
    found = [0] * size
    shown = batch.get('attention_mask') if isinstance(batch, Mapping) else None
    there = None if shown is None else shown.numpy().astype(bool)
    for tensor in _tensors(batch):
        if not tensor.ndim or len(tensor) != size:
            continue
        rows: Any = _array(tensor)
        if there is not None and there.shape == rows.shape:
            rows = [row[mask] for row, mask in zip(rows, there, strict=True)]
        found = [_HASH(row, seed) for row, seed in zip(rows, found, strict=True)]
    return np.array(found, np.uint64)


def _array(tensor: Tensor) -> NDArray[Any]:
    """In one piece, a row for each sample; of a type that NumPy does not have, as bytes."""
    tensor = tensor.detach().contiguous().reshape(len(tensor), -1)
    found: NDArray[Any] = (tensor.view(torch.uint8) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return found


def _tensors(batch: Any) -> list[Tensor]:
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, Mapping):
        return [tensor for name, part in batch.items() if name != POSITIONS for tensor in _tensors(part)]
    if isinstance(batch, (list, tuple)):
        return [tensor for part in batch for tensor in _tensors(part)]
    return []


def check_of(payload: bytes | memoryview, key: int, fingerprint: int, store: str) -> int:
    """32 bits that bind an answer's bytes to the sample, to what it looked like, and to whose answers they are.

    Args:
        payload: The answer.
        key: The sample's.
        fingerprint: Of what it looked like.
        store: :attr:`composer_kd.answers.Manifest.identity`, hexadecimal.
    """
    bound = struct.pack('<QQQ', key, int(fingerprint), int(store, 16))
    return _HASH(b''.join((payload, bound))) & 0xFFFFFFFF
