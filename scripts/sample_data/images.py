"""Scikit-learn's handwritten digits in the formats of ImageNet and CIFAR."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PER_CLASS = {'train': 40, 'val': 20}
SIDE = 64


def digits_by_class() -> list[NDArray[np.uint8]]:
    """The images of each digit, ``(n, 8, 8)`` of 0 to 255."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = (images * (255 / 16)).round().astype(np.uint8).reshape(-1, 8, 8)
    return [pixels[labels == digit] for digit in range(10)]


def enlarged(image: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    """A digit as a colour picture: bright strokes on a dark blue ground."""
    gray = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
    return Image.merge('RGB', (gray, gray.point(lambda value: value * 0.9), gray.point(lambda value: 60 + value * 0.7)))


def write_imagenet(folder: Path) -> None:
    """``train`` and ``val`` with ten class folders of JPEGs of about 64x64 pixels, of different shapes."""
    for digit, images in enumerate(digits_by_class()):
        first = 0
        for split, count in PER_CLASS.items():
            at = folder / split / f'n{digit:08}'
            at.mkdir(parents=True, exist_ok=True)
            for index in range(first, first + count):
                width, height = SIDE + index % 5 * 4, SIDE + index % 3 * 4
                enlarged(images[index], width, height).save(at / f'n{digit:08}_{index}.JPEG', quality=90)
            first += count


def cifar_rows(images: list[NDArray[np.uint8]], first: int, last: int) -> tuple[NDArray[np.uint8], list[int]]:
    """Images of every class as CIFAR's rows (red, green, blue planes of 32x32 pixels), shuffled, and the digits."""
    digits = [digit for digit in range(10) for _ in range(first, last)]
    chosen = [images[digit][index] for digit in range(10) for index in range(first, last)]
    rows = np.stack([np.asarray(enlarged(image, 32, 32)).transpose(2, 0, 1).reshape(-1) for image in chosen])
    order = np.random.RandomState(0).permutation(len(digits))
    return rows[order], [digits[index] for index in order]


_PICKLER: Any = pickle._Pickler


def _save_string(pickler: Any, value: bytes) -> None:
    pickler.write(pickle.BINSTRING + struct.pack('<i', len(value)) + value)
    pickler.memoize(value)


class _AsPython2(_PICKLER):
    # CIFAR's files hold Python 2's strings, which a reader may take for bytes or for text.
    dispatch: ClassVar[Any] = {**_PICKLER.dispatch, bytes: _save_string}


def dump(path: Path, content: dict[str, object]) -> None:
    """A pickle as CIFAR's own, which Python 2 wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('wb') as file:
        _AsPython2(file, protocol=2).dump({key.encode(): value for key, value in content.items()})


def write_cifar10(folder: Path) -> None:
    """``cifar-10-batches-py``: five batches to train on and one to test."""
    images = digits_by_class()
    for number in range(1, 6):
        data, labels = cifar_rows(images, 16 * number - 16, 16 * number)
        dump(folder / f'data_batch_{number}', {'data': data, 'labels': labels})
    data, labels = cifar_rows(images, 80, 110)
    dump(folder / 'test_batch', {'data': data, 'labels': labels})
    dump(folder / 'batches.meta', {'label_names': [str(digit).encode() for digit in range(10)]})


def write_cifar100(folder: Path) -> None:
    """``cifar-100-python``: each digit is spread over ten fine labels in turn, ten coarse ones for the digits."""
    images = digits_by_class()
    for split, first, last in (('train', 0, 80), ('test', 80, 120)):
        data, digits = cifar_rows(images, first, last)
        fine = [digit * 10 + digits[:place].count(digit) % 10 for place, digit in enumerate(digits)]
        dump(folder / split, {'data': data, 'fine_labels': fine, 'coarse_labels': digits})
    names = [f'digit_{fine // 10}_{fine % 10}'.encode() for fine in range(100)]
    dump(folder / 'meta', {
        'fine_label_names': names, 'coarse_label_names': [f'digit_{digit}'.encode() for digit in range(10)],
    })


def write(out: Path) -> None:
    """Write ``imagenet``, ``imagenet-mds``, ``cifar10``, ``cifar10-mds`` and ``cifar100`` below ``out``."""
    from composer_kd.convert import convert_cifar, convert_images

    write_imagenet(out / 'imagenet')
    for split in PER_CLASS:
        convert_images(out / 'imagenet', out / 'imagenet-mds', split, size_limit='256kb', workers=2, progress=False)
    write_cifar10(out / 'cifar10' / 'cifar-10-batches-py')
    convert_cifar(out / 'cifar10', out / 'cifar10-mds', size_limit='1mb', workers=2, progress=False)
    write_cifar100(out / 'cifar100' / 'cifar-100-python')
