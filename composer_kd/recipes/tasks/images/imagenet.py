"""ImageNet, or any pictures with one label each, from one folder a class or from MDS shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from PIL import Image
from torch import Tensor

from composer_kd.answers import Identity
from composer_kd.names import nearest
from composer_kd.recipes.tasks.images.decode import Decoder
from composer_kd.recipes.tasks.images.folder import ImageFolder, class_folders, scan_folder
from composer_kd.recipes.tasks.images.transforms import (
    IMAGENET_STATISTICS,
    EvaluationView,
    Normalise,
    RandAugmented,
    TrainingView,
    collate,
    split_batch,
)
from composer_kd.recipes.tasks.mds import check_part, is_mds, mds_loader, read_index
from composer_kd.recipes.tasks.part import Part, window
from composer_kd.recipes.tasks.registry import DATA, DataShape, describes
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, make_loader, views_of

COLUMNS = ('x', 'y')
"""Of the shards: the file's bytes, and the label. Those of mosaicml-streaming's own converters too."""

PUBLISHED = {'train': (1_281_167, 147_897_477_120), 'val': (50_000, 6_744_924_160)}
"""Pictures of ImageNet-1k's splits, and the bytes of the archives they are published in."""

DECODERS = ('fast', 'pil')

Item = tuple[Tensor, int]

_WAY = 1
"""One higher whenever the same picture, settings and seed come to give other pixels."""


def mds_folder(path: str, split: str) -> Path | None:
    """Where the shards lie: ``path/split``, or ``path`` itself; ``None`` if in neither."""
    return next((folder for folder in (Path(path) / split, Path(path)) if is_mds(folder)), None)


class FolderData(EpochDataset[Item]):
    """The pictures of a folder, asked for by ``(view, index)``.

    Args:
        pictures: What is in the folder.
        view: What is made of a picture.
    """

    def __init__(self, pictures: ImageFolder, view: TrainingView | EvaluationView) -> None:
        self._pictures, self._view = pictures, view
        self.num_classes, self.labels = len(pictures.classes), pictures.labels

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        path = self._pictures.path(index)
        with open(path, 'rb') as file:
            data = file.read()
        return self._view(data, f"'{path}'", epoch, index), int(self._pictures.labels[index])


class ShardSample:
    """Makes a sample of a row of MDS shards.

    Args:
        view: What is made of a picture.
        num_classes: Labels lie below it.
        where: What the shards are called, for messages.
    """

    def __init__(self, view: TrainingView | EvaluationView, num_classes: int, where: str) -> None:
        self._view, self._classes, self._where = view, num_classes, where

    def __call__(self, row: Mapping[str, Any], epoch: int, index: int) -> Item:
        """A picture and its label.

        Raises:
            ValueError: If a column is missing, or the label is none of the classes.
        """
        name = f"sample {index} of the shards in '{self._where}'"
        return self._view(file_bytes(row, name), name, epoch, index), label_of(row, self._classes, name)


def file_bytes(row: Mapping[str, Any], name: str) -> bytes | Image.Image:
    """The picture of a row: the bytes of its file, or the picture where only that is there."""
    value = row.get('x')
    if isinstance(value, Image.Image):
        # streaming opens what was written as 'jpeg' or 'png', without reading on: the file's bytes are still there.
        whole = getattr(getattr(value, 'fp', None), 'getvalue', None)
        return bytes(whole()) if whole is not None else value
    if not isinstance(value, bytes):
        raise ValueError(
            f"{name}: expected the bytes of a picture in the column 'x', got {type(value).__name__}. Convert the data "
            'with scripts/convert.py.',
        )
    return value


