"""MDS shards from anything that can be asked for its samples: resumable, read back, complete or not there.

While a conversion goes on the folder holds finished shards, ``conversion.json`` (what is being converted) and
``.parts`` (what is known of each finished shard). ``index.json``, without which no reader takes the folder for data,
comes last, once every sample has been read back and compared.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from composer_kd.recipes.tasks.mds import MdsIndex, is_mds, read_index
from composer_kd.runs.files import write_atomically

PROBES = 64
"""Samples, evenly spread, that tell one source from another and how large samples are."""

HASH = 'xxh3_64'
"""Of each shard, in the index: ``streaming`` compares it where it is told to by ``validate_hash``."""


class Source(Protocol):
    """What is converted. Samples are asked for in any order, from several threads, and always come out the same."""

    def __len__(self) -> int:
        """How many samples there are."""
        ...

    def sample(self, index: int) -> dict[str, Any]:
        """A sample: a value for each column."""
        ...


@dataclass(frozen=True)
class _Plan:
    # What is converted, and how: the same on every start of the same conversion.
    samples: int
    samples_per_shard: int
    columns: dict[str, str]
    compression: str | None
    size_limit: int
    probe: str

    @property
    def shards(self) -> int:
        return -(-self.samples // self.samples_per_shard)

    def span(self, shard: int) -> range:
        first = shard * self.samples_per_shard
        return range(first, min(first + self.samples_per_shard, self.samples))


def _digest(parts: Iterable[bytes]) -> str:
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, 'little'))
        found.update(part)
    return found.hexdigest()


def _put(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, sort_keys=True))


def _mds_writer(folder: str, columns: dict[str, str], compression: str | None) -> Any:
    from streaming import MDSWriter

    return MDSWriter(out=folder, columns=columns, compression=compression, hashes=[HASH], size_limit=None)


def _make_plan(source: Source, columns: dict[str, str], compression: str | None, size_limit: int) -> _Plan:
    count = len(source)
    if not count:
        raise ValueError('There is nothing to convert: the source has no samples.')
    with tempfile.TemporaryDirectory() as folder:
        writer = _mds_writer(folder, columns, compression)
        at = sorted({round(k * (count - 1) / (PROBES - 1)) for k in range(PROBES)})
        probes = [writer.encode_sample(source.sample(index)) for index in at]
    mean = sum(map(len, probes)) / len(probes) + 4  # and its place in the shard
    return _Plan(count, max(1, int(size_limit / mean)), dict(columns), compression, size_limit, _digest(probes))


class _Conversion:
    def __init__(self, source: Source, plan: _Plan, out: Path) -> None:
        self._source, self._plan, self._out = source, plan, out
        self._parts, self._state = out / '.parts', out / 'conversion.json'

    def claim(self) -> bool:
        """Make the folder this conversion's own; whether it is finished already."""
        said = asdict(self._plan)
        if self._state.is_file():
            try:
                found = json.loads(self._state.read_text())
            except json.JSONDecodeError:
                found = {}
            other = [name for name, value in said.items() if found.get(name) != value]
            if other:
                told = ', '.join(
                    'another content' if name == 'probe' else f'{name} {found.get(name)!r} instead of {said[name]!r}'
                    for name in other
                )
                raise ValueError(
                    f"'{self._out}' holds another conversion: {told}. Give the arguments and the source it was begun "
                    'with, or another folder.',
                )
        else:
            self._out.mkdir(parents=True, exist_ok=True)
            if any(not file.name.endswith('.tmp') for file in self._out.iterdir()):
                raise ValueError(f"'{self._out}' is not empty and holds no conversion; give a new folder.")
            _put(self._state, said)
        self._parts.mkdir(exist_ok=True)
        return is_mds(self._out)

    def _record(self, shard: int) -> Path:
        return self._parts / f'{shard:05}.json'

    def _file(self, record: dict[str, Any]) -> Path:
        return self._out / str((record['zip_data'] or record['raw_data'])['basename'])

    def is_done(self, shard: int) -> bool:
        """Whether a shard was written to its end before."""
        if not self._record(shard).is_file():
            return False
        record = json.loads(self._record(shard).read_text())['shard']
        file = self._file(record)
        return file.is_file() and file.stat().st_size == (record['zip_data'] or record['raw_data'])['bytes']

    def write(self, shard: int) -> int:
        """Write a shard; how many samples it has."""
        span = self._plan.span(shard)
        with tempfile.TemporaryDirectory(dir=self._parts) as folder:
            writer = _mds_writer(folder, self._plan.columns, self._plan.compression)
            with writer:
                for index in span:
                    writer.write(self._source.sample(index))
                if sum(map(len, writer.new_samples)) >= 2**32 - 2**24:
                    raise ValueError('A shard would pass 4 GB, more than MDS can hold: give a smaller shard size.')
                content = _digest(writer.new_samples)
            record = writer.shards[0]
            written = record['zip_data'] or record['raw_data']
            temporary = Path(folder) / written['basename']
            for said in (record['raw_data'], record['zip_data']):
                if said:
                    said['basename'] = said['basename'].replace('shard.00000', f'shard.{shard:05}')
            os.replace(temporary, self._out / written['basename'])
        _put(self._record(shard), {'shard': record, 'content': content})
        return len(span)

    def verify(self, shard: int) -> int:
        """Read every sample of a shard back; how many there are.

        Raises:
            ValueError: If they are not those that were written; the shard is forgotten, to be written again.
        """
        from streaming.base.compression import decompress
        from streaming.base.format import reader_from_json

        known = json.loads(self._record(shard).read_text())
        record, file = known['shard'], self._file(known['shard'])
        with tempfile.TemporaryDirectory(dir=self._parts) as folder:
            at = self._out
            if record['zip_data']:
                at = Path(folder)
                (at / record['raw_data']['basename']).write_bytes(decompress(record['compression'], file.read_bytes()))
            reader = reader_from_json(str(at), '', record)
            count = len(self._plan.span(shard))
            content = _digest(reader.get_sample_data(index) for index in range(reader.samples))
        if reader.samples != count or content != known['content']:
            self._record(shard).unlink()
            raise ValueError(
                f"'{file}' was not read back as it was written ({reader.samples} of {count} samples). Is the disk full "
                'or failing? Give the same command again: it makes this shard anew.',
            )
        return count

    def finish(self) -> None:
        """Put ``index.json`` there, and take away what only the conversion needed."""
        if not is_mds(self._out):
            shards = [json.loads(self._record(k).read_text())['shard'] for k in range(self._plan.shards)]
            _put(self._out / 'index.json', {'version': 2, 'shards': shards})
        shutil.rmtree(self._parts, ignore_errors=True)
        for left in self._out.glob('*.tmp'):
            left.unlink()


