"""Writing a store: every answer that is not there yet, shared out over ranks, in parts that outlive a kill."""

from __future__ import annotations

import errno
import shutil
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from composer.utils import dist
from numpy.typing import NDArray
from tqdm import tqdm

from composer_kd.answers import Manifest, Notes, Store
from composer_kd.answers.keys import Keys, split_key
from composer_kd.answers.manifest import NAME
from composer_kd.answers.parts import PARTS, PartWriter, read_parts, remove_unfinished, write_index
from composer_kd.caching.asking import WHERE, Asked
from composer_kd.caching.samples import keys_to_write, loader_of, noted
from composer_kd.caching.upload import check_uri, refuse_others, upload
from composer_kd.models.outside import on_first_ranks, raise_everywhere
from composer_kd.teachers.fetch import is_remote
from composer_kd.teachers.keeper import PART_SAMPLES, PART_SECONDS

T = TypeVar('T')

_BEAT = 8
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Written:
    """What a call of :func:`write_store` did.

    Attributes:
        path: The store's folder.
        samples: Answers in it, over all views.
        fresh: Of these, written by this call.
        bytes: Of all its files.
        seconds: That this call took.
    """

    path: Path
    samples: int
    fresh: int
    bytes: int
    seconds: float


def write_store(asked: Asked, out: str, only_asked: bool = False, local: str | None = None) -> Written:
    """Write the answers that a store lacks; every rank calls this.

    Args:
        asked: Teacher and data.
        out: The store: a folder, or a URI of an object store.
        only_asked: See :func:`keys_to_write`.
        local: For a URI, the folder in which the store is written before it is copied there.

    Returns:
        What was done, the same on every rank.

    Raises:
        ValueError: On every rank, if there are other answers in ``out``, the teacher answers with values that are not
            finite, or the folder cannot be written.
    """
    started = time.monotonic()
    folder = check_place(out, local)
    manifest = asked.manifest()
    if is_remote(out):
        refuse_others(out, manifest)
    _together(lambda: _begin(folder, manifest) if dist.get_local_rank() == 0 else None)
    store = _together(lambda: _opened(folder, manifest))
    wanted = _together(lambda: keys_to_write(asked, only_asked))
    todo = wanted[store.locate(wanted) < 0]
    share = np.array_split(todo, dist.get_world_size())[dist.get_global_rank()]
    _write(asked, store, share, len(wanted), len(wanted) - len(todo))
    seconds = time.monotonic() - started

    def finish() -> None:
        if dist.get_global_rank() == 0:
            try:
                _finish(folder, wanted, seconds, len(todo))
            except OSError as error:
                raise _cannot(folder, error) from error
            if is_remote(out):
                upload(folder, out)

    on_first_ranks(finish)  # copying takes as long as it takes, and the others must not run out of time meanwhile
    done = Store.open(folder, WHERE)
    return Written(folder, done.samples, len(todo), done.bytes, seconds)


def _together(work: Callable[[], T]) -> T:
    """Do something on every rank; what fails on one is raised on all."""
    failed: Exception | None = None
    done: list[T] = []
    try:
        done.append(work())
    except (ValueError, OSError) as error:
        failed = error
    raise_everywhere(failed)
    return done[0]


def check_place(out: str, local: str | None) -> Path:
    """The folder that a store is written to.

    Args:
        out: As of :func:`write_store`.
        local: Likewise.

    Raises:
        ValueError: If these are no place for a store.
    """
    if not out.strip():
        raise ValueError('--out: is empty. Give a folder, or a URI such as s3://bucket/answers.')
    if not is_remote(out):
        if local is not None:
            raise ValueError("--local: is where a store for a URI is written first, and '--out' is a folder already.")
        return _folder(out, '--out')
    check_uri(out)
    if local is None:
        raise ValueError(f"--local: '{out}' is written to a folder first and then copied. Say which: --local DIR.")
    return _folder(local, '--local')


def _folder(said: str, where: str) -> Path:
    folder = Path(said)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{where}: '{folder}' is a file; give a folder.")
    if folder.exists() and not (folder / NAME).exists() and any(folder.iterdir()):
        raise ValueError(f"{where}: '{folder}' is not empty and no store. Give another folder; nothing was touched.")
    return folder


def _begin(folder: Path, manifest: Manifest) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NAME).exists():
            manifest.write(folder)
        (folder / PARTS).mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot(folder, error) from error
    remove_unfinished(folder)


