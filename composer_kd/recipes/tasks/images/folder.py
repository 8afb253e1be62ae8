"""Pictures in one folder a class."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The pictures of a folder with one folder a class, in the order of class and file name.

    Attributes:
        root: The folder.
        classes: Names of the class folders, sorted; a picture's label is its folder's place among them.
        names: File names as bytes. An array, not a list: a million Python strings would be copied into every worker,
            as each look at one writes to it.
        labels: Of each picture.
    """

    root: Path
    classes: list[str]
    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.names)

    def content(self) -> str:
        """A digest of the names of classes and files, in their order; the files themselves are not read."""
        found = hashlib.sha256('\0'.join(self.classes).encode(errors='surrogateescape'))
        found.update(self.names.tobytes())
        found.update(self.labels.tobytes())
        return found.hexdigest()

    def path(self, index: int) -> str:
        """The file of a picture."""
        return os.path.join(self.root, self.classes[int(self.labels[index])], os.fsdecode(bytes(self.names[index])))


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith('.'))


def _pictures(folder: Path) -> NDArray[np.bytes_]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(ENDINGS)]
    return np.sort(np.array([os.fsencode(name) for name in names if not name.startswith('.')], dtype=np.bytes_))


def scan_folder(folder: str | Path, where: str = 'path') -> ImageFolder:
    """Find the pictures of a folder with one folder a class; only names are read.

    Args:
        folder: The folder, such as ``imagenet/train``.
        where: The setting that named it, for messages.

    Returns:
        The pictures.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no class folders, or a class folder holds no pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{where}: there is no folder '{folder}'. Expected one with a folder of pictures for each class, or MDS "
            'shards with an index.json.',
        )
    classes = class_folders(folder)
    if not classes:
        raise ValueError(
            f"{where}: '{folder}' holds no class folders. Expected one folder of pictures for each class, as '{folder}/"
            "n01440764'; ImageNet's validation pictures come in one heap and are to be sorted into such folders.",
        )
    # Threads for folders that lie on other machines, where each listing is a wait.
    with ThreadPoolExecutor(16) as pool:
        names = list(pool.map(_pictures, [folder / name for name in classes]))
    empty = [name for name, found in zip(classes, names, strict=True) if not len(found)]
    if empty:
        more = f' and {len(empty) - 3} more' if len(empty) > 3 else ''
        raise ValueError(
            f"{where}: no pictures in the class folders {', '.join(empty[:3])}{more} of '{folder}' (looked for "
            f"{', '.join(ENDINGS)}). Fill or remove them.",
        )
    labels = np.repeat(np.arange(len(classes)), [len(found) for found in names]).astype(np.int64)
    return ImageFolder(folder, classes, np.concatenate(names), labels)
