"""CIFAR-10 and CIFAR-100, from their own files or from MDS shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from composer_kd.answers import Identity
from composer_kd.names import check_keys
from composer_kd.recipes.tasks.images.cifar_files import FOLDERS, CifarImages, cifar_folder, read_cifar
from composer_kd.recipes.tasks.images.imagenet import COLUMNS, file_bytes, label_of, mds_folder
from composer_kd.recipes.tasks.images.transforms import (
    CIFAR_STATISTICS,
    CROP,
    Batch,
    Normalise,
    collate,
    split_batch,
)
from composer_kd.recipes.tasks.mds import check_part, mds_loader, read_index
from composer_kd.recipes.tasks.part import Part, window
from composer_kd.recipes.tasks.registry import DATA, DataShape, describes
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, generator, make_loader, views_of

SPLITS = {'train': 50_000, 'test': 10_000}
"""Images of each split, as published."""

SIDE = 32

_WAY = 1
"""One higher whenever the same images, settings and seed come to give other pixels."""


def augmented(images: NDArray[np.uint8], draws: NDArray[np.int64], pad: int) -> NDArray[np.uint8]:
    """Of each image with ``pad`` zeros on each side a part as large as the image was, some of them flipped.

    Args:
        images: ``(N, H, W, C)``.
        draws: ``(N, 3)``: whether to flip (1), first row and first column of the part, 0 to ``2 * pad``.
        pad: Zeros on each side.

    Returns:
        ``(N, H, W, C)``.

    Example:
        >>> augmented(np.array([[[[1], [2]], [[3], [4]]]], np.uint8), np.array([[0, 0, 1]]), 1)[0, ..., 0].tolist()
        [[0, 0], [1, 2]]
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    parts = np.empty_like(images)
    # Slices, one image after another: several times as fast as picking all pixels by their indices at once.
    for index, (flip, down, right) in enumerate(draws.tolist()):
        part = padded[index, down:down + height, right:right + width]
        parts[index] = part[:, ::-1] if flip else part
    return parts


def draw(random: np.random.Generator, count: int, pad: int) -> NDArray[np.int64]:
    """What :func:`augmented` needs for so many images."""
    return random.integers((2, 2 * pad + 1, 2 * pad + 1), size=(count, 3))


