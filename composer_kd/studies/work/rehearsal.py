"""Every kind of run of a study, looked at before the first is made."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from composer_kd.runs import digest
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned, planned_runs
from composer_kd.studies.store.trials import distributions
from composer_kd.studies.work.jobs import REFUSED, Job, answers_of
from composer_kd.studies.work.pool import elsewhere
from composer_kd.studies.work.slots import ProcessSlot


def rehearse(spec: StudySpec, slot: ProcessSlot) -> None:
    """Build model, optimizer, algorithms and distillation of every kind of run, without data and teachers.

    Runs that differ in seed or duration alone are one kind; of a search, each end of every range and every choice.

    Args:
        spec: The study.
        slot: Where to look.

    Raises:
        ValueError: For what a training would refuse, with the method's name.
        RuntimeError: If the process that looked died.
    """
    for policy in [method.teachers for method in spec.methods.values()]:
        for run in policy.runs if policy is not None else ():
            elsewhere(run)
    with tempfile.TemporaryDirectory() as folder:
        jobs = list(kinds(spec))
        paths = [job.write(Path(folder) / f'{place}.json') for place, (_, job) in enumerate(jobs)]
        answers = slot.check(paths, Path(folder) / 'log.txt')
    last, method = answers[-1], jobs[len(answers) - 1][0]
    if last.status == REFUSED:
        raise ValueError(f"A run of '{method}' could not be made: {last.message}")
    if last.status:
        raise RuntimeError(f"Looking at the runs of '{method}' went wrong:\n{last.message}")


def kinds(spec: StudySpec) -> Iterator[tuple[str, Job]]:
    """One job for each kind of run, with the name of its method; its teachers are named, and need not be there."""
    seen = set()
    for planned in planned_runs(spec):
        if spec.search is not None and planned.index > 0:
            break
        for suggested in _corners(spec):
            job = Job(
                recipe=planned.recipe, set={**planned.set, **suggested}, run_name='rehearsal', seed=0,
                run_folder=str(spec.runs_folder / planned.key), tags={}, metric=spec.metric,
                distillation=None if planned.teachers is None else planned.distillation,
                teachers=['-'] * _teachers(planned), answers=answers_of(spec, planned),
            )
            kind = digest(job.model_dump(exclude={'run_folder'}))
            if kind not in seen:
                seen.add(kind)
                yield planned.method, job


def _corners(spec: StudySpec) -> Iterator[dict[str, Any]]:
    """Settings of a search that together hold every end of a range and every choice."""
    space: dict[str, list[Any]] = {}
    for key, distribution in distributions(spec).items():
        choices = getattr(distribution, 'choices', None)
        space[key] = list(choices) if choices is not None else [distribution.low, distribution.high]  # type: ignore[attr-defined]
    for place in range(max((len(values) for values in space.values()), default=1)):
        yield {key: values[min(place, len(values) - 1)] for key, values in space.items()}


def _teachers(planned: Planned) -> int:
    if planned.teachers is None:
        return 0
    policy = planned.teachers
    return max(1, len(planned.pool)) if policy.policy == 'all' else policy.count
