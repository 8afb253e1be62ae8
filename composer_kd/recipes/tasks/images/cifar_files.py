"""CIFAR's own files: pickles, read without running what they might hold."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

FOLDERS = {10: 'cifar-10-batches-py', 100: 'cifar-100-python'}
FILES: dict[int, dict[str, tuple[str, ...]]] = {
    10: {'train': tuple(f'data_batch_{n}' for n in range(1, 6)), 'test': ('test_batch',)},
    100: {'train': ('train',), 'test': ('test',)},
}
LABELS = {10: b'labels', 100: b'fine_labels'}

_ALLOWED = {'_reconstruct', 'ndarray', 'dtype', 'scalar', 'encode'}


class _Unpickler(pickle.Unpickler):
    # Arrays and nothing else: a pickle from anywhere may name any function to be called.
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED or module.split('.')[0] not in ('numpy', '_codecs'):
            raise pickle.UnpicklingError(f"it asks for '{module}.{name}', which no CIFAR file does")
        # NumPy 2 moved its core, and warns of the name that older pickles have for it.
        if module.startswith('numpy.core') and np.lib.NumpyVersion(np.__version__) >= '2.0.0':
            module = module.replace('numpy.core', 'numpy._core')
        elif module.startswith('numpy._core') and np.lib.NumpyVersion(np.__version__) < '2.0.0':
            module = module.replace('numpy._core', 'numpy.core')
        return super().find_class(module, name)


@dataclass(frozen=True, eq=False)
class CifarImages:
    """A split of CIFAR.

    Attributes:
        images: ``(N, 32, 32, 3)`` uint8.
        labels: ``(N,)`` int64.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def content(self) -> str:
        """A digest of all pixels and labels."""
        found = xxhash.xxh3_128(self.images.data)
        found.update(self.labels.data)
        return found.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)


def cifar_folder(path: str | Path, classes: int) -> Path | None:
    """Where the files lie: in the archive's folder below ``path``, or in ``path``; ``None`` if in neither."""
    first = FILES[classes]['test'][0]
    return next((at for at in (Path(path) / FOLDERS[classes], Path(path)) if (at / first).is_file()), None)


def read_cifar(path: str | Path, split: str, classes: int) -> CifarImages:
    """Read a split of CIFAR-10 or CIFAR-100 from the Python version's files.

    Args:
        path: The folder ``cifar-10-batches-py`` or ``cifar-100-python``, or the one that holds it.
        split: ``'train'`` or ``'test'``.
        classes: 10 or 100.

    Raises:
        FileNotFoundError: If there are no such files, or one is missing.
        ValueError: If a file is damaged or of another kind, or a label is no class.
    """
    folder = cifar_folder(path, classes)
    if folder is None:
        raise FileNotFoundError(
            f"path: expected CIFAR-{classes}'s files in '{Path(path) / FOLDERS[classes]}' or '{path}' "
            f"({', '.join(name for names in FILES[classes].values() for name in names)}), or MDS shards in a folder "
            f"'{split}'; there are none.",
        )
    parts = [_read(folder / name, classes) for name in FILES[classes][split]]
    return CifarImages(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))


def _load(file: BinaryIO, path: Path) -> dict[bytes, Any]:
    try:
        found = _Unpickler(file, encoding='bytes').load()
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError,
            KeyError, UnicodeDecodeError) as error:
        raise ValueError(
            f"path: '{path}' is no file of CIFAR's Python version, or damaged ({type(error).__name__}: {error}). "
            'Unpack the archive anew.',
        ) from error
    return found if isinstance(found, dict) else {}


def _read(path: Path, classes: int) -> CifarImages:
    if not path.is_file():
        raise FileNotFoundError(f"path: '{path}' is missing. Unpack the archive anew.")
    with path.open('rb') as file:
        found = _load(file, path)
    data, labels = found.get(b'data'), found.get(LABELS[classes])
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,) or labels is None:
        raise ValueError(
            f"path: expected CIFAR-{classes}'s 'data' (N, 3072) uint8 and '{LABELS[classes].decode()}' in '{path}', "
            f"got {', '.join(sorted(repr(key) for key in found)) or 'something else'}. Is `classes` right?",
        )
    label = np.asarray(labels, np.int64)
    if label.shape != (len(data),) or not len(data):
        raise ValueError(f"path: '{path}' has {len(data)} images and {label.size} labels.")
    wrong = np.flatnonzero((label < 0) | (label >= classes))
    if len(wrong):
        raise ValueError(
            f"path: expected labels from 0 to {classes - 1} in '{path}', got {label[wrong[0]]} for image {wrong[0]}.",
        )
    return CifarImages(np.ascontiguousarray(data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), label)
