"""What the README shows runs as it stands there."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from composer_kd import Distillation
from composer_kd.cli import main
from composer_kd.features import FEATURE_LOSSES, make_feature_loss
from composer_kd.losses import LOSSES, make_loss
from composer_kd.recipes import check_recipe, load_recipe
from composer_kd.recipes.load import parse_recipe
from composer_kd.studies.file.schema import parse_study
from composer_kd.studies.training.making import check
from composer_kd.studies.work.rehearsal import kinds

ROOT = Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, re.DOTALL)


def test_the_python_snippet(tmp_path):
    snippet, = blocks('python')
    done = subprocess.run([sys.executable, '-c', snippet], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert re.match(r'15 batches with KD, overhead \d', done.stdout)  # more than 1 on a starved machine


def ran(block, folder):
    """What the commands of a block say, each run in a folder with what a clone has, on less of everything."""
    bin_ = Path(sys.executable).parent
    path = f'{bin_}{os.pathsep}{os.environ["PATH"]}'
    for command in block.strip().splitlines():
        command = command.replace('composer-kd ', f'{sys.executable} -m composer_kd.cli ')
        command = command.replace('composer -n', f'{sys.executable} -m composer.cli.launcher -n')
        if 'baseline.yaml' in command:
            command += ' max_duration=2ep'
        if 'stores/earlier}' in command:
            command += ' max_duration=5ep'
        done = subprocess.run(command.replace('max_duration=10ep', 'max_duration=1ep'), shell=True, cwd=folder,
                              capture_output=True, text=True, timeout=240,
                              env={**os.environ, 'PATH': path, 'PYTHONPATH': str(ROOT)})
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
        yield done.stdout


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """The first commands of the README."""
    folder = tmp_path_factory.mktemp('clone')
    for name in ('scripts', 'yamls', 'composer_kd'):
        (folder / name).symlink_to(ROOT / name)
    return folder, list(ran(next(block for block in blocks('bash') if 'yamls/digits/baseline.yaml' in block), folder))


def test_the_commands(made):
    folder, (first, validated, second) = made
    assert 'runs/digits-baseline' in first
    assert 'valid' in validated
    assert 'KD' in second
    assert (folder / 'runs' / 'digits-baseline' / 'record.json').exists()


def test_stored_answers(made):
    folder, _ = made
    block = next(block for block in blocks('bash') if 'composer-kd cache' in block)
    estimate, written, verified, trained = ran(block, folder)
    assert 'it has paid' in estimate
    assert '4,312 answers in stores/earlier (top_k' in written
    assert 'the same to the last bit  1,000' in verified
    assert 'KD' in trained
    assert not (folder / 'stores' / 'digits-baseline').exists(), 'nothing was trained that fills it'


def test_inspecting_a_teacher(made):
    folder, _ = made
    block = next(block for block in blocks('bash') if 'composer-kd inspect' in block)
    first, second = ran(block.replace('--plot', '--seconds 1 --plot'), folder)
    for said in (first, second):
        assert 'student (runs/digits-kd)' in said
        assert 'expected calibration error' in said
    assert 'overhead of a step' in first
    assert 'module.stem.0' in second
    assert (folder / 'reliability.png').stat().st_size > 10_000
    part = README.split('## Is it any good as a teacher')[1].split('\n## ')[0]
    told = CliRunner().invoke(main, ['inspect', '--help']).output
    assert set(re.findall(r'--[a-z]+', told)) - {'--help'} <= set(re.findall(r'`(--[a-z]+)', part)) | {'--recipe'}


def test_the_recipe_entry_over_a_recipe_that_is_there(made, monkeypatch):
    monkeypatch.chdir(made[0])
    entry = yaml.safe_load(blocks('yaml')[0])
    recipe = load_recipe('yamls/digits/baseline.yaml', ['run_name=readme'])
    parts = check_recipe(parse_recipe({**recipe.plain(), **entry}))
    assert parts.algorithms[0].settings['end'] == '0.5dur'


def test_the_whole_recipe():
    check_recipe(parse_recipe(yaml.safe_load(blocks('yaml')[2])))


def test_the_study():
    spec = parse_study(yaml.safe_load(blocks('yaml')[1]), ROOT / 'yamls' / 'studies')
    jobs = [job for _, job in kinds(spec)]
    assert len(jobs) == 3, 'one for each batch size, among them both ends of the range'
    for job in jobs:
        check(job)


def test_every_command_is_named():
    pages = README + (ROOT / 'yamls' / 'studies' / 'README.md').read_text()
    for command in (
        'validate', 'plan', 'tune', 'inspect', 'cache', 'cache estimate', 'cache verify', 'export', 'report', 'study run', 'study status', 'study report',
    ):
        assert f'composer-kd {command}' in pages
        assert CliRunner().invoke(main, [*command.split(), '--help']).exit_code == 0


def table_after(heading):
    part = README.split(f'{heading}\n', 1)[1].split('\n#', 1)[0]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in part.splitlines() if line.startswith('|')][2:]


def test_every_setting_is_in_the_table_with_its_default():
    parameters = {n: p for n, p in inspect.signature(Distillation.__init__).parameters.items() if n != 'self'}
    shown = {}
    for names, default, *_ in table_after('## Settings of Distillation'):
        for name, value in zip(re.findall(r'`(\w+)`', names), re.split(', ', default), strict=False):
            shown[name] = value.strip('`')
        for name in re.findall(r'`(\w+)`', names):
            shown.setdefault(name, default.strip('`'))
    assert set(shown) == set(parameters)
    for name, value in shown.items():
        default = parameters[name].default
        if default not in (None, inspect.Parameter.empty):
            assert value == str(default), name


def test_every_loss_is_in_the_table_with_its_defaults():
    shown = {}
    for names, settings, *more in table_after('### Losses'):
        for name in () if len(more) > 1 else re.findall(r'`(\w+)`', names):
            shown[name] = dict(re.findall(r'`(\w+)` `?([\w.]+)`?', settings))
    own = {name for name, spec in LOSSES._items.items() if spec.function.__module__.startswith('composer_kd.functional')}
    assert own == set(shown)
    for name, settings in shown.items():
        assert settings == {key: str(value) for key, value in make_loss(name).settings.items()}


def test_every_feature_loss_is_in_the_table_as_it_is():
    shown = {}
    for names, settings, *more in table_after('### Losses'):
        if len(more) == 3 and names != 'feature loss' and not names.startswith('-'):
            shown[names.strip('`')] = dict(re.findall(r'`(\w+)` `?([\w.]+)`?', settings)), more
    own = {name for name, spec in FEATURE_LOSSES._items.items() if spec.function.__module__.startswith('composer_kd.functional')}
    assert own == set(shown)
    for name, (settings, (takes, projector, _)) in shown.items():
        loss = make_feature_loss(name)
        assert settings == {key: str(value) for key, value in loss.settings.items()}
        assert projector == ('yes' if loss.projector else 'no')
        assert takes == {'map': 'maps', 'hidden': 'tokens, vectors', 'attention': 'attention'}.get(loss.takes, takes) or name == 'minilm'


def test_every_metric_that_is_logged_is_named():
    for name in ('loss/train/kd', 'loss/train/base', 'kd/active', 'kd/weight', 'kd/temperature', 'kd/teacher/NAME',
                 'kd/teacher_seconds', 'kd/overhead'):
        assert f'`{name}`' in README


def test_nothing_is_left_to_fill_in_and_every_file_it_names_is_there():
    assert '@@' not in README
    for path in re.findall(r'\]\((?!http|#)([^)#]+)', README) + re.findall(r'`((?:scripts|yamls|composer_kd)/[\w/.]+)`', README):
        assert (ROOT / path).exists(), path


def test_the_plan_that_it_shows():
    command = next(line for block in blocks('bash') for line in block.splitlines() if line.startswith('composer-kd plan'))
    result = CliRunner().invoke(main, [*command.split()[1:]])
    assert result.exit_code == 0, result.output
    assert 'KD overhead' in result.output


def test_every_script_and_recipe_in_its_commands_is_there():
    pages = [README, *(page.read_text() for page in (ROOT / 'yamls').rglob('README.md'))]
    named = {name for page in pages for name in re.findall(r'(?<![\w/])((?:scripts|yamls)/[\w/]+\.(?:py|yaml))', page)}
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_links_between_the_pages_lead_somewhere():
    for page in (ROOT / 'yamls').rglob('README.md'):
        for path in re.findall(r'\]\((?!http|#)([^)#]+)', page.read_text()):
            assert (page.parent / path).exists(), f'{page}: {path}'


def test_every_extra_is_one_that_composer_has():
    from importlib.metadata import metadata
    known = {extra.lower() for extra in metadata('mosaicml').get_all('Provides-Extra')}
    for extra in re.findall(r'mosaicml\[([\w-]+)\]', (ROOT / 'setup.py').read_text()):
        assert extra in known, extra
