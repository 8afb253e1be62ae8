"""``validate`` and ``tune`` of recipes with several losses, of logits and of layers."""

import pytest
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.recipes import load_recipe
from composer_kd.recipes.build import train
from tests.caching.made import write
from tests.tuning.made import several, tune

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')
LOGITS = [{'name': 'kl_divergence', 'temperature': 2.0, 'end': '6ba'}, {'name': 'mse', 'weight': 0.1, 'start': '6ba'}]
LAYERS = [{'name': 'hint', 'student_layer': 'blocks.1', 'teacher_layer': 'module.blocks.1', 'weight': 0.5}, 'mse']


def of(folder, losses, **changes):
    return write(several(folder, 2, losses=losses, **changes), folder)


@pytest.mark.parametrize('losses', [LOGITS, LAYERS], ids=['logits', 'layers'])
def test_a_recipe_is_validated_trained_and_tuned(losses, tmp_path):
    path = of(tmp_path, losses)
    validated = CliRunner().invoke(main, ['validate', str(path)])
    assert validated.stdout.splitlines()[-1:] == ['valid'], validated.output
    found = tune(path, '--seconds', 0.2)
    assert found.exit_code == 0, found.output
    assert 'recommended: ' in found.stdout
    assert ('stored answers: not looked at' in found.stdout or 'answers hold logits alone' in found.stdout) == (
        losses is LAYERS), found.stdout
    train(load_recipe(path))


def test_a_layer_that_is_not_there_is_found_by_validate(tmp_path):
    for key, said in (('student_layer', 'blocks.11'), ('teacher_layer', 'block.1')):
        path = of(tmp_path, [{**LAYERS[0], key: said}])
        validated = CliRunner().invoke(main, ['validate', str(path)])
        assert validated.exit_code != 0
        assert f'losses.hint.{key}' in validated.output
        assert "Did you mean 'blocks.1" in validated.output
