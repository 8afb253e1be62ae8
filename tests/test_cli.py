import subprocess
import sys
from time import perf_counter

import pytest
import yaml
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.plan import Plan
from tests.recipes.tiny import plain


@pytest.fixture
def written(tmp_path):
    path = tmp_path / 'tiny.yaml'
    path.write_text(yaml.safe_dump(plain(run_folder=str(tmp_path / 'run')), sort_keys=False))
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_valid_recipe_is_summed_up(written):
    result = run('validate', written, 'model.width=8', 'algorithms.ema={half_life: 10ba}')
    assert result.exit_code == 0, result.output
    lines = dict(line.split(maxsplit=1) for line in result.stdout.splitlines()[:-1])
    assert result.stdout.splitlines()[-1] == 'valid'
    assert lines['run'] == f"tiny in {written.parent / 'run'}"
    assert lines['model'] == 'digits_resnet (width 8), 3,730 parameters'
    assert lines['optimizer'] == 'decoupled_sgdw (lr 0.1, momentum 0.9)'
    assert lines['algorithms.ema'] == 'half_life 10ba'
    assert lines['evaluators'] == 'test: digits (split test, batch_size 128)'
    assert not (written.parent / 'run').exists(), 'nothing is written'


@pytest.mark.parametrize(('arguments', 'told'), [
    (['model.widht=8'], "error: model: unknown key 'widht'. Did you mean 'width'?"),
    (['algorithms.distillation={teachers: {run: nowhere}}'], 'error: algorithms.distillation.teachers[0].run: '),
    (['sed=3'], "error: recipe: unknown key 'sed'. Did you mean 'seed'?"),
    (['seed'], "error: 'seed': expected key=value"),
])
def test_an_invalid_recipe_is_one_paragraph_on_stderr(written, arguments, told):
    result = run('validate', written, *arguments)
    assert result.exit_code == 1
    assert result.stdout == ''
    assert result.stderr.startswith(told)
    assert result.stderr.count('\n') == 1


def test_a_missing_recipe(tmp_path):
    result = run('validate', tmp_path / 'nowhere.yaml')
    assert result.exit_code == 1
    assert 'there is no file' in result.stderr
    assert run('validate').exit_code == 2


def test_a_plan_is_plain_where_there_is_no_terminal(written):
    result = run('plan', written, 'model.width=8', '--gpus', 2)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[0] == 'tiny on 2 GPUs, amp_fp16'
    told = dict(line.split(maxsplit=1) for line in lines if len(line.split()) > 1)
    assert told['batch'] == '16 samples, 8 a rank'
    assert told['in'].startswith('2ep: 12 steps') or 'in all  ' in result.stdout
    assert 'student       3,730       10' in result.stdout
    assert lines[-2:] == ['problems', '  none']
    assert '\x1b' not in result.stdout
    assert sorted(path.name for path in written.parent.iterdir()) == ['tiny.yaml'], 'nothing is written'


def test_a_plan_as_json(written):
    result = run('plan', written, '--json', '--nodes', 2, '--memory', 40)
    plan = Plan.model_validate_json(result.stdout)
    assert (plan.ranks, plan.nodes, plan.memory.limit) == (16, 2, 40 * 2**30)
    assert plan.length.batch_per_rank == 1


def test_a_plan_fails_where_the_training_would(written):
    result = run('plan', written, '--gpus', 3)
    assert result.exit_code == 1
    assert '  error train_data.batch_size: 16 samples cannot be divided evenly over 3 ranks' in result.stdout
    result = run('plan', written, 'model.widht=8')
    assert result.exit_code == 1
    assert result.stderr.startswith("error: model: unknown key 'widht'. Did you mean 'width'?")


def test_help_is_instant_and_needs_no_torch():
    code = (
        'import sys; from click.testing import CliRunner; from composer_kd.cli import main; '
        "result = CliRunner().invoke(main, ['--help']); assert 'validate' in result.output, result.output; "
        "assert 'torch' not in sys.modules and 'composer' not in sys.modules"
    )
    started = perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True)
    assert perf_counter() - started < 3
