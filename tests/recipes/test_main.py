import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from composer_kd.recipes import errors, train_main
from composer_kd.recipes.build import cap_threads
from composer_kd.recipes.errors import told_to_user
from composer_kd.runs import RunFolder
from tests.recipes.tiny import plain

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def written(tmp_path):
    path = tmp_path / 'tiny.yaml'
    path.write_text(yaml.safe_dump(plain(run_folder=str(tmp_path / 'run')), sort_keys=False))
    return path


def test_training_ends_with_a_few_lines(written, capsys):
    assert train_main([str(written), 'max_duration=1ep']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == f"run folder  {written.parent / 'run'} (finished, epoch 1, batch 6)"
    assert 'test: MulticlassAccuracy 0.' in lines[1] or 'test: CrossEntropy' in lines[1]
    assert 'samples/s' in lines[2]
    assert train_main([
        str(written), f"run_folder={written.parent / 'taught'}", 'max_duration=1ep',
        f"algorithms.distillation={{teachers: {{run: {written.parent / 'run'}}}, check_batches: 0}}",
    ]) == 0
    assert 'KD ' in capsys.readouterr().out.splitlines()[3]


def test_an_error_of_the_user_is_one_paragraph(written, capsys, monkeypatch):
    assert train_main([str(written), 'optimizer.lrr=1']) == 1
    shown = capsys.readouterr()
    assert shown.out == ''
    assert shown.err == "error: optimizer: unknown key 'lrr'. Did you mean 'lr'? Valid keys: " + (
        'dampening, lr, momentum, nesterov, weight_decay.\n'
    )
    monkeypatch.setenv('COMPOSER_KD_TRACEBACK', '1')
    with pytest.raises(ValueError, match='lrr'):
        train_main([str(written), 'optimizer.lrr=1'])


def test_usage(capsys):
    assert train_main([]) == 2
    assert 'composer -n RANKS scripts/train.py RECIPE.yaml' in capsys.readouterr().err
    assert train_main(['--help']) == 0
    assert 'composer -n RANKS scripts/train.py RECIPE.yaml' in capsys.readouterr().out


def caught(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return error
    raise AssertionError('nothing was raised')


def test_an_error_from_elsewhere_keeps_its_traceback(monkeypatch):
    assert told_to_user(caught(torch.zeros(2).reshape, 3)) is None
    assert told_to_user(caught(errors.dotted, 5)) is not None
    assert told_to_user(caught(yaml.safe_load, '[')) is None
    monkeypatch.setattr(errors, 'dotted', lambda path: {}[path])
    assert told_to_user(caught(errors.dotted, 'key')) is None
    monkeypatch.setenv('COMPOSER_KD_TRACEBACK', '1')
    assert told_to_user(caught(errors._told, 5)) is None


@pytest.mark.parametrize(('ranks', 'variable', 'threads'), [(1, None, 7), (2, None, 4), (16, None, 1), (2, '3', 7)])
def test_ranks_share_the_cores(monkeypatch, ranks, variable, threads):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    if variable:
        monkeypatch.setenv('OMP_NUM_THREADS', variable)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', str(ranks))
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(8)), raising=False)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(7)
        cap_threads()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def launch(*arguments, ranks=2):
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), 'scripts/train.py', *map(str, arguments)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300,
    )


@pytest.mark.distributed
def test_two_ranks_train_what_one_rank_trains(written):
    done = launch(written)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('run folder') == 1, 'rank zero speaks for all'
    record = RunFolder(written.parent / 'run').read_record()
    assert (record.status, record.world_size, record.batches, record.samples) == ('finished', 2, 12, 192)
    # The same samples in the same global batches: the losses differ by BatchNorm's smaller batches alone.
    assert train_main([str(written), f"run_folder={written.parent / 'one'}"]) == 0
    one = RunFolder(written.parent / 'one').read_record()
    assert [e.sample for e in one.evaluations] == [e.sample for e in record.evaluations]
    both = [r.evaluations[-1].metrics['test']['CrossEntropy'] for r in (one, record)]
    assert both[0] == pytest.approx(both[1], rel=0.1)


@pytest.mark.distributed
def test_two_ranks_refuse_together(written):
    (written.parent / 'run').mkdir()
    (written.parent / 'run' / 'notes.txt').touch()
    done = launch(written)
    assert done.returncode != 0
    assert 'is not empty and holds no recipe.yaml' in done.stdout + done.stderr
    assert 'Traceback' not in done.stdout + done.stderr
