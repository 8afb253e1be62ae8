"""A rank ends with its launcher, and what was started by hand does not end with its shell."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='needs parents that change')

RANK = """
import sys, time
from composer_kd.runs.alive import end_with_launcher
print(end_with_launcher(0.1), flush=True)
time.sleep(60)
"""
# A launcher as Composer's: the ranks run the Python that it runs itself.
LAUNCHER = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(rank.pid, rank.stdout.readline().strip(), flush=True)
time.sleep(60)
"""


def ended(pid, seconds):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def started():
    """Starts a parent; the parent, the process id of its child and what that one said. Both are killed in the end."""
    pids = []

    def start(command, rank):
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), **({'LOCAL_RANK': '0'} if rank else {})}
        parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        pid, said = parent.stdout.readline().split()
        pids.extend([int(pid), parent])
        return parent, int(pid), said

    yield start
    for pid in pids:
        if isinstance(pid, int):
            if not ended(pid, 0.1):
                os.kill(pid, signal.SIGKILL)
        else:
            pid.kill()
            pid.communicate()


@pytest.mark.parametrize('rank', [True, False])
def test_a_rank_ends_when_its_launcher_was_killed(started, rank):
    parent, pid, said = started([sys.executable, '-c', LAUNCHER, RANK], rank)
    assert said == str(rank)
    assert not ended(pid, 0.5)
    parent.kill()
    parent.wait()
    assert ended(pid, 10 if rank else 1) == rank


def test_what_was_started_by_hand_outlives_its_shell(started):
    shell = f'"{sys.executable}" -c "$1" > "$2" & sleep 3; echo $! $(cat "$2"); sleep 60'
    with subprocess.Popen(['mktemp'], stdout=subprocess.PIPE, text=True) as made:
        name = made.stdout.read().strip()
    parent, pid, said = started(['sh', '-c', shell, 'sh', RANK, name], rank=True)
    assert said == 'False'
    parent.kill()
    parent.wait()
    assert not ended(pid, 1)
