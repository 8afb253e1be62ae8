"""What is done to pictures: random crops and flips by sample in the workers, normalisation on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate

from composer_kd.names import check_keys
from composer_kd.recipes.tasks.images.decode import Box, Decoder, Size, decode
from composer_kd.recipes.tasks.sampling import generator

Batch = tuple[Tensor, Tensor]

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation by channel, pixels in 0 to 1: those of torchvision's published weights."""

CIFAR_STATISTICS = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
"""The same of CIFAR's training images, by the number of classes."""

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)

# One stream of random numbers for each purpose, so that switching one off leaves the others as they were. None is 0: a
# trailing zero is no other source to NumPy.
CROP, RAND_AUGMENT = 1, 2


def random_box(random: np.random.Generator, height: int, width: int) -> Box:
    """A random part of a picture, as ``torchvision.transforms.RandomResizedCrop`` draws it, from a generator.

    Its area is a uniform share in 0.08 to 1 of the picture's, its width over height log-uniform in 3/4 to 4/3 (*Going
    Deeper with Convolutions*, arXiv 1409.4842, section 6). After ten draws that do not fit: the largest central part
    with a ratio in that range.

    Args:
        random: Where the numbers come from.
        height: Of the picture, in pixels.
        width: Of the picture, in pixels.

    Example:
        >>> top, left, height, width = random_box(np.random.default_rng(0), 300, 400)
        >>> 0 <= top <= 300 - height, 0 <= left <= 400 - width
        (True, True)
    """
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            return int(random.integers(height - high + 1)), int(random.integers(width - wide + 1)), high, wide
    wide = min(width, round(height * RATIO[1]))
    high = min(height, round(width / RATIO[0]))
    return (height - high) // 2, (width - wide) // 2, high, wide


def shorter_side(size: int, height: int, width: int) -> Size:
    """Height and width of a picture whose shorter side is made ``size``, as ``torchvision.transforms.Resize`` does.

    Example:
        >>> shorter_side(256, 375, 500)
        (256, 341)
    """
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global generator, seeded for as long as the context lasts and put back after it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


