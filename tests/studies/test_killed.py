"""A study that is killed at random moments ends as one that was left alone."""

import contextlib
import os
import random
import signal
import time

import psutil
import pytest

from tests.studies.small import results, start, write_study

KILLS = 20


def _kill_one_of(worker, what):
    """Kill the worker, the process of its run, or both; whether there was anything to kill."""
    try:
        children = psutil.Process(worker.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return False
    found = {'worker': [worker.pid], 'run': [c.pid for c in children], 'all': [worker.pid, *(c.pid for c in children)]}
    for pid in found[what]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found[what])


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    alone = write_study(tmp_path / 'alone')
    assert start(alone, tmp_path / 'alone.log').wait(1200) == 0, (tmp_path / 'alone.log').read_text()[-3000:]
    expected = results(alone)
    assert len(expected) == 12
    assert {run['outcome'] for run in expected.values()} >= {'finished'}

    path, log = write_study(tmp_path / 'killed'), tmp_path / 'killed.log'
    draw, kills, deadline = random.Random(4), 0, time.monotonic() + 2400
    worker = start(path, log)
    while worker.poll() != 0:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        if worker.poll() is not None:
            worker = start(path, log)
        text = log.read_text()
        # Spread over the whole study but its last runs: a kill needs one that has yet to begin.
        if kills < KILLS and text.count(' finished') + text.count(' pruned') >= kills * (len(expected) - 3) // KILLS:
            before = text.count('begins')
            if draw.random() < 0.8:  # mostly while something is being trained, and not while Python starts
                while log.read_text().count('begins') == before and worker.poll() is None:
                    time.sleep(0.02)
                time.sleep(draw.random() * 1.5)
            else:
                time.sleep(draw.random() * 5)
            kills += _kill_one_of(worker, draw.choice(['worker', 'run', 'all']))
        time.sleep(0.1)
    assert kills == KILLS
    assert results(path) == expected
