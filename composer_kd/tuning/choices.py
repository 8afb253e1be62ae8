"""The ways to distil that are compared, in the order in which they are to be preferred."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

ONE = (
    'one teacher drawn at random for a step keeps the benefit of the whole ensemble (arXiv 2211.00683, '
    'abstract)'
)
EARLY = (
    'BERT gains most when it is distilled for the first 20-50 % of its training alone (arXiv 2211.00683, abstract); of '
    'other models this is not said there'
)
SPARSE = (
    'two strategies cut the overhead by 80-90 % with minimal effect on accuracy (arXiv 2303.06480, abstract); that '
    'these are fewer teachers and fewer steps is read from its published code, and not confirmed'
)
STORED = (
    'the same teachers on the same batches; a dense store keeps all of their logits, another one a part of them (see '
    "the README on what stored answers lose)"
)
FULL = 'training with a teacher is almost always more efficient than without (arXiv 2211.00683, abstract)'

_WHEN: tuple[tuple[str, str, int, tuple[str, ...]], ...] = (
    ('always', '1dur', 1, (FULL,)),
    ('first 50 %', '0.5dur', 1, (EARLY,)),
    ('every 2nd batch', '1dur', 2, (SPARSE,)),
    ('first 25 %', '0.25dur', 1, (EARLY,)),
    ('every 4th batch', '1dur', 4, (SPARSE,)),
    ('first 50 %, every 2nd batch', '0.5dur', 2, (EARLY, SPARSE)),
    ('first 25 %, every 4th batch', '0.25dur', 4, (EARLY, SPARSE)),
)

SAME = ('start', 'end', 'interval', 'probability', 'teachers_per_batch', 'sampling')
"""The settings that say when distillation is on, and whom it asks."""


@dataclass(frozen=True)
class Choice:
    """One way to distil.

    Attributes:
        name: In a few words.
        changes: What it changes of the recipe's ``distillation``.
        stored: Whether the teachers' answers are read and no teacher runs.
        evidence: What is published about what it does to quality.
    """

    name: str
    changes: Mapping[str, Any]
    stored: bool = False
    evidence: tuple[str, ...] = ()


def all_choices(
    teachers: int, own: bool, live: bool, storable: Callable[[Choice], bool], settings: Callable[[Choice], Any],
) -> list[Choice]:
    """The ways to distil, those first that disturb the quality least as far as is known.

    What the recipe says comes first; then all teachers, one of them, less of the training, and less still. An early
    window goes before batches left out, as more is published for it. After each comes the same with stored answers.

    Args:
        teachers: How many there are.
        own: Whether the recipe distils by itself.
        live: Whether teachers can be asked, or there are stored answers alone.
        storable: Whether a way goes with stored answers.
        settings: The settings of a way; those with the same are one way.
    """
    found = [Choice('as the recipe says', {})] if own else []
    for when, end, interval, evidence in _WHEN:
        base = {'start': '0dur', 'end': end, 'interval': interval, 'probability': 1.0}
        if teachers == 1:
            found.append(Choice(when, base, evidence=evidence))
            continue
        told = tuple(one for one in evidence if one != FULL or when == 'always')
        found += [
            Choice(f'all {teachers} teachers, {when}',
                   {**base, 'teachers_per_batch': teachers, 'sampling': 'random'}, evidence=told),
            Choice(f'one teacher, {when}', {**base, 'teachers_per_batch': 1, 'sampling': 'random'},
                   evidence=(ONE, *(one for one in told if one != FULL))),
        ]
    different: dict[str, Choice] = {}
    for choice in found:
        different.setdefault(repr(settings(choice)), choice)
    every = []
    for choice in different.values():
        every += [choice] if live else []
        if storable(choice):
            every.append(replace(
                choice, name=f'{choice.name}, stored', stored=True, evidence=(STORED, *choice.evidence),
            ))
    return every


def when_and_whom(settings: Mapping[str, Any], teachers: int) -> tuple[Any, ...]:
    """What decides when distillation is on and whom it asks; the same for settings that mean the same.

    Args:
        settings: :attr:`composer_kd.Distillation.settings`.
        teachers: How many there are.

    Example:
        >>> one = {'start': '0dur', 'end': '1dur', 'interval': 4, 'probability': 1.0, 'teachers_per_batch': 1}
        >>> (when_and_whom({**one, 'sampling': 'random'}, 1)
        ...  == when_and_whom({**one, 'interval': '4ba', 'sampling': 'round_robin'}, 1))
        True
    """
    def plain(key: str) -> Any:
        said = str(settings[key])
        if key in ('start', 'end'):
            return {'0ba': '0dur', '0ep': '0dur', '0.0dur': '0dur', '1.0dur': '1dur'}.get(said, said)
        return f'{said}ba' if key == 'interval' and said.isdigit() else said

    if int(settings['teachers_per_batch']) == teachers and settings['sampling'] != 'by_rank':
        return tuple(plain(key) for key in SAME if key != 'sampling')
    return tuple(plain(key) for key in SAME)
