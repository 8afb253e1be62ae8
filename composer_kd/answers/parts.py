"""The folder of a store: parts of answers, each there whole or not at all.

    store/
        manifest.json          what the answers belong to
        index.json             of a complete store: all shards, as mosaicml-streaming reads them,
        segments.npy           and whose answers they hold: view, first sample and samples, in their order
        parts/NAME/            index.json, shards, part.json (and keys.npy where samples do not follow one another)

A part is written under another name and renamed when it is done, so that a kill leaves nothing behind that could be
taken for an answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import xxhash

from composer_kd.answers.keys import Keys, check_of, split_key
from composer_kd.answers.manifest import NAME, Manifest
from composer_kd.runs.files import digest, write_atomically

PARTS, PART, KEYS, INDEX, COLUMN = 'parts', 'part.json', 'keys.npy', 'index.json', 'answer'
SEGMENTS = 'segments.npy'
_UNFINISHED = '.unfinished-'
_SHARD = 2**26
_FEW = 8

Segment = tuple[int, int, int]
"""View, first sample, and how many samples from there on."""


@dataclass(frozen=True)
class Part:
    """A finished part.

    Attributes:
        path: Its folder.
        keys: Whose answers its rows are, in their order: keys ``(N,)``, or, where samples follow one another,
            segments of view, first sample and samples.
        shards: What its ``index.json`` says of each.
    """

    path: Path
    keys: Keys | list[Segment]
    shards: list[dict[str, Any]]

    @property
    def samples(self) -> int:
        """How many answers."""
        return len(self.keys) if isinstance(self.keys, np.ndarray) else sum(count for _, _, count in self.keys)


class PartWriter:
    """Writes one part; nothing is seen of it before :meth:`close`.

    Args:
        store: The store's folder.
        of: The identity of the manifest that it was begun with; ``None`` for the one that is there.

    Raises:
        OSError: If another store is there by now, or it cannot be written.
    """

    def __init__(self, store: Path, of: str | None = None) -> None:
        from streaming import MDSWriter

        self._of = Manifest.read(store / NAME, 'store').identity
        if of not in (None, self._of):
            raise OSError('another store was begun at the same place meanwhile')
        parts = store / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        self._parts = parts
        self._path = parts / f'{_UNFINISHED}{_here()}-{os.getpid()}-{uuid.uuid4().hex[:8]}'
        self._writer = MDSWriter(
            columns={COLUMN: 'bytes'}, out=str(self._path), hashes=['xxh64'], size_limit=_SHARD,
        )
        self._keys: list[int] = []

    def __len__(self) -> int:
        return len(self._keys)

    def write(self, key: int, fingerprint: int, payload: bytes) -> None:
        """Add an answer."""
        check = check_of(payload, key, fingerprint, self._of).to_bytes(4, 'little')
        self._writer.write({COLUMN: check + payload})
        self._keys.append(key)

    def close(self) -> Path | None:
        """Finish it; ``None`` if there was nothing to write.

        Raises:
            OSError: If the disk is full or cannot be written.
        """
        self._writer.finish()
        if not self._keys:
            shutil.rmtree(self._path)
            return None
        keys = np.array(self._keys, np.int64)
        said: dict[str, Any] = {'samples': len(keys), 'of': self._of}
        segments = _segments(keys)
        if _FEW * len(segments) <= len(keys):
            said['segments'] = segments
            view, first = split_key(int(keys[0]))
            name = f'{view:06d}-{first:012d}-{len(keys)}'
            if len(segments) > 1:  # others may begin there and be as many, with other gaps between them
                name = f'{name}-{digest(segments)[:8]}'
        else:
            with open(self._path / KEYS, 'wb') as file:
                np.save(file, keys)
            name = f'filled-{uuid.uuid4().hex[:12]}'
        said['files'] = {path.name: _hash(path) for path in sorted(self._path.iterdir()) if path.name in (INDEX, KEYS)}
        write_atomically(self._path / PART, json.dumps({**said, 'check': digest(said)}))
        for path in self._path.iterdir():
            _synced(path)
        final = self._parts / name
        try:
            os.rename(self._path, final)
        except OSError:
            if not final.exists():
                raise
            shutil.rmtree(self._path)  # another process was as far at the same time: its answers are the same
        _synced(self._parts)
        return final

    def drop(self) -> None:
        """Leave it unwritten."""
        with contextlib.suppress(Exception):
            self._writer.finish()
        shutil.rmtree(self._path, ignore_errors=True)


def _hash(path: Path) -> str:
    found: str = xxhash.xxh3_64_hexdigest(path.read_bytes())
    return found


def _synced(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError:
        pass  # folders cannot be synced everywhere
    finally:
        os.close(file)


def read_parts(store: Path, where: str) -> list[Part]:
    """The finished parts of a store, each looked at from outside: its files are there and as long as they should be.

    Args:
        store: The store's folder.
        where: What named it, for messages.

    Raises:
        ValueError: Naming the file that is missing, shorter or longer than it was written, or damaged.
    """
    folder = store / PARTS
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    names = [name for name in names if not name.startswith('.')]
    of = Manifest.read(store / NAME, where).identity if names else ''
    return [_read_part(folder / name, of, where) for name in names]


def _read_part(path: Path, of: str, where: str) -> Part:
    try:
        said = json.loads((path / PART).read_text())
        if said.pop('check', None) != digest(said):
            raise ValueError(f'{PART} is not as it was written')
        for name, want in said['files'].items():
            if _hash(path / name) != want:
                raise ValueError(f'{name} is not as it was written')
        shards = json.loads((path / INDEX).read_text())['shards']
        samples = int(said['samples'])
        keys: Any = np.load(path / KEYS, allow_pickle=False) if 'segments' not in said else [
            (int(view), int(first), int(count)) for view, first, count in said['segments']
        ]
        counted = sum(int(shard['samples']) for shard in shards)
        whole = keys.shape == (samples,) if isinstance(keys, np.ndarray) else sum(k[2] for k in keys) == samples
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{where}: '{path}' is no whole part of a store ({type(error).__name__}: {error}). Copy it anew, or remove "
            'it: what it held is then missing and can be written again.',
        ) from error
    if counted != samples or not whole:
        raise ValueError(f"{where}: the files of '{path}' do not belong together. Copy it anew, or remove it.")
    if said.get('of') != of:
        raise ValueError(
            f"{where}: '{path}' was written for another store than '{path.parent.parent}': another teacher's answers, "
            'to other data or views, or in another form. Remove it, or copy the store anew.',
        )
    for shard in shards:
        check_size(path, shard['raw_data'], where)
    return Part(path, keys, shards)


def check_size(folder: Path, file: dict[str, Any], where: str) -> None:
    """Refuse a shard that is not as long as it was written.

    Raises:
        ValueError: Naming it.
    """
    path = folder / file['basename']
    size = path.stat().st_size if path.is_file() else None
    if size != file['bytes']:
        got = 'is missing' if size is None else f"has {size:,} of {file['bytes']:,} bytes"
        raise ValueError(
            f"{where}: '{path}' {got}: the store was not copied whole. Copy it anew, or remove the folder "
            f"'{path.parent}': what it held is then missing and can be written again.",
        )


def remove_unfinished(store: Path) -> int:
    """Remove what writers on this machine that are no more left behind. Returns how many there were."""
    found = [*(store / PARTS).glob(f'{_UNFINISHED}{_here()}-*')] if (store / PARTS).is_dir() else []
    left = [path for path in found if not psutil.pid_exists(int(path.name.split('-')[-2]))]
    for path in left:
        shutil.rmtree(path, ignore_errors=True)
    return len(left)


def _here() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def write_index(store: Path, parts: Sequence[Part]) -> None:
    """Write the index of all shards of a store, and whose answers they hold in its order."""
    shards, segments = [], []
    for part in parts:
        below = f'{PARTS}/{part.path.name}'
        for shard in part.shards:
            raw = {**shard['raw_data'], 'basename': f"{below}/{shard['raw_data']['basename']}"}
            shards.append({**shard, 'raw_data': raw})
        segments.extend(part.keys if isinstance(part.keys, list) else _segments(part.keys))
    index = json.dumps({'version': 2, 'shards': shards})
    file = io.BytesIO()
    np.save(file, np.array(segments, np.int64).reshape(-1, 3))
    (store / f'.{SEGMENTS}').write_bytes(file.getvalue() + _checks(file.getvalue(), index.encode()))
    os.replace(store / f'.{SEGMENTS}', store / SEGMENTS)
    write_atomically(store / INDEX, index)


def _checks(segments: bytes, index: bytes) -> bytes:
    return xxhash.xxh3_64_digest(segments) + xxhash.xxh3_64_digest(index)


def _segments(keys: Keys) -> list[Segment]:
    begins = np.flatnonzero(np.diff(keys, prepend=keys[0] - 2) != 1)
    ends = np.append(begins[1:], len(keys))
    return [(*split_key(int(keys[begin])), int(end - begin)) for begin, end in zip(begins, ends, strict=True)]


def read_segments(file: Path, where: str, index: Path | None = None) -> list[Segment]:
    """What :func:`write_index` wrote of whose answers there are, and that it belongs to the index.

    Args:
        file: The file.
        where: What named the store, for messages.
        index: The index; by default the one beside it.

    Raises:
        ValueError: If it is no such file, or another index's.
    """
    try:
        raw = file.read_bytes()
        if raw[-16:] != _checks(raw[:-16], (index or file.with_name(INDEX)).read_bytes()):
            raise ValueError(f'it or {INDEX} is not as it was written')
        found = np.load(io.BytesIO(raw), allow_pickle=False)
        return [(int(view), int(first), int(count)) for view, first, count in found]
    except (ValueError, TypeError, OSError, EOFError) as error:
        raise ValueError(f"{where}: '{file}' is damaged ({error}). Copy the store anew.") from error
