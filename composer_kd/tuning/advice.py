"""From what was measured to what each way to distil will cost, and to which is recommended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from composer_kd.caching.estimate import Estimate
from composer_kd.caching.when import asked_batches, epochs_of
from composer_kd.caching.who import settings_with
from composer_kd.entries import read_entries
from composer_kd.plan.distilling import follow
from composer_kd.plan.result import Distilling
from composer_kd.term import check_formats
from composer_kd.tuning.choices import Choice, all_choices, when_and_whom
from composer_kd.tuning.measure import Measured
from composer_kd.tuning.predict import Prediction, Schedule, predict
from composer_kd.tuning.recommend import Recommendation, recommend
from composer_kd.tuning.steps import quiet
from composer_kd.tuning.subject import Length, Subject, settings_of
from composer_kd.tuning.variants import variants_of


@dataclass(frozen=True)
class Advice:
    """What is said of a recipe's distillation.

    Attributes:
        subject: The recipe.
        length: Of its training.
        measured: What was measured.
        predictions: Of all ways, in the order in which they are to be preferred.
        recommendation: Of one of them.
        budget: Within which it is looked for.
    """

    subject: Subject
    length: Length
    measured: Measured
    predictions: list[Prediction]
    recommendation: Recommendation
    budget: float


def advise(subject: Subject, length: Length, measured: Measured, budget: float, runs: int) -> Advice:
    """Predict what every way will cost, and recommend one.

    Args:
        subject: What is tuned.
        length: Of its training.
        measured: What was measured.
        budget: The overhead that one is willing to pay, a share of the time without distillation, 0 or more.
        runs: How many trainings will use these teachers, 1 or more.

    Raises:
        ValueError: If no way distils on any batch, or the window depends on a length that is not known.
    """
    ways = _Ways(subject, length, measured)
    predictions = [ways.predict(choice, runs) for choice in ways.choices()]
    return Advice(subject, length, measured, predictions, recommend(predictions, budget), budget)


class _Ways:
    def __init__(self, subject: Subject, length: Length, measured: Measured) -> None:
        self._subject, self._length, self._measured = subject, length, measured
        self._schedules: dict[str, Distilling] = {}
        self._epochs: dict[str, int | None] = {}
        ways = variants_of(subject.said, measured.prepare not in variants_of(subject.said, False))
        self._own = next(iter(ways))
        # what is taken is said, unless the recipe says it already
        self._prepare = {} if measured.prepare == self._own else {'prepare': ways[measured.prepare]}

    def choices(self) -> list[Choice]:
        subject = self._subject
        found = all_choices(
            len(subject.names), subject.own, bool(subject.live), self._storable,
            lambda choice: when_and_whom(settings_of(subject, choice.changes), len(subject.names)),
        )
        if not self._prepare or not subject.live:
            return found
        prepared = [replace(one, changes={**one.changes, **self._prepare}) for one in found]
        if not subject.own:
            return prepared
        better = replace(prepared[0], name=f'{found[0].name}, teachers prepared: {self._measured.prepare}')
        return [found[0], better, *prepared[1:]]

    def predict(self, choice: Choice, runs: int) -> Prediction:
        subject, measured = self._subject, self._measured
        counts = self._counts(choice)
        prepare = measured.prepare if not self._prepare or 'prepare' in choice.changes else self._own
        costs = measured.costs(subject.alike, prepare)
        estimates: dict[str, Estimate] = {}
        lacking = [name for name in subject.names if name not in subject.stored and counts.batches[name]]
        if choice.stored and lacking:
            stored, samples, views = measured.stored, self._length.samples, self._views(choice)
            assert stored is not None
            assert stored.form is not None
            assert samples is not None
            assert views is not None
            for name in lacking:
                estimates[name] = Estimate(
                    stored.form, stored.rows, samples, views, views * samples, counts.samples[name],
                    measured.speed(costs.teachers[name]),
                )
        schedule = Schedule(self._length.steps, counts, self._length.course.batch_size, estimates)
        alone = set(subject.names) - set(subject.live)
        return predict(choice, costs, schedule, alone, runs, subject.ranks)

    def _counts(self, choice: Choice) -> Distilling:
        subject = self._subject
        settings = settings_of(subject, choice.changes)
        sign = repr(when_and_whom(settings, len(subject.names)))
        if sign not in self._schedules:
            self._schedules[sign] = follow(
                self._length.course, settings, subject.names, subject.weights, subject.recipe.seed, None, subject.ranks,
            )
        return self._schedules[sign]

    def _storable(self, choice: Choice) -> bool:
        subject, stored = self._subject, self._measured.stored
        if stored is None:
            return False
        settings = settings_of(subject, choice.changes)
        if stored.form is not None:
            try:
                for entry in read_entries(subject.said.get('loss'), subject.said.get('losses')):
                    loss = entry.of_logits
                    if loss is None:  # no store holds layers
                        return False
                    check_formats(
                        [stored.form] * len(subject.names), settings['teachers_per_batch'], loss,
                        settings['combine'], entry.fixed_temperature,
                    )
            except ValueError:
                return False
        if set(subject.names) <= set(subject.stored):
            return True
        return stored.form is not None and self._length.samples is not None and bool(self._views(choice))

    def _views(self, choice: Choice) -> int | None:
        """How many views of a sample a store must hold."""
        length, subject = self._length, self._subject
        if length.views is not None:
            return length.views
        per_epoch = length.course.batches_per_epoch
        if per_epoch is None:
            return None
        kd = _without_teachers({**subject.said, **choice.changes})
        sign = repr(kd)
        if sign not in self._epochs:
            with quiet():
                settings = settings_with(kd, {'module': torch.nn.Identity()})
            batches = asked_batches(subject.recipe, settings, per_epoch)
            self._epochs[sign] = None if batches is None else len(epochs_of(batches, per_epoch))
        return self._epochs[sign]


def _without_teachers(said: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if key not in ('teachers', 'teachers_per_batch', 'sampling')}
