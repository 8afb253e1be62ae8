"""From CIFAR's own files to MDS shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from composer_kd.convert.writer import write_mds
from composer_kd.recipes.tasks.images.cifar_files import FOLDERS, read_cifar
from composer_kd.recipes.tasks.mds import MdsIndex

COLUMNS = {'x': 'pil', 'y': 'int'}
"""As mosaicml-streaming's own converter: the pixels as they are."""


class CifarSource:
    """A split of CIFAR, shuffled once, the same every time.

    Args:
        path: See :func:`composer_kd.recipes.tasks.images.cifar_files.read_cifar`.
        split: ``'train'`` or ``'test'``.
        classes: 10 or 100.
    """

    def __init__(self, path: Path, split: str, classes: int) -> None:
        self._found = read_cifar(path, split, classes)
        self._order = np.random.RandomState(0).permutation(len(self._found))

    def __len__(self) -> int:
        return len(self._found)

    def sample(self, index: int) -> dict[str, Any]:
        """``{'x': PIL image of 32x32 pixels, 'y': int}``."""
        at = int(self._order[index])
        return {'x': Image.fromarray(self._found.images[at]), 'y': int(self._found.labels[at])}


def convert_cifar(
    folder: Path,
    out: Path,
    classes: int = 10,
    *,
    size_limit: int | str = 1 << 26,
    workers: int = 4,
    progress: bool = True,
) -> dict[str, MdsIndex]:
    """Convert both splits of CIFAR to MDS shards in ``out/train`` and ``out/test``.

    Args:
        folder: ``cifar-10-batches-py`` or ``cifar-100-python`` of the Python version, or the folder that holds it.
        out: Where ``train`` and ``test`` are written.
        classes: 10, or 100 (the fine labels).
        size_limit: About the bytes of a shard.
        workers: Threads.
        progress: Whether to show how far it is.

    Returns:
        What was written, by split: the columns ``x`` (the image) and ``y`` (the label).

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: If ``classes`` is neither 10 nor 100, a file is damaged, or ``out`` holds something else.

    Example:
        >>> convert_cifar(Path('.'), Path('out'), classes=20)
        Traceback (most recent call last):
        ValueError: classes: expected 10 or 100, got 20.
    """
    if classes not in FOLDERS:
        raise ValueError(f'classes: expected 10 or 100, got {classes}.')
    return {
        split: write_mds(
            CifarSource(folder, split, classes), COLUMNS, Path(out) / split, size_limit=size_limit, workers=workers,
            progress=progress,
        )
        for split in ('train', 'test')
    }
