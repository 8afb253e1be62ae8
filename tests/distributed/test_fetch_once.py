"""A teacher is fetched once by each of two nodes with two ranks, and what goes wrong on one of them is told to all."""

import io
import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from tests.distributed.launches import ROOT
from tests.server import serving
from tests.teachers.bombs import Bomb

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

RANKS = range(4)


def packed(value, more=None):
    file = io.BytesIO()
    torch.save({'weight': torch.full((1000,), value), **({} if more is None else {'more': more})}, file)
    return file.getvalue()


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """By source, what came of it on each rank; and what the server was asked for."""
    folder = tmp_path_factory.mktemp('ranks')
    with serving() as server:
        server.plans.update({
            '/fine.pt': [packed(1.0)],
            '/slow.pt': [503, packed(2.0)],  # one of the nodes has to ask twice
            '/cut.pt': [(packed(3.0), 'cut'), packed(3.0)],
            '/other.pt': [packed(4.0), packed(5.0)],
            '/gone.pt': [packed(6.0), 404],
            '/down.pt': [500],
            '/late.pt': [(packed(7.0), 12.0), packed(7.0)],
            '/bomb.pt': [packed(8.0, more=Bomb(folder / 'mark'))],
        })
        for rank in RANKS[:-1]:
            (folder / f'rank{rank}.pt').write_bytes(packed(9.0))
        sources = {path.strip('/'): server.url(path) for path in server.plans}
        sources['local'] = str(folder / 'rankRANK.pt')
        sources['different'] = server.url('/fine.pt?rank=RANK')
        sources['after'] = server.url('/fine.pt')
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        nodes = [
            subprocess.Popen(
                [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '--world_size', '4', '--node_rank', str(node),
                 '--base_rank', str(2 * node), '--master_addr', '127.0.0.1', '--master_port', str(port), '-m',
                 'tests.distributed.fetch_script', str(folder), *sources.values()],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
            ) for node in (0, 1)
        ]
        outputs = [node.communicate(timeout=300)[0] for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], outputs
        asked = list(server.asked)
    said = [json.loads((folder / f'{rank}.json').read_text()) for rank in RANKS]
    assert not (folder / 'mark').exists()
    assert [one['left'] for one in said] == [[]] * 4, 'temporary folders are removed'
    return {name: [one['found'][source] for one in said] for name, source in sources.items()}, asked


def test_each_node_asks_once_and_all_ranks_have_the_same(results):
    found, asked = results
    assert asked.count('/fine.pt') == 2 + 2  # and once more at the end
    for name in ('fine.pt', 'after', 'slow.pt', 'cut.pt', 'late.pt'):
        assert len({one['digest'] for one in found[name]}) == 1, found[name]
    assert len({found[name][0]['digest'] for name in ('fine.pt', 'slow.pt', 'cut.pt', 'late.pt')}) == 4


@pytest.mark.parametrize('name', ['slow.pt', 'cut.pt'])
def test_only_the_node_that_failed_asks_again(results, name):
    assert results[1].count(f'/{name}') == 3


def test_a_download_may_take_longer_than_ranks_wait_for_each_other(results):
    assert all('digest' in one for one in results[0]['late.pt'])


@pytest.mark.parametrize(('name', 'error', 'told'), [
    ('other.pt', 'ValueError', 'is not the same on every node'),
    ('gone.pt', 'FileNotFoundError', 'There is no checkpoint at'),
    ('down.pt', 'ValueError', 'HTTP Error 500'),
    ('bomb.pt', 'ValueError', 'holds more than tensors and plain values'),
    ('local', 'FileNotFoundError', 'There is no checkpoint at'),
    ('different', 'ValueError', 'the ranks of this training ask for different checkpoints'),
])
def test_what_goes_wrong_on_one_is_told_to_all(results, name, error, told):
    found = results[0][name]
    assert [one.get('error') for one in found] == [error] * 4, found
    assert len({one['told'] for one in found}) == 1
    assert told in found[0]['told']


def test_the_nodes_are_named(results):
    told = results[0]['other.pt'][0]['told']
    assert 'on node 0' in told
    assert 'on node 1' in told
