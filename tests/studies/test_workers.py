"""Real workers with real runs: side by side, under the launcher, and when runs or machines fail."""

import os
import signal
import time

import psutil
import pytest

from tests.studies.small import COMPARISON, attempts, results, start, write_study


def _wait_for(text, log, worker, seconds=600):
    deadline = time.monotonic() + seconds
    while text not in log.read_text():
        assert worker.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize('database', ['sqlite', 'postgres'])
def test_two_workers_never_take_the_same_run(database, tmp_path, request):
    storage = request.getfixturevalue('postgres') if database == 'postgres' else None
    path = write_study(tmp_path / 'both', storage=storage, **COMPARISON)
    logs = [tmp_path / f'{number}.log' for number in range(2)]
    workers = [start(path, log) for log in logs]
    assert [worker.wait(900) for worker in workers] == [0, 0], '\n'.join(log.read_text() for log in logs)
    tried = attempts(path)
    assert len(tried) == 9
    assert {len(tries) for tries in tried.values()} == {1}
    assert {tries[0].outcome for tries in tried.values()} == {'finished'}
    assert len({tries[0].worker for tries in tried.values()}) == 2, 'one of them did all'
    began = [line.split()[1] for log in logs for line in log.read_text().splitlines() if '  begins' in line]
    assert sorted(began) == sorted(tried)

    alone = write_study(tmp_path / 'alone', **COMPARISON)
    assert start(alone, tmp_path / 'alone.log').wait(900) == 0
    assert results(alone) == results(path)


@pytest.mark.slow
@pytest.mark.distributed
def test_a_killed_launcher_leaves_no_rank_behind_and_the_run_goes_on(tmp_path):
    path = write_study(
        tmp_path, {'save_interval': '1ep', 'max_duration': '30ep'}, where={'launcher': 'composer', 'gpus_per_run': 2},
        search=None, methods=None, sequence={'steps': [{'train_data.train_size': 320}]}, retries=1,
    )
    log = tmp_path / 'log.txt'
    worker = start(path, log)
    _wait_for('begins', log, worker)
    checkpoints = tmp_path / 'study' / 'runs' / 'runs-seed0-step0' / 'checkpoints'
    while not list(checkpoints.glob('ep*')):
        assert worker.poll() is None, log.read_text()
        time.sleep(0.05)
    launcher = psutil.Process(worker.pid).children()[0]
    assert 'composer.cli.launcher' in launcher.cmdline()
    ranks = [process for process in launcher.children() if 'composer_kd.studies' in ' '.join(process.cmdline())]
    assert len(ranks) == 2
    launcher.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    assert not alive, 'ranks without a launcher went on'
    assert worker.wait(900) == 0, log.read_text()
    [tries] = attempts(path).values()
    assert [t.outcome for t in tries] == ['died', 'finished']
    [run] = results(path).values()
    assert run['batches'] == 300
    text = (tmp_path / 'study' / 'logs' / 'runs-seed0-step0.txt').read_text()
    assert text.count('--- ') >= 2


@pytest.mark.slow
def test_a_run_that_dies_too_often_fails_with_its_log_and_the_study_goes_on(tmp_path):
    path = write_study(tmp_path, {'max_duration': '200ep'}, retries=1, search=None, methods={
        'long': {}, 'short': {'set': {'max_duration': '1ep'}},
    }, sequence={'steps': [{'train_data.train_size': 320}]})
    log = tmp_path / 'log.txt'
    worker = start(path, log)
    for attempt in (1, 2):
        _wait_for('long-seed0-step0  begins' + (f': attempt {attempt}' if attempt > 1 else ''), log, worker)
        time.sleep(0.5)
        for child in psutil.Process(worker.pid).children():
            child.kill()
    assert worker.wait(600) == 1, 'a study with a failed run says so'
    assert {key: [t.outcome for t in tries] for key, tries in attempts(path).items()} == {
        'long-seed0-step0': ['died', 'failed'], 'short-seed0-step0': ['finished'],
    }
    assert 'long-seed0-step0 failed after 2 tries: killed by SIGKILL' in log.read_text()


@pytest.mark.slow
def test_stopped_politely_it_lets_its_run_go_and_another_worker_takes_it(tmp_path):
    path = write_study(tmp_path, {'max_duration': '60ep'}, search=None, methods=None,
                       sequence={'steps': [{'train_data.train_size': 320}]}, retries=0)
    log = tmp_path / 'log.txt'
    worker = start(path, log)
    _wait_for('begins', log, worker)
    time.sleep(1)
    children = psutil.Process(worker.pid).children()
    os.kill(worker.pid, signal.SIGINT)
    assert worker.wait(60) == 130
    assert 'The same command goes on from here' in log.read_text()
    assert not any(child.is_running() for child in children)
    [tries] = attempts(path).values()
    assert [t.outcome for t in tries] == ['released']
    assert start(path, log).wait(600) == 0, log.read_text()
    [tries] = attempts(path).values()
    assert [t.outcome for t in tries] == ['released', 'finished'], 'a polite stop is no death'


@pytest.mark.slow
def test_a_study_that_cannot_be_made_is_refused_before_it_begins(tmp_path):
    wrong = {
        "optimizer: unknown key 'lrr'": {'search': {'space': {'optimizer.lrr': {'low': 0.1, 'high': 1.0}}, 'runs': 2}},
        "metric: no run would be evaluated with 'test/Accuracy'": {'metric': 'test/Accuracy'},
        "intervall": {'methods': {'taught': {'teachers': 'best', 'distillation': {'intervall': 4}}}},
        "beginns": {'distillation': None, 'set': {'scheduler': {'name': 'constant', 'beginns': 1}}},
    }
    for place, (told, changed) in enumerate(wrong.items()):
        log = tmp_path / f'{place}.txt'
        worker = start(write_study(tmp_path / str(place), **changed), log)
        assert worker.wait(300) == 1
        text = log.read_text()
        assert told in text
        assert 'Traceback' not in text
        assert not (tmp_path / str(place) / 'study' / 'runs').exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_the_pruner_stops_both_ranks_of_a_run(tmp_path):
    search = {'space': {'optimizer.lr': [0.1, 0.2]}, 'sampler': 'random', 'runs': 1,
              'pruner': {'name': 'threshold', 'lower': 2.0}}  # no accuracy is as high
    path = write_study(tmp_path, where={'launcher': 'composer', 'gpus_per_run': 2}, search=search, methods=None, retries=0)
    log = tmp_path / 'log.txt'
    assert start(path, log).wait(900) == 0, log.read_text()
    [tries] = attempts(path).values()
    assert [t.outcome for t in tries] == ['pruned']
    assert 'at batch 20' in tries[0].reason
    [run] = results(path).values()
    assert run['batches'] == 20, 'the first evaluation is after two of eight epochs'
    assert run['steps'] == [(20, run['value'])]
