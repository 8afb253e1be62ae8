from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from composer import Callback
from composer.core import Event
from torch.utils.data import DataLoader

from composer_kd.callbacks import RunRecorder
from composer_kd.runs import RunFolder
from tests.callbacks.tiny import BATCH, Slow, Spy, Stop, data, fit, trainer

SLEEP = 0.03


def slow(batches: int = 4, seconds: float = SLEEP) -> DataLoader:
    return DataLoader(Slow(seconds, batches), batch_size=BATCH)


def test_the_wait_for_batches_is_counted_and_evaluation_is_not(tmp_path):
    spy = Spy(RunFolder(tmp_path), Event.BEFORE_TRAIN_BATCH)
    fit(
        recorder=RunRecorder(tmp_path, interval=1e-9), callbacks=[spy], train_dataloader=slow(),
        eval_dataloader=slow(seconds=0.2),
    )
    record = RunFolder(tmp_path).read_record()
    assert record.batches == 8
    assert 8 * SLEEP <= record.data_seconds <= record.train_seconds
    assert record.data_seconds < 8 * SLEEP + 1, 'the evaluations would add 1.6 s'
    seconds = [earlier.data_seconds for earlier in spy.seen]
    assert seconds[0] == 0
    assert all(later - earlier >= SLEEP for earlier, later in pairwise(seconds))


def test_fast_data_costs_next_to_nothing(tmp_path):
    fit(tmp_path)
    record = RunFolder(tmp_path).read_record()
    assert 0 < record.data_seconds < record.train_seconds


def test_composer_runs_both_events_around_every_batch():
    seen: Counter[Event] = Counter()

    class Count(Callback):
        def run_event(self, event: Event, state: Any, logger: Any) -> None:
            seen[event] += 1

    fit(callbacks=[Count()])
    # Once more each epoch, when there is no further batch.
    assert (seen[Event.BEFORE_DATALOADER], seen[Event.AFTER_DATALOADER]) == (8 + 2, 8)


def test_a_resumed_run_counts_on_without_the_work_that_was_lost(tmp_path):
    saving = {'save_folder': str(tmp_path / 'checkpoints'), 'save_interval': '3ba', 'save_overwrite': True}
    settings = {**saving, 'eval_interval': 0, 'max_duration': '8ba'}
    made = trainer(tmp_path, callbacks=[Stop(5, 'raise')], train_dataloader=slow(8), **settings)
    with pytest.raises(KeyboardInterrupt):
        made.fit()
    made.close()
    folder = RunFolder(tmp_path)
    before = folder.read_record()
    assert before.data_seconds >= 5 * SLEEP
    before.data_seconds = 1000.0
    folder.write_record(before)
    restored = torch.load(folder.latest_checkpoint(), weights_only=False)['state']['callbacks']['RunRecorder']
    assert 3 * SLEEP <= restored['data_seconds'] < 1000

    class SlowAtFirst(Slow):
        def __getitems__(self, indices: list[int]) -> list[Any]:
            self.seconds = 0.5 if indices[0] < 3 * BATCH else SLEEP
            return super().__getitems__(indices)

    # Three batches are fetched again to get to where it was.
    again = DataLoader(SlowAtFirst(SLEEP, 8), batch_size=BATCH)
    fit(tmp_path, callbacks=[Stop(99, 'raise')], load_path=str(folder.latest_checkpoint()), train_dataloader=again,
        **settings)
    after = folder.read_record().data_seconds
    assert restored['data_seconds'] + 5 * SLEEP <= after < restored['data_seconds'] + 5 * SLEEP + 1


def test_unknown_where_the_part_before_was_not_measured(tmp_path):
    saving = {'save_folder': str(tmp_path / 'checkpoints'), 'save_overwrite': True}

    class RunRecorderOfVersion1(RunRecorder):
        def state_dict(self) -> dict[str, Any]:
            return {}

    RunRecorderOfVersion1.__qualname__ = 'RunRecorder'
    fit(recorder=RunRecorderOfVersion1(tmp_path), max_duration='1ep', **saving)
    folder = RunFolder(tmp_path)
    fit(tmp_path, load_path=str(folder.latest_checkpoint()), **saving)
    record = folder.read_record()
    assert (record.status, record.batches, record.data_seconds) == ('finished', 8, None)


def test_a_second_fit_counts_on(tmp_path):
    made = trainer(tmp_path, max_duration='1ep', train_dataloader=data(0))
    made.fit()
    first = RunFolder(tmp_path).read_record().data_seconds
    made.fit(duration='1ep')
    made.close()
    assert RunFolder(tmp_path).read_record().data_seconds > first > 0
