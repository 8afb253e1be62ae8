from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from composer.core import Event

from composer_kd.callbacks import RunRecorder
from composer_kd.runs import RunFolder
from tests.callbacks.tiny import FakeDistillation, Spy, Stop, fit, trainer

# --- when it is written ---

def test_record_says_unfinished_from_the_start(tmp_path):
    spy = Spy(RunFolder(tmp_path), Event.BEFORE_TRAIN_BATCH)
    fit(tmp_path, callbacks=[spy])
    assert spy.seen[0].batches == 0
    assert {r.status for r in spy.seen} == {'unfinished'}


def test_written_at_the_interval_alone_between_evaluations(tmp_path):
    spy = Spy(RunFolder(tmp_path / 'often'), Event.BEFORE_TRAIN_BATCH)
    fit(recorder=RunRecorder(tmp_path / 'often', interval=1e-9), callbacks=[spy], eval_interval=0)
    assert [r.batches for r in spy.seen] == list(range(8))
    spy = Spy(RunFolder(tmp_path / 'seldom'), Event.BEFORE_TRAIN_BATCH)
    fit(recorder=RunRecorder(tmp_path / 'seldom', interval=1e9), callbacks=[spy], eval_interval=0)
    assert {r.batches for r in spy.seen} == {0}


def test_stopped_run_is_unfinished_and_up_to_date(tmp_path):
    made = trainer(tmp_path, callbacks=[Stop(6, 'raise')])
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    made.close()
    record = RunFolder(tmp_path).read_record()
    assert (record.status, record.batches) == ('unfinished', 6)


def test_run_stopped_early_is_unfinished(tmp_path):
    fit(tmp_path, callbacks=[Stop(6, 'stop')], max_duration='8ba')
    record = RunFolder(tmp_path).read_record()
    assert (record.status, record.batches, record.max_duration) == ('unfinished', 6, '8ba')


def test_checkpoint_is_named(tmp_path):
    spy = Spy(RunFolder(tmp_path), Event.BEFORE_TRAIN_BATCH)
    fit(tmp_path, callbacks=[spy], save_folder=str(tmp_path / 'checkpoints'), save_interval='3ba', eval_interval=0)
    assert [r.checkpoint for r in spy.seen] == [None] * 3 + ['ep0-ba3-rank0.pt'] * 3 + ['ep1-ba6-rank0.pt'] * 2
    folder = RunFolder(tmp_path)
    assert folder.read_record().checkpoint == 'ep2-ba8-rank0.pt'
    assert folder.latest_checkpoint() == folder.checkpoints / 'ep2-ba8-rank0.pt'


# --- resuming ---

def test_resumed_run_continues_its_record(tmp_path):
    saving = {'save_folder': str(tmp_path / 'checkpoints'), 'save_interval': '3ba', 'save_overwrite': True}
    evaluating = {'eval_interval': '2ba', 'max_duration': '8ba'}
    spy = Spy(RunFolder(tmp_path), Event.BEFORE_TRAIN_BATCH)
    made = trainer(tmp_path, callbacks=[Stop(5, 'raise'), spy], **saving, **evaluating)
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    made.close()
    folder = RunFolder(tmp_path)
    before = folder.read_record()
    assert [e.batch for e in before.evaluations] == [2, 4]
    before.started_at = '2001-01-01T00:00:00Z'
    before.wall_seconds = 1000.0
    folder.write_record(before)

    spy = Spy(folder, Event.BEFORE_TRAIN_BATCH)
    fit(tmp_path, callbacks=[Stop(99, 'raise'), spy], load_path=str(folder.latest_checkpoint()), **saving, **evaluating)
    # Resumed from batch 3: the evaluation at 4 belongs to lost work.
    assert (spy.seen[0].batches, [e.batch for e in spy.seen[0].evaluations]) == (3, [2])
    after = folder.read_record()
    assert [e.batch for e in after.evaluations] == [2, 4, 6, 8]
    assert after.evaluations[0] == before.evaluations[0]
    assert (after.status, after.started_at) == ('finished', '2001-01-01T00:00:00Z')
    assert after.wall_seconds > 1000
    assert after.train_seconds < 500
    clocks = [e.train_seconds for e in after.evaluations]
    assert clocks == sorted(clocks)


def test_run_made_anew_begins_anew(tmp_path):
    fit(tmp_path)
    first = RunFolder(tmp_path).read_record()
    first.started_at = '2001-01-01T00:00:00Z'
    RunFolder(tmp_path).write_record(first)
    fit(tmp_path, max_duration='1ep')
    record = RunFolder(tmp_path).read_record()
    assert [e.batch for e in record.evaluations] == [4]
    assert record.started_at != first.started_at


def test_flops_of_a_released_teacher_are_kept(tmp_path):
    algorithm = FakeDistillation()
    made = trainer(tmp_path, max_duration='1ep', algorithms=[algorithm])
    made.fit()
    algorithm.teacher_flops = lambda batch: {}  # as once its window has closed
    made.fit(duration='1ep')
    made.close()
    flops = RunFolder(tmp_path).read_record().flops
    assert flops.teacher_forward_per_sample == {'last': 10.0}
    assert flops.total is not None


def test_second_fit_continues(tmp_path):
    made = trainer(tmp_path, max_duration='1ep')
    made.fit()
    first = RunFolder(tmp_path).read_record()
    made.fit(duration='1ep')
    made.close()
    second = RunFolder(tmp_path).read_record()
    assert (first.status, second.status) == ('finished', 'finished')
    assert [e.batch for e in second.evaluations] == [4, 8]
    assert second.evaluations[0] == first.evaluations[0]
    assert second.wall_seconds > first.wall_seconds


def test_unreadable_record_is_kept_aside(tmp_path):
    saving = {'save_folder': str(tmp_path / 'checkpoints'), 'save_overwrite': True}
    fit(tmp_path, max_duration='1ep', **saving)
    folder = RunFolder(tmp_path)
    folder.record_path.write_text('{"version": 1,')
    made = trainer(tmp_path, load_path=str(folder.latest_checkpoint()), **saving)
    with pytest.warns(UserWarning, match='damaged'):
        made.fit()
    made.close()
    assert [e.batch for e in folder.read_record().evaluations] == [8]
    assert (tmp_path / 'record.unreadable.json').read_text() == '{"version": 1,'


# --- failure ---

def test_full_disk_at_the_start_is_an_error_and_later_a_warning(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    made = trainer(tmp_path, max_duration='1ep')
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, 'write_record', fail)
        with pytest.raises(OSError, match='No space left'):
            made.fit()
    made.fit()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, 'write_record', fail)
        with pytest.warns(UserWarning, match='Training goes on'):
            made.eval()
    made.close()


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr('composer_kd.callbacks.run_recorder.dist.get_global_rank', lambda: 1)
    algorithm = FakeDistillation()
    recorder = RunRecorder(tmp_path / 'run')
    made = trainer(recorder=recorder, algorithms=[algorithm])
    made.fit()
    made.close()
    assert not (tmp_path / 'run').exists()
    # A sharded teacher needs every rank.
    assert len(algorithm.asked) == 1


@pytest.mark.parametrize('interval', [0, -1, math.nan])
def test_bad_interval(tmp_path, interval):
    with pytest.raises(ValueError, match='above 0'):
        RunRecorder(tmp_path, interval=interval)


def test_bad_tags(tmp_path):
    with pytest.raises(TypeError, match='quotes'):
        RunRecorder(tmp_path, tags=copy.copy({'method': 3}))
