"""From a recipe to a training."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from composer import Callback, Trainer
from composer.core import DataSpec, Evaluator
from composer.models import ComposerModel
from composer.utils import dist, get_device
from torch.distributed.checkpoint import state_dict

from composer_kd.names import split_named
from composer_kd.recipes.errors import cannot_write, is_ours
from composer_kd.recipes.extras import check_extras, make_extras, make_loggers
from composer_kd.recipes.fits import check_fit, tell_traits
from composer_kd.recipes.folder import ReleaseFolder, claim_folder, recipe_digest
from composer_kd.recipes.mending import has_checkpoint, told_of_disk
from composer_kd.recipes.nodes import SameBuffers, name_signal_files_by_node
from composer_kd.recipes.parts import Parts, check_component, construct, make_parts, told_at
from composer_kd.recipes.resume import end_training, is_over, restore_randomness
from composer_kd.recipes.schema import OWN, RENAMED, Recipe
from composer_kd.recipes.tasks import DATA, SHAPES
from composer_kd.recipes.trust import guarded_loading
from composer_kd.runs import RunFolder

_BUILT = {
    *OWN, *RENAMED.values(), 'model', 'algorithms', 'callbacks', 'loggers', 'algorithm_passes', 'load_object_store',
    'profiler', 'parallelism_config', 'precision_config', 'save_folder',
}


def cap_threads() -> None:
    """Share this machine's cores between the ranks that run on it, unless ``OMP_NUM_THREADS`` is set.

    Composer's launcher leaves every rank with as many threads as there are cores, which is several times slower.
    """
    ranks = dist.get_local_world_size()
    if ranks > 1 and 'OMP_NUM_THREADS' not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // ranks))


def _data_specs(recipe: Recipe) -> dict[str, dict[str, Any]]:
    specs = {'train_data': recipe.train_data}
    for label, evaluator in recipe.evaluators.items():
        specs[f'evaluators.{label}.data'] = {'batch_size': recipe.train_data['batch_size'], **evaluator.data}
    return specs


def _split_data(spec: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any], int]:
    name, settings = split_named(spec, where)
    size, ranks = settings.pop('batch_size'), dist.get_world_size()
    if size % ranks:
        raise ValueError(
            f'{where}.batch_size: {size} samples cannot be divided evenly over {ranks} ranks; make it a multiple of '
            f'{ranks}, for instance {max(1, size // ranks) * ranks}.',
        )
    return name, settings, size // ranks


def check_data(recipe: Recipe) -> None:
    """Check names and types of the settings of all data.

    Raises:
        ValueError: For what the data would refuse, with its path in the recipe.
        TypeError: For a value of a wrong type.
    """
    for where, spec in _data_specs(recipe).items():
        name, settings, size = _split_data(spec, where)
        train = where == 'train_data'
        given = {'batch_size': size, 'seed': recipe.seed, 'train': train}
        check_component(DATA.get(name, where), settings, where, given)


def look_at_data(recipe: Recipe) -> None:
    """Look at the data that lies on this machine from outside: splits, files and their sizes, no samples.

    Raises:
        ValueError: For what is wrong with it or with its settings, with the path in the recipe.
        FileNotFoundError: For a file that is missing.
    """
    for where, spec in _data_specs(recipe).items():
        name, settings, _ = _split_data(spec, where)
        if name in SHAPES:
            told_at(where, name, DATA.get(name, where), partial(SHAPES[name], where == 'train_data', **settings))


def check_recipe(recipe: Recipe) -> Parts:
    """Check everything that needs no data and no accelerator, by building what can be built without them.

    Args:
        recipe: The recipe.

    Returns:
        Model, optimizer, schedulers, algorithms and callbacks.

    Raises:
        ValueError: For anything the recipe asks for that is unknown, missing or refused, with its path.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher.

    Example:
        >>> from composer_kd.recipes import load_recipe
        >>> parts = check_recipe(load_recipe('yamls/digits/baseline.yaml'))
        >>> sum(parameter.numel() for parameter in parts.model.parameters())
        14362
    """
    check_data(recipe)
    check_extras(recipe)
    return make_parts(recipe, recipe_digest(recipe.plain()))


def build_train_data(recipe: Recipe, batch_size: int | None = None) -> DataSpec:
    """The data that a recipe trains on.

    Args:
        recipe: The recipe.
        batch_size: Samples of one rank's batch; ``None`` for the recipe's share.

    Raises:
        ValueError: For a setting that it refuses, with its path, and for damaged data.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For data that is not there.
    """
    name, settings, size = _split_data(recipe.train_data, 'train_data')
    built = construct(
        DATA, name, settings, 'train_data', batch_size=batch_size or size, seed=recipe.seed, train=True,
    )
    return built if isinstance(built, DataSpec) else DataSpec(built)


def _build_data(recipe: Recipe, model: ComposerModel) -> tuple[Any, list[Evaluator]]:
    built = {}
    for where, spec in _data_specs(recipe).items():
        name, settings, size = _split_data(spec, where)
        built[where] = construct(
            DATA, name, settings, where, batch_size=size, seed=recipe.seed, train=where == 'train_data',
        )
    check_fit(model, built)
    tell_traits(model, built['train_data'])
    evaluators = [
        Evaluator(
            label=label,
            dataloader=built[f'evaluators.{label}.data'],
            metric_names=spec.metric_names,
            subset_num_batches=spec.subset_num_batches,
            eval_interval=spec.interval,
            device_eval_microbatch_size=spec.device_eval_microbatch_size,
        )
        for label, spec in recipe.evaluators.items()
    ]
    return built['train_data'], evaluators


def build_trainer(recipe: Recipe, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Check a recipe, make its run folder this run's own, and build the Trainer.

    An unfinished run of the same recipe in that folder is resumed by ``fit()``. The folder is locked for other
    processes until the trainer is closed or this process ends.

    Args:
        recipe: The recipe.
        callbacks: Further ones, run after the recipe's own; they are no part of the recipe.

    Returns:
        The Trainer, ready for ``fit()``.

    Raises:
        ValueError: For what :func:`check_recipe` refuses, a batch that the ranks cannot share evenly, data that cannot
            be built, or a run folder that is another run's or in another process's hands.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher.

    Example:
        >>> import tempfile
        >>> from composer_kd.recipes import load_recipe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recipe = load_recipe('yamls/digits/baseline.yaml', [f'run_folder={folder}/a', 'max_duration=2ba'])
        ...     trainer = build_trainer(recipe)
        ...     trainer.fit()
        ...     trainer.close()
        >>> trainer.state.timestamp.batch
        Time(2, TimeUnit.BATCH)
    """
    cap_threads()
    parts = check_recipe(recipe)
    if dist.get_world_size() > 1:
        name_signal_files_by_node()
        dist.initialize_dist(get_device(recipe.device), recipe.dist_timeout)
    train_data, evaluators = _build_data(recipe, parts.model)
    start, lock = claim_folder(recipe)
    try:
        trainer = _make_trainer(recipe, start, parts, callbacks, train_data, evaluators)
        restore_randomness(trainer)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    # Not among those the Trainer is made with: a checkpoint of a version that had no such callback would lack it.
    trainer.state.callbacks += [SameBuffers(), ReleaseFolder(lock)]
    return trainer


