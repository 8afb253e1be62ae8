"""Real photographs, small, in the formats that the tests read."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@lru_cache(maxsize=1)
def photographs() -> list[Image.Image]:
    """Scikit-learn's two, 640x427 pixels."""
    return [Image.fromarray(image) for image in load_sample_images().images]


def as_bytes(picture: Image.Image, format: str = 'JPEG', **settings) -> bytes:
    file = BytesIO()
    picture.save(file, format, **({'quality': 90} if format == 'JPEG' else {}), **settings)
    return file.getvalue()


def write_folder(root: Path, split: str = 'train', classes: int = 3, each: int = 4, side: int = 48) -> Path:
    """Parts of the photographs as ``root/split/class*/*.JPEG``; each a little different in size."""
    random = np.random.default_rng(7)
    for label in range(classes):
        at = root / split / f'class{label}'
        at.mkdir(parents=True)
        for index in range(each):
            width, height = side + 4 * index, side + 3 * label
            left, top = int(random.integers(640 - width)), int(random.integers(427 - height))
            part = photographs()[label % 2].crop((left, top, left + width, top + height))
            (at / f'{label}_{index}.JPEG').write_bytes(as_bytes(part))
    return root
