"""Torchvision's published weights by torchvision's own names, fetched once per machine."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from composer.utils import dist
from torchvision.models import WeightsEnum, get_model, get_model_weights, list_models

from composer_kd.names import nearest


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

    The file is downloaded if it is not on this machine, by one of the machine's ranks while the others wait. It is read
    once without running code that may be in it before torchvision loads it.

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
    file = file_of(weights)
    # Waiting for the file, not at a barrier: the process group may not be up yet, and a download may outlast its limit.
    with dist.local_rank_zero_download_and_wait(str(file)):
        missing = not file.exists()
        try:
            weights.get_state_dict(progress=True, check_hash=True, map_location='cpu', weights_only=True)
            model: torch.nn.Module = get_model(architecture, weights=weights, **settings)
        except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            told = ' '.join(f'{type(error).__name__}: {error}'.split())
            if missing and not file.exists():
                raise FileNotFoundError(
                    f'{where}: {file.name}, the weights {weights.name} of {architecture}, is not on this machine and '
                    f'could not be downloaded ({told}). Fetch {weights.url} on a machine with network and put it at '
                    f'{file}; the environment variable TORCH_HOME moves that folder.',
                ) from error
            raise ValueError(
                f'{where}: {file} cannot be read as the weights {weights.name} of {architecture}; it may be truncated '
                f'or something else. Remove it, so that it is downloaded anew from {weights.url}. ({told})',
            ) from error
    return model
