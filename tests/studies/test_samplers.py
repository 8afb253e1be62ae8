"""What samplers suggest follows from the study and the runs before, not from how often a worker was started."""

import math

import optuna
import pytest

from composer_kd.studies.file.parts import Range
from composer_kd.studies.file.schema import load_study
from composer_kd.studies.rules.planned import planned_runs
from composer_kd.studies.store.samplers import make_pruner
from composer_kd.studies.store.trials import Trials
from tests.studies.small import write_study

SPACE = {
    'optimizer.lr': {'low': 0.01, 'high': 1.0, 'log': True}, 'optimizer.momentum': {'low': 0.5, 'high': 0.9},
    'model.width': [4, 6, 8],
}
FINITE = {'train_data.batch_size': [16, 32], 'model.width': {'low': 4, 'high': 8, 'step': 2}}
SAMPLERS = {
    'random': {}, 'tpe': {'n_startup_trials': 3}, 'tpe multivariate': {'n_startup_trials': 3, 'multivariate': True},
    'cma_es': {'n_startup_trials': 2}, 'qmc': {}, 'qmc scrambled': {'scramble': True}, 'nsgaii': {'population_size': 4},
    'grid': {}, 'brute_force': {},
}


def search(folder, sampler, methods=('alone',), runs=8, space=None):
    name = sampler.split()[0]
    finite = name in ('grid', 'brute_force')
    return load_study(write_study(
        folder, methods={method: {} for method in methods}, storage=f'sqlite:///{folder}/study.db',
        search={'space': space or (FINITE if finite else SPACE), 'runs': runs,
                'sampler': {'name': name, **SAMPLERS[sampler]}},
    ))


def suggested(spec, restarted):
    trials, found = Trials(spec), {}
    for planned in planned_runs(spec):
        if restarted:
            trials.close()
            trials = Trials(spec)
        trial, params = trials.open(planned)
        given = trials.give(trial, params, [])
        found[planned.key] = params
        value = sum(float(number) for number in params.values())
        trials.tell(planned, given.number, 'failed' if planned.index == 1 else 'finished', value)
    trials.close()
    return found


@pytest.mark.filterwarnings('ignore::optuna.exceptions.ExperimentalWarning')
@pytest.mark.parametrize('sampler', SAMPLERS)
def test_a_restart_between_any_two_runs_changes_nothing(sampler, tmp_path):
    once = suggested(search(tmp_path / 'a', sampler), restarted=False)
    again = suggested(search(tmp_path / 'b', sampler), restarted=True)
    assert once == again
    for key in next(iter(once.values())):
        values = [params[key] for params in once.values()]
        assert len(set(values)) > 1, f'{key} is always {values[0]}'
    if sampler in ('grid', 'brute_force'):
        assert len(once) == 6, 'two times three points, of the eight runs asked for'
        assert len({tuple(params.values()) for params in once.values()}) == 6


def test_methods_that_are_compared_begin_with_the_same_points(tmp_path):
    found = suggested(search(tmp_path, 'tpe', methods=('alone', 'taught')), restarted=False)
    for index in range(3):
        assert found[f'alone-seed0-run{index:02d}'] == found[f'taught-seed0-run{index:02d}']


def test_a_study_of_another_name_draws_other_numbers(tmp_path):
    spec = search(tmp_path / 'a', 'random')
    other = load_study(tmp_path / 'a' / 'study.yaml', ['name=other', f'folder={tmp_path}/other'])
    one, two = suggested(spec, False), suggested(other, False)
    assert all(params not in two.values() for params in one.values())


def test_ranges_hold_what_they_say(tmp_path):
    space = {'optimizer.lr': {'low': 1e-4, 'high': 1.0, 'log': True}, 'model.width': {'low': 4, 'high': 20, 'step': 8},
             'train_data.noise': {'low': 0.0, 'high': 1.0, 'step': 0.25}}
    found = list(suggested(search(tmp_path, 'random', runs=60, space=space), False).values())
    assert {params['model.width'] for params in found} == {4, 12, 20}
    assert {params['train_data.noise'] for params in found} == {0.0, 0.25, 0.5, 0.75, 1.0}
    logs = [math.log10(params['optimizer.lr']) for params in found]
    assert min(logs) >= -4
    assert max(logs) <= 0
    assert abs(sum(logs) / len(logs) + 2) < 0.6, 'drawn on a logarithmic scale'


def test_pruners_are_built_with_their_settings():
    assert isinstance(make_pruner(None), optuna.pruners.NopPruner)
    pruner = make_pruner({'name': 'patient', 'wrapped_pruner': {'name': 'percentile', 'percentile': 30.0}, 'patience': 2})
    assert isinstance(pruner, optuna.pruners.PatientPruner)
    assert isinstance(pruner._wrapped_pruner, optuna.pruners.PercentilePruner)
    assert isinstance(make_pruner({'name': 'hyperband', 'min_resource': 5}), optuna.pruners.HyperbandPruner)
    assert Range(low=1, high=2).is_whole