class RandAugmented:
    """RandAugment (arXiv 1909.13719), Composer's, with random numbers of its own for each sample.

    Args:
        settings: ``depth`` (how many augmentations; default 1), ``severity`` (0 to 10; default 9) and
            ``augmentation_set`` (``'all'``, ``'safe'`` or ``'original'``; default ``'all'``).

    Raises:
        ValueError: For a key or a value that RandAugment does not have.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from composer.algorithms.utils import augmentation_sets

        check_keys(settings, ('depth', 'severity', 'augmentation_set'), 'rand_augment')
        chosen = {'depth': 1, 'severity': 9, 'augmentation_set': 'all', **settings}
        depth, severity, name = chosen['depth'], chosen['severity'], chosen['augmentation_set']
        if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
            raise ValueError(f'rand_augment.depth: expected 1 or more augmentations, got {depth!r}.')
        if not isinstance(severity, (int, float)) or isinstance(severity, bool) or not 0 <= severity <= 10:
            raise ValueError(f'rand_augment.severity: expected a number from 0 to 10, got {severity!r}.')
        if name not in augmentation_sets:
            raise ValueError(
                f"rand_augment.augmentation_set: expected one of {', '.join(augmentation_sets)}, got {name!r}.",
            )
        self._settings: dict[str, Any] = {**chosen, 'augmentation_set': augmentation_sets[name]}

    def __call__(self, image: Tensor, seed: int, epoch: int, index: int) -> Tensor:
        """Augment ``(3, H, W)`` uint8 with the random numbers of that sample."""
        from composer.algorithms.randaugment import randaugment_image

        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        with numpy_seeded(int(generator(seed, epoch, index, RAND_AUGMENT).integers(2**32))):
            augmented: Image.Image = randaugment_image(picture, **self._settings)
        return torch.from_numpy(np.array(augmented)).permute(2, 0, 1).contiguous()


class TrainingView:
    """Random part of the picture, resized to a square, and flipped in half of the cases.

    Args:
        seed: The run's seed.
        crop_size: Pixels of a side.
        decoder: See :func:`composer_kd.recipes.tasks.images.decode.decode`.
        rand_augment: What is done after that, if anything.
    """

    def __init__(self, seed: int, crop_size: int, decoder: Decoder, rand_augment: RandAugmented | None = None) -> None:
        self._seed, self._size, self._decoder, self._rand_augment = seed, crop_size, decoder, rand_augment

    def __call__(self, data: bytes | Image.Image, name: str, epoch: int, index: int) -> Tensor:
        """A picture as that epoch sees it, ``(3, crop_size, crop_size)`` uint8."""
        random = generator(self._seed, epoch, index, CROP)
        flip = random.random() < 0.5

        def view(height: int, width: int) -> tuple[Box, Size]:
            return random_box(random, height, width), (self._size, self._size)

        image = decode(data, view, self._decoder, name)
        if flip:
            image = image.flip(-1)
        return image if self._rand_augment is None else self._rand_augment(image, self._seed, epoch, index)


class EvaluationView:
    """The picture with its shorter side resized, then the middle of it.

    Args:
        resize_size: Pixels of the shorter side.
        crop_size: Pixels of a side of the middle, ``resize_size`` at most.
        decoder: See :func:`composer_kd.recipes.tasks.images.decode.decode`.
    """

    def __init__(self, resize_size: int, crop_size: int, decoder: Decoder) -> None:
        self._resize, self._size, self._decoder = resize_size, crop_size, decoder

    def __call__(self, data: bytes | Image.Image, name: str, epoch: int = 0, index: int = 0) -> Tensor:
        """The same picture in every epoch, ``(3, crop_size, crop_size)`` uint8."""

        def view(height: int, width: int) -> tuple[Box, Size]:
            return (0, 0, height, width), shorter_side(self._resize, height, width)

        image = decode(data, view, self._decoder, name)
        # round() of a half goes to the even number, in torchvision's centre crop too.
        top, left = (round((side - self._size) / 2) for side in image.shape[1:])
        return image[:, top:top + self._size, left:left + self._size].contiguous()


class Normalise:
    """Pixels of 0 to 255 as float32 with about zero mean and unit variance, on the device where they are.

    Run as the data's ``microbatch_transforms``: uint8 is a quarter of what goes through workers and to the device, and
    Composer's algorithms for the batch on the host (ProgressiveResizing, ColOut) pick pixels, whatever their type.

    Args:
        mean: By channel, for pixels in 0 to 1.
        std: Standard deviation by channel.

    Example:
        >>> images, _ = Normalise((0.5,), (0.5,))((torch.tensor([[[[0, 255]]]], dtype=torch.uint8), torch.zeros(1)))
        >>> images.tolist()
        [[[[-1.0, 1.0]]]]
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = (torch.tensor(values).reshape(1, -1, 1, 1) * 255 for values in (mean, std))
        self._here: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def __call__(self, batch: Batch) -> Batch:
        """Normalise the first item of a batch."""
        images, labels = batch
        if images.device not in self._here:
            self._here[images.device] = (self._mean.to(images.device), self._std.to(images.device))
        mean, std = self._here[images.device]
        return images.float().sub_(mean).div_(std), labels


def collate(items: Sequence[tuple[Tensor, int]]) -> Batch:
    """Samples to ``(images (N, 3, H, W) uint8, labels (N,) int64)``, in shared memory if this is a worker."""
    images, labels = default_collate(list(items))
    return images, labels


def split_batch(batch: Batch, size: int | float) -> list[Batch]:
    """Microbatches, as Composer makes them but without its warning where the last is smaller."""
    images, labels = batch
    return list(zip(images.split(int(size)), labels.split(int(size)), strict=True))
