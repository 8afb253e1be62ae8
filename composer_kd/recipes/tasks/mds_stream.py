"""The part of :mod:`composer_kd.recipes.tasks.mds` that needs mosaicml-streaming, which takes seconds to import."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import dist
from streaming import StreamingDataset
from streaming.base.format import reader_from_json

from composer_kd.answers import Identity, SampleLoader
from composer_kd.names import check_settings
from composer_kd.recipes.tasks.mds import GIVEN, Sample, all_here
from composer_kd.recipes.tasks.part import Part
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, make_loader
from composer_kd.runs.files import digest


class _Stream(StreamingDataset):
    # Knows the epoch while it makes samples, and where the next epoch begins when it is asked for its state.
    def __init__(self, sample: Sample, views: int | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._sample, self._views, self._now = sample, views, 0

    def _resume_incr_epoch(self) -> tuple[int, int]:
        # The only place where a worker learns its epoch without racing the others for the shared counter.
        self._now, start = super()._resume_incr_epoch()
        return self._now, start

    def get_item(self, sample_id: int, retry: int = 7) -> Any:
        key = self._now if self._views is None else self._now % self._views, int(sample_id)
        return key, self.by_key(key)

    def by_key(self, key: Key) -> Any:
        """Any sample in any view."""
        return self._sample(super().get_item(key[1]), *key)

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, Any]:
        state: dict[str, Any] = super().state_dict(num_samples, from_beginning)
        if from_beginning and num_samples == 0 and self.next_epoch > 0:
            # Saved between two epochs: streaming would begin the one that is over anew.
            state['epoch'] = self.next_epoch
        return state


class _ByKey:
    # Any sample of a stream; the stream itself gives them in its own order alone.
    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def __getitem__(self, key: Key) -> Any:
        return self._stream.by_key(key)

    def __len__(self) -> int:
        return int(self._stream.size)


class _Local(EpochDataset[Any]):
    # Shards that are all here need none of streaming's machinery: it keeps six files of shared memory open for every
    # dataset that a process ever made, and its order depends on the number of machines.
    def __init__(self, sample: Sample, folder: Path, train: bool) -> None:
        shards = json.loads((folder / 'index.json').read_text())['shards']
        self._shards = [reader_from_json(str(folder), None, shard) for shard in shards]
        for shard in self._shards:
            shard.validate(False)
        self._ends = np.cumsum([int(shard['samples']) for shard in shards])
        self._sample, self._train = sample, train

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: Key) -> Any:
        view, index = key
        place = int(np.searchsorted(self._ends, index, side='right'))
        first = int(self._ends[place - 1]) if place else 0
        return self._sample(self._shards[place][index - first], view if self._train else 0, index)


class _InOrder(EpochDataset[Any]):
    # An evaluator's samples, each once: streaming repeats some where ranks do not divide them evenly.
    def __init__(self, sample: Sample, **settings: Any) -> None:
        self._data, self._sample = StreamingDataset(**settings), sample

    def __len__(self) -> int:
        return int(self._data.size)

    def __getitem__(self, key: Key) -> Any:
        return self._sample(self._data.get_item(key[1]), 0, key[1])


def _identity(folder: Path, looks: Mapping[str, Any] | None) -> Identity:
    """Of shards whose index lies in a folder: their names, samples and bytes in their order."""
    shards = json.loads((folder / 'index.json').read_text())['shards']
    said = [[shard['raw_data']['basename'], shard['samples'], shard['raw_data']['bytes'],
             shard['raw_data'].get('hashes', {})] for shard in shards]
    made_of = {'name': 'mds', 'samples': sum(int(shard['samples']) for shard in shards), 'content': digest(said)}
    return Identity(made_of, dict(looks or {}))


def stream_loader(
    path: str,
    remote: str | None,
    split: str | None,
    sample: Sample,
    collate_fn: Callable[[Any], Any],
    batch_size: int,
    seed: int,
    train: bool,
    num_workers: int,
    streaming: Mapping[str, Any],
    attributes: Mapping[str, Any],
    part: Part | None = None,
    views: int | None = None,
    looks: Mapping[str, Any] | None = None,
) -> SampleLoader:
    """See :func:`composer_kd.recipes.tasks.mds.mds_loader`."""
    check_settings(StreamingDataset, streaming, 'streaming', given=GIVEN)
    settings = {
        'local': path, 'remote': remote, 'split': split, 'batch_size': batch_size, 'shuffle': train,
        'shuffle_seed': seed, **({'num_canonical_nodes': 1} if not train else {}), **streaming,
    }
    folder = Path(path) / (split or '')
    dataset: Any
    if remote is None and not streaming and all_here(folder):
        dataset = _Local(sample, folder, train)
        loader = make_loader(
            dataset, batch_size, seed, train, num_workers, collate_fn, part, None, views, _identity(folder, looks),
        )
    elif train:
        stream = _Stream(sample, views, **settings)
        whole = batch_size * dist.get_world_size()
        if stream.epoch_size < whole:
            raise ValueError(
                f'batch_size: an epoch has {stream.epoch_size} samples, fewer than one global batch of {whole}; make '
                'the batch smaller or the data larger.',
            )
        dataset = stream
        loader = SampleLoader(
            stream, batch_size, collate_fn, _identity(folder, looks), _ByKey(stream), views, range(int(stream.size)),
            pairs=True, num_workers=num_workers, drop_last=True,
            pin_memory=torch.cuda.is_available(), persistent_workers=num_workers > 0,
        )
    else:
        dataset = _InOrder(sample, **settings)
        loader = make_loader(
            dataset, batch_size, seed, train, num_workers, collate_fn, part, None, None, _identity(folder, looks),
        )
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return loader
