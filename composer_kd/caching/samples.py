"""Whose answers a store is to hold, and a loader of just these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from composer_kd.answers import Notes, SampleLoader, Source
from composer_kd.answers.keys import Keys, keys_of, split_key
from composer_kd.caching.asking import Asked
from composer_kd.caching.when import epochs_of


class _InViews(Sampler[list[tuple[int, int]]]):
    # Batches of given samples that each belong to one view.
    def __init__(self, keys: Keys, size: int) -> None:
        self._keys, self._size = keys, size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        pairs = [split_key(int(key)) for key in self._keys]
        begin = 0
        while begin < len(pairs):
            end = begin
            while end < len(pairs) and end - begin < self._size and pairs[end][0] == pairs[begin][0]:
                end += 1
            yield pairs[begin:end]
            begin = end

    def __len__(self) -> int:
        views = self._keys - (self._keys & ((1 << 40) - 1))
        return sum(-(-int(count) // self._size) for count in np.unique(views, return_counts=True)[1])


def loader_of(asked: Asked, keys: Keys) -> SampleLoader:
    """A loader of some samples, in batches as large as a rank's in training, that notes their keys and fingerprints."""
    own = asked.loader
    assert own.batch_size is not None
    loader = SampleLoader(
        own.by_key, 1, own.collate, own.identity, batch_sampler=_InViews(keys, own.batch_size),
        num_workers=own.num_workers,
    )
    loader.attach(Source({}))
    return loader


def keys_to_write(asked: Asked, only_asked: bool) -> Keys:
    """The keys of all answers that the store is to hold, ascending.

    Args:
        asked: Teacher and data.
        only_asked: Only those that the recipe's own training, with its seed, asks for.

    Raises:
        ValueError: If it is not known which these are.
    """
    loader = asked.loader
    if only_asked:
        if asked.batches is None:
            raise ValueError("--only-asked: which batches are distilled is not known from the recipe's durations.")
        length, found = len(loader), []
        for epoch in epochs_of(asked.batches, length):
            batches = asked.batches[asked.batches // length == epoch] - epoch * length
            samples = loader.asked(epoch, int(batches[0]), int(batches[-1]) + 1)
            if samples is None:
                raise ValueError('--only-asked: the order of this data is not known beforehand.')
            if getattr(loader.sampler, 'order', None) is not None:  # else it is all of them, in no order
                samples = samples.reshape(batches[-1] + 1 - batches[0], -1)[batches - batches[0]].ravel()
            if loader.view(epoch) in asked.views:
                found.append(keys_of(loader.view(epoch), samples))
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    chosen: Any = loader.chosen
    samples = np.asarray(chosen, np.int64)
    return np.concatenate([keys_of(view, samples) for view in asked.views])


def noted(loader: SampleLoader) -> Iterator[tuple[Any, Notes]]:
    """Batches with what the loader noted of them."""
    for batch in loader:
        assert loader.notes is not None
        yield batch, loader.notes
