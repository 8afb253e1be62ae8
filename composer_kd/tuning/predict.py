"""What a way to distil will cost over a whole training, from what its parts were measured to cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from composer_kd.caching.estimate import Estimate, break_even
from composer_kd.plan.result import Distilling
from composer_kd.tuning.choices import Choice


@dataclass(frozen=True)
class Costs:
    """Seconds of one rank's batch.

    Attributes:
        step: A step without distillation.
        teachers: By name, the forward of each that can be asked.
        loss: What else distillation adds to a step with live teachers: the loss, forward and backward, and all around.
        reading: Reading the stored answers of one teacher; ``None`` where that could not be measured.
        stored_loss: As ``loss``, with stored answers.
        loader: The data alone, where processes of its own load it beside the step; else 0.
    """

    step: float
    teachers: Mapping[str, float]
    loss: float
    reading: float | None = None
    stored_loss: float = 0.0
    loader: float = 0.0

    @property
    def waiting(self) -> float:
        """How long every step waits for data; distillation takes that long for nothing."""
        return max(0.0, self.loader - self.step)


@dataclass(frozen=True)
class Prediction:
    """What a way to distil will cost.

    Attributes:
        choice: The way.
        steps: Of the training.
        active: On how many distillation is on.
        asked: On how many each teacher is.
        base: Seconds of the training without distillation.
        kd: Seconds that it adds to one training.
        writing: Seconds that its store takes to write, once, by all ranks together.
        bytes: Of the store.
        pays_after: After how many trainings the store has paid against live teachers; 0 where it is written, ``None``
            for never or no store.
        runs: How many trainings share the store.
        first: The first step on which distillation is on, from 0; ``None`` if there is none.
    """

    choice: Choice
    steps: int
    active: int
    asked: Mapping[str, int]
    base: float
    kd: float
    writing: float = 0.0
    bytes: float = 0.0
    pays_after: int | None = None
    runs: int = 1
    first: int | None = None

    @property
    def overhead(self) -> float:
        """Time spent on distillation / time of the training without it; of stored answers, once they are written."""
        return self.kd / self.base

    @property
    def overhead_of_all(self) -> float:
        """The same over all runs, writing included."""
        return (self.kd + self.writing / self.runs) / self.base

    @property
    def hours(self) -> float:
        """Of one training, without evaluation, checkpoints and writing a store."""
        return (self.base + self.kd) / 3600


@dataclass(frozen=True)
class Schedule:
    """When a way to distil is on.

    Attributes:
        steps: Of the training.
        counts: As :func:`composer_kd.plan.distilling.follow` counts.
        batch_size: Over all ranks.
        estimates: Of the stores it needs, by teacher; empty for those that are there.
    """

    steps: int
    counts: Distilling
    batch_size: int
    estimates: Mapping[str, Estimate] = field(default_factory=dict)


def seconds_of(costs: Costs, schedule: Schedule, read: Collection[str] = ()) -> float:
    """Seconds that distillation adds to a training.

    Every step on which it is on has the teachers that it asks one after the other, and the loss; where steps wait for
    data, it takes that time first. With ``'by_rank'``, ranks that ask a faster teacher wait for the others, and that is
    not counted.

    Args:
        costs: Of a batch.
        schedule: Of the training.
        read: The teachers whose answers are read from a store.

    Example:
        >>> costs = Costs(step=1.0, teachers={'a': 0.2, 'b': 0.4}, loss=0.1)
        >>> counts = Distilling(active_steps=10, batches={'a': 4, 'b': 6}, samples={'a': 32, 'b': 48})
        >>> round(seconds_of(costs, Schedule(40, counts, 8)), 6)
        4.2
    """
    counts = schedule.counts
    if not counts.active_steps:
        return 0.0
    total = 0.0
    for name, samples in counts.samples.items():
        each = costs.reading if name in read else costs.teachers[name]
        assert each is not None
        total += each * samples / schedule.batch_size
    asked = [name for name, batches in counts.batches.items() if batches]
    total += counts.active_steps * (costs.stored_loss if all(name in read for name in asked) else costs.loss)
    return max(0.0, total - counts.active_steps * costs.waiting)


def predict(
    choice: Choice, costs: Costs, schedule: Schedule, stored: Collection[str] = (), runs: int = 1, ranks: int = 1,
) -> Prediction:
    """What a way to distil will cost.

    Args:
        choice: The way.
        costs: Of a batch.
        schedule: Of the training.
        stored: The teachers that have no other answers than stored ones.
        runs: How many trainings share a store.
        ranks: That write it together.
    """
    counts, base = schedule.counts, schedule.steps * (costs.step + costs.waiting)
    known = Prediction(
        choice, schedule.steps, counts.active_steps, counts.batches, base, seconds_of(costs, schedule, stored),
        runs=runs, first=counts.first_step,
    )
    if not choice.stored:
        return known
    kd = seconds_of(costs, schedule, list(counts.batches))
    writing = sum(estimate.seconds or 0.0 for estimate in schedule.estimates.values()) / ranks
    pays: int | None = 0
    if schedule.estimates:
        pays = break_even(writing, known.kd - kd)
    size = sum(estimate.bytes for estimate in schedule.estimates.values())
    return replace(known, kd=kd, writing=writing, bytes=size, pays_after=pays)
