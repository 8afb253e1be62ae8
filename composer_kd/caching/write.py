"""Writing a store: every answer that is not there yet, shared out over ranks, in parts that outlive a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from composer.utils import dist
from numpy.typing import NDArray
from torch.utils.data import Sampler
from tqdm import tqdm

from composer_kd.answers import Manifest, Notes, SampleLoader, Source, Store
from composer_kd.answers.keys import Keys, keys_of, split_key
from composer_kd.answers.manifest import NAME
from composer_kd.answers.parts import PartWriter, read_parts, remove_unfinished, write_index
from composer_kd.caching.asking import WHERE, Asked
from composer_kd.caching.upload import upload
from composer_kd.models.outside import raise_everywhere
from composer_kd.teachers.fetch import is_remote
from composer_kd.teachers.keeper import PART_SAMPLES, PART_SECONDS


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
        for epoch in range(asked.batches.start // length, -(-asked.batches.stop // length)):
            first, last = (min(max(b - epoch * length, 0), length) for b in (asked.batches.start, asked.batches.stop))
            samples = loader.asked(epoch, first, last)
            if samples is None:
                raise ValueError('--only-asked: the order of this data is not known beforehand.')
            if loader.view(epoch) in asked.views:
                found.append(keys_of(loader.view(epoch), samples))
        return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    chosen: Any = loader.chosen
    samples = np.asarray(chosen, np.int64)
    return np.concatenate([keys_of(view, samples) for view in asked.views])


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
    folder = Path(_folder(out, local))
    failed: Exception | None = None
    store, wanted, todo = None, np.empty(0, np.int64), np.empty(0, np.int64)
    try:
        store = _begun(asked, folder)
        wanted = keys_to_write(asked, only_asked)
        todo = wanted[store.locate(wanted) < 0]
    except (ValueError, OSError) as error:
        failed = error
    raise_everywhere(failed)
    assert store is not None
    share = np.array_split(todo, dist.get_world_size())[dist.get_global_rank()]
    try:
        _write(asked, folder, share, len(wanted), len(wanted) - len(todo))
    except (ValueError, OSError) as error:
        failed = error if isinstance(error, ValueError) else ValueError(f"--out: '{folder}' cannot be written: {error}")
    raise_everywhere(failed)
    seconds = time.monotonic() - started
    dist.barrier()
    if dist.get_global_rank() == 0:
        try:
            _finish(asked, folder, wanted, seconds, len(todo))
            if is_remote(out):
                upload(folder, out)
        except (ValueError, OSError) as error:
            failed = error
    raise_everywhere(failed)
    done = Store.open(folder, WHERE)
    return Written(folder, done.samples, len(todo), done.bytes, seconds)


def _folder(out: str, local: str | None) -> str:
    if not is_remote(out):
        if local is not None:
            raise ValueError("--local: is where a store for a URI is written first, and '--out' is a folder already.")
        return out
    if local is None:
        raise ValueError(f"--local: '{out}' is written to a folder first and then copied. Say which, with --local DIR.")
    return local


def _begun(asked: Asked, folder: Path) -> Store:
    manifest = asked.manifest()
    if dist.get_local_rank() == 0:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"--out: '{folder}' is a file; give a folder.")
        if folder.exists() and not (folder / NAME).exists() and any(folder.iterdir()):
            raise ValueError(f"--out: '{folder}' is not empty and no store. Give another folder; nothing was touched.")
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / NAME).exists():
            manifest.write(folder)
        remove_unfinished(folder)
    dist.barrier()
    store = Store.open(folder, '--out')
    found = store.manifest.differences({
        'teacher': {'digest': manifest.teacher['digest']}, 'data': manifest.data, 'view': manifest.view,
        'rows': manifest.rows, 'format': manifest.format.plain(),
    }, 'this recipe')
    if found:
        raise ValueError(
            f"--out: '{folder}' holds other answers: {'; '.join(found)}. Give another folder, or set what they were "
            'made with.',
        )
    return store


def _write(asked: Asked, folder: Path, keys: Keys, wanted: int, there: int) -> None:
    bar = tqdm(
        total=wanted, initial=there, unit=' samples', unit_scale=True, desc='answers', mininterval=1.0,
        disable=dist.get_global_rank() != 0 or not len(keys),
    )
    part, since = None, 0.0
    try:
        with bar:
            for batch, notes in noted(loader_of(asked, keys)):
                if part is None:
                    part, since = PartWriter(folder), time.monotonic()
                write_batch(asked, part, batch, notes)
                bar.update(min(len(notes['keys']) * dist.get_world_size(), wanted - bar.n))
                if len(part) >= PART_SAMPLES or time.monotonic() - since >= PART_SECONDS:
                    part.close()
                    part = None
    except BaseException:
        # what is answered stays: the next call goes on from there
        if part is not None:
            part.close() if len(part) else part.drop()
        raise
    if part is not None:
        part.close()


def noted(loader: SampleLoader) -> Iterator[tuple[Any, Notes]]:
    """Batches with what the loader noted of them."""
    for batch in loader:
        assert loader.notes is not None
        yield batch, loader.notes


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


def _finish(asked: Asked, folder: Path, wanted: Keys, seconds: float, fresh: int) -> None:
    parts = read_parts(folder, WHERE)
    store = Store.open(folder, WHERE)
    if (store.locate(wanted) < 0).any():
        raise ValueError(f"--out: '{folder}' was changed while it was written. Give the same command again.")
    before: Manifest = store.manifest
    write_index(folder, parts)
    cost = {
        'seconds': before.cost.get('seconds', 0.0) + seconds * dist.get_world_size(),
        'samples': store.samples, 'bytes': store.bytes,
    }
    if fresh or not before.complete:
        Manifest(**{**before.__dict__, 'complete': True, 'cost': cost}).write(folder)
