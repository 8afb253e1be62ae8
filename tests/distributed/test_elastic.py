"""A training saved on two ranks goes on with one, and the reverse: monolithic and sharded checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from composer_kd.teachers import read_weights
from tests.distributed.launches import Student
from tests.distributed.rank_script import student

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent
KINDS = ('ddp', 'full', 'sharded')


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    root = tmp_path_factory.mktemp('elastic')
    for ranks, run, *source in ((2, 'two'), (1, 'one', 'two'), (1, 'alone'), (2, 'both', 'alone')):
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), '-m',
                   'tests.distributed.resume_script', str(root), run, *source]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
    return root, {run: torch.load(root / f'{run}.pt') for run in ('two', 'one', 'alone', 'both')}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('resumed', 'whole'), [('one', 'two'), ('both', 'alone')])
def test_schedule_and_choices_are_the_same_batch_by_batch(results, kind, resumed, whole):
    _, found = results
    straight, rest = found[whole][kind], found[resumed][kind]
    assert len(straight['chosen']) == 16
    assert rest['chosen'] == straight['chosen'][8:]
    assert len({str(teachers) for _, teachers in straight['chosen']}) > 2
    assert (rest['active'], rest['told']) == (straight['active'], straight['told'])


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize(('resumed', 'whole'), [('one', 'two'), ('both', 'alone')])
def test_the_weights_are_too(results, kind, resumed, whole):
    _, found = results
    for name, weight in found[whole][kind]['weights'].items():
        torch.testing.assert_close(found[resumed][kind]['weights'][name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('run', ['one', 'both'])
def test_other_distillation_is_refused_with_the_difference(results, kind, run):
    _, found = results
    told = found[run][kind]['changed']
    assert 'loss was kl_divergence {temperature: 1.0} and is mse {class_reduction: sum}' in told
    assert 'end was 0.75dur and is 1dur' in told
    assert 'there were 3 teachers (teacher0, teacher1, teacher2) and are 2 (teacher0, teacher1)' in told
    assert "on_change='warn'" in told


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('run', ['two', 'alone'])
def test_checkpoints_hold_the_student_alone(results, kind, run):
    root, found = results
    path = root / run / kind / ('ep1-ba8' if kind == 'sharded' else 'ba8.pt')
    held = read_weights(str(path))
    assert {name: value.shape for name, value in held.items()} == {
        name: value.shape for name, value in student().state_dict().items()}
    state = json.loads(found[run][kind]['state'])
    assert {type(value) for value in state.values()} == {str, int}
    books = json.loads(state['books'])
    assert [origin for _, origin, _, _ in books['teachers']] == ['module:Sequential'] * 3
    assert all(len(digest) == 64 for _, _, digest, _ in books['teachers'])


def test_a_run_killed_on_two_ranks_goes_on_with_one(tmp_path, teachers, alone, interrupted):
    """By its recipe and the launcher alone: same schedule, same teachers, a record of the whole."""
    shutil.copytree(interrupted, tmp_path / 'resumed', symlinks=True)
    other = Student(tmp_path / 'resumed', teachers)
    assert other.folder.read_record().status == 'unfinished'
    status, text = other.run(ranks=1)
    assert status == 0, text
    record, straight = other.folder.read_record(), alone.folder.read_record()
    assert (record.status, record.world_size, record.batches) == ('finished', 1, straight.batches)
    assert (record.samples, straight.world_size) == (straight.samples, 2)
    assert record.kd.active_batches == straight.kd.active_batches
    assert [(t.batches, t.samples) for t in record.teachers] == [(t.batches, t.samples) for t in straight.teachers]
    assert [e.batch for e in record.evaluations] == [e.batch for e in straight.evaluations]
