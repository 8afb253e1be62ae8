"""Stores that tests make: every answer follows from its view and sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from composer_kd.answers import Format, Manifest
from composer_kd.answers.keys import key_of
from composer_kd.answers.parts import PartWriter

FORM = Format('dense', 4, 'float32')


def print_of(view: int, index: int) -> int:
    """A fingerprint."""
    return (view * 1_000_003 + index * 7919 + 2**63) % 2**64


def rows_for(form: Format, count: int, seed: int) -> bytes:
    """Any rows of that form."""
    return np.random.default_rng(seed).integers(0, 256, count * form.row_bytes, np.uint8).tobytes()


def answer(view: int, index: int) -> bytes:
    """The answer of :data:`FORM` to a sample: its view and index in clear."""
    values = torch.tensor([[view, index, view * index, 1]], dtype=torch.float32)
    return FORM.pack(values).numpy().tobytes()


def manifest(form: Format = FORM, **changes: Any) -> Manifest:
    said: dict[str, Any] = {
        'teacher': {'name': 'teacher0', 'origin': 'run:runs/a', 'digest': 'ab' * 32},
        'data': {'name': 'digits', 'split': 'train'}, 'view': {'seed': 17, 'noise': 0.5},
        'rows': {'ignore_index': -100, 'shift': False}, 'format': form, 'precision': 'fp32', 'versions': {'torch': '2.7.0'},
    }
    return Manifest(**{**said, **changes})


def write_store(folder: Path, form: Format, payloads: Sequence[bytes]) -> int:
    """A store of samples that follow one another in view 0; the bytes of the answers alone."""
    manifest(form).write(folder)
    part = PartWriter(folder)
    for index, payload in enumerate(payloads):
        part.write(key_of(0, index), print_of(0, index), payload)
    part.close()
    return sum(map(len, payloads))


def fill(folder: Path, form: Format, which: Iterable[tuple[int, int, int]], said: Callable[[int, int], bytes] = answer) -> Path:
    """A part more: of ``(view, index, _)`` in that order."""
    if not (folder / 'manifest.json').exists():
        manifest(form).write(folder)
    part = PartWriter(folder)
    for view, index, *_ in which:
        part.write(key_of(view, index), print_of(view, index), said(view, index))
    path = part.close()
    assert path is not None
    return path
