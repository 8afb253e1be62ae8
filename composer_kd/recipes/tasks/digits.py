"""Scikit-learn's digits: 1,797 handwritten digits of 8x8 pixels, with a fixed split and seeded augmentation.

Every random number is a function of the run's seed, the epoch and the sample's own index.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.answers import Identity
from composer_kd.names import check_keys
from composer_kd.recipes.tasks.part import Part, window
from composer_kd.recipes.tasks.registry import DATA, DataShape, describes
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, generator, make_loader, views_of

SPLITS = {'train': (0, 1078), 'validation': (1078, 1437), 'test': (1437, 1797)}
"""The rows of each split in the fixed order of :func:`ordered_digits`: 1,078, 359 and 360 images."""

# One stream of random numbers for each purpose (0 is the order's), so that switching one off leaves the others alone.
_NOISE, _SHIFT, _FIXED_NOISE = range(1, 4)

Batch = tuple[Tensor, Tensor]

_WAY = 1
"""One higher whenever the same settings and seed come to give other images."""


@lru_cache(maxsize=1)
def ordered_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All digits, shuffled once and for all so that every prefix holds the classes in their proportions.

    The ``k``-th of a class's ``n`` images stands at ``(k + 1/2) / n`` of the order.

    Returns:
        Pixels ``(1797, 8, 8)`` in 0 to 1, and labels ``(1797,)``.

    Raises:
        RuntimeError: If scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise RuntimeError("The digits come with scikit-learn: run 'pip install scikit-learn'.") from error
    images, labels = load_digits(return_X_y=True)
    # RandomState, not default_rng: NumPy promises never to change its stream, so the split is the same everywhere.
    shuffled = np.random.RandomState(0).permutation(len(labels))
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    order = shuffled[np.argsort(place[shuffled], kind='stable')]
    return (images[order] / 16).astype(np.float32).reshape(-1, 8, 8), labels[order].astype(np.int64)


def shifted(images: NDArray[np.float32], shifts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Move each image by its own whole number of pixels; what comes in from outside is zero.

    Args:
        images: ``(N, H, W)``.
        shifts: ``(N, 2)``, down and to the right.

    Returns:
        ``(N, H, W)``.

    Example:
        >>> shifted(np.array([[[1, 2], [3, 4]]], np.float32), np.array([[1, 0]]))[0].tolist()
        [[0.0, 0.0], [1.0, 2.0]]
    """
    count, height, width = images.shape
    margin = int(np.abs(shifts).max(initial=0))
    padded = np.pad(images, ((0, 0), (margin, margin), (margin, margin)))
    rows = np.arange(height) + margin - shifts[:, :1]
    columns = np.arange(width) + margin - shifts[:, 1:]
    moved: NDArray[np.float32] = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


class Digits(EpochDataset[Batch]):
    """One split of the digits, asked for by ``(view, index)``.

    The augmentation of a view is drawn for all images at once; image ``i`` gets row ``i``, whatever it is asked
    together with, and the same row for every ``train_size`` above ``i``.

    Args:
        split: ``'train'``, ``'validation'`` or ``'test'``.
        seed: The seed of the augmentation.
        train: Whether images are augmented anew in each view; if not, the noise is one fixed draw per image, the same
            for all seeds and views, and nothing is shifted.
        size: How many images, the first of the split; ``None`` for all.
        noise: Standard deviation of the Gaussian noise on each pixel; pixels lie in 0 to 1.
        shift: Largest random translation in pixels, drawn for each axis and image.
    """

    def __init__(
        self, split: str, seed: int, train: bool, size: int | None = None, noise: float = 0.0, shift: int = 0,
    ) -> None:
        images, labels = ordered_digits()
        first, last = SPLITS[split]
        self._split = list(SPLITS).index(split)
        rows = slice(first, last if size is None else first + size)
        self._images, self.labels = images[rows], torch.from_numpy(labels[rows])
        self._seed, self._train, self._noise, self._shift = seed, train, noise, shift
        self._epoch: int | None = None
        self._current = torch.empty(0)

    def __len__(self) -> int:
        return len(self._images)

    def images(self, epoch: int) -> Tensor:
        """All images as they look in that view (of the epoch of that number, as a rule), ``(len(self), 1, 8, 8)``."""
        epoch = epoch if self._train else 0
        if epoch != self._epoch:
            self._current = torch.from_numpy(self._augmented(epoch)).unsqueeze(1)
            self._epoch = epoch
        return self._current

    def _augmented(self, epoch: int) -> NDArray[np.float32]:
        images = self._images
        if self._train and self._shift:
            shifts = generator(self._seed, epoch, _SHIFT)
            images = shifted(images, shifts.integers(-self._shift, self._shift + 1, size=(len(self), 2)))
        if self._noise:
            source = [self._seed, epoch, _NOISE] if self._train else [self._split, 0, _FIXED_NOISE]
            noise = generator(*source).standard_normal(images.shape, dtype=np.float32)
            images = images + np.float32(self._noise) * noise
        return images

    def __getitem__(self, key: Key) -> Batch:
        epoch, index = key
        return self.images(epoch)[index], self.labels[index]

    def __getitems__(self, keys: Sequence[Key]) -> Batch:
        # A batch belongs to one view: the sampler makes it so, and whoever asks otherwise waits longer.
        if len({view for view, _ in keys}) > 1:
            images, labels = zip(*(self[key] for key in keys), strict=True)
            return torch.stack(images), torch.stack(labels)
        index = torch.tensor([index for _, index in keys])
        return self.images(keys[0][0])[index], self.labels[index]


