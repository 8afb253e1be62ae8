"""Claims: one worker alone gets a run, whatever happens at the same moment."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from composer_kd.studies.store import attempts as module
from composer_kd.studies.store.attempts import Attempts
from composer_kd.studies.store.processes import is_gone, this_worker


@pytest.fixture(params=['sqlite', 'postgres'])
def url(request, tmp_path):
    if request.param == 'sqlite':
        return f'sqlite:///{tmp_path}/study.db'
    return request.getfixturevalue('postgres')


@pytest.fixture
def name(request):
    return request.node.name  # one server for all tests


def test_one_of_many_gets_it(url, name):
    workers = [Attempts(url, name) for _ in range(8)]
    for number, worker in enumerate(workers):
        worker.worker = f'elsewhere {number} 0.00'
    for run in range(15):
        got, together = [], threading.Barrier(len(workers))

        def claim(worker, run=run, got=got, together=together):
            together.wait()
            got.append(worker.claim(f'run{run}', None, 1))

        threads = [threading.Thread(target=claim, args=(worker,)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(attempt is not None for attempt in got) == 1
    assert {len(tries) for tries in workers[0].all().values()} == {1}
    for worker in workers:
        worker.close()


def test_a_second_attempt_closes_the_first_which_then_hears_of_it(url, name):
    first, second = Attempts(url, name), Attempts(url, name)
    mine = first.claim('a', None, 2)
    assert first.beat(mine)
    assert second.claim('a', None, 2) is None
    theirs = second.claim('a', second.all()['a'][-1], 2)
    assert theirs.attempt == 2
    assert not first.beat(mine), 'a worker that was taken for dead has to stop its run'
    assert not first.end(mine, 'finished')
    assert second.end(theirs, 'failed', 'why')
    assert [(t.outcome, t.reason, t.gpus) for t in first.all()['a']] == [('lost', '', 2), ('failed', 'why', 2)]
    first.close()
    second.close()


def test_studies_in_one_database_do_not_meet(url, name):
    one, other = Attempts(url, f'{name}1'), Attempts(url, f'{name}2')
    assert one.claim('a', None, 0) is not None
    assert other.all() == {}
    assert other.claim('a', None, 0) is not None
    one.close()
    other.close()


def test_a_process_that_ended_is_gone_and_one_elsewhere_is_not_known():
    assert is_gone(this_worker()) is False
    code = 'from composer_kd.studies.store.processes import this_worker; print(this_worker(), flush=True); input()'
    process = subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )
    worker = process.stdout.readline().strip()
    assert is_gone(worker) is False
    os.kill(process.pid, signal.SIGKILL)
    while process.poll() is None:
        time.sleep(0.01)
    assert is_gone(worker) is True
    machine, pid, created = this_worker().rsplit(' ', 2)
    assert is_gone(f'{machine} {pid} {float(created) - 100:.2f}') is True, 'another process with the same number'
    assert is_gone('another/machine 1 0.00') is None
    process.stdin.close()
    process.stdout.close()


def test_a_worker_on_another_machine_is_dead_after_the_grace(tmp_path, monkeypatch):
    there, here = (Attempts(f'sqlite:///{tmp_path}/study.db', 's', grace=60) for _ in range(2))
    there.worker = 'elsewhere 1 0.00'
    attempt = there.claim('a', None, 1)
    now = [0.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])

    def is_dead():
        return here.is_dead(here.all()['a'][-1])

    for now[0] in (0, 20, 40, 59):
        assert not is_dead()
    there.beat(attempt)
    for now[0] in (60, 80, 100, 119):
        assert not is_dead(), 'it gave a sign of life less than a minute ago'
    now[0] = 121
    assert is_dead()
    now[0] = 200
    assert not is_dead(), 'for 79 s nobody could reach the database, and nobody could give a sign of life'
    for now[0] in (220, 240, 261):
        dead = is_dead()
    assert dead
    there.end(attempt, 'finished')
    assert not is_dead()
    there.close()
    here.close()


def test_a_database_that_comes_back_is_waited_for(monkeypatch):
    from sqlalchemy.exc import OperationalError

    monkeypatch.setattr(module.time, 'sleep', lambda seconds: None)
    answers = [OperationalError('x', {}, Exception('gone')), OperationalError('x', {}, Exception('gone')), 'there']

    def call():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert module.patiently(call) == 'there'
    monkeypatch.setattr(module, 'PATIENCE', -1.0)
    answers[:] = [OperationalError('x', {}, Exception('gone'))]
    with pytest.raises(OperationalError):
        module.patiently(call)
    with pytest.raises(ZeroDivisionError):
        module.patiently(lambda: 1 / 0)
