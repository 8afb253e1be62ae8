"""What stored answers take, measured in trainings of the recipe itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.answers import Format, Store
from composer_kd.teachers.fetch import is_remote
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.steps import Timed, alone, in_turn, sort_out, time_steps, warm_up
from composer_kd.tuning.subject import Subject

Tell = Callable[[str, float], None]
"""What is measured now, and which share of all is done."""

_HEADER = 188  # bytes of a shard that hold no sample


@dataclass(frozen=True)
class Stored:
    """What stored answers take.

    Attributes:
        reading: Of one teacher's answers to a batch.
        loss: What else distillation adds to a step that reads them.
        form: How they are written; ``None`` where the store is elsewhere.
        rows: Of a sample, on average.
        packing: Making rows of a batch's answers and writing them; ``None`` of a store that was there already.
    """

    reading: Spread
    loss: Spread
    form: Format | None
    rows: float
    packing: float | None


def read(
    subject: Subject, items: Sequence[Mapping[str, Any]], rounds: int, batches: int | None, tell: Tell,
) -> Stored:
    """What stores take that are there already.

    Args:
        subject: What is tuned.
        items: Teachers whose answers are read.
        rounds: How often each is measured.
        batches: How many batches are different ones; ``None`` for any number.
        tell: Who is told how far it is.

    Raises:
        ValueError: For answers that are not to these inputs, or too few batches.
    """
    last = _last(len(items), rounds, batches)
    timed = _some(subject, items, last, 'steps with stored answers', tell)
    assert timed.rest is not None
    cache, values = items[0]['cache'], list(timed.teachers.values())
    path = str(cache if isinstance(cache, str) else cache['path'])
    store = None if is_remote(path) else Store.open(path, 'teachers')
    form, rows = (None, 1.0) if store is None else (store.format, _rows(store))
    return Stored(_mean(values), timed.rest, form, rows, None)


def write_and_read(
    subject: Subject, item: Mapping[str, Any], rounds: int, batches: int | None, forward: float, tell: Tell,
) -> Stored:
    """What a store takes: one of the first batches is written and read, and removed again.

    Args:
        subject: What is tuned.
        item: The teacher whose answers are stored.
        rounds: How often each is measured.
        batches: How many batches are different ones; ``None`` for any number.
        forward: Seconds of the teacher alone.
        tell: Who is told how far it is.

    Raises:
        ValueError: If answers cannot be stored, or for too few batches.
    """
    last = _last(1, rounds, batches)
    said: Any = next((one.get('cache') for one in subject.said['teachers'] if 'cache' in one), None)
    form = {'format': said['format']} if isinstance(said, Mapping) and said.get('format') is not None else {}
    with tempfile.TemporaryDirectory(prefix='composer_kd-tune-', ignore_cleanup_errors=True) as folder:
        path = str(Path(folder) / 'answers')
        kept = {**item, 'cache': {'path': path, 'fill': True, **form}}
        filled = _some(subject, [kept], last, 'steps that store answers', tell)
        # what comes again is the same: order and views follow from the seed
        timed = _some(subject, [{**kept, 'cache': {'path': path}}], last, 'steps with stored answers', tell)
        store = Store.open(path, 'tune')
        assert timed.rest is not None
        assert filled.storing is not None
        (writing,), (reading,) = filled.teachers.values(), timed.teachers.values()
        packing = max(0.0, writing.seconds - forward) + filled.storing.seconds
        return Stored(reading, timed.rest, store.format, _rows(store), packing)


def _last(teachers: int, rounds: int, batches: int | None) -> int:
    """After how many batches so many rounds are over, or as many as there are different batches for."""
    rounds = rounds if batches is None else min(rounds, (batches - 1 - warm_up(teachers)) // (2 * teachers))
    if rounds < 1:
        raise ValueError(
            f'tune: {batches} batches are too few to measure stored answers. Make the batches smaller, or keep more '
            'views (train_data.views).',
        )
    return warm_up(teachers) + 2 * teachers * rounds + 1


def _some(subject: Subject, items: Sequence[Mapping[str, Any]], last: int, what: str, tell: Tell) -> Timed:
    names = [str(item['name']) for item in items]

    def told(count: int, passed: float) -> bool:
        tell(what, count / last)
        return count >= last
    steps = time_steps(alone(subject.recipe, in_turn(subject.said, items, last), subject.ranks), told)
    return sort_out(steps, names)


def _mean(spreads: Sequence[Spread]) -> Spread:
    count = len(spreads)
    return Spread(
        sum(one.seconds for one in spreads) / count, sum(one.low for one in spreads) / count,
        sum(one.high for one in spreads) / count, sum(one.count for one in spreads),
    )


def _rows(store: Store) -> float:
    """Of a sample, on average, by the size of the store."""
    shards = [file.stat().st_size - _HEADER for file in store.folder.rglob('*.mds')]
    each = sum(shards) / max(1, store.samples)
    return max(1.0, (each - store.format.sample_bytes(0)) / store.format.row_bytes)
