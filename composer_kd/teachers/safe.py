"""What may be in a checkpoint: tensors and plain values, and nothing that could run code."""

from __future__ import annotations

import datetime
import pickle
import re
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch.distributed.checkpoint import CheckpointException, filesystem, metadata

from composer_kd.models.outside import only_weights, replaced, told

# What a Composer checkpoint holds besides tensors and what torch takes for plain: its clock, torch's version, and
# numbers of NumPy, those of its generator for one. NumPy 1 and 2 name the same functions differently.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_NO_NUMBERS = {'ObjectDType', 'VoidDType', 'StringDType'}
SAFE_GLOBALS: list[Any] = [
    np.ndarray, np.dtype, datetime.timedelta, torch.torch_version.TorchVersion,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__ if name not in _NO_NUMBERS),
    *((_RECONSTRUCT, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_SCALAR, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
]

_RECORDS = (
    metadata.Metadata, metadata.MetadataIndex, metadata.TensorStorageMetadata, metadata.BytesStorageMetadata,
    metadata.ChunkStorageMetadata, metadata.TensorProperties, metadata.StorageMeta, filesystem._StorageInfo,
)


def _member(kind: Any, name: str) -> Any:
    # Some releases of Python 3.11 pickle the member of an enumeration as a call of getattr.
    if kind is not metadata._MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError('it asks for builtins.getattr')
    return metadata._MEM_FORMAT_ENCODING[name]


_IN_METADATA: dict[tuple[str, str], Any] = {
    **{(kind.__module__, kind.__qualname__): kind for kind in (*_RECORDS, metadata._MEM_FORMAT_ENCODING)},
    ('torch', 'Size'): torch.Size,
    ('torch.serialization', '_get_layout'): torch.serialization._get_layout,
    ('builtins', 'getattr'): _member,
    **{(module, f'{pure.removeprefix("Pure")}'): kind for module in ('pathlib', 'pathlib._local')
       for pure, kind in (('PurePosixPath', PurePosixPath), ('PureWindowsPath', PureWindowsPath))},
}


# Python's own is in C, and cannot be told what not to change.
_PYTHONS: Any = pickle._Unpickler


class _Unpickler(_PYTHONS):
    """Of the table of contents of a sharded checkpoint: its own records, and no other name."""

    dispatch: ClassVar[dict[int, Any]] = dict(_PYTHONS.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        found = _IN_METADATA.get((module, name))
        if found is None and module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype):
            found = getattr(torch, name)
        if found is None:
            raise pickle.UnpicklingError(f'it asks for {module}.{name}')
        return found

    def load_build(self) -> None:
        # A pickle may set attributes of whatever it can name: of a class, for good.
        if not isinstance(self.stack[-2], _RECORDS):
            raise pickle.UnpicklingError(f'it changes {self.stack[-2]!r}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


def _load_metadata(file: IO[bytes]) -> Any:
    try:
        found = _Unpickler(file).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a pickle that is cut short or none at all may raise anything
        raise pickle.UnpicklingError(f'its .metadata cannot be read, {told(error)}') from error
    if not isinstance(found, metadata.Metadata) or not isinstance(found.storage_data, Mapping):
        raise pickle.UnpicklingError(f'it is no table of contents, but {type(found).__name__}')
    for info in found.storage_data.values():
        # Composer writes files of these names when it fetches a checkpoint.
        if Path(str(info.relative_path)).name != info.relative_path:
            raise pickle.UnpicklingError(f'it names a file outside its folder, {info.relative_path!r}')
    return found


class _PickleOfMetadata:
    """The module ``pickle`` for torch's reader of sharded checkpoints, but for ``load``."""

    load = staticmethod(_load_metadata)

    def __getattr__(self, name: str) -> Any:
        return getattr(pickle, name)


@contextmanager
def safely() -> Iterator[None]:
    """Let torch read tensors and plain values alone, out of files and sharded checkpoints.

    A file that holds anything else raises a ``pickle.UnpicklingError`` before any of it is made.

    Example:
        >>> with safely():
        ...     torch.get_default_dtype()
        torch.float32
    """
    with (
        only_weights(), torch.serialization.safe_globals(SAFE_GLOBALS), warnings.catch_warnings(),
        replaced(filesystem, 'pickle', _PickleOfMetadata()),
    ):
        warnings.filterwarnings('ignore', 'Detected pickle protocol')
        yield


def cause_of(error: BaseException) -> BaseException:
    """What torch's collection of the errors of all ranks is about; any other error itself.

    Example:
        >>> cause_of(CheckpointException('load', {1: (KeyError('model'), None)}))
        KeyError('model')
    """
    if isinstance(error, CheckpointException):
        found = [failure[0] for failure in error.failures.values()]
        return next((one for one in found if isinstance(one, pickle.UnpicklingError)), found[0])
    return error


def why_refused(error: BaseException) -> str | None:
    """What a file holds that it may not; ``None`` if that is not why reading it failed.

    Args:
        error: What reading it under :func:`safely` raised.

    Example:
        >>> why_refused(pickle.UnpicklingError('it asks for os.system'))
        'it asks for os.system'
    """
    error = cause_of(error)
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r'GLOBAL ([\w.]+)', str(error))
    return f'it asks for {found[1]}' if found else str(error).strip().splitlines()[0]


def unpack_states(archive: tarfile.TarFile, folder: str | Path) -> Path:
    """Write the one file of a Composer checkpoint in a tar archive that is read; an archive may name any path.

    Args:
        archive: The archive.
        folder: Where to.

    Returns:
        The file.

    Raises:
        ValueError: If there is none in it.
    """
    target = Path(folder, 'composer_states.pt')
    names = {name.removeprefix('./'): name for name in archive.getnames()}
    file = archive.extractfile(names[target.name]) if target.name in names else None
    if file is None:
        raise ValueError(f'the archive holds no file {target.name}')
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open('wb') as written:
        while part := file.read(2**20):
            written.write(part)
    return target
