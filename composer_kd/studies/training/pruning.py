"""A run that asks at every evaluation whether it should go on."""

from __future__ import annotations

import math
import warnings

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from optuna import Study
from optuna.storages import RDBStorage
from optuna.trial import Trial

from composer_kd.callbacks.run_recorder import RunRecorder
from composer_kd.studies.store.attempts import patiently
from composer_kd.studies.store.samplers import make_pruner
from composer_kd.studies.store.trials import STOPPED, open_storage
from composer_kd.studies.work.jobs import Pruned


class Pruning(Callback):
    """Tells Optuna the quality at every evaluation and stops the run when the study's pruner says so.

    Rank zero asks, all ranks hear the answer; the step is the batch. What a resumed run evaluates again, it reports
    again, and Optuna keeps once. The evaluation at the end of training prunes nothing.

    Events: ``EVAL_AFTER_ALL``. State touched: ``max_duration`` through ``stop_training()``. Checkpoint: nothing.

    Args:
        url: Of the study's database.
        where: The study, the trial and the pruner.
        metric: The quality, ``evaluator/metric``.

    Attributes:
        pruned: Whether it stopped the run.
        told: Where and at which quality.
    """

    def __init__(self, url: str, where: Pruned, metric: str) -> None:
        self.pruned, self.told = False, ''
        self._metric = metric
        self._trial: Trial | None = None
        self._database: RDBStorage | None = None
        if dist.get_global_rank() == 0:
            self._database = patiently(lambda: open_storage(url))
            study = Study(where.study, self._database, pruner=make_pruner(where.pruner))
            self._trial = Trial(study, where.trial)

    def eval_after_all(self, state: State, logger: Logger) -> None:
        """Report and ask."""
        if state.max_duration is None or state.timestamp >= state.max_duration:
            return
        answer = [self._ask(state)]
        if dist.get_world_size() > 1:
            dist.broadcast_object_list(answer)
        if answer[0]:
            self.pruned, self.told = True, answer[0]
            state.stop_training()

    def _ask(self, state: State) -> str:
        trial = self._trial
        recorder = next((c for c in state.callbacks if isinstance(c, RunRecorder)), None)
        if trial is None or recorder is None or recorder.record is None or not recorder.record.evaluations:
            return ''
        latest = recorder.record.evaluations[-1]
        label, _, name = self._metric.partition('/')
        value = latest.metrics.get(label, {}).get(name, math.nan)
        if latest.batch != int(state.timestamp.batch) or not math.isfinite(value):
            return ''
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # of a step that was reported before the run was resumed
            patiently(lambda: trial.report(value, latest.batch))
        if not patiently(trial.should_prune):
            return ''
        told = f'{self._metric} {value:.5g} at batch {latest.batch}'
        # The run may be killed before anybody hears of it, and not come by this batch again.
        patiently(lambda: trial.set_user_attr(STOPPED, told))
        return told

    def post_close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            self._database.engine.dispose()
