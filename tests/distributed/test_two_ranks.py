"""Two real ranks (gloo) against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """What one rank and two ranks made of the same cases."""
    found = {}
    for ranks in (1, 2):
        out = tmp_path_factory.mktemp('ranks') / f'{ranks}.pt'
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), '-m',
                   'tests.distributed.rank_script', str(out)]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        found[ranks] = torch.load(out, weights_only=False)
    return found


@pytest.mark.parametrize('case', ['masked_lm', 'classification'])
def test_uneven_parts_of_a_batch_give_the_gradients_of_the_whole(results, case):
    one, two = results[1][case], results[2][case]
    assert one
    assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


def test_both_ranks_choose_the_same_and_end_the_same(results):
    result = results[2]['choices']
    first, second = result['chosen']
    assert first == second
    assert len(set(first)) > 2, 'several teachers, and batches without any'
    assert result['weights'][0] == result['weights'][1]
