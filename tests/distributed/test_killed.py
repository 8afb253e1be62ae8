"""A run that is killed again and again, and each time started by the same command, ends as one that was left alone."""

import os
import random
import time

import pytest

from composer_kd.runs import checkpoints
from composer_kd.teachers import read_weights
from tests.distributed.launches import Launch, Student, account, decisions, kill, logs, same_weights

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

WHOM = {
    'rank 0': ['rank 0'], 'rank 1': ['rank 1'], 'ranks': ['rank 0', 'rank 1'], 'launcher': ['launcher'],
    'all': ['launcher', 'rank 0', 'rank 1'],
}
WHEN = ['start'] * 3 + ['batch'] * 9 + ['checkpoint'] * 9 + ['record'] * 4
LINKS_LOST = (5, 11, 17)
"""Kills after which the link to the latest checkpoint is taken away: between its removal and its making lie microseconds."""


class Killer:
    """Starts a training, kills it and looks at what is left.

    Args:
        student: Whose.
        batches: Of the whole training.
        kills: How many are planned, spread over the batches.
        startup: Seconds until training begins.
    """

    def __init__(self, student: Student, batches: int, kills: int, startup: float) -> None:
        self.student, self.batches, self.planned, self.startup = student, batches, kills, startup
        self.draw = random.Random(7)
        self.done = self.torn = 0
        self.longest = 0.0
        self.starts: dict[str, int] = {}

    def strike(self, when: str, whom: str) -> None:
        """Start it by its command, kill it, and see that nothing is left of it but what is whole."""
        begins, known = self.student.batch(), set(logs(self.student.folder))
        launch = self.student.start()
        try:
            pids = self._wait(launch, when, whom)
            kill([pids[name] for name in WHOM[whom] if name in pids] or list(pids.values()))
            self.longest = max(self.longest, launch.gone())
        finally:
            launch.clear()
        assert launch.process.returncode != 0, launch.text()
        assert 'Traceback' not in launch.text(), 'a rank that lost another says so in a sentence, or nothing'
        self.starts |= {path.name: begins for path in logs(self.student.folder) if path not in known}
        self.done += 1
        self.look()

    def _wait(self, launch: Launch, when: str, whom: str) -> dict[str, int]:
        if when == 'start':
            time.sleep(self.draw.random() * self.startup)
            if whom == 'launcher' and len(launch.pids()) > 1:
                time.sleep(3)  # a rank that loses it before its first line of Python is done does not know of it
            return launch.pids()
        goal = self.batches * (self.done + self.draw.random()) / (self.planned + 1)
        self.student.until(launch, max(self.student.batch() + 1, goal))
        pids = launch.pids()
        if when == 'batch':
            time.sleep(self.draw.random() * 0.1)
            return pids
        folder = self.student.folder
        place, known = (folder.checkpoints, os.listdir(folder.checkpoints)) if when == 'checkpoint' else (folder.path, [])
        begins, until = 'ep' if when == 'checkpoint' else '.record.json', time.monotonic() + 60
        while not any(name.startswith(begins) and name not in known for name in os.listdir(place)):
            assert time.monotonic() < until, launch.text()
            time.sleep(0.0002)
        return pids

    def look(self) -> None:
        """No torn record, and no torn checkpoint that is taken for a whole one."""
        folder = self.student.folder
        if folder.record_path.exists():
            folder.read_record()
        self.torn += any(checkpoints.is_torn(path) for path in checkpoints.saved(folder.checkpoints))
        if self.student.batch():
            read_weights(str(folder.latest_checkpoint()))

    def lose_link(self) -> None:
        """As if it had been killed between the removal of the link to the latest checkpoint and its making."""
        assert self.student.batch()
        (self.student.folder.checkpoints / 'latest-rank0.pt').unlink(missing_ok=True)
        self.look()


def ended_alike(one: Student, other: Student) -> None:
    assert same_weights(one.folder, other.folder)
    assert account(one.folder) == account(other.folder)
    assert account(other.folder)['status'] == 'finished'


def test_shards_that_were_cut_short_are_not_taken(tmp_path, teachers):
    changes = {'model': 'flat', 'parallelism_config': {'fsdp2': {}}, 'max_duration': '66ba', 'eval_interval': '33ba'}
    one, other = (
        Student(tmp_path / name, teachers, 'tests/distributed/flat_train.py', **changes) for name in ('alone', 'killed')
    )
    status, text = one.run()
    assert status == 0, text
    killer = Killer(other, 66, 3, 0.0)
    for whom in ('rank 1', 'rank 0', 'all'):
        killer.strike('checkpoint', whom)
        killer.lose_link()
    # What is left of a save, if none of the kills fell into one.
    (other.folder.checkpoints / 'ep9-ba999').mkdir()
    (other.folder.checkpoints / 'ep9-ba999' / '__0_0.distcp').write_bytes(b'cut')
    killer.look()
    status, text = other.run()
    assert status == 0, text
    assert other.folder.latest_checkpoint().is_dir()
    assert not (other.folder.checkpoints / 'ep9-ba999').exists()
    ended_alike(one, other)


def test_twenty_five_kills_change_nothing(tmp_path, teachers):
    changes = {'max_duration': '10ep', 'loggers': {'file': {'flush_interval': 1}}}
    one, other = (Student(tmp_path / name, teachers, **changes) for name in ('alone', 'killed'))
    began = time.monotonic()
    status, text = one.run()
    assert status == 0, text
    record = one.folder.read_record()
    killer = Killer(other, record.batches, len(WHEN), time.monotonic() - began - record.wall_seconds)
    plan = list(zip(WHEN, list(WHOM) * 5, strict=True))
    killer.draw.shuffle(plan)
    for number, (when, whom) in enumerate(plan):
        killer.strike(when, whom)
        if number in LINKS_LOST:
            killer.lose_link()
    assert other.folder.read_record().status == 'unfinished'
    status, text = other.run()
    assert status == 0, text
    ended_alike(one, other)
    expected, told = decisions(logs(one.folder)[0]), {}
    for log in logs(other.folder):
        said = decisions(log)
        for key, value in said.items():
            assert told.setdefault(key, value) == value, f'{log.name} says otherwise of {key} than an earlier start'
        if said and log.name in killer.starts:
            assert min(said)[0] == killer.starts[log.name], 'it goes on from the newest checkpoint that is whole'
    # Once the window has closed a start says so once, and then nothing.
    closed = {key: value for key, value in told.items() if key not in expected}
    assert {key: value for key, value in told.items() if key in expected} == expected
    assert all(batch > 0.9 * record.batches and float(value) == 0 for (batch, _), value in closed.items())
    assert len({value for (_, name), value in expected.items() if name == 'kd/active'}) == 2
    # What the test is about did happen.
    assert killer.done == 25
    assert killer.torn >= 3, 'a kill while a checkpoint is written leaves a part of it'
    assert len(checkpoints.saved(other.folder.checkpoints)) <= 6, 'restarts leave no pile of checkpoints'
    print(f'\nlongest end {killer.longest:.1f} s, torn {killer.torn}, {time.monotonic() - began:.0f} s in all; started at '
          f'{killer.starts}')
