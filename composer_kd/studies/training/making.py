"""From a job to a recipe."""

from __future__ import annotations

import copy
import hashlib
import os
from typing import Any

from composer_kd.names import nearest
from composer_kd.recipes import Recipe, check_recipe, parse_recipe
from composer_kd.recipes.layers import place, read_layers, resolve
from composer_kd.recipes.parts import ALGORITHMS, Parts, construct
from composer_kd.studies.work.jobs import Answers, Job
from composer_kd.teachers.stores import refuse_changed_inputs


def make_recipe(job: Job) -> Recipe:
    """The recipe of a run.

    Raises:
        FileNotFoundError: If the recipe's file is gone.
        ValueError: For what no recipe may say.
    """
    said = read_layers(job.recipe)
    for key, value in {
        **job.set, 'run_name': job.run_name, 'run_folder': job.run_folder, 'seed': job.seed,
    }.items():
        said = place(said, key, value)
    said['tags'] = {**(said.get('tags') or {}), **job.tags}
    if job.distillation is not None:
        algorithms = dict(said.get('algorithms') or {})
        own = algorithms.pop('distillation', None) or {}
        said['algorithms'] = algorithms
        if job.teachers:
            settings = {**own, **job.distillation, 'teachers': [_teacher(job, folder) for folder in job.teachers]}
            said = place(said, 'algorithms.distillation', settings)
    return parse_recipe(resolve(said, job.recipe))


def _teacher(job: Job, folder: str) -> dict[str, Any]:
    if job.answers is None:
        return {'run': folder}
    name = os.path.basename(os.path.normpath(folder))
    if os.path.dirname(os.path.abspath(folder)) != os.path.dirname(os.path.abspath(job.run_folder)):
        # runs from elsewhere may have the same names
        name += f'-{hashlib.sha256(os.path.abspath(folder).encode()).hexdigest()[:8]}'
    return {'run': folder, 'cache': _cache(job.answers, name)}


def _cache(answers: Answers, name: str) -> dict[str, Any]:
    said = {'path': os.path.join(answers.folder, name), 'fill': True}
    return said if answers.format is None else {**said, 'format': answers.format}


def check(job: Job) -> None:
    """Build what can be built without data, accelerator and teachers.

    Raises:
        ValueError: For what the training would refuse.
        TypeError: Likewise.
        FileNotFoundError: For a missing file.
    """
    recipe = make_recipe(job.model_copy(update={'teachers': []}))
    parts = check_recipe(recipe)
    _check_metric(job.metric, recipe, parts)
    if job.distillation is not None:
        own = dict((read_layers(job.recipe).get('algorithms') or {}).get('distillation') or {})
        settings = {**own, **job.distillation}
        settings.pop('teachers', None)
        # Its teachers are yet to be trained; the student itself answers as they would.
        teachers: list[Any] = [{'module': copy.deepcopy(parts.model)} for _ in range(max(1, len(job.teachers)))]
        if job.answers is not None:
            refuse_changed_inputs(parts.algorithms, 'cache')
            # of the name of no run, so not there yet
            teachers = [{**said, 'cache': _cache(job.answers, f'.{i}')} for i, said in enumerate(teachers)]
        built = construct(ALGORITHMS, 'distillation', settings, 'distillation', teachers=teachers)
        if job.answers is not None:
            built.check_teachers(parts.model)


def _check_metric(metric: str, recipe: Recipe, parts: Parts) -> None:
    known = [f'{label}/{name}' for label in recipe.evaluators for name in parts.model.get_metrics(is_train=False)]
    if metric not in known:
        raise ValueError(
            f"metric: no run would be evaluated with '{metric}'.{nearest(metric, known)} Evaluators and metrics of "
            f"'{recipe.run_name}': {', '.join(known) or 'none'}.",
        )
    if recipe.eval_interval in (0, '0ba', '0ep') or recipe.save_interval in (0, '0ba', '0ep'):
        raise ValueError(
            'eval_interval and save_interval: a study needs the quality at the end of a run and its checkpoint; give '
            "both, as in '1dur'.",
        )
