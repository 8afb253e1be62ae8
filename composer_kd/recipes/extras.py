"""The Trainer's arguments that are objects, from plain data: loggers, profiler, object store, passes, parallelism."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import composer.core.passes
import composer.utils.object_store
import torch.distributed.tensor.parallel as styles
from composer.loggers import LoggerDestination
from composer.profiler import JSONTraceHandler, Profiler, TraceHandler, cyclic_schedule
from composer.utils.object_store import ObjectStore
from composer.utils.parallelism import FSDP2Config, TPConfig

from composer_kd.components import LOGGERS
from composer_kd.names import Registry, snake_case, split_named
from composer_kd.recipes.parts import check_component, construct
from composer_kd.recipes.schema import ParallelismSpec, Recipe
from composer_kd.runs import RunFolder

PASSES: Registry[Callable[..., Any]] = Registry('algorithm pass', 'composer_kd.algorithm_passes')
OBJECT_STORES: Registry[type[ObjectStore]] = Registry('object store', 'composer_kd.object_stores')
TRACE_HANDLERS: Registry[type[TraceHandler]] = Registry('trace handler', 'composer_kd.trace_handlers')
STYLES: Registry[type[Any]] = Registry('parallel style', 'composer_kd.parallel_styles')

for _name in ('sort_selective_backprop_first', 'sort_low_precision_layernorm_last', 'set_filo_order'):
    PASSES.register(_name)(getattr(composer.core.passes, _name))
for _name in ('GCS', 'Libcloud', 'MLFlow', 'OCI', 'S3', 'SFTP', 'UC'):
    OBJECT_STORES.register(_name.lower())(getattr(composer.utils.object_store, f'{_name}ObjectStore'))
TRACE_HANDLERS.register('json')(JSONTraceHandler)
for _name in ('ColwiseParallel', 'RowwiseParallel', 'SequenceParallel', 'PrepareModuleInput', 'PrepareModuleOutput'):
    STYLES.register(snake_case(_name))(getattr(styles, _name))


def check_extras(recipe: Recipe) -> None:
    """Check names and settings of what :func:`make_extras` and :func:`make_loggers` build, and build nothing.

    A logger or an object store may open files and connections when it is made.

    Raises:
        ValueError: For an unknown name or setting, or a missing one.
        TypeError: For a value of a wrong type.
    """
    for name, settings in recipe.loggers.items():
        check_component(LOGGERS.get(name, f'loggers.{name}'), settings, f'loggers.{name}')
    if recipe.load_object_store is not None:
        name, settings = split_named(recipe.load_object_store, 'load_object_store')
        check_component(OBJECT_STORES.get(name, 'load_object_store'), settings, 'load_object_store')
    for index, item in enumerate(recipe.algorithm_passes or ()):
        PASSES.get(item['name'], f'algorithm_passes[{index}]')
    if recipe.profiler is not None:
        for name, settings in recipe.profiler['trace_handlers'].items():
            where = f'profiler.trace_handlers.{name}'
            check_component(TRACE_HANDLERS.get(name, where), settings, where)
    _parallelism(recipe.parallelism_config, build=False)


def make_loggers(recipe: Recipe, start: int) -> list[LoggerDestination]:
    """Build the loggers; those that write files write them to the run folder's ``logs/`` unless told otherwise.

    Args:
        recipe: The recipe.
        start: How many times the run was started, this time included: a resumed run keeps the log of the first start.
    """
    logs = RunFolder(recipe.run_folder).logs
    places = {
        'file': {'filename': str(logs / f'start{start}-rank{{rank}}.txt')},
        'tensorboard': {'log_dir': str(logs / 'tensorboard')},
    }
    loggers = []
    for name, settings in recipe.loggers.items():
        if name == 'wandb':
            init = {'dir': str(logs), **(settings.get('init_kwargs') or {})}
            # wandb falls back to a temporary folder if this one is not there.
            Path(init['dir']).mkdir(parents=True, exist_ok=True)
            settings = {**settings, 'init_kwargs': init}
        logger = construct(LOGGERS, name, {**places.get(name, {}), **settings}, f'loggers.{name}')
        if name == 'wandb' and (_is_offline(settings) or not settings.get('log_artifacts')):
            # Composer asks it for a checkpoint to resume from, which ends in an error offline; none of ours is there.
            logger.download_file = _nothing_there
        loggers.append(logger)
    return loggers


def _is_offline(settings: Mapping[str, Any]) -> bool:
    mode = (settings.get('init_kwargs') or {}).get('mode') or os.environ.get('WANDB_MODE', 'online')
    return mode != 'online'


def _nothing_there(remote_file_name: str, *_: Any, **__: Any) -> None:
    raise FileNotFoundError(f'{remote_file_name} is on this machine or nowhere')


def make_extras(recipe: Recipe) -> dict[str, Any]:
    """The Trainer's arguments ``algorithm_passes``, ``load_object_store``, ``profiler``, ``parallelism_config`` and
    ``precision_config``.
    """
    passes = []
    for index, item in enumerate(recipe.algorithm_passes or ()):
        function = PASSES.get(item['name'], f'algorithm_passes[{index}]')
        passes.append((function, item['index']) if 'index' in item else function)
    store = None
    if recipe.load_object_store is not None:
        name, settings = split_named(recipe.load_object_store, 'load_object_store')
        store = construct(OBJECT_STORES, name, settings, 'load_object_store')
    return {
        'algorithm_passes': passes or None,
        'load_object_store': store,
        'profiler': _profiler(recipe),
        'parallelism_config': _parallelism(recipe.parallelism_config),
        'precision_config': _precision(recipe.precision_config),
    }


def _profiler(recipe: Recipe) -> Profiler | None:
    if recipe.profiler is None:
        return None
    settings = dict(recipe.profiler)
    schedule = cyclic_schedule(**(settings.pop('schedule', None) or {}))
    logs = RunFolder(recipe.run_folder).logs
    handlers = [
        construct(
            TRACE_HANDLERS,
            name,
            {'folder': str(logs / 'traces'), **handler} if name == 'json' else handler,
            f'profiler.trace_handlers.{name}',
        )
        for name, handler in settings.pop('trace_handlers').items()
    ]
    settings.setdefault('torch_prof_folder', str(logs / 'torch_traces'))
    return Profiler(schedule=schedule, trace_handlers=handlers, **settings)


def _parallelism(spec: ParallelismSpec | None, build: bool = True) -> dict[str, Any] | None:
    if spec is None:
        return None
    config: dict[str, Any] = {}
    if spec.fsdp is not None:
        config['fsdp'] = spec.fsdp
    if spec.fsdp2 is not None and build:
        # Composer 0.32.1 passes over the key 'fsdp2' without a word, and takes this object under 'fsdp'.
        config['fsdp'] = FSDP2Config(**spec.fsdp2)
    if spec.tp is not None:
        settings = dict(spec.tp)
        plan = settings.pop('layer_plan', None) or {}
        layers = {}
        for layer, style in plan.items():
            where = f'parallelism_config.tp.layer_plan.{layer}'
            name, arguments = split_named(style, where)
            layers[layer] = construct(STYLES, name, arguments, where)
        config['tp'] = TPConfig(layer_plan=layers, **settings)
    return config or None


def _precision(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if config is None or not isinstance(config.get('fp8_format'), str):
        return dict(config) if config is not None else None
    from transformer_engine.common.recipe import Format

    return {**config, 'fp8_format': Format[config['fp8_format']]}
