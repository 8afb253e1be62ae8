"""Study files with a fault are refused by the name of what is wrong."""

from __future__ import annotations

import copy

import pytest
import yaml
from hypothesis import event, given
from hypothesis import strategies as st

from composer_kd.studies.file.schema import load_study, parse_study
from tests.fuzz import junk
from tests.fuzz.cases import cases
from tests.fuzz.mutate import changes
from tests.fuzz.told import begins_with, names, told
from tests.recipes.tiny import plain

_SHARED = {
    'name': 'study', 'description': 'words', 'folder': 'runs/study', 'storage': 'sqlite:///study.db', 'recipe': 'recipe.yaml',
    'set': {'optimizer.lr': 0.1, 'train_data': {'noise': 0.3, 'views': 1, 'view_seed': 0}}, 'metric': 'test/MulticlassAccuracy', 'higher_is_better': True,
    'seeds': [0, 1], 'where': {'launcher': 'composer', 'gpus_per_run': 1, 'workers': 1, 'threads': 1}, 'retries': 1, 'keep': 'needed',
    'report': {'baseline': 'alone', 'reference': 'taught', 'cost': 'flops', 'steady_price': True, 'title': 'A', 'label': 'B'},
    'teachers': {'policy': 'top', 'count': 1, 'metric': 'test/MulticlassAccuracy', 'floor': 0.1, 'runs': ['runs/a']},
    'distillation': {'end': '0.5dur'},
    'methods': {'alone': {'teachers': None}, 'taught': {'set': {'model.width': 8}, 'distillation': {'interval': 2},
                                                           'cache': {'format': {'name': 'dense', 'dtype': 'float32'}}}},
}
STUDIES = [
    {**_SHARED, 'comparison': {'durations': ['1ep', '2ep'], 'earlier': {'runs': 2, 'duration': '3ep', 'first_seed': 99, 'set': {
        'model.width': 4}, 'method': 'alone'}}},
    {**_SHARED, 'search': {
        'space': {'train_data.batch_size': [16, 32], 'optimizer.momentum': {'low': 0.1, 'high': 0.9, 'step': 0.1, 'log': False}},
        'sampler': {'name': 'tpe', 'n_startup_trials': 3}, 'pruner': {'name': 'median', 'n_warmup_steps': 1}, 'runs': 4, 'hours': 1.0,
        'gpu_hours': 2.0}},
    {**_SHARED, 'sequence': {'steps': [{'train_data.train_size': 100}, {'train_data': {'train_size': 200}}]}},
]
# What an error may name instead, as the keys stand against each other.
_AGAINST = {
    'methods': ['report', 'comparison', 'set', 'sequence', 'search', 'distillation'], 'set': ['set', 'methods', 'sequence', 'search', 'comparison'],
    'teachers': ['methods', 'report', 'distillation', 'comparison'], 'comparison': ['methods', 'seeds', 'set'], 'seeds': ['comparison'],
    'sequence': ['set', 'methods'], 'search': ['set', 'methods'], 'where': ['search'], 'report': ['report'], 'recipe': ['methods'],
    'distillation': ['methods'],
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('studies')
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(plain()))
    return folder


@pytest.mark.parametrize('study', STUDIES, ids=['comparison', 'search', 'sequence'])
def test_the_studies_are_fine(folder, study):
    assert parse_study(copy.deepcopy(study), folder).metric == 'test/MulticlassAccuracy'


@cases(1000)
@given(st.sampled_from(STUDIES).flatmap(changes))
def test_a_changed_study_is_read_or_refused_by_name(folder, change):
    _, message = told(lambda: parse_study(change.data, folder))
    event('read' if message is None else 'refused')
    if message is None:
        return
    key = str(change.path[0])
    if message.startswith((f"study: unknown key '{key}'", 'study: expected exactly one of')):
        return
    assert names(message, change.path, _AGAINST.get(key, ())), message


_KEYS = st.sampled_from([
    'seeds', 'set.optimizer.lr', 'set', 'methods.taught.set.model.width', 'methods.taught', 'sequence.steps[0].train_data.noise',
    'sequence.steps[9].a', 'sequence.steps[' + '9' * 5000 + '].a', 'sequence.steps[-1].a', 'search.space.optimizer.lr.low', 'set..a',
    'set.', 'set.a..b', 'set.[', 'set.a b', 'search.space.', 'comparison.earlier.set.a', 'x', 'where.workers', '', '=', 'teachers',
])


@cases(150)
@given(_KEYS, junk.words | st.sampled_from(['3', '{a: 1', '[1, 2]', '{low: 1, high: 2}', '!!float x', '[' * 2000 + ']' * 2000, '${', '${name}']))
def test_an_argument_is_taken_or_refused_by_name(folder, key, value):
    path = folder / 'study.yaml'
    if not path.exists():
        path.write_text(yaml.safe_dump(STUDIES[2]))
    argument = f'{key}={value}'
    _, message = told(lambda: load_study(path, [argument]))
    if message is None or message.startswith('study: expected exactly one of'):
        return
    top = key.replace('[', '.').split('.')[0]
    begun = (f"'{top}", f"'value={' '.join(value.split())}", f"study: unknown key '{top}'", f'missing: {top}')
    assert begins_with(message, [top, *_AGAINST.get(top, ())]) or message.startswith(begun), message
