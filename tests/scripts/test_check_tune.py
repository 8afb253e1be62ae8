"""scripts/check_tune.py: real trainings beside what was predicted; nothing here depends on how long anything takes."""

import json

import pytest
from click.testing import CliRunner

from composer_kd.plan.result import Distilling
from composer_kd.tuning.choices import Choice
from composer_kd.tuning.predict import Costs, Prediction, Schedule, predict
from tests.caching.made import digits, write
from tests.scripts.test_glue_script import ROOT, loaded
from tests.tuning.made import several

script = loaded(ROOT / 'scripts' / 'check_tune.py')
pytestmark = [
    pytest.mark.filterwarnings('ignore:Teacher .* no better than'), pytest.mark.usefixtures('nothing_is_left_behind'),
]


def run(*arguments):
    return CliRunner().invoke(script.main, list(map(str, arguments)))


def test_predicted_beside_measured(tmp_path):
    path = write(several(tmp_path, 2), tmp_path)
    before = sorted(tmp_path.rglob('*'))
    result = run(path, '--batches', 8, '--rounds', 2, '--seconds', 0.2, '--json', '--choice', 'one teacher, every 4th batch',
                 '--choice', 'all 2 teachers, first 50 %, stored')
    assert result.exit_code == 0, result.output
    sparse, stored = json.loads(result.stdout)
    assert (sparse['choice'], sparse['steps'], sparse['active']) == ('one teacher, every 4th batch', 8, 2)
    assert (stored['choice'], stored['active']) == ('all 2 teachers, first 50 %, stored', 4)
    assert all(row['predicted'] > 0 and len(row['rounds']) == 2 for row in (sparse, stored))
    assert sorted(tmp_path.rglob('*')) == before


def test_a_table(tmp_path):
    result = run(write(digits(tmp_path), tmp_path), '--batches', 6, '--rounds', 1, '--seconds', 0.1, '--choice', 'first 25 %')
    assert 'overhead of 6 batches, predicted and measured over 1 rounds' in result.output
    assert 'first 25 %' in result.output


def test_bad_input(tmp_path):
    assert "there is no file 'nowhere.yaml'" in run('nowhere.yaml').output
    result = run(write(digits(tmp_path), tmp_path), '--seconds', 0.1, '--choice', 'sometimes')
    assert result.exit_code == 2
    assert "there is no 'sometimes' for this recipe, but as the recipe says, " in result.output


def test_each_batch_by_its_median_and_without_the_first():
    without = [[90.0, 1.0, 1.0, 1.0], [90.0, 1.0, 1.0, 50.0], [90.0, 1.0, 1.0, 1.0]]
    with_kd = [[9.0, 2.0, 1.0, 1.0], [9.0, 2.0, 1.0, 1.0], [9.0, 2.0, 70.0, 1.0]]
    assert script.overhead(with_kd, without) == pytest.approx(1 / 3)


def test_the_same_batches_are_predicted():
    counts = Distilling(active_steps=5, first_step=0, last_step=8, batches={'a': 5}, samples={'a': 5})
    one = predict(Choice('every 2nd', {}), Costs(1.0, {'a': 0.5}, 0.0), Schedule(10, counts, 1))
    assert isinstance(one, Prediction)
    assert script.expected(one) == pytest.approx(4 * 0.5 / 9), 'the first of the ten had it'
    later = predict(Choice('later', {}), Costs(1.0, {'a': 0.5}, 0.0), Schedule(10, counts.model_copy(update={'first_step': 2}), 1))
    assert script.expected(later) == pytest.approx(5 * 0.5 / 9)
