"""Runs as Optuna trials: what the search suggests, what a run was given, what it reached.

One run is one trial, whatever was killed in between. A trial that was opened but got no settings before its worker died
is closed as failed, and the run gets another one.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from composer_kd.names import split_named
from composer_kd.studies.file.engines import classes
from composer_kd.studies.file.parts import Range
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned
from composer_kd.studies.store.attempts import engine_arguments, patiently

_SEED_OF_THE_SEARCH = ('qmc', 'grid', 'cma_es')
"""Samplers that number their points themselves, so that every worker has to begin with the same seed."""


class _Study(optuna.Study):
    """A study whose sampler may say that there is nothing left to try, outside of ``Study.optimize`` too."""

    exhausted = False

    def stop(self) -> None:
        """Note it; the worker asks no more."""
        self.exhausted = True


@dataclass(frozen=True)
class Given:
    """What a run was given, kept with its trial.

    Attributes:
        number: The trial's number in its Optuna study.
        set: Dotted key to value: what the study and the search say about this run.
        params: Of these, what the search suggested.
        teachers: Folders of its teachers.
    """

    number: int
    set: dict[str, Any]
    params: dict[str, Any]
    teachers: list[str]


@dataclass
class Trials:
    """The trials of a study.

    Args:
        spec: The study.
    """

    spec: StudySpec
    storage: BaseStorage = field(init=False)
    database: RDBStorage = field(init=False)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url = self.spec.storage_url
        self.database = patiently(lambda: open_storage(url))
        self.storage = get_storage(self.database)  # which reads a trial that is over once

    def close(self) -> None:
        """Let go of the database."""
        self.storage.remove_session()
        self.database.engine.dispose()

    def study_name(self, chain: str) -> str:
        """Name of the Optuna study of a chain: each search learns from its own runs alone."""
        return f'{self.spec.name}/{chain}' if self.spec.kind == 'search' and chain else self.spec.name

    def open_study(self, planned: Planned) -> _Study:
        """The Optuna study that a run belongs to, made if it is not there, with sampler and pruner for this run."""
        name = self.study_name(planned.chain)
        direction = StudyDirection.MAXIMIZE if self.spec.is_higher_better else StudyDirection.MINIMIZE

        def create() -> None:
            with contextlib.suppress(DuplicatedStudyError):  # another worker was faster
                optuna.create_study(storage=self.storage, study_name=name, direction=direction, load_if_exists=True)

        patiently(create)
        search = self.spec.search
        if search is None:
            return _Study(name, self.storage)
        return _Study(name, self.storage, make_sampler(search.sampler, search.space, name, planned.index),
                      make_pruner(search.pruner))

    def given(self, planned: Planned) -> Given | None:
        """What a run was given at an earlier attempt; ``None`` if nothing was, or not all of it."""
        trial = self._trial(self.open_study(planned), planned)
        return _given(trial) if trial is not None else None

    def open(self, planned: Planned) -> tuple[Trial, dict[str, Any]]:
        """Open a run's trial.

        Returns:
            The trial and what the search suggests for it.

        Raises:
            LookupError: If the sampler has nothing left to suggest.
        """
        study = self.open_study(planned)
        for old in self._of_run(study, planned):
            if old.state == TrialState.RUNNING:
                patiently(partial(study.tell, old.number, state=TrialState.FAIL, skip_if_finished=True))
        attributes = {
            'run': planned.key, 'method': planned.method, 'seed': planned.seed, **planned.params,
        }
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        study_id = patiently(lambda: self.storage.get_study_id_from_name(study.study_name))
        trial_id = patiently(lambda: self.storage.create_new_trial(study_id, template))
        trial = Trial(study, trial_id)
        if study.exhausted:
            raise LookupError(f"the sampler of '{study.study_name}' has tried every point of the space")
        suggested = {}
        for key, distribution in distributions(self.spec).items():
            suggested[key] = suggest(trial, key, distribution)
        return trial, suggested

    def give(self, trial: Trial, set_: Mapping[str, Any], teachers: list[str]) -> Given:
        """Keep with a trial what its run is made with; a run that is started again is given the same."""
        patiently(lambda: trial.set_user_attr('teachers', list(teachers)))
        patiently(lambda: trial.set_user_attr('set', dict(set_)))
        return Given(trial.number, dict(set_), dict(trial.params), list(teachers))

    def trial_id(self, planned: Planned, number: int) -> int:
        """Optuna's id of a trial, across studies."""
        study_id = self.storage.get_study_id_from_name(self.study_name(planned.chain))
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def tell(self, planned: Planned, number: int, outcome: str, quality: float | None) -> None:
        """Close a trial: ``finished`` with its quality, ``pruned`` or ``failed``."""
        study = self.open_study(planned)
        state = {'finished': TrialState.COMPLETE, 'pruned': TrialState.PRUNED}.get(outcome, TrialState.FAIL)
        values = quality if state == TrialState.COMPLETE else None
        patiently(lambda: study.tell(number, values, state=state, skip_if_finished=True))

    def finished(self, planned: Planned) -> FrozenTrial | None:
        """The closed trial of a run, where its worker died before it could say so elsewhere."""
        trial = self._trial(self.open_study(planned), planned)
        return trial if trial is not None and trial.state.is_finished() else None

    def everything(self) -> dict[str, FrozenTrial]:
        """The trial of each run that has one with settings, by the run's key."""
        found: dict[str, FrozenTrial] = {}
        for study in patiently(lambda: self.storage.get_all_studies()):
            if study.study_name == self.spec.name or study.study_name.startswith(f'{self.spec.name}/'):
                for trial in patiently(partial(self.storage.get_all_trials, study._study_id, deepcopy=False)):
                    if 'set' in trial.user_attrs:
                        found[trial.user_attrs['run']] = trial
        return found

    def _of_run(self, study: optuna.Study, planned: Planned) -> list[FrozenTrial]:
        return [
            trial for trial in patiently(lambda: study.get_trials(deepcopy=False))
            if trial.user_attrs.get('run') == planned.key
        ]

    def _trial(self, study: optuna.Study, planned: Planned) -> FrozenTrial | None:
        whole = [trial for trial in self._of_run(study, planned) if 'set' in trial.user_attrs]
        return whole[-1] if whole else None


