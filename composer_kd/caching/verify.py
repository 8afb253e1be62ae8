"""Looking a store over: every file against its digest, and some answers against the teacher's of today."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor
from tqdm import tqdm

from composer_kd.answers import Answer, Sparse, Store
from composer_kd.answers.keys import keys_of
from composer_kd.answers.parts import read_parts
from composer_kd.caching.asking import Asked
from composer_kd.caching.write import keys_to_write, loader_of, noted


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        files: Shards compared with their digests.
        damaged: Those that are not what was written.
        samples: Answers that were asked for again.
        missing: Of those, how many the store does not have.
        other: How many were given to another input than the recipe has there.
        told: What the first of these is.
        exact: How many are the same to the last bit.
        largest: The largest difference of a kept logit or log-probability.
        agree: The share of rows whose likeliest class is the same.
        tolerance: The largest difference that rounding explains.
    """

    files: int
    damaged: tuple[str, ...]
    samples: int
    missing: int
    other: int
    told: str
    exact: int
    largest: float
    agree: float
    tolerance: float

    @property
    def fine(self) -> bool:
        """Whether all of it is as it should be."""
        return not self.damaged and not self.other and not self.missing and self.largest <= self.tolerance


def damaged_shards(store: Path, where: str) -> tuple[int, list[str]]:
    """How many shards a store has, and those whose bytes are not what was written."""
    shards = [(part.path / s['raw_data']['basename'], s) for part in read_parts(store, where) for s in part.shards]
    wrong = []
    for path, said in tqdm(shards, desc='files', unit=' files', disable=len(shards) < 10):
        digest = xxhash.xxh64()
        with open(path, 'rb') as file:
            while block := file.read(2**22):
                digest.update(block)
        if said['raw_data'].get('hashes', {}).get('xxh64', digest.hexdigest()) != digest.hexdigest():
            wrong.append(str(path))
    return len(shards), wrong


def verify_store(asked: Asked, path: str, samples: int = 1000) -> Verified:
    """Compare a store with its digests, and a sample of its answers with what the teacher says now.

    Args:
        asked: Teacher and data, with the store's own format.
        path: The store's folder.
        samples: How many answers to compare, drawn from all; 1 or more.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it belongs to something else than this recipe, with the difference, or parts are not whole.
    """
    store = Store.open(path, 'verify')
    manifest = asked.manifest()
    found = store.manifest.differences({
        'teacher': {'digest': manifest.teacher['digest']}, 'data': manifest.data, 'view': manifest.view,
        'rows': manifest.rows,
    }, 'this recipe')
    if found:
        raise ValueError(f"verify: '{path}' does not belong to this recipe: {'; '.join(found)}.")
    files, damaged = damaged_shards(Path(path), 'verify')
    wanted = keys_to_write(asked, False)
    if not store.manifest.complete:
        wanted = wanted[store.locate(wanted) >= 0]
    keys = np.sort(np.random.default_rng(0).permutation(wanted)[:samples])
    missing = other = exact = 0
    told, largest, agree, rows = '', 0.0, 0, 0
    for batch, notes in tqdm(noted(loader_of(asked, keys)), desc='batches', disable=len(keys) < 5000):
        numbers, prints = notes['keys'].tolist(), notes['prints'].numpy().view(np.uint64).tolist()
        for key, fingerprint, (now, _, _) in zip(numbers, prints, asked.rows(batch, numbers), strict=True):
            row = int(store.locate(keys_of(0, [key]))[0])
            if row < 0:
                missing += 1
                continue
            try:
                kept = store.payload(row, key, fingerprint)
            except ValueError as error:
                other, told = other + 1, told or str(error)
                continue
            exact += kept == now.numpy().tobytes()
            then = torch.frombuffer(bytearray(kept), dtype=torch.uint8).reshape(-1, store.format.row_bytes)
            if len(then) != len(now):
                other += 1
                continue
            difference, same = _compared(store.format.unpack(then), store.format.unpack(now))
            largest, agree, rows = max(largest, difference), agree + same, rows + len(now)
    return Verified(
        files, tuple(damaged), len(keys), missing, other, told, exact, largest, agree / rows if rows else 1.0,
        _TOLERANCE.get(store.format.dtype, 0.05) if store.format.name != 'sampled' else float('inf'),
    )


_TOLERANCE = {'float32': 1e-3, 'float16': 0.05, 'bfloat16': 0.5}


def _compared(then: Answer, now: Answer) -> tuple[float, int]:
    if isinstance(then, Sparse) and isinstance(now, Sparse):
        return _sparse(then, now), int((then.likeliest() == now.likeliest()).sum())
    assert isinstance(then, Tensor)
    assert isinstance(now, Tensor)
    return float((then - now).abs().max()) if len(then) else 0.0, int((then.argmax(-1) == now.argmax(-1)).sum())


def _sparse(then: Sparse, now: Sparse) -> float:
    """The largest difference of the log-probabilities of classes that both keep."""
    same = then.classes == now.classes
    kept = same & then.log_probabilities.isfinite() & now.log_probabilities.isfinite()
    found = (then.log_probabilities - now.log_probabilities).abs()[kept]
    return float(found.max()) if found.numel() else 0.0