def _make_trainer(
    recipe: Recipe, start: int, parts: Parts, callbacks: Sequence[Callback], train_data: Any,
    evaluators: Sequence[Evaluator],
) -> Trainer:
    plain = {name: getattr(recipe, name) for name in Recipe.model_fields if name not in _BUILT}
    arguments = {**make_extras(recipe), **plain}
    try:
        with guarded_loading(recipe):
            return Trainer(
                model=parts.model,
                train_dataloader=train_data,
                optimizers=parts.optimizer,
                schedulers=parts.schedulers or None,
                eval_dataloader=evaluators or None,
                algorithms=parts.algorithms,
                callbacks=[*parts.callbacks, *callbacks],
                loggers=make_loggers(recipe, start),
                save_folder=recipe.save_folder or str(RunFolder(recipe.run_folder).checkpoints),
                **arguments,
            )
    except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
        if is_ours(error):
            raise
        told = cannot_write(recipe.run_folder, error)
        if told is None:
            told = f"Composer refused to set this training up: {type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(told) from error


def forget(trainer: Trainer) -> None:
    """Let a closed trainer's model and optimizer be freed, where a process makes several trainings.

    Composer would keep them until the process ends, to close them then; torch keeps every model that was saved in a
    table of its parameters' names.
    """
    atexit.unregister(trainer.engine._close)
    clear = getattr(getattr(state_dict, '_get_fqns', None), 'cache_clear', None)
    if clear is not None:
        clear()


def train(recipe: Recipe, callbacks: Sequence[Callback] = ()) -> RunFolder:
    """Train as the recipe says.

    Args:
        recipe: The recipe.
        callbacks: Further ones, run after the recipe's own; they are no part of the recipe.

    Returns:
        The run folder, with the record of the finished run.

    Raises:
        ValueError: For what :func:`build_trainer` refuses, before any training.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher.
        RuntimeError: If the run folder can no longer be written, as on a full disk.

    Example:
        >>> import tempfile
        >>> from composer_kd.recipes import load_recipe
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     recipe = load_recipe('yamls/digits/baseline.yaml', [f'run_folder={folder}/a', 'max_duration=2ba'])
        ...     train(recipe).read_record().batches
        2
    """
    trainer = build_trainer(recipe, callbacks)
    try:
        with told_of_disk(recipe):
            if is_over(trainer) and has_checkpoint(recipe):
                end_training(trainer)
            else:
                trainer.fit()
    finally:
        # Not trainer.close(): it waits for all ranks, and one that failed never comes.
        trainer.engine.close()
        forget(trainer)
    return RunFolder(recipe.run_folder)
