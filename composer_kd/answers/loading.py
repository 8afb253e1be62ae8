"""A loader that knows which samples are in a batch, and brings their stored answers along."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from composer_kd.answers.keys import Keys, fingerprints, keys_of
from composer_kd.answers.manifest import Identity
from composer_kd.answers.store import Store

Notes = dict[str, Any]
"""Of a batch: ``keys`` and ``prints`` ``(N,)`` int64, and by store ``raw`` and ``rows``; see :class:`Source`."""


class Source:
    """Reads the answers to a batch, where the batch is made: in a worker, if there are any.

    Args:
        stores: The stores; ``None`` for one that is only written.
    """

    def __init__(self, stores: Mapping[int, Store | None]) -> None:
        self._stores = dict(stores)

    def __call__(self, keys: Keys, batch: Any) -> Notes:
        """What is noted of a batch.

        Returns:
            ``keys`` and ``prints`` (bits of uint64), each ``(N,)`` int64; ``rows``, by store ``(N,)`` int64, how many
            rows the stored answer of each sample has, -1 if there is none; ``raw``, by store ``(R, row_bytes)`` uint8,
            these rows; ``error``, by store, what is wrong with it, empty if nothing is.
        """
        prints = fingerprints(batch)
        notes: Notes = {
            'keys': torch.from_numpy(keys), 'prints': torch.from_numpy(prints.view(np.int64)),
            'rows': {}, 'raw': {}, 'error': {},
        }
        for index, store in self._stores.items():
            if store is None:
                continue
            notes['error'][index] = ''
            try:
                notes['rows'][index], notes['raw'][index] = _read(store, keys, prints)
            except (ValueError, OSError) as error:  # told where it is used: in a worker it would end in a traceback
                notes['error'][index] = str(error)
        return notes


def _read(store: Store, keys: Keys, prints: Any) -> tuple[Tensor, Tensor]:
    width = store.format.row_bytes
    counts, found = np.full(len(keys), -1, np.int64), []
    for i, row in enumerate(store.locate(keys).tolist()):
        if row < 0:
            continue
        payload = store.payload(row, int(keys[i]), int(prints[i]))
        counts[i] = len(payload) // width
        found.append(payload)
    raw = np.frombuffer(bytearray(b''.join(found)), np.uint8).reshape(-1, width)
    return torch.from_numpy(counts), torch.from_numpy(raw)


class _Noted(NamedTuple):
    batch: Any
    notes: Notes


class _Keyed(Dataset[Any]):
    # Hands the keys on beside the samples; whatever else is asked of it, it asks the data.
    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getattr__(self, name: str) -> Any:
        if name == 'data':
            raise AttributeError(name)  # while it is being unpickled
        return getattr(self.data, name)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> Any:
        many = getattr(self.data, '__getitems__', None)
        return keys, many(keys) if many is not None else [self.data[key] for key in keys]


class _Noting:
    # A collate function that also notes the keys, and reads the answers to them.
    def __init__(self, collate: Callable[[Any], Any], pairs: bool) -> None:
        self.collate, self._pairs = collate, pairs
        self.source: Source | None = None

    def __call__(self, found: Any) -> Any:
        keys, items = zip(*found, strict=True) if self._pairs else found
        batch = self.collate(list(items) if self._pairs else items)
        if self.source is None:
            return batch
        views, indices = np.array(keys, np.int64).reshape(-1, 2).T
        return _Noted(batch, self.source(keys_of(views, indices), batch))


class ByKey(Protocol):
    """Data that gives any sample in any view: ``data[view, index]``, or many at once by ``__getitems__``."""

    def __getitem__(self, key: tuple[int, int], /) -> Any: ...


class SampleLoader(DataLoader[Any]):
    """A DataLoader that knows which samples its batches hold, so that stored answers can be brought along.

    Without a source it gives its batches as any other does. With one, ``notes`` holds what the source noted of the
    batch that was given last.

    Args:
        data: Data asked for by ``(view, index)``; or, with ``pairs``, data that gives ``((view, index), sample)``.
        batch_size: Samples of a batch.
        collate_fn: Samples to a batch.
        identity: What its samples are, to be held against a store's manifest; ``None`` where that is not known.
        by_key: The data, to be asked for any sample; by default ``data`` itself.
        views: How many views of a sample there are; ``None`` for a new one each epoch.
        chosen: Indices of the samples that are used.
        pairs: Whether ``data`` gives keys by itself.
        **settings: Of the DataLoader.
    """

    def __init__(
        self, data: Any, batch_size: int, collate_fn: Callable[[Any], Any], identity: Identity | None,
        by_key: Any = None, views: int | None = None, chosen: range | NDArray[np.int64] | None = None,
        pairs: bool = False, **settings: Any,
    ) -> None:
        self._noting = _Noting(collate_fn, pairs)
        self.identity, self.views, self.chosen = identity, views, chosen
        self.by_key: ByKey = data if by_key is None else by_key
        self.notes: Notes | None = None
        super().__init__(data if pairs else _Keyed(data), batch_size, collate_fn=self._noting, **settings)

    @property
    def collate(self) -> Callable[[Any], Any]:
        """Samples to a batch."""
        return self._noting.collate

    def attach(self, source: Source | None) -> None:
        """Bring what that source reads along with every batch from the next epoch's on, or nothing any more."""
        self._noting.source = source
        self.notes = None
        self._iterator = None  # workers that were kept know nothing of it

    def asked(self, epoch: int, first: int, last: int) -> NDArray[np.int64] | None:
        """The indices that all ranks ask for in the batches ``first`` to before ``last`` of an epoch.

        All that are used where the order of the data is its own; ``None`` where that is not known.
        """
        order = getattr(self.sampler, 'order', None)
        if order is None:
            return None if self.chosen is None else np.asarray(self.chosen, np.int64)
        assert self.batch_size is not None
        size = self.batch_size * getattr(self.sampler, 'num_replicas', 1)
        found: NDArray[np.int64] = order(epoch)[first * size:last * size]
        return found

    def spare(self, batches: int) -> int:
        """Of the indices that :meth:`asked` gives for so many batches of an epoch, how many may not be asked for.

        None where the order is known; else all that they do not take, and a batch more, as samples may come twice.
        """
        if self.chosen is None or hasattr(self.sampler, 'order'):
            return 0
        assert self.batch_size is not None
        return max(0, len(self.chosen) - (batches - 1) * self.batch_size * dist.get_world_size())

    def view(self, epoch: int) -> int:
        """The view that an epoch shows."""
        return epoch if self.views is None else epoch % self.views

    def samples(self, keys: Sequence[tuple[int, int]]) -> tuple[Any, Any]:
        """A batch of any samples by ``(view, index)``, and their fingerprints."""
        many = getattr(self.by_key, '__getitems__', None)
        items = many(keys) if many is not None else [self.by_key[key] for key in keys]
        batch = self._noting.collate(items)
        return batch, fingerprints(batch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # by what comes, not by whether there is a source now: one that is taken away leaves batches in the queue
        for found in super().__iter__():
            if isinstance(found, _Noted):
                found, self.notes = found
            yield found
