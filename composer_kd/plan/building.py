"""The models of a recipe on the meta device: no weight is drawn and none is read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import composer.algorithms
import torch
from composer.models import ComposerModel

from composer_kd.answers import Store
from composer_kd.callbacks import untouched
from composer_kd.components import ALGORITHMS
from composer_kd.models import apply_surgery, build_model
from composer_kd.plan.neighbours import Neighbours
from composer_kd.plan.result import Level
from composer_kd.recipes import Recipe, check_recipe
from composer_kd.recipes.parts import Parts, construct
from composer_kd.runs import RunFolder
from composer_kd.teachers import TeacherSpec, kind_of, known_outputs, live_kind, outputs_known, parse_teachers

WHERE = 'algorithms.distillation'


@dataclass(frozen=True)
class Built:
    """A teacher on the meta device, and what there is to say of it.

    Attributes:
        name: In the pool.
        weight: Its share.
        origin: Where it comes from, as the recipe says it.
        model: The model; ``None`` where its architecture is not known.
        said: Its architecture in words.
        tokenizer: The name of its tokenizer, where it has one.
        outputs: Its classes or words; ``None`` where not known.
        note: What a reader should know, as that it is fetched from elsewhere.
        made_by: For a run that is not here: the recipe that would make it, and what overrides it.
        missing: Why it cannot teach on this machine.
        wrong: Why it could not teach on any.
        stored: Bytes of its stored answers, where these are all that is left of it; ``None`` of a model.
        kept: Level and text of what is to be said of the store beside it.
    """

    name: str
    weight: float = 1.0
    origin: str = ''
    model: torch.nn.Module | None = None
    said: str = ''
    tokenizer: str | None = None
    outputs: int | None = None
    note: str = ''
    made_by: str = ''
    missing: str = ''
    wrong: str = ''
    stored: int | None = None
    kept: tuple[Level, str] | None = None


def in_words(component: Mapping[str, Any] | str) -> str:
    """A component as text: its name and settings.

    Example:
        >>> in_words({'name': 'resnet', 'depth': 50})
        'resnet (depth 50)'
    """
    if isinstance(component, str):
        return component
    settings = ', '.join(f'{key} {value}' for key, value in component.items() if key != 'name')
    return f"{component['name']} ({settings})" if settings else str(component['name'])


def build_parts(recipe: Recipe) -> tuple[Parts, dict[str, str]]:
    """Everything but data and teachers, on the meta device, the student after the algorithms' surgery.

    Returns:
        The parts, and what Composer's algorithms warn of, by their names.

    Raises:
        ValueError: For anything that :func:`composer_kd.recipes.check_recipe` refuses.
        TypeError: For a value of a wrong type.
    """
    without = {name: settings for name, settings in recipe.algorithms.items() if name != 'distillation'}
    with untouched(), torch.device('meta'), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter('always')
        parts = check_recipe(recipe.model_copy(update={'algorithms': without, 'start_from': None}))
        apply_surgery(parts.model, without)
    # Composer's algorithms stand in folders of their names.
    told = {
        Path(warning.filename).parent.name: ' '.join(str(warning.message).split())
        for warning in warned if warning.filename.startswith(str(Path(composer.algorithms.__path__[0])))
    }
    return parts, told


def build_distillation(recipe: Recipe) -> dict[str, Any] | None:
    """The settings of the recipe's ``Distillation``, checked, with strangers in the teachers' place.

    Returns:
        :attr:`composer_kd.Distillation.settings`, or ``None`` if the recipe has none.

    Raises:
        ValueError: For settings that it refuses.
        TypeError: For a value of a wrong type.
    """
    if 'distillation' not in recipe.algorithms:
        return None
    settings = dict(recipe.algorithms['distillation'])
    if 'teachers' in settings:
        settings['teachers'] = [
            {'module': torch.nn.Identity(), **{key: item[key] for key in ('name', 'weight') if key in item}}
            for item in teachers_of(recipe)
        ]
    with untouched():
        built = construct(ALGORITHMS, 'distillation', settings, WHERE)
    # As it was given: a bare number is kept as text, and text without a unit is no interval.
    return {**built.settings, 'interval': settings.get('interval', 1)}


def teachers_of(recipe: Recipe) -> list[dict[str, Any]]:
    """The recipe's teachers as it says them."""
    teachers = recipe.algorithms.get('distillation', {}).get('teachers', [])
    items = teachers if isinstance(teachers, list) else [teachers]
    return [dict(item) for item in items if isinstance(item, Mapping)]


