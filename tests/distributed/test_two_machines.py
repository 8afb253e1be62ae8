"""The commands for several machines, with two launchers on this one: each knows of one rank, and they meet."""

import os
import socket
import subprocess
import sys

import pytest

from composer_kd.runs import RunFolder
from tests.yamls.overlay import ROOT

pytestmark = pytest.mark.distributed


def test_two_launchers_make_one_training(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    nodes = [
        subprocess.Popen(
            [sys.executable, '-m', 'composer.cli.launcher', '-n', '1', '--world_size', '2', '--node_rank', str(rank),
             '--master_addr', '127.0.0.1', '--master_port', str(port), str(ROOT / 'scripts/train.py'),
             str(ROOT / 'yamls/digits/baseline.yaml'), 'max_duration=1ep', 'dist_timeout=60', f'run_folder={tmp_path / "run"}'],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path,
        ) for rank in (0, 1)
    ]
    outputs = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    record = RunFolder(tmp_path / 'run').read_record()
    assert (record.status, record.world_size, record.batches, record.samples) == ('finished', 2, 33, 33 * 32)