def _cannot(folder: Path, error: OSError) -> ValueError:
    free = shutil.disk_usage(folder if folder.exists() else '.').free
    why = f'the disk is full ({free / 2**20:,.1f} MiB free)' if error.errno in _FULL else error.strerror or str(error)
    return ValueError(
        f"--out: '{folder}' cannot be written: {why}. What was finished before is whole; see to the disk and its "
        'permissions, and give the same command again.',
    )


def _opened(folder: Path, manifest: Manifest) -> Store:
    store = Store.open(folder, '--out')
    found = store.manifest.differences(manifest.bound, 'this recipe')
    if found:
        raise ValueError(
            f"--out: '{folder}' holds other answers: {'; '.join(found)}. Give another folder, or set what they were "
            'made with.',
        )
    return store


def _write(asked: Asked, store: Store, keys: Keys, wanted: int, there: int) -> None:
    # A rank that is done, or has failed, meets the others in every beat: none runs out of time waiting for it, and all
    # stop when one must.
    ranks, failed = dist.get_world_size(), None
    batches = _answered(asked, store, keys)
    shown = dist.get_global_rank() == 0 and there < wanted
    bar = tqdm(
        total=wanted, initial=there, unit=' answers', unit_scale=True, desc='answers', disable=not shown,
        mininterval=1.0 if sys.stderr.isatty() else 30.0,
    )
    with bar, closing(batches):
        going = True
        while going:
            count = 0
            try:
                for _, count in zip(range(_BEAT if ranks > 1 else 1), batches, strict=False):
                    bar.update(min(count * ranks, wanted - bar.n))
            except OSError as error:
                failed = _cannot(store.folder, error)
            except ValueError as error:
                failed = error
            raise_everywhere(failed)
            going = count > 0 if ranks == 1 else any(dist.all_gather_object(count > 0))
        bar.update(wanted - bar.n)


def _answered(asked: Asked, store: Store, keys: Keys) -> Generator[int, None, None]:
    """Write the answers of this rank; gives how many each batch has."""
    part: PartWriter | None = None
    since = 0.0
    try:
        for batch, notes in noted(loader_of(asked, keys)):
            if part is None:
                part, since = PartWriter(store.folder, store.manifest.identity), time.monotonic()
            write_batch(asked, part, batch, notes)
            if len(part) >= PART_SAMPLES or time.monotonic() - since >= PART_SECONDS:
                part.close()
                part = None
            yield len(notes['keys'])
        if part is not None:
            part.close()
            part = None
    finally:
        # stopped: what is answered stays, and the next call goes on from there
        if part is not None and not _kept(part):
            part.drop()


def _kept(part: PartWriter) -> bool:
    try:
        return len(part) > 0 and part.close() is not None
    except Exception:  # what stopped it is told, not this
        return False


def write_batch(asked: Asked, part: PartWriter, batch: Any, notes: Notes) -> None:
    """Ask the teacher about a batch and write its answers down.

    Raises:
        ValueError: For an answer that is not finite, naming the sample.
    """
    keys: Sequence[int] = notes['keys'].tolist()
    prints: NDArray[np.uint64] = notes['prints'].numpy().view(np.uint64)
    for key, fingerprint, (raw, _, finite) in zip(keys, prints.tolist(), asked.rows(batch, keys), strict=True):
        if not finite:
            view, index = split_key(key)
            raise ValueError(
                f"teacher '{asked.spec.name}' ({asked.spec.origin}) answers sample {index}, view {view}, with values "
                f"that are not finite (precision {asked.precision.value}). Nothing of it was stored; check the "
                'teacher, or the precision: amp_fp16 overflows where amp_bf16 does not.',
            )
        part.write(key, fingerprint, raw.numpy().tobytes())


def _finish(folder: Path, wanted: Keys, seconds: float, fresh: int) -> None:
    parts = read_parts(folder, WHERE)
    store = Store.open(folder, WHERE)
    if (store.locate(wanted) < 0).any():
        raise ValueError(f"--out: '{folder}' was changed while it was written. Give the same command again.")
    before = store.manifest
    write_index(folder, parts)
    cost = {
        'seconds': before.cost.get('seconds', 0.0) + seconds * dist.get_world_size(),
        'samples': store.samples, 'bytes': store.bytes,
    }
    if fresh or not before.complete:
        replace(before, complete=True, cost=cost).write(folder)
