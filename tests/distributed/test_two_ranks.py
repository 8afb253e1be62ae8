"""Two real ranks (gloo) against one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed.rank_script import EQUAL

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
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        found[ranks] = torch.load(out, weights_only=False)
    return found


def assert_close(one, two):
    assert one
    assert one.keys() == two.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in one.values())
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('case', EQUAL)
def test_uneven_parts_of_a_batch_give_the_gradients_of_the_whole(results, case):
    assert_close(results[1]['equal'][case], results[2]['equal'][case])


def test_wherever_the_teacher_lies_the_gradients_are_the_same(results):
    for found in results.values():
        for case in EQUAL:
            name, *_ = case.split(',')
            if name in ('words', 'pictures'):
                assert_close(found['equal'][f'{name}, ddp, replicated'], found['equal'][case])


@pytest.mark.parametrize('placement', ['sharded', 'host'])
def test_sam_is_the_same_wherever_the_teacher_lies(results, placement):
    assert_close(results[2]['sam']['replicated'], results[2]['sam'][placement])


def test_both_ranks_choose_the_same_and_end_the_same(results):
    result = results[2]['choices']
    first, second = result['chosen']
    assert first == second == results[1]['choices']['chosen'][0][:len(first)]
    assert len(set(first)) > 2, 'several teachers, and batches without any'
    assert result['weights'][0] == result['weights'][1]


def test_by_rank_asks_one_teacher_a_rank_and_keeps_no_other(results):
    first, second = results[2]['by_rank']['two']
    assert (first['held'], second['held']) == ([True, False], [False, True])
    assert (first['asked'], second['asked']) == ([(0,)] * 6, [(1,)] * 6)
    assert (first['calls'], second['calls']) == ([6, 0], [0, 6])
    assert first['told'] == second['told'] == [(6, 24), (6, 24)], 'each saw the samples of one rank'
    assert first['digests'] == second['digests'], 'of teachers that are not kept too'
    alone, = results[1]['by_rank']['two']
    assert (alone['held'], alone['asked'], alone['told']) == ([True, True], [(0,), (1,)] * 3, [(3, 12), (3, 12)])


def test_by_rank_takes_turns_where_ranks_are_too_few(results):
    first, second = results[2]['by_rank']['three']
    assert first['held'] == second['held'] == [True] * 3
    together = list(zip(first['asked'], second['asked'], strict=True))
    assert together == [((0,), (1,)), ((2,), (0,)), ((1,), (2,))] * 2
    assert first['told'] == [(4, 16)] * 3


def test_a_sharded_teacher_leaves_no_growing_list_behind(results):
    assert results[2]['bookkeeping']['kept'] == 0


def test_teachers_by_rank_are_never_sharded(results):
    assert results[2]['bookkeeping']['by_rank'] == ['replicated'] * 3


def test_by_rank_is_a_mean_over_samples_each_taught_by_its_rank(results):
    assert_close(results[1]['by_rank']['gradients'], results[2]['by_rank']['gradients'])


def test_a_teacher_out_of_memory_on_one_rank_halves_the_microbatch_on_all(results):
    auto, by_hand = results[2]['out_of_memory']['auto'], results[2]['out_of_memory']['by hand']
    assert auto['size'] == 2
    assert auto['active'] == 3, 'a batch counts once, however often it was tried'
    assert [sizes[:3] for sizes in auto['sizes']] == [[8, 4, 2]] * 2
    assert_close(by_hand['weights'], auto['weights'])


def test_values_that_are_not_finite_stop_all_ranks_with_batch_teacher_and_rank(results):
    for rank in results[2]['not_finite']['stop']:
        assert 'stopped at batch 2 ' in rank['told']
        assert "from teacher 'broken' (module:Broken) on rank 1." in rank['told']
        assert 'teacher0' not in rank['told']
        assert rank['batches'] == 3


def test_or_they_are_skipped_and_counted(results):
    first, second = results[2]['not_finite']['skip']
    assert first == second == {'told': None, 'batches': 5, 'skipped': 3, 'finite': True}


def test_a_sharded_teacher_must_be_the_same_on_every_rank(results):
    found = results[2]['differing']
    assert found['replicated'] == found['auto'] == 'trained'
    assert 'is not the same on every rank: its digest is ' in found['sharded']
    assert ' on rank 0; ' in found['sharded']
    assert set(results[1]['differing'].values()) == {'trained'}


def test_selective_backprop_keeps_the_ranks_together(results):
    summary, (first, second) = results[2]['selective']
    assert first == second
    teacher, = summary['teachers']
    assert (summary['active_batches'], teacher['samples']) == (6, 48), 'half of 96 samples were selected'


def test_composers_events_come_in_their_order(results):
    with_kd, without = results[2]['events']
    assert with_kd == without
    assert len(with_kd) > 60


def test_a_checkpoint_makes_the_round_trip(results):
    saved, loaded = results[2]['round_trip']
    assert saved['keys'] == loaded['keys']
    assert saved['algorithms'].keys() == loaded['algorithms'].keys() == {'Distillation', 'EMA'}
    assert saved['algorithms']['Distillation']['repr'] == loaded['algorithms']['Distillation']['repr']
    before, after = (json.loads(state['algorithms']['Distillation']['books']) for state in (saved, loaded))
    assert after.pop('load_seconds') > before.pop('load_seconds') > 0, 'of both starts'
    assert before == after
    assert before['active_batches'] == 4
    for part in ('model', 'optimizers', 'schedulers'):
        assert_equal(saved[part], loaded[part])


def assert_equal(one, two):
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, two)
    else:
        assert one == two
