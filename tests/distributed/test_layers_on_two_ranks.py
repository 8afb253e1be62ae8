"""Losses on layers on two real ranks (gloo) against one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.layers_script import EQUAL
from tests.distributed.test_two_ranks import assert_close

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    found, folder = {}, tmp_path_factory.mktemp('layers')
    for ranks in (2, 1):
        out = folder / f'{ranks}.pt'
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), '-m',
                   'tests.distributed.layers_script', str(out), str(folder)]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        found[ranks] = torch.load(out, weights_only=False)
    return found


@pytest.mark.parametrize('case', EQUAL)
def test_uneven_parts_of_a_batch_give_the_gradients_and_projectors_of_the_whole(results, case):
    assert_close(results[1]['equal'][case], results[2]['equal'][case])
    assert_close(results[1]['equal'][f'{case.split(",")[0]}, ddp, replicated'], results[2]['equal'][case])


def test_projectors_of_teachers_that_one_rank_asks_are_the_same_on_both(results):
    first, second = results[2]['by_rank']['ends']
    assert first == second
    assert results[2]['by_rank']['moved']


def test_one_rank_goes_on_from_the_checkpoint_of_two(results):
    assert_close(results[1]['resumed']['whole'], results[2]['resumed']['whole'])
    assert_close(results[1]['resumed']['whole'], results[1]['resumed']['resumed'])


def test_a_checkpoint_in_parts_resumes_to_the_same(results):
    one, other = (results[2]['resumed'][name] for name in ('sharded', 'sharded, resumed'))
    assert_close(one, other)
