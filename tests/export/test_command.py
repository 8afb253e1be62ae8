"""The command: what it says, what it replaces, what it refuses, and that nothing half-made is left."""

import resource
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.export import export_run
from composer_kd.export.card import quality_of
from composer_kd.export.folder import new_folder
from composer_kd.export.probe import evaluation_data, probe
from composer_kd.export.program import write_program
from composer_kd.recipes import parse_recipe
from composer_kd.runs import Evaluation, Record
from composer_kd.teachers import model_of_run
from tests.export.made import hand_made, weights
from tests.recipes.tiny import plain


def export(*arguments):
    return CliRunner().invoke(main, ['export', *map(str, arguments)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def run(tmp_path):
    return hand_made(tmp_path / 'run')


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A run and its export, to be looked at alone."""
    root = tmp_path_factory.mktemp('made')
    run = hand_made(root / 'run')
    return run, export(run.path, '--to', root / 'deep' / 'out'), root / 'deep' / 'out'


def refused(result, *told):
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith('error: ')
    assert result.stderr.count('\n') == 1, result.stderr
    for words in told:
        assert words in result.stderr


def test_it_says_what_it_wrote(made):
    run, result, out = made
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"digits_resnet (width 4), from {run.checkpoints / 'ep1-ba6-rank0.pt'} (run finished)"
    assert lines[1] == "loaded with torch: the outputs of the run's model"
    assert [Path(line.split()[1]).name for line in lines[2:]] == names(out) == ['README.md', 'SHA256SUMS', 'model.pt2', 'model.safetensors']
    assert {oct(path.stat().st_mode) for path in out.iterdir()} == {oct((out / 'README.md').stat().st_mode)}
    assert names(out.parent) == ['out'], 'no leftovers beside it'


def test_sha256sum_agrees(made):
    done = subprocess.run(['sha256sum', '-c', 'SHA256SUMS'], cwd=made[2], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.splitlines() == ['README.md: OK', 'model.pt2: OK', 'model.safetensors: OK']


def test_the_callers_generator_does_not_move(run, tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    export_run(run.path, tmp_path / 'out')
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_folder_will_do_and_an_earlier_export_is_replaced_when_asked(run, tmp_path):
    out = tmp_path / 'out'
    out.mkdir()
    assert export(run.path, '--to', out).exit_code == 0
    first = weights(out)
    refused(export(run.path, '--to', out), "to: expected a folder that is missing or empty", '--overwrite')
    other = hand_made(tmp_path / 'other', batch=7)
    assert export(other.path, '--to', out, '--overwrite').exit_code == 0
    assert not torch.equal(first['head.weight'], weights(out)['head.weight'])
    assert names(tmp_path) == ['other', 'out', 'run']


@pytest.mark.parametrize(('name', 'text'), [('notes.txt', 'mine'), ('README.md', 'mine'), ('SHA256SUMS', ''), ('more/a', 'mine')])
def test_nothing_else_is_ever_replaced(made, tmp_path, name, text):
    out = tmp_path / 'out'
    export_run(made[0].path, out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text(text)
    before = names(out)
    refused(export(made[0].path, '--to', out, '--overwrite'), 'holds what no export wrote, or what was changed since', 'nothing was touched')
    assert (names(out), (out / name).read_text()) == (before, text)


def test_a_folder_of_something_else_is_not_replaced(made, tmp_path):
    refused(export(made[0].path, '--to', made[0].path, '--overwrite'), 'holds what no export wrote', 'checkpoints')
    (tmp_path / 'file').write_text('mine')
    refused(export(made[0].path, '--to', tmp_path / 'file', '--overwrite'), "to: expected a folder, and '", 'is a file')
    refused(export(made[0].path, '--to', tmp_path / 'file' / 'out'), 'to: cannot write')


def test_where_one_stands_is_not_replaced(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(export(made[0].path, '--to', '.'), 'where you stand', 'such as')
    assert export(made[0].path, '--to', 'model').exit_code == 0


def test_runs_that_are_none(tmp_path, run):
    refused(export(tmp_path / 'nowhere', '--to', tmp_path / 'out'), 'There is no run folder', 'nowhere')
    (tmp_path / 'empty').mkdir()
    refused(export(tmp_path / 'empty', '--to', tmp_path / 'out'), 'is no run folder: it has no recipe.yaml')
    refused(export(run.path, '--to', tmp_path / 'out', '--checkpoint', 'nowhere.pt'), 'no checkpoint at nowhere.pt')
    next(run.checkpoints.iterdir()).unlink()
    refused(export(run.path, '--to', tmp_path / 'out'), 'has no checkpoint')
    assert names(tmp_path) == ['empty', 'run']


def test_weights_of_another_model_and_weights_that_diverged(run, tmp_path):
    other = hand_made(tmp_path / 'other', model={'name': 'digits_resnet', 'width': 8})
    refused(export(run.path, '--to', tmp_path / 'out', '--checkpoint', other.latest_checkpoint()), 'other shapes than the architecture')
    state = torch.load(run.latest_checkpoint())
    state['state']['model']['module.head.bias'].fill_(float('nan'))
    torch.save(state, run.latest_checkpoint())
    refused(export(run.path, '--to', tmp_path / 'out'), 'not finite', '--checkpoint')
    assert names(tmp_path) == ['other', 'run']


def test_an_unfinished_run_is_exported_with_a_warning(run, tmp_path, caplog):
    run.write_record(run.read_record().model_copy(update={'status': 'unfinished'}))
    result = export(run.path, '--to', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    assert '(run unfinished)' in result.stdout
    assert 'did not finish' in caplog.text


def test_data_whose_shape_nobody_knows(run, tmp_path):
    from composer_kd.recipes import DATA
    DATA.register('unknown')(lambda batch_size, seed, train: None)
    run.write_recipe({**plain(), 'train_data': {'name': 'unknown', 'batch_size': 4}, 'evaluators': {}})
    refused(export(run.path, '--to', tmp_path / 'out'), "train_data: nothing is known of the shape of the data 'unknown'")


@pytest.mark.skipif(not Path('/sys').is_dir(), reason='no folder here that nobody may write to')
def test_a_place_where_nobody_may_write(made):
    refused(export(made[0].path, '--to', '/sys/out'), "to: cannot write '/sys/out'", 'Give a folder where you may write')


@contextmanager
def room_for(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize('size', [2_000, 20_000], ids=['weights', 'program'])
def test_a_disk_without_room_leaves_nothing(made, tmp_path, size):
    with room_for(size), pytest.raises(ValueError, match="to: cannot write '.*out': .*room for the model"):
        export_run(made[0].path, tmp_path / 'out')
    assert names(tmp_path) == []


def test_an_earlier_export_stands_until_the_new_one_is_whole(made, tmp_path):
    out = tmp_path / 'out'
    export_run(made[0].path, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with room_for(20_000), pytest.raises(ValueError, match='to: cannot write'):
        export_run(made[0].path, out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert names(tmp_path) == ['out']


def test_timm_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)  # as if it was not installed
    data = {'name': 'cifar', 'path': 'nowhere', 'batch_size': 6}
    model = {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 10}
    run = hand_made(tmp_path / 'run', model=model, train_data=data, evaluators={})
    result = export(run.path, '--to', tmp_path / 'out')
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:3] == [
        "loaded with torchvision: the outputs of the run's model", 'not tried, as it is not installed or too old: timm',
    ]


def test_a_model_that_computes_something_else_is_an_error_and_leaves_nothing(made, tmp_path):
    recipe = parse_recipe(made[0].read_recipe())
    model = model_of_run(str(made[0].path))
    asked = probe(model, evaluation_data(recipe))
    wrong = replace(asked, expected=asked.expected + 1e-3)
    with pytest.raises(RuntimeError, match=r'outputs differ .* by .*e-0'), new_folder(tmp_path / 'out', False) as out:
        write_program(model, 'a', wrong, out)
    assert names(tmp_path) == []


def test_a_name_that_would_tell_where_it_comes_from_is_refused(tmp_path):
    run = hand_made(tmp_path / 'run')
    evaluation = Evaluation(batch=6, epoch=1, sample=9, train_seconds=1, metrics={'composer_kd': {'Accuracy': 0.75}})
    run.write_record(run.read_record().model_copy(update={'evaluations': [evaluation]}))
    refused(export(run.path, '--to', tmp_path / 'out'), "README.md would hold the text 'composer_kd'")
    assert names(tmp_path) == ['run']


def test_the_quality_is_that_of_the_weights():
    def at(batch):
        return Evaluation(batch=batch, epoch=1, sample=9, train_seconds=1, metrics={'test': {'Accuracy': batch / 100}})
    record = Record(run_name='a', started_at='', updated_at='', evaluations=[at(10), at(20)])
    assert quality_of(record, 'a/ep1-ba10-rank0.pt', False)[-1] == '- test: Accuracy 0.1'
    assert quality_of(record, 'a/ep1-ba25-rank0.pt', True)[0] == 'The weights are those after 25 batches. Evaluated after 20 batches of training:'
    assert quality_of(record, 'a/last.pt', True)[0] == 'Evaluated after 20 batches of training:'
    assert quality_of(record, 'a/ep1-ba25-rank0.pt', False) == ['The weights are those after 25 batches. It is not known here how good they are.']
    assert quality_of(None, 'a/last.pt', True) == ['It is not known here how good it is.']


def test_a_recipe_that_is_none(run, tmp_path):
    run.recipe_path.write_text(yaml.safe_dump({'model': 'digits_resnet'}))
    refused(export(run.path, '--to', tmp_path / 'out'), 'missing: ')
