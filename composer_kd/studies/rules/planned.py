"""The runs of a study, in the order in which they are to be begun."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

from composer_kd.studies.file.checks import EARLIER
from composer_kd.studies.file.fields import over, slug
from composer_kd.studies.file.parts import Earlier, Search, Stored, TeacherPolicy
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.file.space import points

LONGEST_SEARCH = 10_000
"""Runs of a search whose budget says nothing of runs."""


@dataclass(frozen=True)
class Keys(Sequence[str]):
    """Keys of the first runs of a chain. Not kept as strings: every run of a search has all runs before it.

    Args:
        chain: The chain.
        kind: ``run`` in a search, ``step`` in a sequence.
        length: How many.

    Example:
        >>> list(Keys('taught-seed0', 'run', 2))
        ['taught-seed0-run00', 'taught-seed0-run01']
    """

    chain: str
    kind: str
    length: int

    def key(self, index: int) -> str:
        """Key of the run at that place."""
        return f'{self.chain}-{self.kind}{index:02d}' if self.kind == 'run' else f'{self.chain}-{self.kind}{index}'

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        places = range(self.length)[index]
        return self.key(places) if isinstance(places, int) else tuple(self.key(place) for place in places)


@dataclass(frozen=True)
class Planned:
    """A run that is to be made.

    Attributes:
        key: Its identity, and the name of its folder.
        method: Of the study's; ``'earlier run'`` for the runs that teach in a comparison.
        seed: The replicate: a number in the study's ``seeds``; of an earlier run, its number.
        run_seed: The recipe's ``seed``.
        index: Place in its chain, from 0; 0 outside of chains.
        recipe: Path of its recipe.
        set: Dotted recipe key to value, in the order in which they are placed; without the seed.
        params: What varies between the runs.
        chain: The search or sequence that it belongs to, as the beginning of its keys; empty outside.
        teachers: Which runs teach it; ``None`` for none.
        distillation: Settings of Distillation.
        cache: How its teachers' answers are stored; ``None`` if they are not.
        pool: Keys of the runs of this study that may teach it, oldest first.
        waits: Keys of runs that must be over before it starts.
        needs_teacher: Whether it is not made where no run may teach it; else it is made without distillation.
        tags: For its record.
    """

    key: str
    method: str
    seed: int
    run_seed: int
    index: int
    recipe: str
    set: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    chain: str = ''
    teachers: TeacherPolicy | None = None
    distillation: dict[str, Any] = field(default_factory=dict)
    cache: Stored | None = None
    pool: Sequence[str] = ()
    waits: tuple[str, ...] = ()
    needs_teacher: bool = False
    tags: dict[str, str] = field(default_factory=dict)


def planned_runs(spec: StudySpec) -> Iterator[Planned]:
    """The runs of a study in the order in which they are to be begun, the methods next to each other in time.

    In a comparison, the earlier runs first, then by seed and duration; in a search by number and seed, in a sequence by
    step and seed. A key never changes its meaning when seeds, durations, methods, steps or a budget are added.

    Args:
        spec: The study. A search without a budget of runs gives ``LONGEST_SEARCH`` runs a chain: take as many as you
            begin, and not all of them.

    Returns:
        The runs, made one by one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from composer_kd.studies.file.schema import parse_study
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'recipe.yaml').write_text('max_duration: 2ep')
        >>> spec = parse_study({
        ...     'name': 'windows', 'recipe': 'recipe.yaml', 'metric': 'test/Accuracy', 'teachers': 'latest',
        ...     'sequence': {'steps': [{'train_data.train_size': 200}, {'train_data.train_size': 400}]},
        ... }, folder)
        >>> [(run.key, run.waits) for run in planned_runs(spec)]
        [('runs-seed0-step0', ()), ('runs-seed0-step1', ('runs-seed0-step0',))]
    """
    if spec.comparison is not None:
        yield from _compared(spec)
    else:
        yield from _chained(spec)


def _compared(spec: StudySpec) -> Iterator[Planned]:
    assert spec.comparison is not None
    earlier = spec.comparison.earlier
    pool: tuple[str, ...] = ()
    if earlier is not None:
        yield from _earlier(spec, earlier)
        pool = tuple(f'earlier-{number}' for number in range(earlier.runs))
    for seed in spec.seeds:
        for duration in spec.comparison.durations:
            for name, method in spec.methods.items():
                teachers = method.teachers
                yield Planned(
                    key=f'{slug(name)}-{duration}-seed{seed}', method=name, seed=seed, run_seed=seed, index=0,
                    recipe=method.recipe, set=over(method.set, {'max_duration': duration}),
                    params={'method': name, 'max_duration': duration, 'seed': seed},
                    teachers=teachers, distillation=method.distillation, cache=method.cache,
                    pool=pool if teachers else (), waits=pool if teachers else (), needs_teacher=teachers is not None,
                    tags=_tags(spec, name, seed, 0),
                )


def _earlier(spec: StudySpec, earlier: Earlier) -> Iterator[Planned]:
    name = earlier.method or spec.baseline
    assert name is not None
    method = spec.methods[name]
    for number in range(earlier.runs):
        seed = earlier.first_seed + number
        yield Planned(
            key=f'earlier-{number}', method=EARLIER, seed=number, run_seed=seed, index=0, recipe=method.recipe,
            set=over(over(method.set, earlier.set), {'max_duration': earlier.duration}),
            params={'method': EARLIER, 'max_duration': earlier.duration, 'seed': seed},
            tags=_tags(spec, EARLIER, number, 0, role='earlier'),
        )


def _chained(spec: StudySpec) -> Iterator[Planned]:
    steps = spec.sequence.steps if spec.sequence is not None else None
    length = len(steps) if steps is not None else _search_length(spec.search)
    chains = [(seed, name, f'{slug(name)}-seed{seed}') for seed in spec.seeds for name in spec.methods]
    for index in range(length):
        for seed, name, chain in chains:
            method = spec.methods[name]
            before = Keys(chain, 'run' if steps is None else 'step', index)
            pool: Sequence[str] = before if method.teachers is not None else ()
            yield Planned(
                key=before.key(index), method=name, seed=seed, run_seed=1000 * seed + index, index=index,
                recipe=method.recipe, set=dict(method.set) if steps is None else over(method.set, steps[index]),
                params={} if steps is None else {'method': name, 'seed': seed, 'step': index},
                chain=chain, teachers=method.teachers, distillation=method.distillation, cache=method.cache, pool=pool,
                # The second run of a search waits for a teacher; those after it take who is ready.
                waits=tuple(pool) if steps is not None else tuple(pool[:1]),
                tags=_tags(spec, name, seed, index, **({} if steps is None else {'step': str(index)})),
            )


def _search_length(search: Search | None) -> int:
    """Runs of a search at most; one that tries every point of its space ends with the last."""
    assert search is not None
    length = search.runs or LONGEST_SEARCH
    if search.sampler['name'] in ('grid', 'brute_force'):
        length = min(length, math.prod(len(points(value)) for value in search.space.values()))
    return length


def _tags(spec: StudySpec, method: str, seed: int, index: int, role: str = 'run', **more: str) -> dict[str, str]:
    return {
        'study': spec.name, 'kind': spec.kind, 'method': method, 'replicate': str(seed), 'index': str(index),
        'role': role, **more,
    }
