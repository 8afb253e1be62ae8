"""Looking a store over: every file against its digest, and some answers against the teacher's of today."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor
from tqdm import tqdm

from composer_kd.answers import Answer, Format, Sparse, Store
from composer_kd.answers.keys import keys_of
from composer_kd.answers.parts import INDEX, SEGMENTS, read_parts, read_segments
from composer_kd.caching.asking import Asked
from composer_kd.caching.samples import keys_to_write, loader_of, noted
from composer_kd.models.outside import told


@dataclass(frozen=True)
class Verified:
    """What was found.

    Attributes:
        files: Shards compared with their digests.
        damaged: What is damaged or missing, as paths, and why.
        samples: Answers that were asked for again.
        missing: Answers that the recipe may ask for and the store does not have; of some stores that is meant so.
        other: How many were given to another input than the recipe has there.
        told: What the first of these is.
        exact: How many are the same to the last bit.
        largest: The largest difference of a kept logit or log-probability, infinite where either is no number; of
            classes that only one of the two keeps, by how much they must at least differ. Of draws, by what share of
            all classes a draw has moved on average: at most the largest difference of the cumulative probabilities.
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
        return not self.damaged and not self.other and self.samples > 0 and self.largest <= self.tolerance


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
            wrong.append(f'{path}: its bytes are not those that were written')
    return len(shards), wrong


def faults_of_index(store: Store) -> list[str]:
    """What is wrong with the index of a complete store, or is in it and not in the folder."""
    if not store.manifest.complete:
        return []
    path = store.folder / INDEX
    try:
        named = [store.folder / s['raw_data']['basename'] for s in json.loads(path.read_text())['shards']]
        held = sum(count for _, _, count in read_segments(store.folder / SEGMENTS, 'verify'))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f'{store.folder}: its index cannot be read ({told(error)}); write the store again, which mends it']
    gone = sorted({str(file.parent) for file in named if not file.exists()})
    if not gone and held > store.samples:
        gone = [str(store.folder / SEGMENTS)]
    return [f'{one}: is missing or not as the index says; the same cache command writes it again' for one in gone]


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
    found = store.manifest.differences(manifest.bound, 'this recipe')
    if found:
        raise ValueError(f"verify: '{path}' does not belong to this recipe: {'; '.join(found)}.")
    files, damaged = damaged_shards(Path(path), 'verify')
    wanted = keys_to_write(asked, False)
    there = wanted[store.locate(wanted) >= 0]
    keys = np.sort(np.random.default_rng(0).permutation(there)[:samples])
    other = exact = 0
    first, largest, moved, scale, agree, rows = '', 0.0, 0.0, 1.0, 0, 0
    for batch, notes in tqdm(noted(loader_of(asked, keys)), desc='batches', disable=len(keys) < 5000):
        numbers, prints = notes['keys'].tolist(), notes['prints'].numpy().view(np.uint64).tolist()
        for key, fingerprint, (now, _, _) in zip(numbers, prints, asked.rows(batch, numbers), strict=True):
            row = int(store.locate(keys_of(0, [key]))[0])
            try:
                kept = store.payload(row, key, fingerprint)
            except ValueError as error:
                other, first = other + 1, first or str(error)
                continue
            exact += kept == now.numpy().tobytes()
            then = torch.frombuffer(bytearray(kept), dtype=torch.uint8).reshape(-1, store.format.row_bytes)
            if len(then) != len(now):
                other += 1
                continue
            old, new = store.format.unpack(then), store.format.unpack(now)
            difference, same = _compared(old, new)
            largest, moved = max(largest, difference), moved + difference * len(now)
            agree, rows = agree + same, rows + len(now)
            scale = max(scale, _size(old), _size(new))
    tolerance = _tolerance(store.format, asked.precision.value) * scale
    if store.format.name == 'sampled' and rows:  # single draws move far for little, and all of them on average do not
        largest = moved / rows
        tolerance += 4 * (tolerance / (rows * store.format.k)) ** 0.5
    faults = [*damaged, *faults_of_index(store)]
    return Verified(
        files, tuple(faults), len(keys), len(wanted) - len(there), other, first, exact, largest,
        agree / rows if rows else 1.0, tolerance,
    )


_EPSILON = {'float32': 2.0**-23, 'float16': 2.0**-10, 'bfloat16': 2.0**-7}
_NOISE = {'fp32': 2.0**-13, 'amp_fp16': 2.0**-10}  # of one layer, TF32 and the order of sums included


def _tolerance(form: Format, precision: str) -> float:
    """The difference of values around 1 that rounding explains, there and in some layers of the teacher."""
    kept = 0.0 if form.name == 'sampled' else 2 * _EPSILON[form.dtype]  # counts of draws are not rounded
    return kept + 16 * _NOISE.get(precision, 2.0**-7)


def _size(answer: Answer) -> float:
    values = torch.cat([answer.log_probabilities.flatten(), answer.log_rest]) if isinstance(answer, Sparse) else answer
    values = values[values.isfinite()]
    return float(values.abs().max()) if values.numel() else 0.0


def _compared(then: Answer, now: Answer) -> tuple[float, int]:
    if isinstance(then, Sparse) and isinstance(now, Sparse):
        return _sparse(then, now), int((then.likeliest() == now.likeliest()).sum())
    assert isinstance(then, Tensor)
    assert isinstance(now, Tensor)
    return _apart(then, now), int((then.argmax(-1) == now.argmax(-1)).sum())


def _apart(then: Tensor, now: Tensor) -> float:
    """The largest difference of two tensors: none of infinities that are the same, infinite of NaN."""
    found = (then - now).abs().nan_to_num(torch.inf).masked_fill(then == now, 0.0)
    return float(found.max()) if found.numel() else 0.0


def _sparse(then: Sparse, now: Sparse) -> float:
    """The largest difference of log-probabilities, and at least that of classes that only one of the two keeps."""
    if then.drawn:
        return _moved(then, now)
    both = then.classes.unsqueeze(-1) == now.classes.unsqueeze(-2)
    ours, theirs = torch.broadcast_tensors(then.log_probabilities.unsqueeze(-1), now.log_probabilities.unsqueeze(-2))
    found = [_apart(ours[both], theirs[both]), _apart(then.log_rest, now.log_rest)]
    for one, other, kept in ((then, now, both.any(-1)), (now, then, both.any(-2))):
        # the other holds it no likelier than the least likely of those that it keeps
        least = other.log_probabilities.amin(dim=-1, keepdim=True).expand_as(kept)[~kept]
        alone = one.log_probabilities[~kept]
        found.append(_apart(torch.maximum(alone, least), least))
    return max(found)


def _moved(then: Sparse, now: Sparse) -> float:
    """By what share of all classes a draw has moved on average, the draws of a row in their order."""
    if not len(then):
        return 0.0
    steps = torch.cat([then.classes, now.classes], dim=-1).sort(dim=-1)
    shares = torch.cat([then.log_probabilities.exp(), -now.log_probabilities.exp()], dim=-1).gather(-1, steps.indices)
    gap = shares.cumsum(dim=-1)[..., :-1].abs() * steps.values.diff(dim=-1)
    return float((gap.sum(dim=-1) / then.count).mean().nan_to_num(torch.inf))
