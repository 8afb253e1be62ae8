"""Checkpoints of a model that lies in parts on two ranks: gone on from, or refused on both."""

import json
import os
import subprocess
import sys

import pytest

from tests.distributed.launches import ROOT

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    done = subprocess.run(
        [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', '-m', 'tests.distributed.trust_script', str(folder)],
        cwd=ROOT, env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}, capture_output=True, text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in (0, 1)]


@pytest.mark.parametrize('name', ['fine shards', 'fine file'])
def test_what_composer_saved_is_gone_on_from(results, name):
    assert [one[name] for one in results] == [[2, False]] * 2


@pytest.mark.parametrize('name', ['table of contents', 'value', 'file'])
def test_code_is_refused_on_both_ranks(results, name):
    for told, exploded in (one[name] for one in results):
        assert not exploded
        assert told.startswith('ValueError: load_path: ')
        assert 'holds more than tensors and plain values, or is no checkpoint (it asks for posix.mkdir)' in told
        assert 'load_trusted: true' in told


@pytest.mark.parametrize(('name', 'error', 'told'), [
    ('no table of contents', 'ValueError', 'or is no checkpoint (its .metadata cannot be read, EOFError'), ('cut file', 'ValueError', 'cannot be loaded; it may be truncated'),
    ('no file', 'FileNotFoundError', 'is not there'),
])
def test_a_broken_checkpoint_is_told_of_on_both_ranks(results, name, error, told):
    first, second = (one[name][0] for one in results)
    assert first == second
    assert first.startswith(f'{error}: load_path: ')
    assert told in first
