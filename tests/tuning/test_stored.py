"""Recipes whose teachers have stored answers already, and those that can have none."""

import shutil
import tempfile

import pytest

from composer_kd.recipes import load_recipe
from composer_kd.recipes.build import train
from tests.caching.made import digits, write, written
from tests.tuning.made import refused, several, tuned

pytestmark = [
    pytest.mark.filterwarnings('ignore:Teacher .* no better than'), pytest.mark.usefixtures('nothing_of_ours_is_left'),
]


@pytest.fixture
def nothing_of_ours_is_left(tmp_path, monkeypatch):
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    yield
    # Composer's own go with its trainers, when these are collected
    assert not list((tmp_path / 'temporary').glob('composer_kd*'))


@pytest.fixture
def stored(tmp_path):
    """A recipe of eight epochs that keeps four views, and a store of all of them."""
    recipe = digits(tmp_path, max_duration='8ep')
    recipe['train_data'] |= {'views': 4, 'view_seed': 0}
    written(write(recipe, tmp_path), '--out', tmp_path / 'store')
    return recipe


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob('*'))}


def test_answers_alone(stored, tmp_path):
    stored['algorithms']['distillation']['teachers'] = [{'cache': str(tmp_path / 'store')}]
    path = write(stored, tmp_path)
    before = files(tmp_path / 'store')
    told = tuned(path)
    assert files(tmp_path / 'store') == before
    assert told['measured']['teachers'] == {}
    assert all(one['stored'] for one in told['choices'])
    assert {(one['writing_seconds'], one['pays_after_runs']) for one in told['choices']} == {(0.0, 0)}
    assert told['choices'][0]['overhead'] > 0
    assert 'train_data' not in told['recipe']
    shutil.rmtree(tmp_path / 'store')
    assert "there is no manifest.json in" in refused(path)


def test_answers_of_other_data_are_refused_where_nothing_else_is_left(stored, tmp_path):
    stored['algorithms']['distillation']['teachers'] = [{'cache': str(tmp_path / 'store')}]
    stored['train_data']['view_seed'] = 1
    assert 'were given to other inputs' in refused(write(stored, tmp_path), '--seconds', 0.2)


@pytest.mark.parametrize('fill', [True, False])
def test_a_store_beside_the_teacher_is_read_and_not_written(stored, tmp_path, fill):
    (item,) = stored['algorithms']['distillation']['teachers']
    item['cache'] = {'path': str(tmp_path / 'store'), 'fill': fill}
    before = files(tmp_path / 'store')
    told = tuned(write(stored, tmp_path))
    assert files(tmp_path / 'store') == before
    kept = next(one for one in told['choices'] if one['stored'])
    assert not told['choices'][0]['stored']
    assert (kept['writing_seconds'], kept['pays_after_runs']) == (0.0, 0)
    assert told['measured']['stored']['packing'] is None


def test_a_store_that_the_recipe_would_begin_is_not_begun(stored, tmp_path):
    (item,) = stored['algorithms']['distillation']['teachers']
    item['cache'] = {'path': str(tmp_path / 'new'), 'fill': True, 'format': {'name': 'top_k', 'k': 3, 'temperature': 1.0}}
    told = tuned(write(stored, tmp_path))
    assert not (tmp_path / 'new').exists()
    assert told['measured']['stored']['form']['name'] == 'top_k'
    kept = next(one for one in told['choices'] if one['name'] == 'as the recipe says, stored')
    assert kept['writing_seconds'] > 0
    assert kept['store_bytes'] == pytest.approx(400 * (3 * 3 + 2 + 12), rel=0.05), 'four views of 100 samples'


def test_what_is_predicted_to_be_written_is_what_is_written(tmp_path):
    recipe = digits(tmp_path)
    told = tuned(write(recipe, tmp_path))
    half = next(one for one in told['choices'] if one['name'] == 'first 50 %, stored')
    assert half['store_bytes'] == pytest.approx(100 * (20 + 12)), 'one of two epochs'
    recipe['algorithms']['distillation']['end'] = '0.5dur'
    recipe['algorithms']['distillation']['teachers'][0]['cache'] = {'path': str(tmp_path / 'store'), 'fill': True}
    path = write(recipe, tmp_path)
    written(path, '--out', tmp_path / 'store')
    size = sum(file.stat().st_size for file in (tmp_path / 'store').rglob('*.mds'))
    assert half['store_bytes'] == pytest.approx(size, abs=188)
    record = train(load_recipe(path)).read_record()
    assert record.teachers[0].stored == record.teachers[0].samples == 96


def test_where_inputs_change_after_loading_there_is_no_store_and_the_rest_is_told(tmp_path):
    recipe = several(tmp_path, 1)
    recipe['algorithms'] = {'mixup': {'alpha': 0.2}, **recipe['algorithms']}
    told = tuned(write(recipe, tmp_path))
    assert 'MixUp mixes the inputs of a batch' in told['measured']['no_store']
    assert not [one for one in told['choices'] if one['stored']]
    assert told['measured']['stored'] is None


def test_too_few_views_for_a_store(tmp_path):
    recipe = digits(tmp_path)
    recipe['train_data'] |= {'views': 1, 'view_seed': 0}
    told = tuned(write(recipe, tmp_path))
    assert '6 batches are too few to measure stored answers' in told['measured']['no_store']
