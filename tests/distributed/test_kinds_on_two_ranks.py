"""Two ranks (gloo) are taught by a Hugging Face folder, an ONNX file and an exported program."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.teachers.kinds import made

pytestmark = pytest.mark.distributed
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    made.vit(folder / 'vit', names=('ox', 'cat', 'horse', 'dog'))
    made.onnx(folder / 'm.onnx', made.Pictures())
    made.exported(folder / 'm.pt2', made.Pictures())
    shutil.copy(folder / 'm.pt2', folder / 'rank0.pt2')
    (folder / 'rank1.pt2').write_bytes(b'broken')
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'tests.distributed.kinds_script', str(folder)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / 'out.pt', weights_only=False)


def test_they_teach_both_ranks_alike(results):
    (_, digests, first), (_, others, second) = results['fine']
    assert digests == others
    assert len(set(digests)) == 3
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_what_one_rank_cannot_read_is_refused_on_both(results):
    first, second = results['broken on one']
    assert first == second
    assert 'cannot be read as a program of torch.export' in first
