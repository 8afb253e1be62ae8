"""What only shows when the keys of a study are held against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from composer_kd.studies.file.fields import slug
from composer_kd.studies.file.parts import known_method

if TYPE_CHECKING:
    from composer_kd.studies.file.schema import StudySpec

EARLIER = 'earlier run'
"""Method of the earlier runs in records and reports."""

_KINDS = ('comparison', 'search', 'sequence')
_GIVEN = ('run_name', 'run_folder', 'seed', 'overwrite', 'autoresume', 'save_folder', 'save_latest_filename')
_TAGS = ('study', 'kind', 'method', 'replicate', 'index', 'role', 'step', 'params')
_LARGEST_SEED = 2**32 - 1


def check_together(spec: StudySpec) -> None:
    """Check a study whose keys are all well by themselves.

    Raises:
        ValueError: With the path first, as pydantic's validators are answered.
    """
    _one_kind(spec)
    _names(spec)
    _keys(spec)
    _teaching(spec)
    _seeds(spec)
    if spec.search is not None and spec.search.gpu_hours is not None and spec.where.launcher == 'in_process':
        raise ValueError(".search.gpu_hours: runs 'in_process' use no GPU and would never end; give hours or runs.")


def _one_kind(spec: StudySpec) -> None:
    kinds = [kind for kind in _KINDS if getattr(spec, kind) is not None]
    if len(kinds) != 1:
        raise ValueError(f"expected exactly one of {', '.join(_KINDS)}, got {' and '.join(kinds) or 'none of them'}.")


def _names(spec: StudySpec) -> None:
    if not spec.methods:
        raise ValueError('.methods: expected at least one method, got none; leave the key out for a single one.')
    slugs: dict[str, str] = {}
    for name in spec.methods:
        short = slug(name)
        if not short or len(short) > 80:
            raise ValueError(
                f".methods.{name}: expected a name with a letter or a digit of at most 80 letters, got {name!r}.",
            )
        if name == EARLIER:
            raise ValueError(f".methods.{name}: is what the runs that teach are called; choose another name.")
        if short in slugs:
            raise ValueError(
                f".methods.{name}: its runs would be called '{short}-...', as those of '{slugs[short]}' are; choose "
                'another name.',
            )
        slugs[short] = name
    for key in ('baseline', 'reference'):
        if getattr(spec.report, key) is not None:
            known_method(getattr(spec.report, key), spec.methods, f'.report.{key}')
    if spec.report.reference is not None and spec.report.reference == spec.baseline:
        raise ValueError(f".report.reference: '{spec.baseline}' is the baseline; name the method with the KD overhead.")


def _keys(spec: StudySpec) -> None:
    sets: dict[str, Mapping[str, Any]] = {'set': spec.set}
    for name, method in spec.methods.items():
        sets[f'methods.{name}.set'] = {key: value for key, value in method.set.items() if key not in spec.set}
    varied: dict[str, Iterable[str]] = {}
    if spec.comparison is not None:
        varied['comparison.durations'] = ['max_duration']
        if spec.comparison.earlier is not None:
            sets['comparison.earlier.set'] = spec.comparison.earlier.set
    if spec.search is not None:
        sets['search.space'] = spec.search.space
        varied['search.space'] = spec.search.space
    if spec.sequence is not None:
        for index, step in enumerate(spec.sequence.steps):
            sets[f'sequence.steps[{index}]'] = varied[f'sequence.steps[{index}]'] = step
    for where, entries in sets.items():
        for key in entries:
            _not_given(key, where)
            by = [name for name, keys in varied.items() if name != where and not where.startswith('sequence.')
                  and any(_same(key, other) for other in keys)]
            if by:
                given = 'comparison.earlier.duration' if where == 'comparison.earlier.set' else by[0]
                raise ValueError(f".{where}: '{key}' is given by {given}; leave it out of one of them.")


def _not_given(key: str, where: str) -> None:
    first, _, rest = key.partition('.')
    if first in _GIVEN or (first == 'tags' and rest in _TAGS):
        instead = ' Its seeds stand under seeds.' if first == 'seed' else ''
        raise ValueError(f".{where}: '{key}' is given by the study itself; leave it out.{instead}")


def _same(key: str, other: str) -> bool:
    return key == other or key.startswith(f'{other}.') or other.startswith(f'{key}.')


def _teaching(spec: StudySpec) -> None:
    taught = {name: method.teachers for name, method in spec.methods.items() if method.teachers is not None}
    if spec.distillation and not taught:
        raise ValueError('.distillation: there is nobody to learn from; say which runs teach under teachers.')
    for name in taught:
        given = [key for key in spec.methods[name].set if _same(key, 'algorithms.distillation.teachers')
                 and key.startswith('algorithms.distillation')]
        if given:
            raise ValueError(
                f".methods.{name}.set: '{given[0]}' is given by the study's teachers; leave it out, or set teachers to "
                'null for this method.',
            )
    if spec.comparison is None:
        return
    earlier = spec.comparison.earlier
    for name, policy in taught.items():
        there = len(policy.runs) + (earlier.runs if earlier else 0)
        if there == 0:
            raise ValueError(
                f".methods.{name}.teachers: there are no earlier runs to learn from. Say how they are made under "
                'comparison.earlier, or name run folders under teachers.runs.',
            )
        if policy.count > there:
            raise ValueError(
                f".methods.{name}.teachers.count: asks for {policy.count} teachers, and there are {there}; raise "
                'comparison.earlier.runs or lower it.',
            )
    if earlier is None:
        return
    if earlier.method is not None:
        known_method(earlier.method, spec.methods, '.comparison.earlier.method')
    elif spec.baseline is None:
        raise ValueError(
            '.comparison.earlier: missing method; all methods have teachers, so say with whose recipe the earlier runs '
            'are made.',
        )


def _seeds(spec: StudySpec) -> None:
    # Of a search or sequence, seeds are those of its chains: its runs have 1000 * seed + index.
    largest = _LARGEST_SEED if spec.comparison is not None else _LARGEST_SEED // 1000 - 100
    if max(spec.seeds) > largest:
        raise ValueError(f'.seeds: expected numbers up to {largest}, got {max(spec.seeds)}.')
    earlier = spec.comparison.earlier if spec.comparison is not None else None
    if earlier is None:
        return
    last = earlier.first_seed + earlier.runs - 1
    if last > _LARGEST_SEED:
        raise ValueError(f'.comparison.earlier.first_seed: the last seed would be {last}, above {_LARGEST_SEED}.')
    shared = [seed for seed in spec.seeds if earlier.first_seed <= seed <= last]
    if shared:
        raise ValueError(
            f'.seeds: {shared[0]} is the seed of an earlier run too, which would teach a run that begins with its own '
            'weights; choose another comparison.earlier.first_seed.',
        )
