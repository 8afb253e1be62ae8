"""The callback that writes ``record.json`` while a run goes on."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer.callbacks import CheckpointSaver
from composer.core import Callback, Event, State, Time
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.callbacks.estimate import find_distillation, measure, with_earlier, with_total
from composer_kd.callbacks.machine import hardware, package_versions
from composer_kd.callbacks.mentioned import Mentioned
from composer_kd.callbacks.readings import scalars, utc_now
from composer_kd.runs import Distilled, Evaluation, Record, RunFolder, TeacherUse


class RunRecorder(Callback):
    """Keeps ``record.json`` of a run folder: what the run has cost so far and the quality at every evaluation.

    Rank zero writes the record, each time in one piece: when training starts (``unfinished``), after every round of
    evaluation, after every checkpoint, every ``interval`` seconds, and when ``fit`` ends with its last evaluation
    (``finished`` if training reached the ``max_duration`` it was started with). A resumed run continues its record:
    evaluations up to the batch it resumes from are kept, later ones belong to work that was lost.

    Events: ``FIT_START``, ``BEFORE_DATALOADER``, ``AFTER_DATALOADER``, ``BEFORE_FORWARD`` (once), ``BATCH_START``,
    ``BATCH_END``, ``EVAL_END``, ``EVAL_AFTER_ALL``, ``EVAL_STANDALONE_END``, ``FIT_END``, close. State touched: none;
    the weights of a recorded run are bit for bit those of an unrecorded one. Checkpoint: ``data_seconds``, which so
    leaves out work that was lost, as Composer's own clock does, and the teachers in words, for the warning of a trainer
    that goes on without Distillation; all else a resumed run takes from the record on disk.

    ``data_seconds`` is the time on the host's clock between ``BEFORE_DATALOADER`` and ``AFTER_DATALOADER``, which
    Composer runs around every batch that it fetches and trains on; the device is not waited for. What lies between
    them counts: the wait for the slowest rank's batch, transforms of whole batches, and algorithms such as CutOut that
    change whole batches. What a resumed run fetches again to get to where it was does not count, nor does starting
    worker processes.

    One forward of two samples on the first batch counts FLOPs, of the student and, through
    ``Distillation.teacher_flops``, of each teacher. It runs on every rank, as a sharded model needs. If it fails,
    training goes on and ``flops.method`` says why.

    Args:
        run_folder: The run folder; made if it is missing.
        recipe_digest: SHA-256 of the resolved recipe, ``None`` without one.
        seed: The seed of the run; ``None`` takes Composer's, of rank zero.
        tags: Labels for reports; ``{'method': ...}`` is what they group runs by.
        interval: Seconds between the writes in between, above 0.

    Raises:
        ValueError: If ``interval`` is not above 0.
        TypeError: If ``tags`` is not a mapping of strings to strings.

    Example:
        >>> recorder = RunRecorder('runs/a', tags={'method': 'baseline'})
        >>> recorder.folder.record_path.as_posix()
        'runs/a/record.json'
    """

    def __init__(
        self,
        run_folder: str | os.PathLike[str],
        recipe_digest: str | None = None,
        seed: int | None = None,
        tags: Mapping[str, str] | None = None,
        interval: float = 10.0,
    ) -> None:
        if not interval > 0:
            raise ValueError(f'RunRecorder: expected an interval above 0 seconds, got {interval!r}. The default is 10.')
        tags = dict(tags or {})
        for key, value in tags.items():
            if not isinstance(key, str) or not isinstance(value, str):
                expected = 'expected tags that map strings to strings'
                raise TypeError(f'RunRecorder: {expected}, got {key!r}: {value!r}. Put the value in quotes.')
        self.folder = RunFolder(run_folder)
        self.recipe_digest = recipe_digest
        self.seed = seed
        self.tags = tags
        self.interval = interval
        self.record: Record | None = None
        self._pending: dict[str, dict[str, float]] = {}
        self._count_flops = False
        self._max_duration: Time[int] | None = None
        self._started = 0.0
        self._fitting = self._ending = False
        self._wall_before = 0.0
        self._written = -math.inf
        self._checkpoint_batch: Any = None
        # Unknown until training starts at its beginning, or a checkpoint says it.
        self._data_seconds: float | None = None
        self._mentioned = Mentioned()
        self._asked = self._waited = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Of what a checkpoint keeps, what the record on disk cannot say as of that checkpoint."""
        return {'data_seconds': self._data_seconds, 'distilled_from': self._mentioned.text}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint; one of an earlier version does not say."""
        self._data_seconds = state.get('data_seconds')
        self._mentioned.text = state.get('distilled_from', '')

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin the record, or continue the one on disk."""
        self._started, self._fitting, self._ending = time.monotonic(), True, False
        self._max_duration = state.max_duration
        if int(state.timestamp.batch) == 0:
            self._data_seconds = 0.0
        self._mentioned.fit_start(state)
        # Asked on every rank, since a sharded model needs them all.
        self._count_flops = True
        if dist.get_global_rank() != 0:
            return
        before = self.record or self._earlier(state)
        now = utc_now()
        self.record = Record(
            run_name=state.run_name,
            recipe_digest=self.recipe_digest,
            tags=self.tags,
            seed=self.seed if self.seed is not None else state.rank_zero_seed,
            packages=package_versions(),
            hardware=hardware(state),
            world_size=dist.get_world_size(),
            started_at=before.started_at if before else now,
            updated_at=now,
            max_duration=state.max_duration.to_timestring() if state.max_duration is not None else '',
        )
        self._wall_before = 0.0
        if before:
            self._wall_before = before.wall_seconds
            self.record.flops = before.flops
            self.record.checkpoint = before.checkpoint
            self.record.evaluations = [e for e in before.evaluations if e.batch <= int(state.timestamp.batch)]
        self._write(state, must=True)

    def before_dataloader(self, state: State, logger: Logger) -> None:
        """A batch is asked for."""
        self._asked = time.monotonic()

    def after_dataloader(self, state: State, logger: Logger) -> None:
        """It is there."""
        self._waited = time.monotonic() - self._asked

    def before_forward(self, state: State, logger: Logger) -> None:
        """Count FLOPs, once: here the batch is on the device and looks as the model will see it."""
        if self._count_flops:
            self._count_flops = False
            flops = measure(state)
            if self.record is not None:
                self.record.flops = with_earlier(flops, self.record.flops)

    def batch_start(self, state: State, logger: Logger) -> None:
        """Write after a checkpoint: those are saved after the callbacks' own checkpoint events."""
        if self.record is not None and self._note_checkpoint(state):
            self._write(state)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Count the wait for this batch, as Composer's clock does now; write every ``interval`` seconds."""
        if self._data_seconds is not None:
            self._data_seconds += self._waited
        if self.record is not None and time.monotonic() - self._written >= self.interval:
            self._write(state)

    def eval_end(self, state: State, logger: Logger) -> None:
        """Take the values of one evaluator."""
        label = state.dataloader_label
        if label is None or label not in state.eval_metrics:
            return
        # Already computed, so this is the value kept; on all ranks, because a metric that keeps none communicates.
        values = {name: metric.compute() for name, metric in state.eval_metrics[label].items()}
        self._pending[label] = scalars(values)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Write down one round of evaluation; after the one at the end of training nothing is left to come."""
        self._take_evaluation(state)
        if self._ending:
            self._finish(state)

    def eval_standalone_end(self, state: State, logger: Logger) -> None:
        """Write down an evaluation that was asked for after training, as on a test split."""
        self._fitting = False
        self._take_evaluation(state)

    def fit_end(self, state: State, logger: Logger) -> None:
        """Say whether training reached its end; where an evaluation is due after it, say so when that is done."""
        if self.record is None:
            return
        self._ending = self._max_duration is not None and state.timestamp >= self._max_duration
        self._note_checkpoint(state)
        if not any(e.eval_interval and e.eval_interval(state, Event.FIT_END) for e in state.evaluators):
            self._finish(state)

    def _finish(self, state: State) -> None:
        assert self.record is not None
        if self._ending:
            self.record.status = 'finished'
        # An error, not a warning: a finished run whose record says otherwise is no row of a report.
        self._write(state, must=self._ending)
        self._ending = False

    def close(self, state: State, logger: Logger) -> None:
        """Leave an up-to-date record behind when training raised."""
        if self.record is not None and self.record.status == 'unfinished':
            self._write(state)

    def _earlier(self, state: State) -> Record | None:
        """The record that a resumed run continues."""
        if int(state.timestamp.batch) == 0 or not self.folder.record_path.exists():
            return None
        try:
            return self.folder.read_record()
        except ValueError as error:
            aside = self.folder.record_path.with_suffix('.unreadable.json')
            os.replace(self.folder.record_path, aside)
            warnings.warn(f"{error} It is kept as '{aside}' and a new record begins.", stacklevel=2)
            return None

    def _take_evaluation(self, state: State) -> None:
        metrics, self._pending = self._pending, {}
        if self.record is None or not metrics:
            return
        self._update(state)
        evaluations = list(self.record.evaluations)
        # One entry per moment: evaluations at the end of a batch and of the epoch it ends see the same weights.
        if evaluations and evaluations[-1].batch == self.record.batches:
            metrics = {**evaluations.pop().metrics, **metrics}
        evaluations.append(Evaluation(
            batch=self.record.batches,
            epoch=self.record.epochs,
            sample=self.record.samples,
            token=self.record.tokens,
            train_seconds=self.record.train_seconds,
            kd_seconds=self.record.kd.kd_seconds if self.record.kd else 0.0,
            flops=self.record.flops.total,
            metrics=metrics,
        ))
        self.record.evaluations = evaluations
        self._write(state)

    def _note_checkpoint(self, state: State) -> bool:
        """Whether there is a new checkpoint since the last time; its name goes into the record."""
        assert self.record is not None
        for callback in state.callbacks:
            if isinstance(callback, CheckpointSaver):
                if callback.last_checkpoint_batch == self._checkpoint_batch:
                    return False
                self._checkpoint_batch = callback.last_checkpoint_batch
                names = list(callback.all_saved_checkpoints_to_timestamp)
                if names:
                    path = Path(names[-1])
                    self.record.checkpoint = path.parent.name if path.suffix == '.distcp' else path.name
                return bool(names)
        return False

    def _update(self, state: State) -> None:
        record, clock = self.record, state.timestamp
        assert record is not None
        record.updated_at = utc_now()
        record.batches, record.epochs = int(clock.batch), int(clock.epoch)
        record.samples, record.tokens = int(clock.sample), int(clock.token)
        # Composer stops this clock during evaluation and restores it when a run resumes.
        record.train_seconds = clock.total_wct.total_seconds() if clock.total_wct is not None else 0.0
        record.data_seconds = self._data_seconds
        if self._fitting:
            record.wall_seconds = self._wall_before + time.monotonic() - self._started
        distillation = find_distillation(state)
        if distillation is not None:
            summary = distillation.summary()
            record.teachers = [TeacherUse(**teacher) for teacher in summary['teachers']]
            record.kd = Distilled(**{name: summary[name] for name in Distilled.model_fields if name in summary})
        record.flops = with_total(record)

    def _write(self, state: State, must: bool = False) -> None:
        assert self.record is not None
        self._update(state)
        try:
            self.folder.write_record(self.record)
        except OSError as error:
            # A full disk found late is worth a warning, not the training; found at the start it is worth an error.
            if must:
                raise
            warnings.warn(f"Could not write '{self.folder.record_path}': {error}. Training goes on.", stacklevel=2)
        self._written = time.monotonic()
