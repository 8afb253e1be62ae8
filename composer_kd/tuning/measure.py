"""What the parts of a step take on this machine, measured in trainings of the recipe itself."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from composer_kd.answers import SampleLoader
from composer_kd.caching.estimate import Speed
from composer_kd.recipes.build import build_train_data
from composer_kd.recipes.errors import is_ours
from composer_kd.tuning.predict import Costs
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.steps import Over, Timed, alone, enough, in_turn, quiet, sort_out, time_steps
from composer_kd.tuning.storing import Stored, Tell, read, write_and_read
from composer_kd.tuning.subject import Length, Subject, read_length
from composer_kd.tuning.variants import COMPILED, pick, variants_of

_LOADER, _STEPS, _STORE = 0.1, 0.5, 0.4
_ROUNDS = 100


@dataclass(frozen=True)
class Asked:
    """A teacher that is asked: as it is said, its name, and how it is prepared."""

    item: Mapping[str, Any]
    teacher: str
    way: str

    @property
    def name(self) -> str:
        """Of both."""
        return f'{self.teacher} ({self.way})'


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
        refused: By preparation, why teachers cannot be prepared in this way.
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
    refused: Mapping[str, str] = field(default_factory=dict)

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
        Asked({**item, **({} if 'prepare' in item else {'prepare': value})}, name, way)
        for name, item in subject.live.items() if subject.alike[name] == name
        for way, value in (list(ways.items())[:1] if 'prepare' in item else ways.items())
    ]
    timed, asked, refused = _steps(subject, asked, _STEPS * seconds if keyed else (_STEPS + _STORE) * seconds, tell)
    teachers: dict[str, dict[str, Spread]] = {}
    for one, spread in zip(asked, timed.teachers.values(), strict=True):
        teachers.setdefault(one.teacher, {})[one.way] = spread
    chosen = pick(teachers, {name: way for name, way in ways.items() if name not in refused})
    stored, why = None, f"the data '{subject.recipe.train_data['name']}' does not say which samples it gives"
    if keyed:
        stored, why = _store(subject, seconds, batches, timed, teachers, (chosen, ways[chosen]), tell)
    tell('measured', 1.0)
    return Measured(
        subject.batch_size, timed.off, data, workers, teachers, timed.rest, timed.added, chosen, stored,
        why, refused,
    ), length


def _store(
    subject: Subject, seconds: float, batches: int | None, timed: Timed, teachers: Mapping[str, Mapping[str, Spread]],
    way: tuple[str, Any], tell: Tell,
) -> tuple[Stored | None, str]:
    """What stored answers take, or why there can be none."""
    once = timed.off.seconds if timed.added is None else timed.off.seconds + max(0.0, timed.added.seconds)
    rounds = int(min(_ROUNDS, max(2.0, _STORE * seconds / (3 * timed.off.seconds + once))))

    def told(what: str, share: float) -> None:
        tell(what, 1 - _STORE * (1 - share))
    try:
        if subject.stored:
            return read(subject, list(subject.stored.values()), rounds, batches, told), ''
        name, item = next(iter(subject.live.items()))
        found = teachers[name].get(way[0])
        if found is not None and way[1] is not None:
            item = {**item, 'prepare': way[1]}
        found = found or next(iter(teachers[name].values()))
        return write_and_read(subject, item, rounds, batches, found.seconds, told), ''
    except ValueError as error:
        if set(subject.names) - set(subject.live):
            raise  # of teachers of whom answers alone are left
        return None, ' '.join(str(error).split())


def _batches(loader: Any, length: Length) -> int | None:
    """How many batches are different ones; ``None`` for any number."""
    return None if length.views is None else length.views * len(loader)


def _time_loader(loader: Any, workers: int, seconds: float, tell: Tell) -> Spread | None:
    # batches of several workers come in bursts, one of each
    group, begun = max(1, workers), time.perf_counter()
    found: list[float] = []
    while time.perf_counter() - begun < seconds or not found:
        before = time.perf_counter()
        for count, _ in enumerate(loader, start=1):
            now = time.perf_counter()
            if count % group == 0:
                if count > 2 * group or not workers:  # what was fetched ahead while workers began is not counted
                    found.append((now - before) / group)
                before = now
                tell('data alone', _LOADER * min(1.0, (now - begun) / seconds))
                if now - begun > seconds and found:
                    break
        if not found:
            return None  # epochs too short to tell
    return Spread.of(found)


def _steps(
    subject: Subject, asked: Sequence[Asked], seconds: float, tell: Tell,
) -> tuple[Timed, list[Asked], dict[str, str]]:
    """Steps with and without teachers, those that were asked, and by its name why a preparation is refused."""
    left, refused = list(asked), dict[str, str]()
    while True:
        names = [one.name for one in left]
        kd = in_turn(subject.said, [{**one.item, 'name': one.name} for one in left]) if left else None
        over = enough(names, seconds)

        def told(count: int, passed: float, over: Over = over) -> bool:
            tell('steps with and without teachers', _LOADER + _STEPS * min(1.0, passed / seconds))
            return over(count, passed)
        try:
            return sort_out(time_steps(alone(subject.recipe, kd, subject.ranks), told), names), left, refused
        except Exception as error:
            way = _to_blame(error, left)
            if way is None:
                raise
            refused[way] = ' '.join(str(error).split())
            left = [one for one in left if one.way != way]


def _to_blame(error: Exception, asked: Sequence[Asked]) -> str | None:
    """The preparation, other than the recipe's own, that an error is about."""
    own = {one.teacher: one.way for one in reversed(asked)}  # the first of each
    others = [one for one in asked if one.way != own[one.teacher]]
    if is_ours(error):
        return next((one.way for one in others if f"'{one.name}'" in str(error)), None)
    # compilers fail in their own words
    return next((one.way for one in others if one.way == COMPILED), None)
