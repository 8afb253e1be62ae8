"""Which runs' checkpoints are still of use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from composer_kd.studies.file.fields import slug
from composer_kd.studies.file.parts import TeacherPolicy
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned
from composer_kd.studies.rules.policy import Candidate, choose, eligible


def needed(
    spec: StudySpec,
    planned: Iterable[Planned],
    finished: Sequence[Candidate],
    given: Mapping[str, Iterable[str]] | None = None,
) -> set[str]:
    """Keys of the finished runs whose checkpoints are still of use, whatever the runs to come will reach.

    Of use are the teachers that a begun run was given, as it may be started again; those that a run which is not over
    may yet be given by its policy; and the best run of the study. More runs can finish, and that only displaces
    teachers under ``latest``, ``best`` and ``top``: what these policies choose from the finished runs of a pool holds
    all that they can ever choose of them. Under ``random`` and ``all`` it is every run above the floor. With
    ``keep: needed``, runs that are yet to be added to the study (by further seeds, durations, steps or a larger budget)
    count as not over.

    Args:
        spec: The study.
        planned: Its runs that are not over, begun or not. Of a search, those that are begun and the next one of each
            chain do: nothing more follows from later ones.
        finished: Its finished runs in planned order.
        given: The teachers, by their keys, of runs that are begun and not over.

    Returns:
        Keys out of ``finished``.
    """
    given = given or {}
    by_name = {run.name: run for run in finished}
    found = best(spec, finished)
    for run in planned:
        if run.key in given:
            found |= by_name.keys() & set(given[run.key])
        elif run.teachers is not None:
            found |= _may_teach(spec, run.teachers, [by_name[key] for key in run.pool if key in by_name])
    if spec.keep != 'best':
        for policy, pool in _open_pools(spec, finished):
            found |= _may_teach(spec, policy, pool)
    return found


def best(spec: StudySpec, finished: Sequence[Candidate]) -> set[str]:
    """The key of the best run by the study's metric, the later one of two; empty if none was evaluated."""
    policy = TeacherPolicy(policy='best')
    return {run.name for run in choose(policy, finished, '', spec.metric, spec.is_higher_better)}


def removable(
    spec: StudySpec,
    planned: Iterable[Planned],
    finished: Sequence[Candidate],
    given: Mapping[str, Iterable[str]] | None = None,
) -> list[str]:
    """Keys of the finished runs whose checkpoints may be removed, in planned order; none with ``keep: all``.

    Args:
        spec: The study.
        planned: As :func:`needed` has it, and so are the others.
        finished: See there.
        given: See there.
    """
    if spec.keep == 'all':
        return []
    kept = needed(spec, planned, finished, given)
    return [run.name for run in finished if run.name not in kept]


def _may_teach(spec: StudySpec, policy: TeacherPolicy, pool: Sequence[Candidate]) -> set[str]:
    if policy.policy in ('random', 'all'):
        return {run.name for run in eligible(policy, pool, spec.metric, spec.is_higher_better)}
    return {run.name for run in choose(policy, pool, '', spec.metric, spec.is_higher_better)}


def _open_pools(spec: StudySpec, finished: Sequence[Candidate]) -> Iterator[tuple[TeacherPolicy, list[Candidate]]]:
    """What a run that is yet to be added to the study could choose its teachers from."""
    for name, method in spec.methods.items():
        if method.teachers is None:
            continue
        pattern = r'earlier-\d+' if spec.comparison else rf'({re.escape(slug(name))}-seed\d+)-(?:run|step)\d+'
        pools: dict[str, list[Candidate]] = {}
        for run in finished:
            match = re.fullmatch(pattern, run.name)
            if match:
                pools.setdefault(match[match.lastindex or 0] if spec.comparison is None else '', []).append(run)
        for pool in pools.values():
            yield method.teachers, pool
