"""What the parts of a step take on this machine, measured in trainings of the recipe itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.answers import Format, SampleLoader, Store
from composer_kd.caching.estimate import Speed
from composer_kd.recipes.build import build_train_data
from composer_kd.teachers.fetch import is_remote
from composer_kd.tuning.predict import Costs
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.steps import Over, Timed, alone, enough, in_turn, quiet, sort_out, time_steps, warm_up
from composer_kd.tuning.subject import Length, Subject, read_length
from composer_kd.tuning.variants import pick, variants_of

Tell = Callable[[str, float], None]
"""What is measured now, and which share of all is done."""

_LOADER, _STEPS, _STORE = 0.1, 0.5, 0.4
_ROUNDS = 100
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


@dataclass(frozen=True)
class Measured:
    """What was measured, of one rank's batch.

    Attributes:
        samples: Of the batch.
        step: Without distillation, the wait for data included.
        loader: The data alone; ``None`` if it gave too few batches.
        workers: Processes that load it.
        teachers: By name and preparation, the forward of each teacher that was asked.
        loss: What else distillation adds: the loss forward and backward, and all around; ``None`` without teachers.
        added: By how much a step with distillation was longer, in the mean of the teachers that were asked.
        prepare: The preparation that is taken.
        stored: What stored answers take; ``None`` where there can be none.
        no_store: Then, why.
    """

    samples: int
    step: Spread
    loader: Spread | None
    workers: int
    teachers: Mapping[str, Mapping[str, Spread]]
    loss: Spread | None
    added: Spread | None
    prepare: str
    stored: Stored | None
    no_store: str = ''

    def costs(self, alike: Mapping[str, str], prepare: str) -> Costs:
        """The costs of a batch with teachers prepared in that way.

        Args:
            alike: By name, the teacher that was measured in its place.
            prepare: The way; a teacher that was not asked in this way keeps its own.
        """
        teachers = {}
        for name, measured in alike.items():
            ways = self.teachers[measured]
            teachers[name] = ways.get(prepare, next(iter(ways.values()))).seconds
        loader = self.loader.seconds if self.loader is not None and self.workers else 0.0
        stored = self.stored
        return Costs(
            self.step.seconds, teachers, 0.0 if self.loss is None else self.loss.seconds,
            None if stored is None else stored.reading.seconds, 0.0 if stored is None else stored.loss.seconds, loader,
        )

    def speed(self, teacher: float) -> Speed:
        """Seconds a sample of writing a store of a teacher whose forward takes so long, and of reading it."""
        stored = self.stored
        assert stored is not None
        size = self.samples
        data = 0.0 if self.loader is None else self.loader.seconds / size
        return Speed(data, teacher / size, (stored.packing or 0.0) / size, stored.reading.seconds / size, size)


def measure(subject: Subject, seconds: float, compiled: bool, tell: Tell) -> tuple[Measured, Length]:
    """Measure the parts of a step, in about so many seconds, or in as many as two of each kind take.

    Args:
        subject: What is tuned.
        seconds: Above 0.
        compiled: Whether teachers are compiled, too.
        tell: Who is told how far it is.

    Raises:
        ValueError: If something is wrong with the data, or with the training.
        FileNotFoundError: For missing data.
    """
    bare = alone(subject.recipe, None, subject.ranks)
    with quiet():
        loader: Any = build_train_data(bare).dataloader
    length = read_length(subject, loader)
    workers = int(getattr(loader, 'num_workers', 0) or 0)
    keyed, batches = isinstance(loader, SampleLoader), _batches(loader, length)
    data = _time_loader(loader, workers, _LOADER * seconds, tell)
    del loader

    ways = variants_of(subject.said, compiled)
    asked = [
        ({**item, **({} if 'prepare' in item or value is None else {'prepare': value})}, name, way)
        for name, item in subject.live.items() if subject.alike[name] == name
        for way, value in (list(ways.items())[:1] if 'prepare' in item else ways.items())
    ]
    timed = _steps(subject, asked, _STEPS * seconds if keyed else (_STEPS + _STORE) * seconds, tell)
    teachers: dict[str, dict[str, Spread]] = {}
    for (_, name, way), spread in zip(asked, timed.teachers.values(), strict=True):
        teachers.setdefault(name, {})[way] = spread
    chosen = pick(teachers, subject.said, ways)
    stored, why = None, f"the data '{subject.recipe.train_data['name']}' does not say which samples it gives"
    if keyed:
        once = timed.off.seconds if timed.added is None else timed.off.seconds + max(0.0, timed.added.seconds)
        rounds = int(min(_ROUNDS, max(2.0, _STORE * seconds / (3 * timed.off.seconds + once))))
        own = list(subject.stored.values())
        try:
            if own:
                stored = _read(subject, own, rounds, batches, tell)
            else:
                name = next(iter(subject.live))
                ask = ways[chosen] if chosen in teachers[name] else None
                stored = _write_and_read(
                    subject, {**subject.live[name], **({} if ask is None else {'prepare': ask})}, rounds, batches,
                    teachers[name].get(chosen, next(iter(teachers[name].values()))).seconds, tell,
                )
        except ValueError as error:
            if set(subject.names) - set(subject.live):
                raise  # of teachers of whom answers alone are left
            why = ' '.join(str(error).split())
    tell('measured', 1.0)
    return Measured(
        subject.batch_size, timed.off, data, workers, teachers, timed.rest, timed.added, chosen, stored,
        '' if stored is not None else why,
    ), length


def _batches(loader: Any, length: Length) -> int | None:
    """How many batches are different ones; ``None`` for any number."""
    return None if length.views is None else length.views * len(loader)


def _time_loader(loader: Any, workers: int, seconds: float, tell: Tell) -> Spread | None:
    # batches of several workers come in bursts, one of each
    group, begun = max(1, workers), time.perf_counter()
    found: list[float] = []
    while time.perf_counter() - begun < seconds or not found:
        count, before = 0, time.perf_counter()
        for count, _ in enumerate(loader, start=1):
            now = time.perf_counter()
            if count % group == 0:
                if count > 2 * group or group == 1:  # what was fetched ahead while workers began is not counted
                    found.append((now - before) / group)
                before = now
                tell('data alone', _LOADER * min(1.0, (now - begun) / seconds))
                if now - begun > seconds and found:
                    break
        if count <= 2 * group and not found:
            return None
    return Spread.of(found)


def _steps(subject: Subject, asked: Sequence[Any], seconds: float, tell: Tell) -> Timed:
    names = [f'{name} ({way})' for _, name, way in asked]
    items = [{**item, 'name': name} for (item, _, _), name in zip(asked, names, strict=True)]
    kd = in_turn(subject.said, items) if items else None
    over = enough(names, seconds)

    def told(count: int, passed: float) -> bool:
        tell('steps with and without teachers', _LOADER + _STEPS * min(1.0, passed / seconds))
        return over(count, passed)
    return sort_out(time_steps(alone(subject.recipe, kd, subject.ranks), told), names)


def _read(
    subject: Subject, items: Sequence[Mapping[str, Any]], rounds: int, batches: int | None, tell: Tell,
) -> Stored:
    """Stores that are there already."""
    last = _last(len(items), rounds, batches)
    timed = _some(subject, items, last, 'steps with stored answers', tell)
    assert timed.rest is not None
    cache, values = items[0]['cache'], list(timed.teachers.values())
    path = str(cache if isinstance(cache, str) else cache['path'])
    store = None if is_remote(path) else Store.open(path, 'teachers')
    form, rows = (None, 1.0) if store is None else (store.format, _rows(store))
    return Stored(_mean(values), timed.rest, form, rows, None)


def _write_and_read(
    subject: Subject, item: Mapping[str, Any], rounds: int, batches: int | None, forward: float, tell: Tell,
) -> Stored:
    """A store of the first batches, for as long as it takes."""
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
    begin = 1 - _STORE / 2 if 'with' in what else _LOADER + _STEPS
    over: Over = lambda count, _: count >= last  # noqa: E731

    def told(count: int, passed: float) -> bool:
        tell(what, begin + _STORE / 2 * count / last)
        return over(count, passed)
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
