"""Stored answers on two ranks (gloo), against live teachers on two ranks and stores of one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd.answers import Store
from composer_kd.answers.keys import keys_of
from tests.answers.training import data, keeper, live, stored, train, trained
from tests.common import same, weights

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')]
ROOT = Path(__file__).parent.parent.parent


def launch(folder, *more):
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'tests.distributed.stored_script', str(folder), *more]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Where two ranks trained; a store of one rank was there before."""
    folder = tmp_path_factory.mktemp('ranks')
    torch.manual_seed(0)
    train(live(folder / 'one'))
    done = launch(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope='module')
def results(folder):
    return torch.load(folder / 'out.pt', weights_only=False)


def assert_close(one, other):
    for name, value in one['weights'].items():
        torch.testing.assert_close(value, other['weights'][name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(('one', 'other'), [
    ('filled', 'live'), ('beside', 'live'), ('read by 0', 'live'), ('read by 1', 'live'), ('resumed', 'live'),
    ('filled in parts', 'live in parts'), ('read in parts', 'live in parts'),
    ('sampled, read', 'sampled, filled'), ('in turn', 'in turn, live'), ('in turn, read', 'in turn, live'),
])
def test_bit_for_bit(results, one, other):
    assert same(results[one]['weights'], results[other]['weights'])


def test_each_rank_asks_and_reads_its_own_samples(results):
    assert results['filled']['counts'] == [[(0, 96)]] * 2
    assert results['beside']['counts'] == results['read by 1']['counts'] == [[(96, 0)]] * 2
    assert results['views filled']['counts'] == [[(96, 96)]] * 2, 'the later epochs read what both ranks wrote'
    assert results['views']['counts'] == [[(192, 0)]] * 2
    assert results['resumed']['counts'] == [[(32, 0)]] * 2


def test_views_that_come_again(results):
    assert_close(results['views filled'], results['views live'])
    assert_close(results['views'], results['views live'])


def test_a_store_of_one_rank_is_read_by_two_and_of_two_by_one(results, folder):
    assert_close(results['of one rank'], results['live'])
    alone = train(stored(folder / 'store'))
    assert keeper(alone).read == 192
    want = trained(live())
    for name, value in weights(alone).items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-5)


def test_what_two_ranks_wrote_is_there_once_and_whole(folder):
    store = Store.open(folder / 'store')
    assert store.samples == 192
    assert store.missing(0, np.arange(96)).tolist() == store.missing(1, np.arange(96)).tolist() == []
    assert [path.name for path in (folder / 'store' / 'parts').iterdir() if path.name.startswith('.')] == []


def test_by_rank(results, folder):
    found = results['by rank']
    for name in ('filled', 'read', 'one stored', 'the other', 'one filled'):
        assert same(found[name]['weights'], found['live']['weights']), name
    assert not same(found['live']['weights'], results['live']['weights'])
    assert found['filled']['counts'] == [[(0, 96), (0, 0)], [(0, 0), (0, 96)]]
    assert found['one filled']['counts'] == [[(0, 0)], [(0, 96)]]
    assert Store.open(folder / 'first').samples == Store.open(folder / 'mixed').samples == 96
    assert 'view.noise is 0.3 in the store and 0.1 in this training' in found['told'], 'rank one found it, both are told'


def test_refusals_on_both(results, folder):
    assert "teacher 'teacher0' is 'sharded' and has a store" in results['sharded']
    assert not (folder / 'sharded').exists()
    assert 'asks for answers to 96 samples in view 2' in results['missing']


def test_a_flipped_bit_that_one_rank_meets_ends_both(folder):
    path = folder / 'damaged'
    shutil.copytree(folder / 'store', path)
    order = data(batch_size=16).dataloader.sampler.order(0)
    index = int(order[16 * 3 + 1])  # of rank one, in the fourth batch
    shards = {}
    store = Store.open(path)
    row, = store.locate(keys_of(0, [index])).tolist()
    payload = bytes(store._shards.sample(row))[4:]
    for shard in path.rglob('*.mds'):
        raw = shard.read_bytes()
        if payload in raw:
            place = raw.index(payload)
            shard.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1:])
            shards[shard.name] = shard
    assert len(shards) == 1
    done = launch(folder, 'damage')  # it ends, and in time
    assert done.returncode != 0
    text = done.stdout + done.stderr
    assert f'is damaged: its bytes are not those that were written (met at sample {index}, view 0)' in text, text[-3000:]
