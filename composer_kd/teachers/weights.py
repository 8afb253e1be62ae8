"""Model weights out of every file they come in: Composer checkpoints, sharded ones, state dicts, safetensors."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException, FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from composer_kd.models.outside import raise_everywhere, told
from composer_kd.teachers.fetch import fetched, is_remote
from composer_kd.teachers.safe import cause_of, safely, why_refused

_WHOLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'


class _Told(ValueError):
    """What is wrong with a checkpoint, in full."""


class _TensorsOfTheModel(_EmptyStateDictLoadPlanner):
    """Of a sharded checkpoint the tensors of the model; its other entries are pickles."""

    def _should_include_key(self, key: str, metadata: Metadata) -> bool:
        tensor = isinstance(metadata.state_dict_metadata[key], TensorStorageMetadata)
        return tensor and bool(super()._should_include_key(key, metadata))


def _read_sharded(folder: Path) -> dict[str, Tensor]:
    loaded: dict[str, Any] = {}
    planner = _TensorsOfTheModel(keys={'state.model'})
    with safely():
        _load_state_dict(loaded, storage_reader=FileSystemReader(folder), planner=planner, no_dist=True)
    return cast('dict[str, Tensor]', loaded.get('state', {}).get('model', {}))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file
    return load_file(path)


def _read_folder(folder: Path, source: str) -> dict[str, Tensor]:
    if (folder / _WHOLE).is_file():
        return _read_safetensors(folder / _WHOLE)
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text(encoding='utf-8'))['weight_map'].values()))
        if any(Path(name).name != name for name in names):
            raise _Told(f'{source}: {_INDEX} names files outside the folder; nothing was read.')
        return {key: value for name in names for key, value in _read_safetensors(folder / name).items()}
    if not (folder / '.metadata').exists():
        raise _Told(
            f'{source} is a folder without .metadata, so no complete sharded checkpoint, and without {_WHOLE}. Give '
            'the folder of one save (such as ep1-ba100), a file, or {run: FOLDER} for a whole run folder.',
        )
    return _read_sharded(folder)


def _read_file(path: Path) -> Any:
    if path.suffix == '.safetensors':
        return _read_safetensors(path)
    with safely():
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


def _weights_in(loaded: Any, source: str) -> dict[str, Tensor]:
    if isinstance(loaded, Mapping) and isinstance(loaded.get('state'), Mapping) and 'model' in loaded['state']:
        return _with_averages(loaded['state'], dict(loaded['state']['model']))
    weights = loaded.get('state_dict', loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(weights, Mapping) or not weights or not all(isinstance(x, Tensor) for x in weights.values()):
        raise _Told(
            f'{source}: expected a Composer checkpoint or a state dict (names to tensors), got '
            f'{type(loaded).__name__}{f" with the keys {list(loaded)[:5]}" if isinstance(loaded, Mapping) else ""}.',
        )
    return dict(weights)


def _read(path: Path, source: str) -> dict[str, Tensor]:
    try:
        return _weights_in(_read_folder(path, source) if path.is_dir() else _read_file(path), source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'There is no checkpoint at {source} ({error}).') from error
    except _Told:
        raise
    except (Exception, CheckpointException) as error:  # what readers raise is theirs to choose, down to a KeyError
        refused = why_refused(error)
        if refused is not None:
            raise ValueError(
                f'{source} holds more than tensors and plain values, or is no checkpoint ({refused}). It was not '
                'loaded, as loading it could run code of whoever made it. Save the state dict alone '
                '(torch.save(model.state_dict(), ...)) or as safetensors.',
            ) from error
        raise ValueError(
            f'{source} cannot be read as a checkpoint; it may be truncated or something else. '
            f'({told(cause_of(error))})',
        ) from error


def read_weights(source: str) -> dict[str, Tensor]:
    """The model's weights in a checkpoint, on the CPU. No code that may be in it is run.

    With several ranks, all of them call this, and an error on one is raised on all.

    Args:
        source: A local path, an ``http(s)`` address, or a URI of any object store Composer reads (``s3://``, ``gs://``,
            ``oci://``, ...). A Composer checkpoint (one file, a tar archive, or a folder of shards), a plain state dict
            saved by ``torch.save``, a safetensors file, or a folder with ``model.safetensors`` as Hugging Face saves
            it. What has to be fetched is fetched once per node, again after a while where that fails, and compared
            between the nodes.

    Returns:
        Names to tensors. Of a run with EMA, the averaged weights: they are what that run evaluated.

    Raises:
        FileNotFoundError: If there is nothing at ``source``.
        ValueError: If it cannot be fetched, is no readable checkpoint, holds no model weights, holds something that
            could run code, or is not the same on every node.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'bias': torch.zeros(2)}, file)
        >>> read_weights(file)
        {'bias': tensor([0., 0.])}
    """
    with fetched(source) as path:
        weights, error = None, None
        try:
            if not (is_remote(source) or os.path.exists(source)):
                raise FileNotFoundError(
                    f'There is no checkpoint at {source}. Check the path; it is relative to {os.getcwd()}.',
                )
            weights = _read(path, source)
        except (FileNotFoundError, ValueError) as found:
            error = found
        raise_everywhere(error)  # the ranks of a node share the file: none may leave while another reads
    assert weights is not None
    return weights


def digest_of(module: torch.nn.Module) -> str:
    """A digest (SHA-256, hexadecimal) of a module's parameters and buffers: names, types, shapes and bits.

    Example:
        >>> digest_of(torch.nn.ReLU())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f'{name} {value.dtype} {tuple(value.shape)};'.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
