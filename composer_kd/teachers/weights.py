"""Model weights out of every file they come in: Composer checkpoints, sharded ones, state dicts, safetensors."""

from __future__ import annotations

import datetime
import hashlib
import os
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from composer.utils import dist, maybe_create_object_store_from_uri, parse_uri
from composer.utils.checkpoint import download_checkpoint
from torch import Tensor

# What a Composer checkpoint holds besides tensors and plain types: its clock, and the state of NumPy's generator.
# NumPy 1 and 2 name the same function differently, and a checkpoint may come from either.
_RECONSTRUCT = np.zeros(0).__reduce__()[0]
_SAFE_GLOBALS: list[Any] = [
    np.ndarray, np.dtype, np.dtypes.UInt32DType, datetime.timedelta, torch.torch_version.TorchVersion,
    (_RECONSTRUCT, 'numpy._core.multiarray._reconstruct'), (_RECONSTRUCT, 'numpy.core.multiarray._reconstruct'),
]


class _NotWhole(ValueError):
    """A sharded checkpoint without its table of contents."""


@contextmanager
def _fetched(source: str) -> Iterator[Path]:
    """The file or folder ``source`` on this machine's disk; what has to be fetched is fetched once per node."""
    if os.path.isdir(source):
        yield Path(source)
        return
    backend, _, path = parse_uri(source)
    holder = tempfile.TemporaryDirectory() if dist.get_local_rank() == 0 else nullcontext(None)
    with holder as own:
        first = dist.get_global_rank() - dist.get_local_rank()
        folder = cast(str, dist.all_gather_object(own)[first])
        store = maybe_create_object_store_from_uri(source) if backend not in ('', 'http', 'https') else None
        try:
            if store is not None and not Path(path).suffix:
                if dist.get_local_rank() == 0:
                    for item in store.list_objects(path.rstrip('/') + '/'):
                        target = Path(folder, 'sharded', os.path.relpath(item, path))
                        target.parent.mkdir(parents=True, exist_ok=True)
                        store.download_object(item, str(target))
                dist.barrier()
                yield Path(folder, 'sharded')
            else:
                states, _, _ = download_checkpoint(path if store else source, folder, store, progress_bar=True)
                yield Path(states)
        finally:
            dist.barrier()  # the folder is shared by the ranks of a node: none may leave while another reads


def _read_sharded(folder: Path) -> dict[str, Tensor]:
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    loaded: dict[str, Any] = {}
    planner = _EmptyStateDictLoadPlanner(keys={'state.model'})
    _load_state_dict(loaded, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    return cast('dict[str, Tensor]', loaded.get('state', {}).get('model', {}))


def _read_file(path: Path, safetensors: bool) -> Any:
    if safetensors:
        from safetensors.torch import load_file
        return load_file(path)
    # no code in the file is run
    with torch.serialization.safe_globals(_SAFE_GLOBALS), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Detected pickle protocol')
        try:
            return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        except RuntimeError as error:
            if 'mmap can only be used' not in str(error):
                raise
            return torch.load(path, map_location='cpu', weights_only=True)


def _with_averages(state: Mapping[str, Any], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights of EMA where they are not in the model entry already.

    Composer's checkpoint saver puts them there; a checkpoint saved by hand in mid-training keeps them in the
    algorithm's own state.
    """
    for name, kept in state.get('algorithms', ()):
        if name == 'EMA' and kept.get('ema_started') and not kept.get('ema_weights_active'):
            averages = {**kept['ema_model']['named_parameters_dict'], **kept['ema_model']['named_buffers_dict']}
            weights = {key: averages.get(key, value) for key, value in weights.items()}
    return weights


def read_weights(source: str) -> dict[str, Tensor]:
    """The model's weights in a checkpoint, on the CPU.

    Args:
        source: A local path, an ``http(s)`` address, or a URI of any object store Composer reads (``s3://``, ``gs://``,
            ``oci://``, ...). A Composer checkpoint (one file, a tar archive, or a folder of shards), a plain state dict
            saved by ``torch.save``, or a safetensors file. With several ranks it is fetched once per node, so all
            ranks must call this.

    Returns:
        Names to tensors. Of a run with EMA, the averaged weights: they are what that run evaluated.

    Raises:
        FileNotFoundError: If there is nothing at ``source``.
        ValueError: If it is not a readable checkpoint, holds no model weights, or holds something that could run code.
    """
    if not (parse_uri(source)[0] or '://' in source or os.path.exists(source)):
        raise FileNotFoundError(f'There is no checkpoint at {source}. Check the path; it is relative to {os.getcwd()}.')
    try:
        with _fetched(source) as path:
            if path.is_dir():
                if not (path / '.metadata').exists():
                    raise _NotWhole(
                        f'{source} is a folder without .metadata, so no complete sharded checkpoint. Give the folder '
                        'of one save (such as ep1-ba100), a file, or {run: FOLDER} for a whole run folder.',
                    )
                return _read_sharded(path)
            loaded = _read_file(path, safetensors=source.endswith('.safetensors'))
            if isinstance(loaded, Mapping) and isinstance(loaded.get('state'), Mapping) and 'model' in loaded['state']:
                return _with_averages(loaded['state'], dict(loaded['state']['model']))
    except pickle.UnpicklingError as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f'{source} holds more than weights and plain values, or is no checkpoint; it was not loaded, as loading '
            f'it could run code. Save the state dict alone (torch.save(model.state_dict(), ...)) or as '
            f'safetensors. ({first})',
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f'There is no checkpoint at {source} ({error}).') from error
    except _NotWhole:
        raise
    except Exception as error:  # what readers and object stores raise is theirs to choose, down to a KeyError
        told = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise ValueError(
            f'{source} cannot be read as a checkpoint; it may be truncated, something else, or out of reach. ({told})',
        ) from error
    weights = loaded.get('state_dict', loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(x, Tensor) for x in weights.values()):
        raise ValueError(
            f'{source}: expected a Composer checkpoint or a state dict (names to tensors), got '
            f'{type(loaded).__name__}{f" with the keys {list(loaded)[:5]}" if isinstance(loaded, Mapping) else ""}.',
        )
    return dict(weights)


def digest_of(module: torch.nn.Module) -> str:
    """A digest (SHA-256, hexadecimal) of a module's parameters and buffers: names, types, shapes and bits."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f'{name} {value.dtype} {tuple(value.shape)};'.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
