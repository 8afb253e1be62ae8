"""Every recipe in yamls/ validates and trains, cut short."""

from pathlib import Path

import pytest

from composer_kd.cli import main
from composer_kd.recipes import load_recipe, train
from composer_kd.recipes.schema import Recipe

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / 'yamls').rglob('*.yaml'))
SHORT = ['max_duration=4ba', 'save_interval=4ba', 'eval_interval=4ba', 'scheduler=null']


def names(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    """A short run of the digits' baseline, to be the teacher."""
    folder = tmp_path_factory.mktemp('earlier') / 'run'
    train(load_recipe(ROOT / 'yamls/digits/baseline.yaml', [f'run_folder={folder}', 'max_duration=2ep', 'seed=1']))
    return folder


@pytest.fixture
def overlay(earlier, tmp_path):
    def settings(path):
        recipe = load_recipe(path)
        taught = [f'algorithms.distillation.teachers[0].run={earlier}'] if 'distillation' in recipe.algorithms else []
        return [f"run_folder={tmp_path / 'run'}", *taught]
    return settings


@pytest.mark.parametrize('path', RECIPES, ids=names)
def test_it_validates(path, overlay):
    from click.testing import CliRunner

    result = CliRunner().invoke(main, ['validate', str(path), *overlay(path)])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith('valid\n')


@pytest.mark.parametrize('path', RECIPES, ids=names)
def test_it_trains(path, overlay):
    record = train(load_recipe(path, [*overlay(path), *SHORT])).read_record()
    assert record.status == 'finished'
    assert record.batches == 4
    assert record.evaluations[-1].metrics.keys() == load_recipe(path).evaluators.keys()
    assert (record.kd is not None) == ('distillation' in load_recipe(path).algorithms)


@pytest.mark.parametrize('path', RECIPES, ids=names)
def test_its_header_says_how_to_start_it_and_how_long_it_takes(path):
    lines = path.read_text().splitlines()
    header = '\n'.join(lines[:next(i for i, line in enumerate(lines) if not line.startswith('#'))])
    assert f'composer -n 1 scripts/train.py {path.relative_to(ROOT)}' in header
    assert ' s on ' in header or ' h on ' in header or ' min on ' in header


def test_the_digits_recipes_differ_in_distillation_alone():
    base, *others = (load_recipe(ROOT / f'yamls/digits/{name}.yaml') for name in
                     ('baseline', 'kd', 'kd_early', 'kd_every_4'))
    for other in others:
        differing = {key for key in Recipe.model_fields if getattr(base, key) != getattr(other, key)}
        assert differing == {'run_name', 'run_folder', 'description', 'tags', 'algorithms'}
        assert set(other.algorithms) == {'distillation'}
    assert len({other.tags['method'] for other in others}) == 3
