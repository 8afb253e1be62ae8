from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from composer import Callback

from composer_kd.recipes import build_trainer, train
from composer_kd.recipes.build import forget
from composer_kd.runs import RunFolder, lock
from composer_kd.runs.lock import LOCK_NAME, FolderLock
from tests.recipes.tiny import plain, recipe

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='needs fcntl')


class StopAfter(Callback):
    """Ends a training, and reads the lock file while it goes on."""

    def __init__(self, batch: int, folder: Path) -> None:
        self.batch, self.folder, self.locked = batch, folder, ''

    def batch_end(self, state, logger):
        self.locked = (self.folder / LOCK_NAME).read_text()
        if int(state.timestamp.batch) >= self.batch:
            state.stop_training()


@pytest.fixture
def other():
    """Starts Python processes that say when they are ready; they are killed in the end."""
    started = []

    def start(code, *arguments):
        process = subprocess.Popen(
            [sys.executable, '-c', textwrap.dedent(code), *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().split()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def held_by(process):
    return f'process {process.pid} on {socket.gethostname()}'


def test_a_second_training_is_refused_until_the_first_is_killed(tmp_path, other, monkeypatch):
    settings = {'max_duration': '9999ep', 'evaluators': {}, 'save_interval': '1ba'}
    code = """
        import json, sys
        from composer import Callback
        from composer_kd.recipes import parse_recipe, train
        class StopAfter(Callback):
            def batch_end(self, state, logger):
                if state.timestamp.batch == 3:
                    print('ready', flush=True)
        train(parse_recipe(json.loads(sys.argv[1])), [StopAfter()])
    """
    process, said = other(code, json.dumps(plain(run_folder=str(tmp_path / 'a'), **settings)))
    assert said == ['ready']
    again = recipe(tmp_path / 'a', **settings)
    monkeypatch.setattr(lock, 'WAIT_SECONDS', 0.3)
    with pytest.raises(ValueError, match=f"run_folder: '.*a' is being trained in by {held_by(process)}") as caught:
        train(again)
    assert '\n' not in str(caught.value)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / 'a' / LOCK_NAME).exists(), 'a killed process leaves the file, and the next takes it over'
    stop = StopAfter(5, tmp_path / 'a')
    train(again, [stop])
    record = RunFolder(tmp_path / 'a').read_record()
    assert record.batches > 5
    assert f'process {os.getpid()} ' in stop.locked
    assert not (tmp_path / 'a' / LOCK_NAME).exists()


def test_a_dying_holder_is_waited_for_and_its_children_hold_nothing(tmp_path, other, caplog):
    code = """
        import os, sys, time
        from composer_kd.runs.lock import FolderLock
        lock = FolderLock(sys.argv[1])
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
        time.sleep(60)
    """
    process, (child,) = other(code, tmp_path)
    try:
        killing = threading.Timer(1.0, process.kill)
        killing.start()
        began = time.monotonic()
        held = FolderLock(tmp_path)
        assert 0.2 < time.monotonic() - began < 15
        killing.join()
        os.kill(int(child), 0)
        assert f'is being trained in by {held_by(process)}; waiting' in caplog.text
        held.release()
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_the_same_process_takes_over_from_itself(tmp_path, other, monkeypatch):
    first = FolderLock(tmp_path)
    second = FolderLock(tmp_path)
    first.release()
    assert (tmp_path / LOCK_NAME).exists(), 'what was given up lets go of nothing'
    monkeypatch.setattr(lock, 'WAIT_SECONDS', 0.0)
    code = """
        import sys
        from composer_kd.runs import lock
        lock.WAIT_SECONDS = 0
        try:
            lock.FolderLock(sys.argv[1])
            print('taken')
        except ValueError as error:
            print('refused' if sys.argv[2] in str(error) else error)
    """
    assert other(code, tmp_path, f'process {os.getpid()} on ')[1] == ['refused']
    second.release()
    second.release()
    assert list(tmp_path.iterdir()) == []
    FolderLock(tmp_path).release()


def test_a_folder_that_was_removed_and_made_anew(tmp_path):
    first = FolderLock(tmp_path)
    (tmp_path / LOCK_NAME).unlink()
    second = FolderLock(tmp_path)
    first.release()
    assert (tmp_path / LOCK_NAME).exists()
    second.release()
    assert list(tmp_path.iterdir()) == []


def test_held_from_building_to_closing(tmp_path):
    trainer = build_trainer(recipe(tmp_path / 'a'))
    assert (tmp_path / 'a' / LOCK_NAME).exists()
    trainer.close()
    forget(trainer)
    assert not (tmp_path / 'a' / LOCK_NAME).exists()


def test_a_training_that_is_refused_or_fails_holds_nothing(tmp_path):
    with pytest.raises(ValueError, match='Composer refused'):
        build_trainer(recipe(tmp_path / 'a', precision='amp_fp16'))
    assert not (tmp_path / 'a' / LOCK_NAME).exists()

    class Fail(Callback):
        def batch_end(self, state, logger):
            raise KeyError('x')

    with pytest.raises(KeyError):
        train(recipe(tmp_path / 'a'), [Fail()])
    assert not (tmp_path / 'a' / LOCK_NAME).exists()


def test_a_folder_with_nothing_but_a_lock_is_empty(tmp_path):
    (tmp_path / LOCK_NAME).write_text('process 1 on a-machine\n')
    trainer = build_trainer(recipe(tmp_path))
    trainer.close()
    forget(trainer)
    (tmp_path / 'b').mkdir()
    (tmp_path / 'b' / 'thesis.txt').touch()
    with pytest.raises(ValueError, match='nothing there was touched'):
        build_trainer(recipe(tmp_path / 'b'))
    assert [path.name for path in (tmp_path / 'b').iterdir()] == ['thesis.txt']


def test_where_nothing_can_be_locked_training_goes_on(tmp_path, monkeypatch, caplog):
    def unsupported(*_):
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr(lock.fcntl, 'flock', unsupported)
    held = FolderLock(tmp_path)
    held.release()
    assert 'nothing keeps a second training out' in caplog.text