def planes(images: NDArray[np.uint8]) -> Tensor:
    """``(N, H, W, C)`` as a contiguous ``(N, C, H, W)``."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class CifarData(EpochDataset[Any]):
    """A split of CIFAR in memory, asked for by ``(view, index)``.

    The augmentation of a view is drawn for all images at once; image ``i`` gets row ``i``, whatever it is asked
    together with.

    Args:
        found: The images.
        seed: The seed of the augmentation.
        train: Whether images are augmented.
        pad: Zeros on each side of which the crop is taken.
        num_classes: 10 or 100.
    """

    def __init__(self, found: CifarImages, seed: int, train: bool, pad: int, num_classes: int) -> None:
        self._found, self._seed, self._train, self._pad = found, seed, train, pad
        self.num_classes = num_classes
        self._epoch, self._draws = -1, np.empty((0, 3), np.int64)

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        images, labels = self.__getitems__([key])
        return images[0], int(labels[0])

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        # A batch belongs to one view: the sampler makes it so, and whoever asks otherwise waits longer.
        if len({view for view, _ in keys}) > 1:
            return collate([self[key] for key in keys])
        epoch, index = keys[0][0], np.array([index for _, index in keys])
        images = self._found.images[index]
        if self._train:
            if epoch != self._epoch:
                self._draws = draw(generator(self._seed, epoch, CROP), len(self), self._pad)
                self._epoch = epoch
            images = augmented(images, self._draws[index], self._pad)
        return planes(images), torch.from_numpy(self._found.labels[index])


def _as_it_is(batch: Any) -> Any:
    return batch


class _ShardSample:
    # Draws each sample's augmentation by itself: which samples come together is streaming's to say.
    def __init__(self, seed: int, train: bool, pad: int, classes: int, where: str) -> None:
        self._seed, self._train, self._pad, self._classes, self._where = seed, train, pad, classes, where

    def __call__(self, row: Mapping[str, Any], epoch: int, index: int) -> tuple[Tensor, int]:
        name = f"sample {index} of the shards in '{self._where}'"
        picture = file_bytes(row, name)
        image = np.asarray(Image.open(BytesIO(picture)) if isinstance(picture, bytes) else picture)
        if image.shape != (SIDE, SIDE, 3) or image.dtype != np.uint8:
            raise ValueError(f"{name}: expected an image of 32x32 pixels in RGB, got {image.shape}.")
        images = image[None]
        if self._train:
            images = augmented(images, draw(generator(self._seed, epoch, index, CROP), 1, self._pad), self._pad)
        return planes(images)[0], label_of(row, self._classes, name)


@DATA.register('cifar')
def cifar(
    batch_size: int,
    seed: int,
    train: bool,
    path: str,
    remote: str | None = None,
    split: str | None = None,
    classes: int = 10,
    part: Part | None = None,
    pad: int = 4,
    views: int | None = None,
    view_seed: int | None = None,
    num_workers: int = 2,
    streaming: Mapping[str, Any] | None = None,
) -> DataSpec:
    """CIFAR-10 or CIFAR-100: 50,000 images of 32x32 pixels to train on, 10,000 to test.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed: order and augmentation follow from it, the epoch and the sample's index.
        train: Whether to shuffle, and to crop and flip anew each epoch; an epoch's last, smaller batch is left out.
        path: The folder of the Python version's files (``cifar-10-batches-py``, ``cifar-100-python``), one that holds
            it, or one with ``train`` and ``test`` of MDS shards (columns ``x`` and ``y``, as mosaicml-streaming's own).
            The cache, where there is a ``remote``.
        remote: Where MDS shards are fetched from.
        split: ``'train'`` or ``'test'``; by default ``'train'`` for training and ``'test'`` otherwise.
        classes: 10, or 100 (the fine labels).
        part: Use only the images between two shares of the split, ``[0.5, 1]`` for its second half, in the files'
            order, which is mixed; of MDS shards, only of those that lie here uncompressed, or in an evaluator.
        pad: Zeros on each side of which training takes a random crop, 0 to 32.
        views: How many views of a sample are kept and come again epoch by epoch; ``None`` for a new one each epoch.
            Stored answers are answers to views.
        view_seed: The seed of the views; ``None`` for the run's own. Runs that share stored answers share it.
        num_workers: Worker processes of this rank.
        streaming: Further arguments of ``streaming.StreamingDataset``.

    Returns:
        Batches ``(images (N, 3, 32, 32) uint8, labels (N,) int64)``, normalised on the device with the mean and
        standard deviation of the training images.

    Raises:
        FileNotFoundError: If there are no such files.
        ValueError: For a value out of range, a damaged file, or a label that is no class.
    """
    split = split if split is not None else 'train' if train else 'test'
    if classes not in FOLDERS:
        raise ValueError(f'classes: expected 10 or 100, got {classes}.')
    if not 0 <= pad <= SIDE:
        raise ValueError(f'pad: expected 0 to {SIDE} pixels, got {pad}.')
    drawn_from = views_of(seed, train, views, view_seed)
    looks: dict[str, Any] = {'seed': drawn_from, 'pad': pad, 'way': _WAY}
    found = mds_folder(path, split)
    if remote is not None or found is not None:
        looks['drawn'] = 'by sample'
        loader = mds_loader(
            path, remote, split, COLUMNS, _ShardSample(drawn_from, train, pad, classes, str(found or remote)),
            collate, batch_size, seed, train, num_workers, streaming, {'num_classes': classes}, part, views, looks,
        )
    else:
        check_keys({split: None}, SPLITS, 'split')
        if streaming:
            raise ValueError(f"streaming: is for MDS shards, and '{path}' holds none; leave it out.")
        images = read_cifar(path, split, classes)
        data = CifarData(images, drawn_from, train, pad, classes)
        made_of = {'name': 'cifar', 'samples': len(data), 'content': images.content()}
        loader = make_loader(
            data, batch_size, seed, train, num_workers, _as_it_is, part, None, views, Identity(made_of, looks),
        )
    return DataSpec(loader, split_batch=split_batch, microbatch_transforms=Normalise(*CIFAR_STATISTICS[classes]))


@describes('cifar')
def cifar_shape(
    train: bool, path: str, split: str | None = None, classes: int = 10, part: Part | None = None,
    remote: str | None = None, streaming: Mapping[str, Any] | None = None, **_: Any,
) -> DataShape:
    """See :func:`cifar`. Without the data: the published counts."""
    split = split if split is not None else 'train' if train else 'test'
    check_keys({split: None}, SPLITS, 'split')
    if classes not in FOLDERS:
        raise ValueError(f'classes: expected 10 or 100, got {classes}.')

    def batch(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 3, SIDE, SIDE), torch.zeros(count, dtype=torch.int64)

    shards = mds_folder(path, split)
    if remote is not None or shards is not None:
        check_part(part, train, shards, remote, streaming)
    if shards is not None:
        index = read_index(shards)
        return DataShape(len(window(part, index.samples)), batch, disk_bytes=index.bytes, note=f'counted in {shards}')
    if classes in FOLDERS and split in SPLITS:
        folder = cifar_folder(path, classes)
        if folder is not None:
            count = len(read_cifar(path, split, classes))
            return DataShape(
                len(window(part, count)), batch, disk_bytes=count * 3073, note=f'counted in {Path(folder)}',
            )
        return DataShape(
            len(window(part, SPLITS[split])), batch, disk_bytes=SPLITS[split] * 3073,
            note='as published; the data is not on this machine',
        )
    return DataShape(None, batch, note='the data is not on this machine')
