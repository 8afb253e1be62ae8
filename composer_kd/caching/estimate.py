"""What a store would take: bytes, time, and after how many runs it has paid, before anything of it is written."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from composer_kd.answers import Format, Source, Store
from composer_kd.answers.parts import PartWriter
from composer_kd.batches import POSITIONS, target_of
from composer_kd.caching.asking import Asked, waits
from composer_kd.caching.samples import keys_to_write, loader_of, noted
from composer_kd.caching.when import Batches, asked_batches, epochs_of
from composer_kd.caching.who import settings_with
from composer_kd.caching.write import write_batch
from composer_kd.names import split_named
from composer_kd.plan.building import build_parts
from composer_kd.plan.reading import read_sources
from composer_kd.recipes.schema import Recipe
from composer_kd.teachers import outputs_known


@dataclass(frozen=True)
class Speed:
    """Seconds a sample, measured on this machine by one process.

    Attributes:
        data: Loading it, without a teacher.
        teacher: Asking the teacher about it.
        packing: Making rows of the answer and writing them.
        reading: Reading the stored answer, checks included.
        samples: On how many this was measured.
    """

    data: float
    teacher: float
    packing: float
    reading: float
    samples: int


@dataclass(frozen=True)
class Estimate:
    """What a store would take.

    Attributes:
        form: How answers are written.
        rows: Of a sample, on average.
        samples: Of the data, in one view.
        views: How many.
        stored: Answers in the store.
        asked: Answers that one training of the recipe asks for.
        speed: Measured; ``None`` where teacher or data are not here.
        why: Then, what is missing.
        note: Then, where the number of samples comes from.
    """

    form: Format
    rows: float
    samples: int
    views: int
    stored: int
    asked: int
    speed: Speed | None
    why: str = ''
    note: str = ''

    @property
    def bytes(self) -> float:
        """Of the store."""
        return self.stored * self.form.sample_bytes(self.rows)

    @property
    def dense_bytes(self) -> float:
        """Of all logits in float16, for comparison."""
        return self.stored * Format('dense', self.form.classes, 'float16').sample_bytes(self.rows)

    @property
    def asked_bytes(self) -> float:
        """Of a store of no more than one training asks for."""
        return min(self.asked, self.stored) * self.form.sample_bytes(self.rows)

    @property
    def seconds(self) -> float | None:
        """To write it, on one process like the one that was measured."""
        speed = self.speed
        return None if speed is None else self.stored * (max(speed.data, 0.0) + speed.teacher + speed.packing)

    @property
    def saved_seconds(self) -> float | None:
        """What one training saves: the teacher, less what reading takes."""
        return None if self.speed is None else self.asked * (self.speed.teacher - self.speed.reading)

    @property
    def runs(self) -> int | None:
        """After how many trainings the store has paid; ``None`` if never, or not measured."""
        if self.seconds is None or self.saved_seconds is None:
            return None
        return break_even(self.seconds, self.saved_seconds)


def break_even(seconds: float, saved: float) -> int | None:
    """After how many runs what each saves is what it took; ``None`` if never.

    Example:
        >>> break_even(13.0, 7.6), break_even(13.0, -1.0)
        (2, None)
    """
    return math.ceil(seconds / saved) if saved > 0 else None


def estimate_store(asked: Asked, only_asked: bool = False, seconds: float = 15.0) -> Estimate:
    """Measure on real samples what a store would take. Nothing stays on disk.

    Args:
        asked: Teacher and data.
        only_asked: As of :func:`composer_kd.caching.keys_to_write`.
        seconds: How long to measure, about; above 0.

    Raises:
        ValueError: As :func:`composer_kd.caching.keys_to_write`.
    """
    keys = keys_to_write(asked, only_asked)
    speed, rows = _measure(asked, keys, seconds)
    chosen: Any = asked.loader.chosen
    per_training = _asked_for(asked.batches, asked.share, asked.recipe, len(asked.loader))
    return Estimate(asked.form, rows, len(chosen), len(asked.views), len(keys), per_training, speed)


def _asked_for(batches: Batches | None, share: float, recipe: Recipe, per_epoch: int) -> int:
    """Answers that one training asks a teacher for; of an epoch where that is not known."""
    count = per_epoch if batches is None else len(batches)
    return round(count * share * int(recipe.train_data['batch_size']))


def _measure(asked: Asked, keys: Any, seconds: float) -> tuple[Speed, float]:
    folder = Path(tempfile.mkdtemp(prefix='composer_kd-estimate-'))
    try:
        asked.manifest().write(folder)
        size = asked.loader.batch_size or 1
        # what comes next to each other in a store is read in any order later: some of everywhere
        some = np.sort(np.random.default_rng(0).permutation(keys)[:max(3 * size, 50_000)])
        part, times, counts, kept = PartWriter(folder), [0.0, 0.0, 0.0], 0, []
        begun = before = time.perf_counter()
        warm = True
        for batch, notes in noted(loader_of(asked, some)):
            loaded = time.perf_counter()
            numbers = notes['keys'].tolist()
            with torch.no_grad():
                for _ in asked.ask(batch):
                    pass
            waits(asked.device)
            answered = time.perf_counter()
            write_batch(asked, part, batch, notes)
            written = time.perf_counter()
            kept.append((batch, notes['keys'].numpy()))
            if not warm:
                alone = answered - loaded
                times = [times[0] + loaded - before, times[1] + alone, times[2] + max(0.0, written - answered - alone)]
                counts += len(numbers)
            warm, before = False, time.perf_counter()
            if counts and before - begun > seconds:
                break
        if not counts:
            raise ValueError(
                f'estimate: {len(keys)} samples are too few to measure; there must be more than one batch of {size}.',
            )
        part.close()
        store = Store.open(folder)
        read = Source({0: store})
        begun = time.perf_counter()
        for batch, batch_keys in kept[-20:]:
            read(batch_keys, batch)
        reading = (time.perf_counter() - begun) / sum(len(batch_keys) for _, batch_keys in kept[-20:])
        rows = sum(int(read(batch_keys, batch)['rows'][0].sum()) for batch, batch_keys in kept[-20:])
        rows_each = rows / sum(len(batch_keys) for _, batch_keys in kept[-20:])
        return Speed(times[0] / counts, times[1] / counts, times[2] / counts, reading, counts), rows_each
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def estimate_size(recipe: Recipe, form: Any, views: int | None, only_asked: bool, why: str) -> Estimate:
    """The size alone, from what is known without teacher and data.

    Args:
        recipe: The recipe.
        form: As of :func:`composer_kd.caching.prepare`.
        views: Likewise.
        only_asked: As of :func:`composer_kd.caching.keys_to_write`.
        why: What is missing.

    Raises:
        ValueError: If the number of classes, samples or views is not known.
    """
    parts, _ = build_parts(recipe)
    classes = outputs_known(parts.model)
    source = read_sources(recipe)[0]
    if classes is None or source.batch is None or source.data.samples is None:
        raise ValueError(f'estimate: neither the store nor its size can be told: {why}')
    given = recipe.algorithms.get('distillation')
    settings = None if given is None else settings_with(given, torch.nn.Identity())
    with torch.device('meta'):
        rows = _rows_of(source.batch(16), bool(getattr(parts.model, 'shift_labels', False)))
    samples, per_epoch = source.data.samples, max(1, source.data.samples // source.batch_size)
    batches = asked_batches(recipe, settings, per_epoch)
    kept = split_named(recipe.train_data, 'train_data')[1].get('views')
    shown = None if batches is None else epochs_of(batches, per_epoch)
    if views is None and kept is None and not shown:
        raise ValueError('--views: how many epochs are distilled is not known. Say how many views to store.')
    count = views or kept or len(shown or ())
    stored = samples * count
    if only_asked and batches is not None:
        by_view: dict[int, int] = {}
        for epoch, number in zip(*np.unique(batches // per_epoch, return_counts=True), strict=True):
            view = int(epoch) % (kept or int(epoch) + 1)
            by_view[view] = min(samples, by_view.get(view, 0) + int(number) * int(recipe.train_data['batch_size']))
        stored = sum(by_view.values())
    heat = None if settings is None else settings.fixed_temperature
    return Estimate(
        Format.read(form, classes, heat, '--format'), rows, samples, count, stored,
        _asked_for(batches, 1.0, recipe, per_epoch), None, why, source.data.note,
    )


def _rows_of(batch: Any, shift: bool) -> float:
    if isinstance(batch, dict) and POSITIONS in batch:
        return len(batch[POSITIONS]) / 16
    labels = target_of(batch, None)
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2:
        return 1.0
    return float(labels.shape[1] - shift)  # where labels are shifted, nothing is said of what follows the last token