def _all(work: Callable[[int], int], shards: Iterable[int], workers: int, progress: Progress, task: Any) -> None:
    pool = ThreadPoolExecutor(workers)
    try:
        for future in as_completed([pool.submit(work, shard) for shard in shards]):
            progress.advance(task, future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def write_mds(
    samples: Source,
    columns: dict[str, str],
    out: Path,
    *,
    compression: str | None = None,
    size_limit: int | str = 1 << 26,
    workers: int = 4,
    progress: bool = True,
) -> MdsIndex:
    """Write samples to a folder of MDS shards, and read them back.

    It may be stopped at any time: the same call goes on, with at most one shard for each worker to be made again. A
    folder that is finished is recognised and left as it is.

    Args:
        samples: What is converted.
        columns: Each column's encoding, as ``{'x': 'bytes', 'y': 'int'}``.
        out: The folder: new, empty, or this conversion's own.
        compression: As ``'zstd'`` or ``'zstd:7'``; ``None`` for none, which is right for pictures.
        size_limit: About the bytes of a shard before compression, or as ``'64mb'``, below 2 GiB.
        workers: Threads, each with a shard.
        progress: Whether to show how far it is.

    Returns:
        What was written.

    Raises:
        ValueError: If the folder holds something else, there are no samples, an argument is out of range, or what was
            read back is not what was written.

    Example:
        >>> class Squares:
        ...     def __len__(self):
        ...         return 10
        ...     def sample(self, index):
        ...         return {'value': index ** 2}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mds(Squares(), {'value': 'int'}, Path(folder) / 'squares', progress=False).samples
        10
    """
    from streaming.base.compression import is_compression
    from streaming.base.util import bytes_to_int

    if workers < 1:
        raise ValueError(f'workers: expected 1 or more, got {workers}.')
    if compression is not None and not is_compression(compression):
        raise ValueError(f"compression: expected one that streaming knows, as 'zstd' or 'zstd:7', got {compression!r}.")
    limit = bytes_to_int(size_limit)
    if not 0 < limit < 2**31:
        raise ValueError(f'size_limit: expected above 0 and below 2 GiB, got {size_limit}.')
    plan = _make_plan(samples, columns, compression, limit)
    conversion = _Conversion(samples, plan, Path(out))
    if conversion.claim():
        conversion.finish()
        return read_index(out)

    todo = [shard for shard in range(plan.shards) if not conversion.is_done(shard)]
    done = plan.samples - sum(len(plan.span(shard)) for shard in todo)
    shown = (TextColumn('{task.description:>9}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
             TextColumn('left'), TimeRemainingColumn())
    with Progress(*shown, console=Console(stderr=True, quiet=not progress), disable=not progress) as bar:
        written, read = (bar.add_task(what, total=plan.samples) for what in ('written', 'read back'))
        bar.advance(written, done)
        _all(conversion.write, todo, workers, bar, written)
        _all(conversion.verify, range(plan.shards), workers, bar, read)
    conversion.finish()
    return read_index(out)
