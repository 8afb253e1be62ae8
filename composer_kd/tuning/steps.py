"""Steps of a recipe's own training, timed: a real Trainer, and nothing of it left behind."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer import Callback
from composer.callbacks import CheckpointSaver
from composer.core import State, Time, TimeUnit
from composer.loggers import Logger

from composer_kd.caching.asking import waits
from composer_kd.distillation import Distillation
from composer_kd.recipes.build import build_trainer, forget
from composer_kd.recipes.schema import Recipe
from composer_kd.tuning.spread import Spread

_LONGER = 10**6

Over = Callable[[int, float], bool]
"""Whether enough was seen: after so many steps, so many seconds after the first."""


@dataclass(frozen=True)
class Step:
    """Seconds of one step, from the end of the step before it to its own.

    Attributes:
        whole: All of it, the wait for data included.
        kd: In teachers and loss, without the loss's share of the backward pass.
        teacher: Of that, in teachers or in what is stored of them.
        storing: Between batches, in writing answers down.
    """

    whole: float
    kd: float = 0.0
    teacher: float = 0.0
    storing: float = 0.0


@dataclass(frozen=True)
class Timed:
    """What steps with and without distillation in turn took.

    Attributes:
        off: A step without.
        teachers: By name, the forward of each, or the reading of its answers.
        rest: What else distillation adds to a step: the loss forward and backward, and all around it.
        storing: What writing answers down adds.
        added: By how much a step with distillation was longer than those beside it.
    """

    off: Spread
    teachers: Mapping[str, Spread]
    rest: Spread | None = None
    storing: Spread | None = None
    added: Spread | None = None


class _Clock(Callback):
    def __init__(self, over: Over) -> None:
        self.steps: list[Step] = []
        self.kd: Distillation | None = None
        self._over = over
        self._begun = self._before = 0.0
        self._booked = Step(0.0)

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin."""
        self._begun = self._before = time.perf_counter()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Note what the step took."""
        waits(state.device)
        now, sums = time.perf_counter(), self._booked
        if self.kd is not None:
            told = self.kd.summary()
            sums = Step(0.0, told['kd_seconds'], told['teacher_seconds'], told['store_seconds'])
        self.steps.append(Step(
            now - self._before, sums.kd - self._booked.kd, sums.teacher - self._booked.teacher,
            sums.storing - self._booked.storing,
        ))
        self._booked = sums
        if len(self.steps) == 1:
            self._begun = now
        if self._over(len(self.steps), now - self._begun):
            state.stop_training()
        self._before = time.perf_counter()


def time_steps(recipe: Recipe, over: Over) -> list[Step]:
    """Train in a folder for temporary files, without evaluation, loggers and checkpoints, until enough was seen.

    Args:
        recipe: As :func:`alone` makes it.
        over: Whether it was.

    Returns:
        Every step, the first included.

    Raises:
        ValueError: As :func:`composer_kd.recipes.build_trainer`.
        TypeError: Likewise.
        FileNotFoundError: Likewise.
    """
    clock = _Clock(over)
    with tempfile.TemporaryDirectory(prefix='composer_kd-tune-', ignore_cleanup_errors=True) as folder, quiet():
        trainer = build_trainer(recipe.model_copy(update={'run_folder': str(Path(folder) / 'run')}), [clock])
        try:
            state = trainer.state
            state.callbacks = [one for one in state.callbacks if not isinstance(one, CheckpointSaver)]
            clock.kd = next((one for one in state.algorithms if isinstance(one, Distillation)), None)
            trainer.fit()
        finally:
            trainer.engine.close()
            forget(trainer)
    return clock.steps


def alone(recipe: Recipe, distillation: Mapping[str, Any] | None, ranks: int = 1) -> Recipe:
    """The part of a recipe that its steps are made of, as one of several ranks makes them, without an end.

    Args:
        recipe: The recipe.
        distillation: The settings of its distillation; ``None`` for none.
        ranks: Of the training: this is one of them, with its share of a batch.
    """
    algorithms = {name: settings for name, settings in recipe.algorithms.items() if name != 'distillation'}
    if distillation is not None:
        algorithms['distillation'] = dict(distillation)
    length = Time.from_input(recipe.max_duration, TimeUnit.EPOCH)
    return recipe.model_copy(update={
        'algorithms': algorithms, 'callbacks': {}, 'loggers': {}, 'evaluators': {}, 'start_from': None,
        'load_path': None, 'load_object_store': None, 'save_folder': None, 'profiler': None, 'progress_bar': False,
        'log_to_console': False, 'python_log_level': None, 'autoresume': False, 'overwrite': False,
        'max_duration': f'{int(length.value) * _LONGER}{length.unit.value}',
        'train_data': {**recipe.train_data, 'batch_size': share_of(recipe, ranks)},
    })


def share_of(recipe: Recipe, ranks: int) -> int:
    """Samples of a rank's batch.

    Raises:
        ValueError: If the ranks cannot share a batch evenly.
    """
    size = int(recipe.train_data['batch_size'])
    if size % ranks:
        raise ValueError(
            f'train_data.batch_size: {size} samples cannot be divided evenly over {ranks} GPUs; give --gpus a number '
            'that divides it.',
        )
    return size // ranks


def in_turn(said: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]], last: int | None = None) -> dict[str, Any]:
    """Settings of a distillation that is on every other batch and asks one teacher after the other.

    Args:
        said: The settings of the recipe.
        teachers: Whom to ask.
        last: The batch before which it ends; ``None`` for never.
    """
    return {
        **said, 'teachers': [dict(one) for one in teachers], 'teachers_per_batch': 1, 'sampling': 'round_robin',
        'start': '0ba', 'end': '1dur' if last is None else f'{last}ba', 'interval': 2, 'probability': 1.0,
        'check_batches': 0,
    }


def sort_out(steps: Sequence[Step], names: Sequence[str]) -> Timed:
    """What steps took of which :func:`in_turn` has distillation on every other one, the first of them.

    The first steps, and the first with each teacher, are not counted: they warm up. What a step with distillation adds
    is its time less the mean of the steps before and after it, so that whatever slows the machine down for a while
    meets both.

    Args:
        steps: All steps.
        names: Of the teachers, in turn; none where distillation is off throughout.
    """
    begin = warm_up(len(names))
    if not names:
        return Timed(Spread.of([step.whole for step in steps[begin:]]), {})
    on = range(begin, len(steps) - 1, 2)
    teachers: dict[str, list[float]] = {name: [] for name in names}
    added, rest = [], []
    for i in on:
        step = steps[i]
        teachers[names[i // 2 % len(names)]].append(step.teacher)
        added.append(step.whole - (steps[i - 1].whole + steps[i + 1].whole) / 2)
        rest.append(added[-1] - step.teacher)
    inside = Spread.of([steps[i].kd - steps[i].teacher for i in on]).seconds
    return Timed(
        Spread.of([steps[i].whole for i in range(begin + 1, len(steps), 2)]),
        {name: Spread.of(values) for name, values in teachers.items()},
        # a difference of steps is noisy: what was seen between two looks at the clock was there
        Spread.of(rest, floor=inside), Spread.of([steps[i + 1].storing + steps[i].storing for i in on]),
        Spread.of(added),
    )


def warm_up(teachers: int) -> int:
    """How many steps warm up, with so many teachers in turn on every other one."""
    return max(4, 2 * teachers)


def enough(names: Sequence[str], seconds: float) -> Over:
    """At least two measurements of each teacher in turn, and so many seconds after all have warmed up."""
    warm, begun = warm_up(len(names)), [0.0]
    least = warm + 2 * max(2, 2 * len(names)) + 1

    def over(count: int, passed: float) -> bool:
        if count <= warm:
            begun[0] = passed  # compiling takes as long as it takes
        return count >= least and passed - begun[0] >= seconds
    return over


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and the log of a training that nobody keeps."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
