"""Runs as Optuna trials: what the search suggests, what a run was given, what it reached.

One run is one trial, whatever was killed in between. A trial that was opened but got no settings before its worker died
is closed as failed, and the run gets another one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import optuna
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.exc import IntegrityError, ProgrammingError

from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned
from composer_kd.studies.store.attempts import FIRST_PATIENCE, engine_arguments, patiently
from composer_kd.studies.store.samplers import (
    SEED_OF_THE_SEARCH,
    distributions,
    make_pruner,
    make_sampler,
    suggest,
)

STOPPED = 'pruned_at'
"""Attribute of a trial whose run the pruner stopped."""


class _Study(optuna.Study):
    """A study that is asked and told from outside of ``Study.optimize``."""

    def stop(self) -> None:
        """Samplers of finite spaces call it after the last point; how many runs there are is planned already."""


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
        self.database = patiently(lambda: open_storage(url), FIRST_PATIENCE)
        self._made: set[str] = set()
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
        if name not in self._made:
            patiently(partial(self._make, name))
            self._made.add(name)
        search = self.spec.search
        if search is None:
            return _Study(name, self.storage)
        # Methods that are compared begin with the same points: their difference is then less a matter of luck.
        seeds = f'{self.spec.name}/seed{planned.seed}'
        return _Study(name, self.storage, make_sampler(search.sampler, search.space, seeds, planned.index),
                      make_pruner(search.pruner))

    def _make(self, name: str) -> None:
        direction = StudyDirection.MAXIMIZE if self.spec.is_higher_better else StudyDirection.MINIMIZE
        with contextlib.suppress(DuplicatedStudyError):  # another worker was faster
            optuna.create_study(storage=self.storage, study_name=name, direction=direction, load_if_exists=True)

    def given(self, planned: Planned) -> Given | None:
        """What a run was given at an earlier attempt; ``None`` if nothing was, or not all of it."""
        trial = self._trial(self.open_study(planned), planned)
        return _given(trial) if trial is not None else None

    def open(self, planned: Planned) -> tuple[Trial, dict[str, Any]]:
        """Open a run's trial.

        A trial that was opened by a worker which died is gone on with where its sampler has drawn nothing yet, or
        draws nothing by chance; otherwise it is closed, as the sampler's next numbers would be others.

        Returns:
            The trial and what the search suggests for it.
        """
        study, trial = self.open_study(planned), None
        for old in self._of_run(study, planned):
            if old.state != TrialState.RUNNING:
                continue
            if trial is None and (not old.params or self.spec.search is None or self._is_numbered):
                trial = Trial(study, old._trial_id)
            else:
                patiently(partial(study.tell, old.number, state=TrialState.FAIL, skip_if_finished=True))
        if trial is None:
            trial = Trial(study, self._create(planned, {}, {}))
        return trial, {key: suggest(trial, key, space) for key, space in distributions(self.spec).items()}

    @property
    def _is_numbered(self) -> bool:
        return self.spec.search is not None and self.spec.search.sampler['name'] in (*SEED_OF_THE_SEARCH, 'brute_force')

    def _create(self, planned: Planned, params: Mapping[str, Any], more: Mapping[str, Any]) -> int:
        template = create_trial(
            state=TrialState.RUNNING, params=dict(params),
            distributions={key: space for key, space in distributions(self.spec).items() if key in params},
            user_attrs={'run': planned.key, 'method': planned.method, 'seed': planned.seed, **planned.params, **more},
        )
        name = self.study_name(planned.chain)
        study_id = patiently(lambda: self.storage.get_study_id_from_name(name))
        return patiently(lambda: self.storage.create_new_trial(study_id, template))

    def again(self, planned: Planned) -> None:
        """Give a run that failed another trial with the same settings."""
        old = self.finished(planned)
        if old is not None and old.state == TrialState.FAIL:
            kept = {key: old.user_attrs[key] for key in ('teachers', 'set')}
            self._create(planned, old.params, kept)

    def give(self, trial: Trial, set_: Mapping[str, Any], teachers: list[str]) -> Given:
        """Keep with a trial what its run is made with; a run that is started again is given the same."""
        patiently(lambda: trial.set_user_attr('teachers', list(teachers)))
        patiently(lambda: trial.set_user_attr('set', dict(set_)))
        return Given(trial.number, dict(set_), dict(trial.params), list(teachers))

    def trial_id(self, planned: Planned, number: int) -> int:
        """Optuna's id of a trial, across studies."""
        study_id = self.storage.get_study_id_from_name(self.study_name(planned.chain))
        return self.storage.get_trial_id_from_study_id_trial_number(study_id, number)

    def was_pruned(self, planned: Planned) -> str | None:
        """Where the pruner stopped a run, if it did: its worker may have died before it heard of it."""
        trial = self._trial(self.open_study(planned), planned)
        return trial.user_attrs.get(STOPPED) if trial is not None else None

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
    for tries in range(5, -1, -1):
        try:
            return RDBStorage(url, engine_kwargs=engine_arguments(url))
        except (IntegrityError, ProgrammingError):  # workers that begin at once make the same tables
            if not tries:
                raise
            time.sleep(0.5)
    raise AssertionError('unreachable')


def _given(trial: FrozenTrial) -> Given:
    attributes = trial.user_attrs
    return Given(trial.number, dict(attributes['set']), dict(trial.params), list(attributes['teachers']))