def open_storage(url: str) -> RDBStorage:
    """Optuna's storage at that URL.

    Raises:
        ImportError: If the database's driver is not installed.
    """
    return RDBStorage(url, engine_kwargs=engine_arguments(url))


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
        search: Name of the search.
        index: Number of the run in it.
    """
    name, settings = split_named(component, 'search.sampler')
    kind = classes('sampler')[name]
    accepted = inspect.signature(kind).parameters
    if 'seed' in accepted:
        own = int(settings.pop('seed', None) or 0)
        run = '' if name in _SEED_OF_THE_SEARCH else f'/{index}'
        settings['seed'] = int.from_bytes(hashlib.sha256(f'{search}/{own}{run}'.encode()).digest()[:4], 'big')
    if 'search_space' in accepted:
        settings['search_space'] = {key: points(value) for key, value in space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler = kind(**settings)
    return sampler


def points(value: Range | list[Any]) -> list[Any]:
    """Every value of a finite range or a list.

    Example:
        >>> points(Range(low=8, high=32, step=8))
        [8, 16, 24, 32]
    """
    if not isinstance(value, Range):
        return list(value)
    assert value.is_finite, 'the schema refuses endless ranges where all points are needed'
    step = value.step or 1
    return [value.low + place * step for place in range(round((value.high - value.low) / step) + 1)]


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


def _given(trial: FrozenTrial) -> Given:
    attributes = trial.user_attrs
    return Given(trial.number, dict(attributes['set']), dict(trial.params), list(attributes['teachers']))

