"""The shards of a store: mapped where they lie, or fetched as they are asked for."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

_SIZE = 4
_TRIES, _SECONDS = 3, 600.0


class Here:
    """Shards on this machine: mapped, not opened and read anew for every sample, which is several times as fast.

    Args:
        files: Each shard's path, and what its index says of it.
    """

    def __init__(self, files: list[tuple[Path, Mapping[str, Any]]]) -> None:
        self._files = files
        self._ends = np.cumsum([int(said['samples']) for _, said in files], dtype=np.int64)
        self._open: dict[int, tuple[mmap.mmap, NDArray[np.uint32]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_open': {}}

    def _place(self, row: int) -> tuple[int, int]:
        place = int(np.searchsorted(self._ends, row, side='right'))
        return place, row - (int(self._ends[place - 1]) if place else 0)

    def _file(self, place: int) -> Path:
        return self._files[place][0]

    def sample(self, row: int) -> bytes:
        """What stands in a row.

        Raises:
            OSError: If it cannot be read.
        """
        place, within = self._place(row)
        if place not in self._open:
            with open(self._file(place), 'rb') as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            count = int(self._files[place][1]['samples'])
            self._open[place] = mapped, np.frombuffer(mapped, np.uint32, count + 1, offset=4)
        mapped, offsets = self._open[place]
        # a flipped byte may stand in the table itself: what it then points at fails the check
        return mapped[int(offsets[within]) + _SIZE:int(offsets[within + 1])]

    def damaged(self, row: int) -> str | None:
        """The file that a row stands in, if its bytes are not those that were written."""
        place, _ = self._place(row)
        path, said = self._files[place]
        return None if _as_written(path, said) else str(path)


class Elsewhere(Here):
    """Shards that are fetched when the first of their samples is asked for, once for all processes of this machine.

    With mosaicml-streaming's downloaders, and without its shared memory: of that two runs cannot read one folder, and
    one that is killed leaves something behind which stops the next.

    Args:
        remote: Where the store lies.
        folder: Where it is fetched to.
        shards: What its index says of each.
        where: What named the store, for messages.
    """

    def __init__(self, remote: str, folder: Path, shards: Sequence[Mapping[str, Any]], where: str) -> None:
        super().__init__([(folder / shard['raw_data']['basename'], shard) for shard in shards])
        self._remote, self._where = remote.rstrip('/'), where

    def _file(self, place: int) -> Path:
        path, said = self._files[place]
        if not _whole(path, said):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path.with_name(f'.{path.name}.lock'), 'wb') as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system, however this process ends
                if not _whole(path, said):
                    self._fetch(f"{self._remote}/{said['raw_data']['basename']}", path, said)
        return path

    def _fetch(self, source: str, path: Path, said: Mapping[str, Any]) -> None:
        from streaming.base.storage.download import CloudDownloader

        half = path.with_name(f'.{path.name}.part')
        for left in reversed(range(_TRIES)):
            half.unlink(missing_ok=True)
            try:
                CloudDownloader.direct_download(source, str(half), _SECONDS)
                if not (_whole(half, said) and _as_written(half, said)):
                    raise ValueError('its bytes are not those that were written')
            except Exception as error:  # what stores raise is theirs to choose
                if left:
                    continue
                raise OSError(
                    f"{self._where}: '{source}' is damaged or cannot be fetched ({type(error).__name__}: {error}). "
                    'Look whether it is there, and copy the store anew if it is not whole.',
                ) from error
            break
        os.replace(half, path)


def _whole(path: Path, said: Mapping[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == said['raw_data']['bytes']


def _as_written(path: Path, said: Mapping[str, Any]) -> bool:
    want = said['raw_data'].get('hashes', {}).get('xxh64')
    digest = xxhash.xxh64()
    with open(path, 'rb') as file:
        while block := file.read(2**22):
            digest.update(block)
    return want in (None, digest.hexdigest())
