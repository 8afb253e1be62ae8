"""Torchvision's published weights by torchvision's own names, fetched once per machine."""

from __future__ import annotations

import os
import pickle
import re
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from composer.utils import dist
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from composer_kd.models.outside import (
    EndsEarly,
    download,
    on_first_ranks,
    only_weights,
    raise_everywhere,
    retried,
    sha256,
    told,
)
from composer_kd.names import nearest

_HASH = re.compile(r'-([a-f0-9]+)\.')


def published_weights(architecture: str, weights: str = 'DEFAULT') -> WeightsEnum:
    """Look up the published weights of one of torchvision's classification models; nothing is downloaded.

    Args:
        architecture: Its name in ``torchvision.models.list_models()``.
        weights: The name of its weights, such as ``'IMAGENET1K_V2'``; ``'DEFAULT'`` for the best of them.

    Returns:
        The entry; its ``name`` is never ``'DEFAULT'``.

    Raises:
        ValueError: For an unknown name, with the nearest valid one, or weights without a classifier.

    Example:
        >>> published_weights('resnet101').name
        'IMAGENET1K_V2'
    """
    known = list_models(module=torchvision.models)
    if architecture not in known:
        raise ValueError(
            f'unknown architecture {architecture!r}.{nearest(architecture, known)} Known are the classification models '
            'of torchvision.models.list_models().',
        )
    entries = {
        name: entry for name, entry in get_model_weights(architecture).__members__.items()
        if entry.meta.get('categories')  # VGG-16 has an entry whose last layers are NaN
    }
    if weights not in entries:
        raise ValueError(
            f"unknown weights {weights!r} of {architecture}.{nearest(weights, entries)} Known: {', '.join(entries)}.",
        )
    return entries[weights]


def classes_of(weights: WeightsEnum) -> int:
    """How many classes a model with these weights tells apart."""
    return len(weights.meta['categories'])


def file_of(weights: WeightsEnum) -> Path:
    """Where torchvision looks for the file of these weights before it downloads it; ``TORCH_HOME`` moves the place."""
    return Path(torch.hub.get_dir(), 'checkpoints', os.path.basename(urlparse(weights.url).path))


def load_published(architecture: str, weights: WeightsEnum, where: str, **settings: Any) -> torch.nn.Module:
    """Build one of torchvision's models with its published weights.

    The file is downloaded if it is not on this machine, by one of the machine's ranks while the others wait. No code
    that may be in it is run. Every rank calls this; once they know each other, an error on one is raised on all.

    Args:
        architecture: Torchvision's name of the model.
        weights: Of :func:`published_weights`.
        where: What this is for, for messages.
        **settings: Further arguments of torchvision's function.

    Returns:
        The model, on the CPU.

    Raises:
        FileNotFoundError: If the file is not here and cannot be downloaded.
        ValueError: If the file is broken or holds other weights.
    """
    file, what = file_of(weights), f'the weights {weights.name} of {architecture}'

    def bring() -> None:
        try:
            retried(lambda: _download(weights.url, file), weights.url)
        except Exception as error:
            raise FileNotFoundError(
                f'{where}: {file.name}, {what}, is not on this machine and could not be downloaded ({told(error)}). '
                f'Fetch {weights.url} on a machine with network and put it at {file}; the environment variable '
                'TORCH_HOME moves that folder.',
            ) from error

    if dist.is_initialized():
        on_first_ranks(bring)
    else:
        # A student is built before the ranks know each other: they wait for the file, which appears whole.
        with dist.local_rank_zero_download_and_wait(str(file)):
            bring()
    model: torch.nn.Module | None = None
    error = None
    try:
        with only_weights():
            model = get_model(architecture, weights=weights, **settings)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as found:
        refused = isinstance(found, pickle.UnpicklingError)
        why = 'it holds more than tensors, which could run code' if refused else 'it may be truncated or something else'
        error = ValueError(
            f'{where}: {file} cannot be read as {what}; {why}. Remove it, so that it is downloaded anew from '
            f'{weights.url}. ({told(found)})',
        )
        error.__cause__ = found
    raise_everywhere(error)
    assert model is not None
    return model


def _download(url: str, file: Path) -> None:
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f'{file.name}.{uuid.uuid4().hex}.part')
    try:
        download(url, part)
        digest = sha256([part])
        named = _HASH.search(file.name)
        if named is not None and not digest.startswith(named[1]):
            raise EndsEarly(f'its SHA-256 begins with {digest[:len(named[1])]}, and its name says {named[1]}')
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
