"""Composer's own algorithms, schedulers, optimizers, callbacks and loggers, by snake-case name.

The names follow Composer's own module names where each class has its module (``channels_last``, ``mixup``,
``lr_monitor``, ``tensorboard``), and the class name without its last word otherwise (``cosine_annealing_with_warmup``).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import composer.algorithms
import composer.callbacks
import composer.loggers
import composer.optim
import torch
from composer.core import Algorithm, Callback
from composer.loggers import LoggerDestination
from composer.optim import ComposerScheduler

from composer_kd.names import Registry, check_settings, snake_case

ALGORITHMS: Registry[type[Algorithm]] = Registry('algorithm', 'composer_kd.algorithms')
CALLBACKS: Registry[type[Callback]] = Registry('callback', 'composer_kd.callbacks')
LOGGERS: Registry[type[LoggerDestination]] = Registry('logger', 'composer_kd.loggers')
OPTIMIZERS: Registry[type[torch.optim.Optimizer]] = Registry('optimizer', 'composer_kd.optimizers')
SCHEDULERS: Registry[type[ComposerScheduler]] = Registry('scheduler', 'composer_kd.schedulers')


def _classes(module: object, base: type) -> Iterator[type]:
    for name in getattr(module, '__all__', dir(module)):
        item = getattr(module, name, None)
        if inspect.isclass(item) and issubclass(item, base) and item is not base and not inspect.isabstract(item):
            yield item


for _algorithm in _classes(composer.algorithms, Algorithm):
    ALGORITHMS.register(_algorithm.__module__.split('.')[2])(_algorithm)
for _callback in _classes(composer.callbacks, Callback):
    if _callback.__module__.startswith('composer.callbacks.'):
        CALLBACKS.register(_callback.__module__.split('.')[2])(_callback)
for _logger in _classes(composer.loggers, LoggerDestination):
    LOGGERS.register(_logger.__module__.split('.')[-1].removesuffix('_logger'))(_logger)
for _scheduler in _classes(composer.optim, ComposerScheduler):
    SCHEDULERS.register(snake_case(_scheduler.__name__.removesuffix('Scheduler')))(_scheduler)
for _optimizer in _classes(torch.optim, torch.optim.Optimizer):
    OPTIMIZERS.register(_optimizer.__name__.lower())(_optimizer)
OPTIMIZERS.register('decoupled_sgdw')(composer.optim.DecoupledSGDW)
OPTIMIZERS.register('decoupled_adamw')(composer.optim.DecoupledAdamW)


def build(registry: Registry[Any], name: str, settings: Mapping[str, Any] | None, where: str, **given: Any) -> Any:
    """Build the named thing after its settings were checked.

    Args:
        registry: Where to look the name up.
        name: Its name.
        settings: Keyword arguments from the user; ``None`` for none.
        where: What this is, for messages.
        **given: Arguments that the caller fills in.

    Raises:
        ValueError: For an unknown name or setting (with the nearest valid one), a missing setting, or a value that
            the thing itself refuses.
    """
    target = registry.get(name, where)
    settings = dict(settings or {})
    check_settings(target, settings, where, given=given)
    try:
        return target(**given, **settings)
    except (TypeError, ValueError, AssertionError, AttributeError) as error:
        raise ValueError(f'{where}: {registry.kind} {name!r} refused its settings {settings}: {error}') from error
