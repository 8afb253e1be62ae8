"""A checkpoint on this machine's disk, wherever it lies."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from composer.utils import dist, get_file, is_tar, maybe_create_object_store_from_uri, parse_uri
from composer.utils.compression import get_compressor, is_compressed_pt
from composer.utils.object_store import ObjectStore

from composer_kd.models.outside import check_size, download, gathered, on_first_ranks, retried, sha256, told
from composer_kd.teachers.safe import unpack_states

_WEB = ('http', 'https')
_MLFLOW = ('runs', 'models')
# Of a folder only what is read is fetched: no pickles that lie beside safetensors.
_PARTS = ('.metadata', '.distcp', '.safetensors', '.json')


@dataclass(frozen=True)
class _Brought:
    """What a node's first rank brought: the path on that node, and what the nodes compare."""

    path: str
    node: int
    size: int
    digest: str


class _Whole(ObjectStore):
    """An object store that notices when what it gave is not all."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def get_uri(self, object_name: str) -> str:
        return str(self._store.get_uri(object_name))

    def get_object_size(self, object_name: str) -> int:
        return int(self._store.get_object_size(object_name))

    def list_objects(self, prefix: str | None) -> list[str]:
        return list(self._store.list_objects(prefix))

    def upload_object(
        self, object_name: str, filename: str | Path, callback: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ) -> None:
        raise NotImplementedError('nothing is written to the stores that teachers come from')

    def download_object(
        self, object_name: str, filename: str | Path, overwrite: bool = False,
        callback: Callable[[int, int], None] | None = None,
    ) -> None:
        self._store.download_object(object_name, str(filename), overwrite=overwrite, callback=callback)
        check_size(Path(filename), self.get_object_size(object_name))


def is_remote(source: str) -> bool:
    """Whether a checkpoint has to be fetched.

    Example:
        >>> is_remote('s3://bucket/model.pt'), is_remote('runs/a/checkpoints/latest-rank0.pt')
        (True, False)
    """
    return bool(parse_uri(source)[0]) or '://' in source


def _name(source: str) -> str:
    return os.path.basename(urlparse(source).path) or 'checkpoint'


def _is_packed(source: str) -> bool:
    return is_tar(_name(source)) or is_compressed_pt(_name(source))


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix='composer_kd-', ignore_cleanup_errors=True)


@contextmanager
def fetched(source: str) -> Iterator[Path]:
    """The file or folder ``source`` on this machine's disk, unpacked; every rank enters and leaves this together.

    What is not here is fetched by the first rank of each node into a temporary folder, which is removed in the end. The
    ranks must have met (as at a barrier) when they leave.

    Args:
        source: A path, an ``http(s)`` address, a URI of an object store, or MLflow's of a run's artifact
            (``runs:/ID/checkpoints/ep1.pt``) or of a registered model (``models:/NAME/VERSION``,
            ``models:/NAME@ALIAS``).

    Raises:
        FileNotFoundError: On every rank, if there is nothing at ``source``.
        ValueError: On every rank, if it could not be fetched or unpacked, or was not the same on every node.
    """
    asked = gathered(source)
    if len(set(asked)) > 1 and any(is_remote(one) or _is_packed(one) for one in asked):
        raise ValueError(
            f"the ranks of this training ask for different checkpoints: {', '.join(sorted(set(asked)))}. What is "
            'fetched or unpacked is so once per node: give every rank the same one.',
        )
    if not (is_remote(source) or _is_packed(source)):
        yield Path(source)
        return
    # This store tells the other ranks its place as it is made; all the others are made where they are asked.
    made = maybe_create_object_store_from_uri(source) if parse_uri(source)[0] == 'dbfs' else None
    with _temporary_folder() if dist.get_local_rank() == 0 else nullcontext('') as folder:
        brought = on_first_ranks(lambda: _bring(source, made, Path(folder)))
        _same_on_every_node(source, [one for one in brought if one is not None])
        own = brought[dist.get_global_rank() - dist.get_local_rank()]
        assert own is not None
        yield Path(own.path)


def _bring(source: str, made: ObjectStore | None, folder: Path) -> _Brought:
    try:
        path = retried(lambda: _fetch(source, made, folder), source) if is_remote(source) else Path(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'There is no checkpoint at {source} ({error}).') from error
    except Exception as error:  # what stores raise is theirs to choose
        raise ValueError(
            f'{source} could not be fetched: {told(error)}. Check the address, the credentials, the network and the '
            f'room in {tempfile.gettempdir()}; or fetch it by hand and give its path.',
        ) from error
    several = is_remote(source) and dist.get_world_size() > dist.get_local_world_size()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    size, digest = (sum(file.stat().st_size for file in files), sha256(files)) if several else (0, '')
    return _Brought(str(_unpacked(path, source, folder)), dist.get_node_rank(), size, digest)


def _fetch(source: str, made: ObjectStore | None, folder: Path) -> Path:
    target = folder / 'fetched'
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    backend, _, path = parse_uri(source)
    file = target / _name(source)
    if backend in _WEB:
        download(source, file)
        return file
    if backend in _MLFLOW:
        return _from_mlflow(source, target)
    store = _Whole(made or maybe_create_object_store_from_uri(source))
    if not Path(path).suffix:
        _fetch_folder(store, path.rstrip('/') + '/', target)
        return target
    # Composer's own function also follows the '.symlink' objects that its uploads leave.
    get_file(path.replace('{rank}', '0'), str(file), store, overwrite=True)
    return file


def _from_mlflow(source: str, target: Path) -> Path:
    """An artifact of an MLflow run or a registered model, from the server that MLflow is set to use."""
    try:
        from mlflow.artifacts import download_artifacts
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ImportError(f"it takes mlflow: pip install 'composer_kd[mlflow]' ({error})") from error
    try:
        return Path(download_artifacts(artifact_uri=source, dst_path=str(target)))
    except MlflowException as error:
        if error.error_code == 'RESOURCE_DOES_NOT_EXIST':
            raise FileNotFoundError(told(error)) from error
        if error.error_code == 'INVALID_PARAMETER_VALUE':  # another try changes nothing
            raise ValueError(told(error)) from error
        raise


def _fetch_folder(store: ObjectStore, prefix: str, target: Path) -> None:
    names = {os.path.relpath(item, prefix): item for item in store.list_objects(prefix)}
    wanted = {name: item for name, item in names.items() if name.endswith(_PARTS) and '/' not in name}
    if not wanted:
        raise FileNotFoundError(f"no object of a checkpoint ({', '.join(_PARTS)}) lies in it")
    for name, item in wanted.items():
        store.download_object(item, str(target / name), overwrite=True)


def _unpacked(path: Path, source: str, folder: Path) -> Path:
    try:
        if is_tar(path.name):
            with tarfile.open(path) as archive:
                return unpack_states(archive, folder / 'unpacked')
        if is_compressed_pt(path.name):
            target = folder / path.stem
            with get_compressor(path.name).decompress(str(path)) as output, output as packed, target.open('wb') as file:
                shutil.copyfileobj(packed, file)
            return target
    except FileNotFoundError as error:
        raise FileNotFoundError(f'There is no checkpoint at {source} ({error}).') from error
    except (OSError, EOFError, ValueError, tarfile.TarError) as error:
        raise ValueError(
            f'{source} cannot be unpacked; it may be truncated or something else. ({told(error)})',
        ) from error
    return path


def _same_on_every_node(source: str, brought: list[_Brought]) -> None:
    if len({(one.size, one.digest) for one in brought}) > 1:
        found = '; '.join(f'{one.size:,} bytes, SHA-256 {one.digest[:16]} on node {one.node}' for one in brought)
        raise ValueError(
            f'{source} is not the same on every node: {found}. Was it replaced while it was being fetched, or does the '
            'address lead elsewhere there? Start again, or give every node the same file by its path.',
        )
