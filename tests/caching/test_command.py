"""What a user sees who types it wrong, and who asks for help."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from composer_kd.cli import main
from tests.caching.made import ROOT, cache, digits, refused, write


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_help_shows_the_three_ways_each_on_its_line():
    result = run('cache', '--help')
    assert result.exit_code == 0
    lines = [line.strip() for line in result.output.splitlines()]
    for line in (
        'composer-kd cache RECIPE.yaml --out PATH     writes what is not there yet',
        'composer-kd cache estimate RECIPE.yaml       bytes, time, and when it pays',
        'composer-kd cache verify RECIPE.yaml PATH    its files, a sample of its answers',
        'composer -n 8 -c composer-kd cache RECIPE.yaml --out PATH',
        'algorithms: {distillation: {teachers: [{cache: PATH}]}}',
    ):
        assert line in lines
    assert '\\b' not in result.output
    assert '\b' not in result.output


@pytest.mark.parametrize('command', ['write', 'estimate', 'verify'])
def test_help_of_each(command):
    result = run('cache', command, '--help')
    assert result.exit_code == 0
    assert 'RECIPE.yaml' in result.output
    assert '--teacher NAME' in result.output
    assert all(len(line) <= 80 for line in result.output.splitlines())


def test_help_needs_no_torch():
    code = (
        'import sys; from click.testing import CliRunner; from composer_kd.cli import main; '
        "result = CliRunner().invoke(main, ['cache', 'write', '--help']); assert '--only-asked' in result.output; "
        "assert 'torch' not in sys.modules and 'composer' not in sys.modules"
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


@pytest.mark.parametrize(('arguments', 'told'), [
    ([], 'Usage: main cache'), (['recipe.yaml'], "Missing option '--out'"), (['--out', 'x'], "Missing argument 'RECIPE.yaml'"),
    (['write'], "Missing argument 'RECIPE.yaml'"), (['estimate'], "Missing argument 'RECIPE.yaml'"),
    (['verify', 'recipe.yaml'], "Missing argument 'PATH'"), (['verify'], "Missing argument 'RECIPE.yaml'"),
    (['verifiy', 'recipe.yaml', 'x'], "No such command or recipe 'verifiy'. Did you mean 'verify'?"),
    (['estimat', 'recipe.yaml'], "Did you mean 'estimate'?"),
    (['recipe.yaml', '--out', 'x', '--views', '0'], "Invalid value for '--views'"),
    (['recipe.yaml', '--out', 'x', '--fromat', 'dense'], "No such option '--fromat'"),
    (['estimate', 'recipe.yaml', '--seconds', '0'], "Invalid value for '--seconds'"),
    (['verify', 'recipe.yaml', 'x', '--samples', '0'], "Invalid value for '--samples'"),
])
def test_wrong_usage(arguments, told):
    result = run('cache', *arguments)
    assert result.exit_code == 2
    assert told in result.output


@pytest.mark.parametrize('command', [['write', '--out', 'x'], ['--out', 'x'], ['estimate'], ['verify', 'x']])
def test_a_recipe_that_is_not_there(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = [] if command[0].startswith('-') else command[:1]
    told = refused(*name, 'nowhere.yaml', *command[len(name):])
    assert told.startswith("error: recipe: there is no file 'nowhere.yaml'") or 'there is no manifest.json' in told
    assert not list(tmp_path.iterdir())


def test_a_recipe_whose_name_is_near_a_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'verif').write_text(write(digits(tmp_path), tmp_path).read_text())
    assert cache('verif', '--out', 'out').exit_code == 0


def test_keys_and_values_are_checked_as_in_training(recipe, tmp_path):
    assert "unknown key 'widht'" in refused(recipe, 'model.widht=3', '--out', tmp_path / 'out')
    assert "expected key=value" in refused(recipe, 'model', '--out', tmp_path / 'out')
    assert "train_data: unknown data 'digit'" in refused(recipe, 'train_data.name=digit', '--out', tmp_path / 'out')


def test_data_without_keys(tmp_path, monkeypatch):
    from torch.utils.data import DataLoader, TensorDataset

    from composer_kd.recipes.tasks import DATA
    from tests.common import images

    def plainly(batch_size: int, seed: int, train: bool) -> DataLoader:
        data: TensorDataset = images(40, classes=10)
        return DataLoader(data, batch_size)
    monkeypatch.setitem(DATA._items, 'plainly', plainly)
    path = write(digits(tmp_path, train_data={'name': 'plainly', 'batch_size': 8}), tmp_path)
    told = refused(path, '--out', tmp_path / 'out')
    assert "train_data: 'plainly' does not say which samples it gives" in told