def build_teacher(
    item: Mapping[str, Any], index: int, recipe: Recipe, student: ComposerModel, neighbours: Neighbours,
) -> Built:
    """One teacher, as far as it is known here.

    Args:
        item: What the recipe says of it.
        index: Its place in the pool.
        recipe: The recipe.
        student: The student, whose architecture a checkpoint without ``model`` has.
        neighbours: The recipes in which that of a run which is not here yet is looked for.
    """
    where = f'{WHERE}.teachers[{index}]'
    name, weight = str(item.get('name') or f'teacher{index}'), float(item.get('weight', 1.0))
    if 'cache' in item:
        if live_kind(item) is None:
            return _stored(item, where, name, weight)
        alone = {key: value for key, value in item.items() if key != 'cache'}
        return replace(build_teacher(alone, index, recipe, student, neighbours), kept=_beside(item['cache'], where))
    kind = live_kind(item) or ''
    origin, missing, note, made_by = f'{kind}:{item.get(kind)}', '', '', ''
    spec: TeacherSpec | None = None
    try:
        spec = parse_teachers([item])[0]
        origin = spec.origin
    except FileNotFoundError as error:
        missing = _from(str(error), where)
        if kind == 'run' and not Path(str(item['run'])).exists():
            missing = f"there is no run '{item['run']}' on this machine."
    except (ValueError, TypeError, OSError) as error:  # the last for a path too long to be one
        missing = _from(str(error), where)
        if kind != 'run':
            return Built(name, weight, origin, wrong=missing)
    if spec is not None and not spec.here:
        note = 'not on this machine'
    model: torch.nn.Module | None = None
    said, algorithms = item.get('model'), item.get('algorithms') or {}
    try:
        with untouched(), torch.device('meta'):
            if kind not in ('run', 'checkpoint') and spec is not None:
                return _of_kind(spec, name, weight, note)
            if kind == 'run':
                said, algorithms, made_by = _recipe_of_run(str(item['run']), neighbours)
            elif said is None:
                said, algorithms = recipe.model, recipe.algorithms
            if said is not None:
                model = apply_surgery(build_model(said, f'{where}.model'), algorithms)
    except (ValueError, TypeError, FileNotFoundError) as error:
        wrong = str(error).removeprefix(f'{where}.')
        return Built(name, weight, origin, said=in_words(said) if said else '', missing=missing, wrong=wrong)
    tokenizer = said.get('tokenizer') if isinstance(said, Mapping) else None
    outputs = None if model is None else _compared(spec, outputs_known(model))
    words = in_words(said) if said else ''
    return Built(name, weight, origin, model, words, tokenizer, outputs, note, made_by, missing)


def _of_kind(spec: TeacherSpec, name: str, weight: float, note: str) -> Built:
    """A teacher of another kind: its architecture, where its kind can make that alone."""
    kind, words = kind_of(spec.kind), f'{spec.kind} {spec.source}'
    outputs = known_outputs(spec)
    if kind.architecture is None or (note and spec.kind == 'hf'):
        return Built(name, weight, spec.origin, None, f'{words}, its cost not known before', None, outputs, note)
    model = kind.architecture(spec.source, **spec.settings)
    outputs = outputs_known(model) if outputs is None else outputs
    return Built(name, weight, spec.origin, model, words, None, _compared(spec, outputs), note)


def _compared(spec: TeacherSpec | None, outputs: int | None) -> int | None:
    """How many outputs must be as many as the student's."""
    return None if spec is not None and spec.align.vocabulary == 'shared' else outputs


def _stored(item: Mapping[str, Any], where: str, name: str, weight: float) -> Built:
    """A teacher of whom only answers are left: nothing is built, and nothing runs."""
    said = item['cache']
    origin = f"cache:{said.get('path') if isinstance(said, Mapping) else said}"
    try:
        spec = parse_teachers([item])[0]
        if not spec.here:
            return Built(name, weight, spec.origin, said='stored answers', note='not on this machine', stored=0)
        store = Store.open(str(spec.source), f'{where}.cache')
    except FileNotFoundError as error:
        return Built(name, weight, origin, said='stored answers', missing=_from(str(error), where), stored=0)
    except (ValueError, TypeError, OSError) as error:
        return Built(name, weight, origin, said='stored answers', wrong=_from(str(error), where), stored=0)
    form, teacher = store.format, store.manifest.teacher.get('origin', 'unknown')
    words = f'stored answers of {teacher} ({form.describe()}; {store.samples:,} samples)'
    return Built(name, weight, spec.origin, said=words, outputs=form.classes, stored=store.bytes)


def _beside(cache: Any, where: str) -> tuple[Level, str] | None:
    """What is to be said of the store beside a teacher."""
    try:
        # what it stands beside is looked at by itself
        spec = parse_teachers([{'module': torch.nn.Identity(), 'cache': cache}])[0]
        if spec.cache is None:
            return None
        store = Store.open(spec.cache.path, f'{where}.cache')
    except FileNotFoundError as error:
        if isinstance(cache, Mapping) and cache.get('fill') is True:
            return 'note', 'answers will be stored there; those that are read, in later epochs and runs, cost no FLOPs.'
        return 'warning', _from(str(error), where)
    except (ValueError, TypeError, OSError) as error:
        return 'error', _from(str(error), where)
    return 'note', (
        f'{store.samples:,} answers ({store.format.describe()}) are stored there, {store.bytes:,} bytes; those that '
        'are read cost no FLOPs, and the figures here count as if none were.'
    )


def _from(told: str, where: str) -> str:
    return re.sub(r'^teachers\[0\][.\w]*: ?', '', told) or where


def _recipe_of_run(folder: str, neighbours: Neighbours) -> tuple[Any, Mapping[str, Any], str]:
    """Architecture and algorithms of a run: by its own recipe, or by the recipe that would make it."""
    try:
        said = RunFolder(folder).read_recipe()
        return said.get('model'), said.get('algorithms') or {}, ''
    except (OSError, ValueError):
        found = neighbours.making(folder)
    return (None, {}, '') if found is None else (found[1].model, found[1].algorithms, found[0])
