"""Reading stored answers: by sample and view, in any order, by any number of processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.answers.keys import Keys, check_of, key_of, keys_of, split_key
from composer_kd.answers.manifest import NAME, Manifest
from composer_kd.answers.parts import INDEX, Segment, read_parts
from composer_kd.answers.shards import Elsewhere, Here

Rows = NDArray[np.int64]
_CHECK = 4


class Store:
    """A store that is read.

    Args:
        manifest: What it holds.
        folder: Where it lies on this machine, or is fetched to.
        where: What named it, for messages.
        remote: Where it is fetched from; ``None`` if it is here.
        segments: Of one that is fetched, whose answers there are.
        shards: And what its index says of each shard.

    Raises:
        ValueError: For damaged files, and for a store elsewhere that is not complete.
    """

    def __init__(
        self, manifest: Manifest, folder: Path, where: str, remote: str | None = None,
        segments: Sequence[Segment] = (), shards: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.manifest, self.folder, self.where, self.remote = manifest, folder, where, remote
        self.format = manifest.format
        self._check = partial(check_of, store=manifest.identity)
        self._shards: Here
        if remote is not None:
            if not manifest.complete:
                raise ValueError(
                    f"{where}: the store at '{remote}' is not complete. Go on with the 'composer-kd cache' that writes "
                    'it.',
                )
            keys: list[Any] = [list(segments)]
            self._shards = Elsewhere(remote, folder, shards, where)
        else:
            parts = read_parts(folder, where)
            keys = [part.keys for part in parts]
            self._shards = Here([
                (part.path / shard['raw_data']['basename'], shard) for part in parts for shard in part.shards
            ])
        self._index(keys)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], where: str = 'cache') -> Store:
        """Open a store on this machine.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: For damaged files.
        """
        folder = Path(folder)
        if not (folder / NAME).is_file():
            raise FileNotFoundError(
                f"{where}: there is no {NAME} in '{folder}', so no stored answers. Write them with 'composer-kd cache "
                "RECIPE.yaml --out PATH', or let a run store what it asks, with fill: true.",
            )
        return cls(Manifest.read(folder / NAME, where), folder, where)

    def _index(self, keys: list[Keys | list[Segment]]) -> None:
        first, count, begin, row = [], [], [], 0
        loose: list[Keys] = []
        places: list[Rows] = []
        for part in keys:
            if isinstance(part, np.ndarray):
                loose.append(part)
                places.append(np.arange(row, row + len(part)))
                row += len(part)
                continue
            for view, start, samples in part:
                first.append(key_of(view, start))
                count.append(samples)
                begin.append(row)
                row += samples
        self.samples = row
        self._first, self._count, self._begin = _apart(*(np.array(x, np.int64) for x in (first, count, begin)))
        joined = np.concatenate(loose) if loose else np.empty(0, np.int64)
        by_key = np.argsort(joined, kind='stable')
        self._loose = joined[by_key]
        self._loose_rows = (np.concatenate(places) if places else np.empty(0, np.int64))[by_key]

    def locate(self, keys: Keys) -> Rows:
        """Where the answers of keys ``(N,)`` stand, ``(N,)``; -1 for those that are not there."""
        rows = np.full(len(keys), -1, np.int64)
        if len(self._first):
            place = np.clip(np.searchsorted(self._first, keys, side='right') - 1, 0, None)
            within = keys - self._first[place]
            there = (within >= 0) & (within < self._count[place])
            rows[there] = self._begin[place[there]] + within[there]
        if len(self._loose):
            place = np.minimum(np.searchsorted(self._loose, keys), len(self._loose) - 1)
            there = (self._loose[place] == keys) & (rows < 0)
            rows[there] = self._loose_rows[place[there]]
        return rows

    def missing(self, view: int, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of some samples whose answer in a view is not there."""
        return indices[self.locate(keys_of(view, indices)) < 0]

    def payload(self, row: int, key: int, fingerprint: int) -> bytes:
        """An answer as it was written.

        Args:
            row: From :meth:`locate`.
            key: The sample's.
            fingerprint: Of what the sample looks like now.

        Raises:
            ValueError: If the bytes are damaged, or the answer was given to another input.
        """
        raw = self._shards.sample(row)
        payload = raw[_CHECK:]
        if len(raw) >= _CHECK and int.from_bytes(raw[:_CHECK], 'little') == self._check(payload, key, fingerprint):
            return payload
        view, index = split_key(key)
        damaged = self._shards.damaged(row)
        if damaged is not None:
            raise ValueError(
                f"{self.where}: '{damaged}' is damaged: its bytes are not those that were written (met at sample "
                f'{index}, view {view}). Copy the store anew, or remove the folder of that file: what it held is then '
                'missing and can be written again.',
            )
        raise ValueError(
            f'{self.where}: the stored answer to sample {index}, view {view}, was given to another input than this '
            'training has there: other data, in another order, or prepared otherwise (as by another version of a '
            f"library; the store's: {', '.join(f'{k} {v}' for k, v in self.manifest.versions.items())}). Write the "
            "store again for this training; 'composer-kd cache verify' shows how far they differ.",
        )

    @property
    def bytes(self) -> int:
        """Of all files of a store on this machine."""
        found = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # another run has just finished that part
                    found += os.stat(os.path.join(folder, name)).st_size
        return found

    @property
    def is_streamed(self) -> bool:
        """Whether mosaicml-streaming can read it as a data set: it is complete and has an index of all shards."""
        return self.manifest.complete and (self.folder / INDEX).is_file()


def _apart(first: Rows, count: Rows, begin: Rows) -> tuple[Rows, Rows, Rows]:
    """Segments sorted and cut so that none lies over another: two runs may have written the same samples.

    Args:
        first: The key that each begins with, ``(S,)``.
        count: How many it has.
        begin: The row of its first.
    """
    order = np.argsort(first, kind='stable')
    first, count, begin = first[order], count[order], begin[order]
    reached = np.maximum.accumulate(first + count)
    taken = np.clip(np.concatenate([first[:1], reached[:-1]]) - first, 0, count)
    first, count, begin = first + taken, count - taken, begin + taken
    left = count > 0
    return first[left], count[left], begin[left]
