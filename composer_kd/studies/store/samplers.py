"""Optuna's samplers, pruners and distributions, from what a study file says."""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import Trial

from composer_kd.names import split_named
from composer_kd.studies.file.engines import classes
from composer_kd.studies.file.parts import Range
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.file.space import points

SEED_OF_THE_SEARCH = ('qmc', 'grid', 'cma_es')
"""Samplers that number their points themselves, so that every worker has to begin with the same seed."""


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The search space as Optuna's distributions; empty without a search."""
    return {} if spec.search is None else {key: _distribution(value) for key, value in spec.search.space.items()}


def _distribution(value: Range | list[Any]) -> BaseDistribution:
    if not isinstance(value, Range):
        return CategoricalDistribution(list(value))
    if value.is_whole:
        return IntDistribution(int(value.low), int(value.high), log=value.log, step=int(value.step or 1))
    return FloatDistribution(value.low, value.high, log=value.log, step=value.step)


def suggest(trial: Trial, key: str, distribution: BaseDistribution) -> Any:
    """Suggest one value."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            key, distribution.low, distribution.high, step=distribution.step, log=distribution.log,
        )
    assert isinstance(distribution, FloatDistribution)
    return trial.suggest_float(key, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def make_sampler(
    component: Mapping[str, Any], space: Mapping[str, Range | list[Any]], search: str, index: int,
) -> optuna.samplers.BaseSampler:
    """A sampler by its name, seeded by the search and the run.

    What is suggested then follows from the runs before it alone, and not from how often the worker was restarted.

    Args:
        component: Mapping of ``name`` and settings.
        space: The search space.
        search: What the seeds follow from: the same for methods that are compared, which then begin alike.
        index: Number of the run in it.
    """
    name, settings = split_named(component, 'search.sampler')
    kind = classes('sampler')[name]
    accepted = inspect.signature(kind).parameters
    own = int(settings.pop('seed', None) or 0)
    of_run = _hashed(f'{search}/{own}/{index}')
    if 'seed' in accepted:
        settings['seed'] = _hashed(f'{search}/{own}') if name in SEED_OF_THE_SEARCH else of_run
    if 'independent_sampler' in accepted:
        # It would begin with the same number for every run otherwise.
        settings['independent_sampler'] = optuna.samplers.RandomSampler(of_run)
    if 'search_space' in accepted:
        settings['search_space'] = {key: points(value) for key, value in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler = kind(**settings)
    return sampler


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], 'big')


def make_pruner(component: Mapping[str, Any] | None) -> optuna.pruners.BasePruner:
    """A pruner by its name and settings; ``None`` for none."""
    if component is None:
        return optuna.pruners.NopPruner()
    name, settings = split_named(component, 'search.pruner')
    if settings.get('wrapped_pruner') is not None:
        inner = settings['wrapped_pruner']
        settings['wrapped_pruner'] = make_pruner({'name': inner} if isinstance(inner, str) else inner)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        pruner: optuna.pruners.BasePruner = classes('pruner')[name](**settings)
    return pruner
