"""Which finished runs teach a run: pure functions of the study, the run and the qualities at hand."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from composer_kd.runs.study import lower_is_better
from composer_kd.studies.file.parts import TeacherPolicy


@dataclass(frozen=True)
class Candidate:
    """A finished run that may teach.

    Attributes:
        name: Its key, or the name of its folder.
        folder: Its run folder.
        quality: ``evaluator/metric`` to the value at its end.
    """

    name: str
    folder: str
    quality: Mapping[str, float] = field(default_factory=dict)


def eligible(
    policy: TeacherPolicy, candidates: Sequence[Candidate], metric: str, higher_is_better: bool,
) -> list[Candidate]:
    """Those that the policy may choose from.

    Left out is a run whose quality is not finite, or worse than the floor; and where a floor, or the best, is asked
    for, a run without the quality.

    Args:
        policy: The policy.
        candidates: Finished runs.
        metric: The study's quality.
        higher_is_better: Whether a high value of it is a good one.
    """
    name = policy.metric or metric
    sign = 1 if _better(policy, metric, higher_is_better) else -1
    found = []
    for candidate in candidates:
        value = candidate.quality.get(name)
        if value is None:
            if policy.floor is None and policy.policy not in ('best', 'top'):
                found.append(candidate)
        elif math.isfinite(value) and (policy.floor is None or sign * value >= sign * policy.floor):
            found.append(candidate)
    return found


def choose(
    policy: TeacherPolicy, candidates: Sequence[Candidate], draw: str, metric: str, higher_is_better: bool,
) -> list[Candidate]:
    """The teachers of a run.

    Args:
        policy: The policy.
        candidates: Finished runs in planned order, oldest first.
        draw: What a choice by chance follows from: the study's name and the run's key.
        metric: The study's quality, by which ``best``, ``top`` and the floor go unless the policy names another.
        higher_is_better: Whether a high value of it is a good one. Of another metric that the policy names, that is
            told from its name.

    Returns:
        The teachers, oldest first; of equally good runs the later ones.

    Example:
        >>> runs = [Candidate('a', 'runs/a', {'test/Accuracy': 0.9}), Candidate('b', 'runs/b', {'test/Accuracy': 0.8})]
        >>> policy = TeacherPolicy.model_validate('best')
        >>> [run.name for run in choose(policy, runs, 'study/c', 'test/Accuracy', True)]
        ['a']
    """
    found = eligible(policy, candidates, metric, higher_is_better)
    if policy.policy == 'all':
        return found
    if policy.policy == 'latest':
        order = list(range(len(found)))[::-1]
    elif policy.policy == 'random':
        order = sorted(range(len(found)), key=lambda i: _hash(f'{draw}/{found[i].name}'))
    else:
        name = policy.metric or metric
        sign = 1 if _better(policy, metric, higher_is_better) else -1
        order = sorted(range(len(found)), key=lambda i: (sign * found[i].quality[name], i), reverse=True)
    return [found[i] for i in sorted(order[:policy.count])]


def _better(policy: TeacherPolicy, metric: str, higher_is_better: bool) -> bool:
    named = policy.metric is not None and policy.metric != metric
    return not lower_is_better(policy.metric or '') if named else higher_is_better


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
