"""A live teacher's logits as they are written down, and what is written down beside them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer_kd.answers import Format
from composer_kd.answers.keys import split_key
from composer_kd.batches import classes_last

_DRAWS = 3


def versions() -> dict[str, str]:
    """Of the libraries that decide what a sample looks like and what a teacher answers."""
    found = {}
    for name in ('torch', 'torchvision', 'transformers', 'tokenizers', 'pillow', 'simplejpeg', 'numpy', 'composer_kd'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def uniform_for(form: Format, key: int, rows: int) -> Any:
    """The numbers that draw a sample's classes, ``(rows, k)``: they follow from its key, so that draws can be replayed.

    Example:
        >>> uniform_for(Format('sampled', 1000, k=4), 17, 2).shape
        (2, 4)
    """
    return np.random.default_rng((_DRAWS, *split_key(key))).random((rows, form.k))


def uniforms(form: Format, keys: list[int], counts: list[int]) -> Tensor | None:
    """The same of several samples, one after another; ``None`` for a format that draws nothing."""
    if form.name != 'sampled':
        return None
    return torch.from_numpy(np.concatenate(
        [uniform_for(form, key, rows) for key, rows in zip(keys, counts, strict=True)] or [np.empty((0, form.k))],
    ))


def pack_rows(
    form: Format, logits: Tensor, positions: Tensor | None, counted: Tensor | None, keys: list[int], where: str,
) -> tuple[Tensor, list[int], list[bool]]:
    """A teacher's logits as they are written down: one row a sample, or one for each of its labels that count.

    Args:
        form: How they are written.
        logits: ``(N, C)``, ``(N, L, C)``, or ``(M, C)`` at positions.
        positions: These.
        counted: Which labels count, ``(N, L)``; ``None`` where they are no class numbers.
        keys: Of the samples.
        where: The setting, for messages.

    Returns:
        Rows ``(R, row_bytes)`` uint8 on the logits' device; how many each sample has; and whether they are finite.

    Raises:
        ValueError: For logits of tokens without class labels.
    """
    logits = classes_last(logits, counted)
    if positions is None and logits.dim() == 2:
        counts = [1] * len(logits)
    elif counted is None:
        raise ValueError(
            f'{where}: answers to tokens are stored where their labels count, and this batch has no class labels for '
            'its tokens. Take the teacher without a store.',
        )
    else:
        logits = logits if positions is not None else logits[counted]
        counts = counted.flatten(1).sum(dim=1).tolist()
    numbers = uniforms(form, keys, counts)
    packed = form.pack(logits, None if numbers is None else numbers.to(logits.device))
    # -inf forbids a class, which is an answer; a row of nothing else, NaN or +inf is none
    finite = [bool(part.all()) for part in torch.isfinite(logits.amax(dim=-1)).cpu().split(counts)]
    return packed, counts, finite