def _as_it_is(batch: Any) -> Any:
    return batch


def _split(batch: Batch, size: int | float) -> list[Batch]:
    # As Composer splits, without its warning for every batch that is smaller than the others.
    images, labels = batch
    return list(zip(images.split(int(size)), labels.split(int(size)), strict=True))


def _not_both(train_size: int | None, part: Part | None) -> None:
    if train_size is not None and part is not None:
        raise ValueError('train_size: says how many images, and so does part; give one of them.')


@DATA.register('digits')
def digits(
    batch_size: int,
    seed: int,
    train: bool,
    split: str | None = None,
    train_size: int | None = None,
    part: Part | None = None,
    noise: float = 0.0,
    shift: int = 0,
    views: int | None = None,
    view_seed: int | None = None,
    num_workers: int = 0,
) -> DataSpec:
    """Scikit-learn's digits: 1,078 images to train on, 359 to validate, 360 to test; 10 classes, stratified, fixed.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed: order and augmentation follow from it.
        train: Whether to shuffle and to augment anew each epoch; an epoch's last, smaller batch is left out. If not,
            all samples come in order and the noise is one fixed draw per sample, whatever the seed.
        split: ``'train'``, ``'validation'`` or ``'test'``; by default ``'train'`` for training and ``'validation'``
            otherwise.
        train_size: Use only so many images of the train split, 10 to 1,078. A smaller set is part of every larger one
            and holds the classes in their proportions.
        part: Use only the images between two shares of the split, ``[0.5, 1]`` for its second half, which holds the
            classes in their proportions; not together with ``train_size``.
        noise: Standard deviation of Gaussian pixel noise, 0 or more; pixels lie in 0 to 1.
        shift: Largest random translation in pixels, 0 to 7; in training only.
        views: How many augmented views of an image are kept and come again epoch by epoch; ``None`` for a new one each
            epoch. Stored answers are answers to views.
        view_seed: The seed of the augmentation; ``None`` for the run's own. Runs that share stored answers share it.
        num_workers: Worker processes; 0 is fastest, as the data lies in memory.

    Returns:
        Batches ``(images (N, 1, 8, 8) float32, labels (N,) int64)``.

    Raises:
        ValueError: For an unknown split or a value out of range.

    Example:
        >>> images, labels = next(iter(digits(32, seed=17, train=True, noise=0.5).dataloader))
        >>> images.shape, labels.shape
        (torch.Size([32, 1, 8, 8]), torch.Size([32]))
    """
    split = split if split is not None else 'train' if train else 'validation'
    check_keys({split: None}, SPLITS, 'split')
    _not_both(train_size, part)
    size = None
    if split == 'train' and train_size is not None:
        if not 10 <= train_size <= SPLITS['train'][1]:
            raise ValueError(f"train_size: expected 10 to {SPLITS['train'][1]} images, got {train_size}.")
        size = train_size
    if not noise >= 0:
        raise ValueError(f'noise: expected a standard deviation of 0 or more, got {noise}.')
    if not 0 <= shift <= 7:
        raise ValueError(f'shift: expected 0 to 7 pixels, got {shift}.')
    drawn_from = views_of(seed, train, views, view_seed)
    dataset = Digits(split, drawn_from, train, size, noise, shift)
    identity = Identity(
        {'name': 'digits', 'split': split}, {'seed': drawn_from, 'noise': float(noise), 'shift': shift, 'way': _WAY},
    )
    loader = make_loader(dataset, batch_size, seed, train, num_workers, _as_it_is, part, None, views, identity)
    return DataSpec(loader, split_batch=_split)


@describes('digits')
def digits_shape(
    train: bool, split: str | None = None, train_size: int | None = None, part: Part | None = None, **settings: Any,
) -> DataShape:
    """What is known of the digits without loading them; the settings are those of :func:`digits`.

    Example:
        >>> digits_shape(train=True, train_size=100).samples
        100
    """
    _not_both(train_size, part)
    first, last = SPLITS[split if split is not None else 'train' if train else 'validation']
    size = train_size if train_size is not None and first == 0 else len(window(part, last - first))

    def batch(count: int) -> Batch:
        return torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64)

    return DataShape(size, batch, disk_bytes=0, note='they come with scikit-learn')
