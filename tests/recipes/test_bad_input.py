"""What is wrong with a recipe or a teacher is told in one paragraph, before training, by validate or at the start."""

import shutil

import pytest
import torch
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.recipes import load_recipe, train, train_main

BASE = 'yamls/digits/baseline.yaml'


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs') / 'earlier'
    train(load_recipe(BASE, [f'run_folder={folder}', 'max_duration=1ep', 'train_data.train_size=64',
                             'scheduler.t_warmup=1ba', 'run_name=earlier']))
    return folder


def told(capsys, tmp_path, *overrides):
    """The one paragraph on standard error, for a run that must not start."""
    status = train_main([BASE, f'run_folder={tmp_path / "run"}', 'max_duration=1ep', 'train_data.train_size=64', *overrides])
    captured = capsys.readouterr()
    assert status == 1, captured
    assert captured.err.startswith('error: ')
    assert captured.err.count('\n') == 1, captured.err
    assert not (tmp_path / 'run' / 'record.json').exists(), 'training had started'
    return captured.err


def kd(**settings):
    return 'algorithms.distillation={' + ', '.join(f'{k}: {v}' for k, v in settings.items()) + '}'


@pytest.mark.parametrize(('settings', 'message'), [
    ({'loss': 'kl_divergance'}, "Did you mean 'kl_divergence'"),
    ({'loss': '{name: kl_divergence, temprature: 2}'}, "Did you mean 'temperature'"),
    ({'kd_loss_weight': -1}, 'kd_loss_weight: expected a finite number of 0 or more, got -1'),
    ({'loss': '{name: kl_divergence, temperature: -1}'}, 'temperature'),
    ({'start': '0.6dur', 'end': '0.5dur'}, "start: '0.6dur' lies after end '0.5dur'"),
    ({'teachers_per_batch': 2}, '2 teachers a batch of a pool of 1'),
    ({'ende': '0.5dur'}, "Did you mean 'end'"),
    ({'kd_loss_weight': '{multi_step: {milestones: [a]}}'}, 'kd_loss_weight: MultiStepScheduler refused: Invalid time string'),
])
def test_settings(capsys, tmp_path, earlier, settings, message):
    assert message in told(capsys, tmp_path, kd(teachers=f'[{{run: {earlier}}}]', **settings))


def test_a_folder_without_a_run(capsys, tmp_path):
    assert 'no/such' in told(capsys, tmp_path, kd(teachers='[{run: no/such}]'))
    (tmp_path / 'empty').mkdir()
    assert 'is no run folder' in told(capsys, tmp_path, kd(teachers=f'[{{run: {tmp_path / "empty"}}}]'))


def test_a_run_folder_that_cannot_be_read(capsys, tmp_path, earlier):
    broken = tmp_path / 'broken'
    shutil.copytree(earlier, broken, symlinks=True)
    (broken / 'recipe.yaml').unlink()
    (broken / 'recipe.yaml').mkdir()
    assert 'Cannot read recipe.yaml' in told(capsys, tmp_path, kd(teachers=f'[{{run: {broken}}}]'))


def test_a_truncated_checkpoint_and_that_the_folder_stays_free(capsys, tmp_path, earlier):
    whole = next(path for path in (earlier / 'checkpoints').iterdir() if not path.is_symlink())
    cut = tmp_path / 'cut.pt'
    cut.write_bytes(whole.read_bytes()[:-500])
    entry = kd(teachers=f'[{{checkpoint: {cut}}}]')
    assert 'may be truncated' in told(capsys, tmp_path, entry)
    result = CliRunner().invoke(main, ['validate', BASE, entry])
    assert result.exit_code == 1
    assert 'may be truncated' in result.output
    assert train_main([BASE, f'run_folder={tmp_path / "run"}', 'max_duration=1ep', 'train_data.train_size=64',
                       'scheduler.t_warmup=1ba', kd(teachers=f'[{{checkpoint: {whole}}}]', check_batches=0)]) == 0


def test_another_number_of_classes(capsys, tmp_path, earlier):
    entry = kd(teachers=f'[{{run: {earlier}}}]')
    assert 'has 10 outputs and the student 12' in told(capsys, tmp_path, entry, 'model.num_classes=12')
    result = CliRunner().invoke(main, ['validate', BASE, entry, 'model.num_classes=12'])
    assert result.exit_code == 1
    assert 'has 10 outputs and the student 12' in result.output


def test_validate_says_that_a_good_teacher_fits(earlier):
    result = CliRunner().invoke(main, ['validate', BASE, kd(teachers=f'[{{run: {earlier}, name: old}}]')])
    assert result.exit_code == 0, result.output
    assert 'teacher old' in result.output
    assert 'fits, digest' in result.output


@pytest.mark.parametrize('place', ['teachers: [{{cache: {store}}}]', 'teachers: [{{run: {run}, cache: {{path: {store}, fill: true}}}}]'])
def test_inputs_that_change_beside_stored_answers(capsys, tmp_path, earlier, place):
    store, short = tmp_path / 'store', ['max_duration=1ep', 'train_data.train_size=64', 'scheduler.t_warmup=1ba', 'train_data.views=2']
    filled = kd(teachers=f'[{{run: {earlier}, cache: {{path: {store}, fill: true}}}}]', check_batches=0)
    train(load_recipe(BASE, [f'run_folder={tmp_path / "filled"}', filled, *short]))
    entries = 'algorithms.distillation={' + place.format(run=earlier, store=store) + '}', 'algorithms.mixup={alpha: 0.2}'
    message = 'algorithms.distillation.teachers: MixUp mixes the inputs of a batch after they were loaded'
    assert message in told(capsys, tmp_path, *entries, 'train_data.views=2')
    result = CliRunner().invoke(main, ['validate', BASE, *entries, 'train_data.views=2'])
    assert result.exit_code == 1
    assert message in result.output


def test_what_composer_refuses(capsys, tmp_path):
    assert "load_path: 'no/such.pt' is not there" in told(capsys, tmp_path, 'load_path=no/such.pt')
    if not torch.cuda.is_available():
        assert 'Composer refused' in told(capsys, tmp_path, 'device=gpu')


def test_two_of_them(capsys, tmp_path, earlier):
    recipe = tmp_path / 'two.yaml'
    entry = f'{{teachers: [{{run: {earlier}}}]}}'
    recipe.write_text(f'run_name: x\nmodel: digits_resnet\ntrain_data: {{name: digits, batch_size: 8}}\noptimizer: '
                      f'{{name: sgd, lr: 0.1}}\nmax_duration: 1ba\nalgorithms:\n  distillation: {entry}\n'
                      f'  distillation: {entry}\n')
    assert train_main([str(recipe)]) == 1
    assert 'duplicate' in capsys.readouterr().err
