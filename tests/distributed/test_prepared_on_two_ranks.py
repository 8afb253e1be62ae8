"""Two ranks (gloo) take the same steps for a teacher, and refuse the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent
BOTH = ['fold_batchnorm (1)', 'channels_last']


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'tests.distributed.prepare_script', str(folder)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / 'out.pt', weights_only=False)


@pytest.mark.parametrize(('name', 'steps'), [
    ('fine', [BOTH, BOTH]), ('in turn', [BOTH, BOTH]), ('one', [['channels_last']]), ('nothing to do', [[], []]),
    ('sharded', [['precision bf16']] * 2),
])
def test_both_ranks_take_the_same_steps(results, name, steps):
    found = results[name]
    assert found['everywhere'] == [(None, steps, [False] * len(steps))] * 2
    assert found['unsettled'] == 0


def test_what_was_asked_for_and_fails_on_one_rank_is_refused_on_both(results):
    (first, *_), (second, *_) = results['asked']['everywhere']
    assert first == second
    assert first.startswith("Teacher 'teacher0' (module:OffOnOne): prepare.fold_batchnorm (fold_batchnorm (1)) takes its first")


def test_ranks_with_teachers_of_their_own(results):
    (_, first, _), (_, second, _) = results['by rank']['everywhere']
    assert results['by rank']['unsettled'] == 0
    assert first[0] == BOTH, 'rank zero has the first teacher, and there it is right'
    assert second[1] == ['channels_last']
