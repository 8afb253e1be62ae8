"""A store that is being written when the power goes, the disk fills or the user loses patience."""

import json
import random
import signal
import time

import pytest

from tests.caching.made import answers, digits, left_over, start, write, written
from tests.distributed.test_disk import closed, disk, elsewhere, fill  # noqa: F401

pytestmark = pytest.mark.slow
VIEWS = 60


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('killed')


@pytest.fixture(scope='module')
def recipe(folder):
    """6,000 answers, some ten seconds of work."""
    return write(digits(folder, train_data={'name': 'digits', 'batch_size': 4, 'train_size': 100, 'noise': 0.2, 'shift': 1}), folder)


@pytest.fixture(scope='module')
def undisturbed(recipe, folder):
    written(recipe, '--out', folder / 'whole', '--views', VIEWS)
    return answers(folder / 'whole')


def until(process, true, seconds=90.0):
    began = time.monotonic()
    while not true():
        assert process.poll() is None, 'it ended by itself'
        assert time.monotonic() - began < seconds
        time.sleep(0.02)


def parts(out):
    """Of the store, finished and not."""
    found = [path.name for path in (out / 'parts').iterdir()] if (out / 'parts').is_dir() else []
    return sum(not name.startswith('.') for name in found), sum(name.startswith('.') for name in found)


def test_killed_at_any_moment_it_goes_on(recipe, undisturbed, tmp_path):
    out, log = tmp_path / 'out', tmp_path / 'log'
    chance, before = random.Random(7), 0
    for turn in range(3):
        process = start(recipe, '--out', out, '--views', VIEWS, log=log, part=400)
        finished = parts(out)[0]
        until(process, lambda finished=finished: parts(out)[0] > finished + 1)
        time.sleep(chance.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, log.read_text()
        found = answers(out)
        assert before < len(found) < len(undisturbed), f'turn {turn}: it went on'
        assert found.items() <= undisturbed.items(), f'turn {turn}: whole or not there'
        assert not json.loads((out / 'manifest.json').read_text())['complete']
        before = len(found)
    written(recipe, '--out', out, '--views', VIEWS)
    assert answers(out) == undisturbed
    assert not left_over(out), 'what the dead left behind is removed'
    written('verify', recipe, out)


@pytest.mark.parametrize(('what', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 130)])
def test_stopped_it_keeps_what_is_answered(recipe, undisturbed, tmp_path, what, status):
    out, log = tmp_path / 'out', tmp_path / 'log'
    process = start(recipe, '--out', out, '--views', VIEWS, log=log)
    until(process, lambda: parts(out)[0] > 1 and parts(out)[1])
    process.send_signal(what)
    assert process.wait(60) == status, log.read_text()
    text = log.read_text()
    assert f"stopped: what is answered lies in '{out}', and the same command goes on." in text
    assert 'Traceback' not in text
    found = answers(out)
    assert 0 < len(found) < len(undisturbed)
    assert found.items() <= undisturbed.items()
    assert not left_over(out)
    result = written(recipe, '--out', out, '--views', VIEWS)
    assert f'{len(undisturbed) - len(found):,} of them new' in result.stdout
    assert answers(out) == undisturbed


def test_a_disk_that_fills_up(recipe, undisturbed, tmp_path, elsewhere):  # noqa: F811
    if elsewhere:
        return
    with disk(tmp_path / 'disk', '1m') as small:
        out, log = small / 'out', tmp_path / 'log'
        written(recipe, '--out', out, '--views', 2)
        fill(small)
        process = start(recipe, '--out', out, '--views', VIEWS, log=log)
        assert process.wait(120) == 1, log.read_text()
        text = log.read_text()
        told = [line for line in text.splitlines() if line.startswith('error: ')]
        assert len(told) == 1
        assert f"error: --out: '{out}' cannot be written: the disk is full" in told[0]
        assert 'Traceback' not in text
        assert len(answers(out)) >= 200, 'what was there before is whole'
        assert not left_over(out)
        (small / 'filler').unlink()
        written(recipe, '--out', out, '--views', VIEWS)
        assert answers(out) == undisturbed


def test_a_disk_that_cannot_be_written(recipe, tmp_path, elsewhere):  # noqa: F811
    if elsewhere:
        return
    with disk(tmp_path / 'disk', '1m') as small:
        out, log = small / 'out', tmp_path / 'log'
        written(recipe, '--out', out, '--views', 2)
        with closed(small):
            for place, views in ((out, 3), (small / 'new', 1)):
                process = start(recipe, '--out', place, '--views', views, log=log)
                assert process.wait(120) == 1, log.read_text()
                told = log.read_text().splitlines()[-1]
                assert told.startswith(f"error: --out: '{place}' cannot be written: Read-only file system")
        assert len(answers(out)) == 200
