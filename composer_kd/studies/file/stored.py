"""Whether the runs of a method can share stored answers, told before any of them is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from composer_kd.recipes.layers import place
from composer_kd.studies.file.fields import parse_duration
from composer_kd.studies.file.parts import Method

if TYPE_CHECKING:
    from composer_kd.studies.file.schema import StudySpec

_SAME_SAMPLES = tuple(f'train_data.{key}' for key in ('batch_size', 'num_workers', 'part', 'train_size'))
"""What may differ between runs that share answers: the samples are the same ones, or some of them."""


def check_stored(spec: StudySpec, recipes: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse stored answers that no second run could read, and those that nobody would read twice.

    Args:
        spec: The study.
        recipes: What its recipes say, by their paths.

    Raises:
        ValueError: Naming the method.
    """
    for name, method in spec.methods.items():
        if method.cache is not None:
            where = f'methods.{name}.cache'
            recipe: dict[str, Any] = dict(recipes[method.recipe])
            try:
                for key, value in method.set.items():
                    recipe = place(recipe, key, value)
            except ValueError as error:
                raise ValueError(f'methods.{name}.set: {error}') from None
            _views(where, recipe, spec)
            if _teaches_once(spec, method):
                _read_again(where, recipe, method)
            else:
                _one_data(where, spec)


def _mapping(said: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """What stands under a key, if it is what should; what is not is told when the recipe is made."""
    found = said.get(key)
    return found if isinstance(found, Mapping) else {}


def _views(where: str, recipe: Mapping[str, Any], spec: StudySpec) -> None:
    said = set(_mapping(recipe, 'train_data'))
    if spec.sequence is not None:
        given = [{key.removeprefix('train_data.') for key in step} for step in spec.sequence.steps]
        said |= set.intersection(*given)
    missing = [key for key in ('views', 'view_seed') if key not in said]
    if missing:
        raise ValueError(
            f"{where}: the recipe has no {' and no '.join(f'train_data.{key}' for key in missing)}, so every epoch of "
            'every run would show its samples in a way of its own, and no stored answer would be one to what a later '
            'run shows. Set both for all methods, as in set: {train_data.views: 4, train_data.view_seed: 0}.',
        )


def _teaches_once(spec: StudySpec, method: Method) -> bool:
    """Whether no teacher teaches two runs of the method."""
    assert method.teachers is not None
    if spec.comparison is not None:
        return len(spec.comparison.durations) * len(spec.seeds) == 1
    if spec.sequence is not None and len(spec.sequence.steps) <= 2:
        return True
    policy = method.teachers
    return policy.policy == 'latest' and policy.count == 1


def _read_again(where: str, recipe: Mapping[str, Any], method: Method) -> None:
    views = _mapping(recipe, 'train_data').get('views')
    taught = _epochs(recipe, method)
    if taught is not None and isinstance(views, int) and views >= taught:
        raise ValueError(
            f'{where}: nothing would be gained. Each teacher teaches one run here, which learns from it in '
            f'{taught:g} epochs and would show {views} views of its samples, each once at most: every answer would be '
            'written and none read. Set fewer train_data.views, or let a teacher teach several runs (teachers: all, '
            'best, {top: 2}, {latest: 2}).',
        )


def _epochs(recipe: Mapping[str, Any], method: Method) -> float | None:
    """Epochs until the window closes; ``None`` where they cannot be told."""
    said = recipe.get('max_duration')
    try:
        epochs, unit = parse_duration(f'{said}ep' if isinstance(said, int) else said)
    except ValueError:
        return None
    settings = {**_mapping(_mapping(recipe, 'algorithms'), 'distillation'), **method.distillation}
    end = re.fullmatch(r'(\d*\.?\d+)(dur|ep)', str(settings.get('end', '1dur')))
    if unit != 'ep' or end is None:
        return None
    return min(epochs, float(end[1]) * (epochs if end[2] == 'dur' else 1.0))


def _one_data(where: str, spec: StudySpec) -> None:
    for name, keys in _varied(spec):
        for key in keys:
            first = key.partition('.')[0]
            if first == 'train_data' and key not in _SAME_SAMPLES:
                raise ValueError(
                    f"{where}: '{key}' differs from run to run ({name}), and stored answers are answers to one data, "
                    f"shown in one way. Leave one of them out; {', '.join(_SAME_SAMPLES)} may differ.",
                )


def _varied(spec: StudySpec) -> Iterator[tuple[str, list[str]]]:
    if spec.search is not None:
        yield 'search.space', list(spec.search.space)
    steps = spec.sequence.steps if spec.sequence is not None else []
    for key in dict.fromkeys(key for step in steps for key in step):
        # what all steps say alike does not differ
        if any(step.get(key, steps) != steps[0].get(key, steps) for step in steps):
            yield 'sequence.steps', [key]
