"""A disk that fills up while a run trains on it, and one that cannot be written: told in a paragraph, nothing is lost."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from composer_kd.teachers import read_weights
from tests.distributed.launches import MARGIN, ROOT, TIMEOUT, Student, account, same_weights

pytestmark = [pytest.mark.distributed, pytest.mark.slow]
INSIDE = 'COMPOSER_KD_TEST_INSIDE'


def permitted(command):
    return shutil.which(command[0]) is not None and subprocess.run(command, capture_output=True).returncode == 0


@contextmanager
def disk(place, size='32m'):
    """A file system of its own at ``place``."""
    place.mkdir()
    subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={size}', 'tmpfs', str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(['umount', '--lazy', str(place)], check=True)


@contextmanager
def closed(place):
    """Nothing can be opened for writing there any more, as where a file system closed itself after an error."""
    subprocess.run(['mount', '--bind', str(place), str(place)], check=True)
    try:
        subprocess.run(['mount', '-o', 'remount,bind,ro', str(place)], check=True)
        yield
    finally:
        subprocess.run(['umount', '--lazy', str(place)], check=True)


@pytest.fixture
def elsewhere(tmp_path_factory, request):
    """Whether the test was run where this process may mount, as it may not: in a user namespace of its own."""
    place = tmp_path_factory.mktemp('trial')
    if permitted(['mount', '-t', 'tmpfs', 'tmpfs', str(place)]):
        subprocess.run(['umount', str(place)], check=True)
        return False
    if INSIDE in os.environ or not permitted(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'tmpfs', str(place)]):
        pytest.skip('nothing may be mounted here, in a namespace of its own neither; run it as root')
    command = ['unshare', '-rm', sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', request.node.nodeid]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, INSIDE: '1'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return True


def fill(place):
    """Write until there is no room, and a little after: what is removed meanwhile makes some."""
    with open(place / 'filler', 'wb', buffering=0) as file:
        missed = 0
        while missed < 50:
            try:
                file.write(b'x' * 4096)
            except OSError:
                missed += 1
                time.sleep(0.01)


def told_once(text):
    told = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(told) == 1, f'told once, by one rank\n{text}'
    return told[0]


def test_a_disk_that_fills_up(tmp_path, alone, teachers, elsewhere):
    if elsewhere:
        return
    with disk(tmp_path / 'disk') as small:
        student = Student(tmp_path / 'student', teachers, run_folder=str(small / 'run'))
        launch = student.start()
        try:
            student.until(launch, 12)
            fill(small)
            assert launch.end(TIMEOUT + MARGIN) == 1, launch.text()
        finally:
            launch.clear()
        text = launch.text()
        told = told_once(text)
        assert 'run_folder: a disk is full (No space left on device' in told
        assert f"that of '{small / 'run'}' has" in told
        assert 'Traceback' not in text.partition(told)[2], 'the paragraph comes last'
        assert student.batch() >= 12
        assert read_weights(str(student.folder.latest_checkpoint()))
        assert student.folder.read_record().status == 'unfinished'

        (small / 'filler').unlink()
        status, text = student.run()
        assert status == 0, text
        assert same_weights(alone.folder, student.folder)
        assert account(alone.folder) == account(student.folder)


def test_a_disk_that_cannot_be_written(tmp_path, interrupted, teachers, elsewhere):
    if elsewhere:
        return
    with disk(tmp_path / 'disk') as small:
        shutil.copytree(interrupted / 'run', small / 'run', symlinks=True)
        student = Student(tmp_path / 'student', teachers, run_folder=str(small / 'run'))
        kept, names = student.kept(), sorted(small.rglob('*'))
        began = time.monotonic()
        with closed(small):
            status, text = student.run()
        assert status == 1, text
        assert time.monotonic() - began < TIMEOUT + 60, text
        told = told_once(text)
        assert f"run_folder: '{small / 'run'}' cannot be written: Read-only file system" in told
        assert 'Traceback' not in text
        assert student.kept() == kept
        assert sorted(small.rglob('*')) == names


def test_a_disk_that_can_no_longer_be_written(tmp_path, teachers, elsewhere):
    if elsewhere:
        return
    with disk(tmp_path / 'disk') as small:
        student = Student(tmp_path / 'student', teachers, run_folder=str(small / 'run'))
        launch = student.start()
        try:
            student.until(launch, 12)
            with closed(small):
                assert launch.end(TIMEOUT + MARGIN) == 1, launch.text()
        finally:
            launch.clear()
        told = told_once(launch.text())
        assert f"run_folder: '{small / 'run'}' cannot be written: Read-only file system" in told
        assert read_weights(str(student.folder.latest_checkpoint()))
