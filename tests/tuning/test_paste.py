"""The YAML that is printed: valid in the recipe it is pasted into, and what its way says."""

import pytest
import yaml
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.distillation import Distillation
from composer_kd.recipes import load_recipe
from composer_kd.tuning.advice import advise
from composer_kd.tuning.paste import in_yaml, to_paste
from composer_kd.tuning.subject import settings_of
from tests.caching.made import text, write
from tests.tuning.made import answers, digits, measured, several, subject
from tests.tuning.test_predict import LENGTH, SECONDS


def pasted(recipe, choice, folder):
    """The recipe over which the part was pasted, read from a file."""
    path = write(recipe, folder, 'own.yaml')
    part = yaml.safe_load(in_yaml(to_paste(subject(recipe), choice)))
    return write({'base': path.name, **part}, folder, 'pasted.yaml')


OWN = {'start': '1ep', 'end': '0.9dur', 'interval': 2, 'probability': 0.5, 'teachers_per_batch': 2, 'loss': 'mse'}


@pytest.mark.parametrize('own', [{}, OWN], ids=['plain', 'with settings'])
def test_every_way_is_valid_and_says_what_it_does(tmp_path, own):
    recipe = several(tmp_path, **own)
    found = advise(subject(recipe), LENGTH, measured(SECONDS, stored=answers()), 0.1, 1)
    assert len(found.predictions) > 20
    for one in found.predictions:
        path = pasted(recipe, one.choice, tmp_path)
        kd = load_recipe(path).algorithms['distillation']
        settings = Distillation(**kd).settings
        meant = settings_of(subject(recipe), one.choice.changes)
        for key in set(settings) - {'teachers', 'interval'}:
            assert settings[key] == meant[key], (one.choice.name, key)
        assert str(settings['interval']) == str(meant['interval'])
        stores = [item.get('cache') for item in kd['teachers']]
        assert stores == [
            {'path': f'stores/tiny-{name}', 'fill': True} if one.choice.stored else None for name in SECONDS
        ]


@pytest.mark.parametrize('name', ['as the recipe says', 'one teacher, first 25 %', 'all 3 teachers, every 2nd batch, stored'])
def test_validate_takes_it(tmp_path, name):
    recipe = several(tmp_path, **OWN)
    found = advise(subject(recipe), LENGTH, measured(SECONDS, stored=answers()), 0.1, 1)
    choice = next(one.choice for one in found.predictions if one.choice.name == name)
    result = CliRunner().invoke(main, ['validate', str(pasted(recipe, choice, tmp_path))])
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == 'valid'


def test_runs_of_other_seeds_share_the_views_of_a_store(tmp_path):
    recipe = digits(tmp_path)
    found = advise(subject(recipe), LENGTH, measured({'teacher0': 0.5}, stored=answers()), 0.1, 1)
    stored = next(one.choice for one in found.predictions if one.choice.stored)
    assert to_paste(subject(recipe), stored)['train_data'] == {'view_seed': 17}
    assert 'train_data' not in to_paste(subject(recipe), found.predictions[0].choice)
    recipe['train_data']['view_seed'] = 3
    assert 'train_data' not in to_paste(subject(recipe), stored)


def test_a_store_that_the_recipe_names_stays(tmp_path):
    recipe = text(tmp_path)
    item = recipe['algorithms']['distillation']['teachers'][0]
    item['cache'] = {'path': str(tmp_path / 'answers'), 'fill': True, 'format': 'dense'}
    found = advise(subject(recipe), LENGTH, measured({'bert': 0.5}, stored=answers()), 0.1, 1)
    live, stored = found.predictions[:2]
    assert to_paste(subject(recipe), stored.choice)['algorithms']['distillation']['teachers'] == [item]
    kd = to_paste(subject(recipe), found.predictions[2].choice)['algorithms']['distillation']
    assert 'cache' not in kd['teachers'][0], 'another way, live, stores nothing'
    assert live.choice.name == 'as the recipe says'