def label_of(row: Mapping[str, Any], num_classes: int, name: str) -> int:
    """The label of a row, checked."""
    value = row.get('y')
    try:
        label = int(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        label = -1
    if not 0 <= label < num_classes:
        raise ValueError(f"{name}: expected a label from 0 to {num_classes - 1} in the column 'y', got {value!r}.")
    return label


def _check(crop_size: int, resize_size: int, num_classes: int, decoder: str, augmented: bool, train: bool) -> None:
    if crop_size < 1:
        raise ValueError(f'crop_size: expected 1 or more pixels, got {crop_size}.')
    if not train and resize_size < crop_size:
        raise ValueError(f'resize_size: expected {crop_size} (crop_size) or more pixels, got {resize_size}.')
    if num_classes < 2:
        raise ValueError(f'num_classes: expected 2 or more, got {num_classes}.')
    if decoder not in DECODERS:
        raise ValueError(f"decoder: expected 'fast' or 'pil', got {decoder!r}.{nearest(decoder, DECODERS)}")
    if augmented and not train:
        raise ValueError('rand_augment: is for training; leave it out of an evaluator.')


def _scan(path: str, split: str, num_classes: int) -> ImageFolder:
    if not Path(path).is_dir():
        raise FileNotFoundError(
            f"path: there is no folder '{path}'. Expected one with '{split}/', which holds a folder of pictures for "
            'each class, or MDS shards.',
        )
    pictures = scan_folder(Path(path) / split)
    if len(pictures.classes) != num_classes:
        raise ValueError(
            f"num_classes: expected {num_classes} class folders in '{pictures.root}', found {len(pictures.classes)} "
            f'({pictures.classes[0]} to {pictures.classes[-1]}). Set num_classes to the number of classes, here and in '
            'the model.',
        )
    training = Path(path) / 'train'
    if split != 'train' and training.is_dir():
        # A label is the folder's place among all: other names mean other labels.
        other = class_folders(training)
        if len(other) == num_classes and other != pictures.classes:
            names = sorted(set(other) ^ set(pictures.classes))
            raise ValueError(
                f"path: the class folders of '{training}' and '{pictures.root}' have different names "
                f"({', '.join(names[:4])}): their labels would not mean the same classes.",
            )
    return pictures


@DATA.register('imagenet')
def imagenet(
    batch_size: int,
    seed: int,
    train: bool,
    path: str,
    remote: str | None = None,
    split: str | None = None,
    crop_size: int = 224,
    resize_size: int = 256,
    num_classes: int = 1000,
    part: Part | None = None,
    rand_augment: Mapping[str, Any] | None = None,
    decoder: Decoder = 'fast',
    views: int | None = None,
    view_seed: int | None = None,
    num_workers: int = 8,
    streaming: Mapping[str, Any] | None = None,
) -> DataSpec:
    """ImageNet, or any pictures with one label each.

    Training: a random part of the picture (8 to 100 % of its area, ratio 3/4 to 4/3), resized, flipped in half of the
    cases. Evaluation: the shorter side resized, then the middle. The random numbers of a sample follow from the seed,
    the epoch and its index; nothing else moves them.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed.
        train: Whether to shuffle and augment; an epoch's last, smaller batch is left out. If not, all in order.
        path: A folder with ``train`` and ``val``, each of which holds one folder of pictures a class, or MDS shards
            with the columns ``x`` (the bytes of a JPEG) and ``y`` (the label). The cache, where there is a ``remote``.
        remote: Where MDS shards are fetched from, as ``s3://bucket/imagenet``.
        split: The folder in ``path``; by default ``'train'`` for training and ``'val'`` otherwise.
        crop_size: Pixels of a side of what the model sees.
        resize_size: Pixels of the shorter side, of which evaluation takes the middle; training does without.
        num_classes: As many class folders there are, or labels in the shards.
        part: Use only the pictures between two shares of the split, ``[0.5, 1]`` for the second half of each class in
            the order of file names; of MDS shards, the second half of their rows, which the converters mix, and only
            of shards that lie here uncompressed, or in an evaluator.
        rand_augment: ``{depth: 1, severity: 9, augmentation_set: all}``: RandAugment after crop and flip, in training.
        decoder: ``'fast'`` (libjpeg-turbo and torch), or ``'pil'`` (torchvision's classic pipeline, exactly).
        views: How many views of a sample are kept and come again epoch by epoch; ``None`` for a new one each epoch.
            Stored answers are answers to views.
        view_seed: The seed of the views; ``None`` for the run's own. Runs that share stored answers share it.
        num_workers: Worker processes of this rank.
        streaming: Further arguments of ``streaming.StreamingDataset``.

    Returns:
        Batches ``(images (N, 3, crop_size, crop_size) uint8, labels (N,) int64)``, normalised on the device with
        ImageNet's mean and standard deviation.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: For a value out of range, class folders that are missing, empty or of another number than
            ``num_classes``, shards that are damaged or lack a column; while reading, for a picture that cannot be
            decoded or a label that is no class, which is named.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ('cat', 'dog'):
        ...         (Path(folder) / 'train' / name).mkdir(parents=True)
        ...         Image.new('RGB', (50, 40)).save(Path(folder) / 'train' / name / '1.jpg')
        ...     data = imagenet(2, 17, True, path=folder, crop_size=32, num_classes=2, num_workers=0)
        ...     images, labels = next(iter(data.dataloader))
        >>> images.shape, sorted(labels.tolist())
        (torch.Size([2, 3, 32, 32]), [0, 1])
    """
    split = split if split is not None else 'train' if train else 'val'
    _check(crop_size, resize_size, num_classes, decoder, rand_augment is not None, train)
    augmented = None if rand_augment is None else RandAugmented(rand_augment)
    drawn_from = views_of(seed, train, views, view_seed)
    view = TrainingView(drawn_from, crop_size, decoder, augmented) if train else EvaluationView(
        resize_size, crop_size, decoder,
    )
    looks = {'seed': drawn_from, 'crop_size': crop_size, 'decoder': decoder, 'way': _WAY, 'rand_augment': (
        None if rand_augment is None else dict(rand_augment)
    )}
    found = mds_folder(path, split)
    if remote is not None or found is not None:
        loader = mds_loader(
            path, remote, split, COLUMNS, ShardSample(view, num_classes, str(found or remote)), collate, batch_size,
            seed, train, num_workers, streaming, {'num_classes': num_classes}, part, views, looks,
        )
    else:
        if streaming:
            raise ValueError(f"streaming: is for MDS shards, and '{Path(path) / split}' holds none; leave it out.")
        pictures = _scan(path, split, num_classes)
        data = FolderData(pictures, view)
        made_of = {'name': 'pictures', 'samples': len(data), 'content': pictures.content()}
        loader = make_loader(
            data, batch_size, seed, train, num_workers, collate, part, data.labels, views, Identity(made_of, looks),
        )
    return DataSpec(loader, split_batch=split_batch, microbatch_transforms=Normalise(*IMAGENET_STATISTICS))


@describes('imagenet')
def imagenet_shape(
    train: bool, path: str, split: str | None = None, crop_size: int = 224, num_classes: int = 1000,
    part: Part | None = None, remote: str | None = None, streaming: Mapping[str, Any] | None = None, **_: Any,
) -> DataShape:
    """See :func:`imagenet`. Without the data: ImageNet-1k's published counts, where there are 1,000 classes."""
    split = split if split is not None else 'train' if train else 'val'

    def batch(count: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(count, 3, crop_size, crop_size), torch.zeros(count, dtype=torch.int64)

    shards = mds_folder(path, split)
    if remote is not None or shards is not None:
        check_part(part, train, shards, remote, streaming)
    if shards is not None:
        index = read_index(shards)
        return DataShape(len(window(part, index.samples)), batch, disk_bytes=index.bytes, note=f'counted in {shards}')
    folder = Path(path) / split
    if folder.is_dir():
        pictures = scan_folder(folder)
        some = range(0, len(pictures), max(1, len(pictures) // 200))
        mean = sum(Path(pictures.path(i)).stat().st_size for i in some) / len(some)
        return DataShape(
            len(window(part, len(pictures))), batch, disk_bytes=round(mean * len(pictures)),
            note=f'counted in {folder}; bytes estimated from {len(some)} files',
        )
    if num_classes == 1000:
        samples, size = PUBLISHED['train' if split == 'train' else 'val']
        return DataShape(
            len(window(part, samples)), batch, disk_bytes=size, note='as published; the data is not on this machine',
        )
    return DataShape(None, batch, note='the data is not on this machine')
