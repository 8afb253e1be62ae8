"""Every recipe in yamls/ validates, trains, saves, is interrupted, resumes and evaluates, on small real data."""

import gc
import shutil

import pytest
from click.testing import CliRunner
from composer.core import Callback

from composer_kd.cli import main
from composer_kd.recipes import build_trainer, load_recipe, train
from composer_kd.recipes.build import forget
from composer_kd.recipes.schema import Recipe
from tests.yamls.overlay import BATCHES, RECIPES, ROOT, names, overlay

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than',  # teachers of two batches
    'ignore::UserWarning:composer', 'ignore::UserWarning:torchmetrics',
)


class Interruption(Callback):
    """A power cut after the third batch, between two checkpoints."""

    def batch_end(self, state, logger):
        if state.timestamp.batch == 3:
            raise KeyboardInterrupt


@pytest.fixture
def ready(workshop, tmp_path, monkeypatch):
    """A function that loads a recipe with the overlay, its earlier runs made, standing where they are."""
    monkeypatch.chdir(workshop.root)
    monkeypatch.setenv('TORCH_HOME', str(workshop.root / 'torch'))

    def load(path):
        over = [*overlay(path), f'run_folder={tmp_path / "run"}']
        workshop.earlier(load_recipe(path))
        return load_recipe(path, over), over
    yield load
    shutil.rmtree(tmp_path / 'run', ignore_errors=True)
    gc.collect()


@pytest.mark.parametrize('path', RECIPES, ids=names)
def test_it_validates_trains_saves_resumes_and_evaluates(path, ready):
    recipe, over = ready(path)
    result = CliRunner().invoke(main, ['validate', str(path), *over])
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith('valid\n')

    interrupted = build_trainer(recipe)
    interrupted.state.callbacks.append(Interruption())
    with pytest.raises(KeyboardInterrupt):
        interrupted.fit()
    interrupted.engine.close()
    forget(interrupted)
    folder = train(recipe)
    record = folder.read_record()
    assert (record.status, record.batches) == ('finished', BATCHES)
    last = {label for evaluation in record.evaluations if evaluation.batch == BATCHES for label in evaluation.metrics}
    assert last == recipe.evaluators.keys()
    assert folder.latest_checkpoint().exists()

    distillation = recipe.algorithms.get('distillation')
    assert (record.kd is not None) == (distillation is not None)
    if distillation is not None:
        assert record.kd.active_batches > 0 or distillation.get('probability', 1) < 1
        assert len(record.teachers) == len(distillation['teachers'])


@pytest.mark.parametrize('path', RECIPES, ids=names)
def test_its_header_says_how_to_start_it_where_and_what_it_stands_for(path):
    lines = path.read_text().splitlines()
    header = '\n'.join(lines[:next(i for i, line in enumerate(lines) if not line.startswith('#'))])
    assert f'scripts/train.py {path.relative_to(ROOT)}' in header
    assert 'composer -n ' in header
    if path.parent.name != 'digits' and not path.stem.startswith(('prose', 'digits')):
        assert 'Hardware: ' in header
        assert 'Other hardware: ' in header
        assert 'Published: ' in header
        assert any(words in header for words in ('not measured here', 'none is known', 'Published: nothing')), 'whose figure is it?'


@pytest.mark.parametrize('path', [path for path in RECIPES if 'kd' in path.stem], ids=names)
def test_a_recipe_with_kd_holds_what_differs_and_teachers(path):
    text = path.read_text()
    assert '\nbase: ' in text
    said = [line for line in text.splitlines() if line and not line.startswith('#')]
    assert len(said) <= 22, 'a reader should see the method at a glance'
    recipe = load_recipe(path)
    base = recipe
    while 'distillation' in base.algorithms:
        path = path.parent / next(line for line in path.read_text().splitlines() if line.startswith('base: '))[6:]
        base = load_recipe(path)
    differing = {key for key in Recipe.model_fields if getattr(base, key) != getattr(recipe, key)}
    # stored answers are answers to views that come again
    views = {key: value for key, value in recipe.train_data.items() if key not in ('views', 'view_seed')}
    assert views == base.train_data
    assert differing - {'train_data'} <= {'run_name', 'run_folder', 'description', 'tags', 'algorithms', 'seed'}
    assert set(recipe.algorithms) == {*base.algorithms, 'distillation'}
    assert recipe.tags['method'] != base.tags['method']


def test_methods_and_run_names_are_told_apart():
    recipes = [load_recipe(path) for path in RECIPES]
    assert len({recipe.run_folder for recipe in recipes}) == len(recipes)
    tasks = [(recipe.tags.get('task'), recipe.tags['method'], str(recipe.model), str(recipe.train_data)) for recipe in recipes]
    assert len(set(tasks)) == len(recipes)
