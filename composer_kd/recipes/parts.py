"""The objects of a training that need neither data nor accelerator, from a recipe."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.core import Algorithm, Callback
from composer.models import ComposerModel
from composer.optim import ComposerScheduler
from composer.utils import reproducibility

from composer_kd.callbacks import RunRecorder
from composer_kd.components import ALGORITHMS, CALLBACKS, OPTIMIZERS, SCHEDULERS
from composer_kd.distillation import Distillation
from composer_kd.models import MODELS, Traits, build_model
from composer_kd.names import Registry, check_settings, nearest
from composer_kd.recipes.errors import is_ours
from composer_kd.recipes.hints import check_types, hints_of
from composer_kd.recipes.schema import Recipe
from composer_kd.recipes.start import start
from composer_kd.recipes.tasks.sees import traits_of_data
from composer_kd.teachers.stores import refuse_changed_inputs

ALGORITHMS.register('distillation')(Distillation)
CALLBACKS.register('run_recorder')(RunRecorder)


@dataclass(frozen=True)
class Parts:
    """What a training is made of, data and Trainer apart."""

    model: ComposerModel
    optimizer: torch.optim.Optimizer
    schedulers: list[ComposerScheduler]
    algorithms: list[Algorithm]
    callbacks: list[Callback]


def check_component(target: Any, settings: Mapping[str, Any], where: str, given: Iterable[str] = ()) -> None:
    """Hold settings against the names and the types of what they will be given to.

    Raises:
        ValueError: For an unknown or missing setting.
        TypeError: For a value of a type that its parameter does not take.
    """
    check_settings(target, settings, where, given=given)
    check_types(settings, hints_of(target), where, target)


def construct(registry: Registry[Any], name: str, settings: Mapping[str, Any], where: str, **given: Any) -> Any:
    """Build a component after its settings were checked; what it refuses is told with its path in the recipe.

    Args:
        registry: Where to look the name up.
        name: Its name.
        settings: Keyword arguments from the recipe.
        where: Its path in the recipe.
        **given: Arguments that the recipe does not set.

    Raises:
        ValueError: For an unknown name or setting, or a value that the component refuses.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a file or folder that the component misses.
    """
    target = registry.get(name, where)
    check_component(target, settings, where, given)
    return told_at(where, name, target, lambda: target(**given, **settings))


def told_at(where: str, name: str, target: Any, make: Callable[[], Any]) -> Any:
    """Call, and tell what is refused with its path in the recipe.

    Args:
        where: The path.
        name: The name of what is made.
        target: What it is made with: a message that begins with one of its parameters goes on from the path.
        make: What to call.
    """
    try:
        return make()
    except (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError,
            ValueError) as error:
        kind = next((kind for kind in (FileNotFoundError, TypeError) if isinstance(error, kind)), ValueError)
        raise kind(_at(where, error, target, name)) from error


def _at(where: str, error: Exception, target: Any, name: str) -> str:
    told = ' '.join(str(error).split())
    first = re.match(r'\w+(?=[.\[: ])', told)
    if first and first[0] in inspect.signature(target).parameters:
        return f'{where}.{told}'
    return f'{where}: {told}' if is_ours(error) else f'{where}: {name!r} refused its settings: {told}'


def _model(recipe: Recipe) -> ComposerModel:
    settings = dict(recipe.model)
    name = settings.pop('name')
    check_component(MODELS.get(name, 'model'), settings, 'model')
    # The Trainer seeds only after it is given a model, and differently on every rank.
    reproducibility.seed_all(recipe.seed)
    return build_model(recipe.model)


def _check_metrics(recipe: Recipe, model: ComposerModel) -> None:
    known = list(model.get_metrics(is_train=False))
    for label, spec in recipe.evaluators.items():
        for index, pattern in enumerate(spec.metric_names or ()):
            try:
                fits = any(re.match(pattern, metric) for metric in known)
            except re.error as error:
                raise ValueError(
                    f'evaluators.{label}.metric_names[{index}]: {pattern!r} is no regular expression: {error}.',
                ) from None
            if not fits:
                raise ValueError(
                    f'evaluators.{label}.metric_names[{index}]: {pattern!r} matches none of the metrics of the model.'
                    f"{nearest(pattern, known)} They are: {', '.join(known)}.",
                )


def _check_own_teacher(recipe: Recipe) -> None:
    teachers = recipe.algorithms.get('distillation', {}).get('teachers')
    here = Path(recipe.run_folder).resolve()
    for index, teacher in enumerate(teachers if isinstance(teachers, list) else [teachers]):
        run = teacher.get('run') if isinstance(teacher, Mapping) else None
        if isinstance(run, str) and Path(run).resolve() == here:
            raise ValueError(
                f'algorithms.distillation.teachers[{index}].run: {run!r} is the folder this run itself is written to. '
                'Give the run another run_name or run_folder, or another teacher.',
            )


def make_parts(recipe: Recipe, digest: str | None = None) -> Parts:
    """Build model, optimizer, schedulers, algorithms and callbacks, the model's weights drawn from the recipe's seed.

    Args:
        recipe: The recipe.
        digest: Of the recipe, for the run's record.

    Raises:
        ValueError: For anything in the recipe that one of them refuses, with its path.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher, or missing weights to start from.
    """
    _check_own_teacher(recipe)
    model = _model(recipe)
    seen = traits_of_data(recipe.train_data)
    if seen != Traits():
        model.traits = seen  # type: ignore[assignment]
    start(model, recipe)
    _check_metrics(recipe, model)
    settings = dict(recipe.optimizer)
    optimizer = construct(OPTIMIZERS, settings.pop('name'), settings, 'optimizer', params=model.parameters())
    schedulers = []
    for index, scheduler in enumerate(recipe.schedulers):
        where = f'scheduler[{index}]' if isinstance(recipe.scheduler, list) else 'scheduler'
        settings = dict(scheduler)
        schedulers.append(construct(SCHEDULERS, settings.pop('name'), settings, where))
    algorithms = [
        construct(ALGORITHMS, name, settings, f'algorithms.{name}') for name, settings in recipe.algorithms.items()
    ]
    if any(algorithm.stored for algorithm in algorithms if isinstance(algorithm, Distillation)):
        refuse_changed_inputs(algorithms, 'algorithms.distillation.teachers')
    record: dict[str, Any] = {
        'run_folder': recipe.run_folder, 'recipe_digest': digest, 'seed': recipe.seed, 'tags': recipe.tags,
    }
    callbacks = []
    for name, settings in {**recipe.callbacks, 'run_recorder': recipe.callbacks.get('run_recorder', {})}.items():
        given = record if name == 'run_recorder' else {}
        callbacks.append(construct(CALLBACKS, name, settings, f'callbacks.{name}', **given))
    return Parts(model, optimizer, schedulers, algorithms, callbacks)
