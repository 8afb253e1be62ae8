"""``composer-kd tune`` as a user sees it: what it prints, what each option does, and that nothing is left behind."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.recipes import load_recipe
from composer_kd.recipes.build import train
from composer_kd.tuning.measure import _time_loader
from tests.caching.made import ROOT, digits, text, write
from tests.tuning.made import refused, several, tune, tuned

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')


def files(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob('*'))}


@pytest.fixture(scope='module')
def shown(tmp_path_factory):
    """What was printed for three teachers, on a run folder that holds a finished run."""
    folder = tmp_path_factory.mktemp('shown')
    temporary = tmp_path_factory.mktemp('temporary')
    path = write(several(folder), folder)
    train(load_recipe(path))
    before = files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, 'tempdir', str(temporary))
        result = tune(path, '--seconds', 0.5, '--runs', 40)
    assert result.exit_code == 0, result.output
    assert files(folder) == before, 'nothing is touched, the finished run least of all'
    assert not list(temporary.iterdir()), 'nothing is left behind'
    return result


def test_everything_is_printed(shown):
    lines = shown.stdout.splitlines()
    assert lines[0] == 'measured, a batch of 16'
    assert '\x1b' not in shown.stdout
    assert shown.stderr == ''
    for name in ('step without distillation', 'data alone (0 workers)', 't0 (and t1, t2, the same architecture), ',
                 'loss, forward and backward, and all around', 'what a step with distillation takes more',
                 'stored answers of a teacher, read', 'loss on stored answers, and all around'):
        row = next(line for line in lines if line.strip().startswith(name))
        assert re.search(r'\d [mu]?s +\[-?[\d.e+-]+ [mu]?s, -?[\d.e+-]+ [mu]?s\] +[\d,]+ +[\d.]+ %', row), row
    assert 'choices, predicted for 12 steps' in lines
    choices = [line for line in lines if line.lstrip(' >').startswith(('as the', 'one', 'all'))]
    assert sum(line.startswith(' >') for line in choices) == 1
    assert lines.index('to paste into the recipe') > next(i for i, line in enumerate(lines) if line.startswith('recommended: '))
    assert 'Quality is not measured here' in shown.stdout


def test_what_is_printed_can_be_pasted(shown, tmp_path):
    said = shown.stdout.split('to paste into the recipe\n')[1]
    part = yaml.safe_load(said)
    own = several(tmp_path)
    part['algorithms']['distillation']['teachers'] = own['algorithms']['distillation']['teachers']
    path = write({'base': write(own, tmp_path, 'own.yaml').name, **part}, tmp_path, 'pasted.yaml')
    result = CliRunner().invoke(main, ['validate', str(path)])
    assert result.stdout.splitlines()[-1:] == ['valid'], result.output


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp('text')
    return tuned(write(text(folder), folder)), folder


def test_text_as_json(found):
    told, _ = found
    assert told['steps'] == 10
    assert told['measured']['samples'] == 8
    assert set(told['measured']['teachers']) == {'bert'}
    assert told['measured']['stored']['form']['name'] == 'dense', '16 words'
    assert told['measured']['stored']['rows'] == pytest.approx(0.15 * 26, rel=0.7)
    assert told['budget'] == 0.1
    names = [one['name'] for one in told['choices']]
    assert names[0] == 'as the recipe says'
    assert 'as the recipe says, stored' in names
    assert told['recommended']['name'] in [one['name'] for one in told['choices']]
    assert told['choices'][0]['runs'] == 1
    own = told['choices'][0]
    costs = told['measured']
    each = next(iter(costs['teachers']['bert'].values()))['seconds'] + costs['loss']['seconds']
    assert own['overhead'] == pytest.approx(each / costs['step']['seconds'])


def test_budget_runs_and_gpus_and_key_values(tmp_path):
    path = write(digits(tmp_path), tmp_path)
    told = tuned(path, 'max_duration=20ep', '--budget', 100, '--runs', 7, '--gpus', 2)
    assert (told['steps'], told['budget'], told['gpus'], told['batch_size']) == (120, 100, 2, 16)
    assert told['measured']['samples'] == 8
    assert told['recommended']['name'] == 'as the recipe says'
    assert {one['runs'] for one in told['choices']} == {7}
    assert told['recipe'] == {'algorithms': {'distillation': digits(tmp_path)['algorithms']['distillation']}}
    none = tuned(path, '--budget', 0)
    assert not none['recommended']['within_budget']
    assert none['recommended']['why'][0].startswith('The budget of 0 % cannot be met')


def test_teachers_beside_a_recipe_that_has_none(tmp_path):
    recipe = digits(tmp_path)
    (teacher,) = recipe['algorithms'].pop('distillation')['teachers']
    path = write(recipe, tmp_path)
    assert refused(path) == (
        "error: tune: the recipe has no teacher. Give one or more: --teacher '{run: FOLDER}', or set "
        'algorithms.distillation.teachers.'
    )
    told = tuned(path, '--teacher', yaml.safe_dump({**teacher, 'name': 'a'}), '--teacher', yaml.safe_dump({**teacher, 'name': 'b'}))
    assert told['choices'][0]['name'] == 'all 2 teachers, always'
    assert set(told['choices'][0]['asked']) == {'a', 'b'}
    assert [item['name'] for item in told['recipe']['algorithms']['distillation']['teachers']] == ['a', 'b']


def test_teachers_in_place_of_the_recipes_own(tmp_path):
    recipe = several(tmp_path, 1)
    told = tuned(write(recipe, tmp_path), '--teacher', f"{{checkpoint: {tmp_path / 't0.pt'}, name: other}}")
    assert set(told['measured']['teachers']) == {'other'}
    assert told['choices'][0]['name'] == 'as the recipe says'


def test_longer_means_more_of_each(tmp_path):
    path = write(digits(tmp_path), tmp_path)
    short, long = (
        min(spread['count'] for spread in json.loads(tune(path, '--json', '--seconds', seconds).stdout)['measured']
            ['teachers']['teacher0'].values()) for seconds in (0.01, 6)
    )
    assert short == 2
    assert long > 2 * short


@pytest.mark.parametrize(('workers', 'samples', 'known'), [(2, 80, True), (2, 40, False), (1, 8, False)])
def test_data_of_worker_processes(workers, samples, known):
    """Epochs of 10, 5 and 1 batches: what workers fetch ahead is not counted, and nobody waits for more."""
    data = torch.utils.data.TensorDataset(torch.arange(samples))
    loader = torch.utils.data.DataLoader(data, 8, num_workers=workers)
    found = _time_loader(loader, workers, 0.01, lambda what, share: None)
    assert (found is not None) == known


# --- what is wrong ---

@pytest.mark.parametrize(('arguments', 'told'), [
    (['model.widht=3'], "unknown key 'widht'"),
    (['algorithms.distillation.teachers=[{run: nowhere}]'], 'algorithms.distillation.teachers[0].run: '),
    (['--teacher', '{run: nowhere}'], 'algorithms.distillation.teachers[0].run: '),
    (['--teacher', 'nowhere'], "--teacher: expected a mapping such as {run: FOLDER}, got 'nowhere'"),
    (['--teacher', '{run: '], '--teacher: '),
    (['--gpus', '3'], '16 samples cannot be divided evenly over 3 GPUs'),
    (['train_data.name=digit'], "train_data: unknown data 'digit'"),
])
def test_bad_input_is_one_paragraph_before_any_work(tmp_path, arguments, told):
    path = write(digits(tmp_path), tmp_path)
    before = files(tmp_path)
    assert told in refused(path, *arguments)
    assert files(tmp_path) == before


def test_missing_data_is_told(tmp_path):
    path = write(text(tmp_path), tmp_path)
    (tmp_path / 'text').rename(tmp_path / 'gone')
    assert 'train_data' in refused(path)


def test_a_missing_recipe(tmp_path):
    assert "there is no file" in refused(tmp_path / 'nowhere.yaml')


@pytest.mark.parametrize(('arguments', 'told'), [
    ([], "Missing argument 'RECIPE.yaml'"), (['a.yaml', '--seconds', '0'], "Invalid value for '--seconds'"),
    (['a.yaml', '--budget', '-1'], "Invalid value for '--budget'"), (['a.yaml', '--runs', '0'], "Invalid value for '--runs'"),
    (['a.yaml', '--gpus', '0'], "Invalid value for '--gpus'"), (['a.yaml', '--buget', '1'], "No such option '--buget'"),
])
def test_wrong_usage(arguments, told):
    result = tune(*arguments)
    assert result.exit_code == 2
    assert told in result.output


def test_help_needs_no_torch():
    code = (
        'import sys; from click.testing import CliRunner; from composer_kd.cli import main; '
        "result = CliRunner().invoke(main, ['tune', '--help']); assert '--budget' in result.output; "
        "assert 'torch' not in sys.modules and 'composer' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    assert Path(ROOT).is_dir()


# --- how teachers are prepared ---

def test_ways_of_preparing_are_measured_and_what_is_taken_is_pasted(tmp_path, monkeypatch):
    monkeypatch.setattr('composer_kd.tuning.variants.COMPILE', {'backend': 'aot_eager'})
    path = write(digits(tmp_path), tmp_path)
    assert set(tuned(path)['measured']['teachers']['teacher0']) == {'auto', 'none', 'bf16'}
    monkeypatch.setattr('composer_kd.tuning.measure.pick', lambda teachers, ways: 'none')
    told = tuned(path, '--compile')
    assert set(told['measured']['teachers']['teacher0']) == {'auto', 'none', 'bf16', 'compiled'}
    names = [one['name'] for one in told['choices']]
    assert names[:2] == ['as the recipe says', 'as the recipe says, teachers prepared: none']
    assert 'prepare' not in told['choices'][0]['changes']
    assert all(one['changes']['prepare'] == 'none' for one in told['choices'] if one['name'] != names[0])
    teacher = {way: spread['seconds'] for way, spread in told['measured']['teachers']['teacher0'].items()}
    loss, step = (told['measured'][key]['seconds'] for key in ('loss', 'step'))
    assert told['choices'][0]['overhead'] == pytest.approx((teacher['auto'] + loss) / step)
    assert told['choices'][1]['overhead'] == pytest.approx((teacher['none'] + loss) / step)


def test_a_preparation_that_is_refused_is_told_and_the_rest_is_measured(tmp_path):
    """With no tolerance at all, bf16 is too far off."""
    recipe = several(tmp_path, 1, prepare={'tolerance': 0, 'fold_batchnorm': False, 'channels_last': False})
    told = tuned(write(recipe, tmp_path))
    assert "'t0 (bf16)'" in told['measured']['refused']['bf16']
    assert 'bf16' not in told['measured']['teachers']['t0']
    assert 'as the recipe says' in told['measured']['teachers']['t0']
