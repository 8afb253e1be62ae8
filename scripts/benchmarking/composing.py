"""Composer's step, with ``Distillation`` and without, held at the end of every batch until it is its turn; and the
teacher alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch
from composer import Callback, Trainer
from composer.algorithms import ChannelsLast
from composer.core import DataSpec, State, get_precision_context
from composer.loggers import Logger
from composer.utils import ensure_tuple

from benchmarking.cases import (
    BASE_WEIGHT,
    KD_WEIGHT,
    LOSS,
    Case,
    batch_of,
    data_of,
    optimizer_of,
    student_of,
    teacher_of,
)
from benchmarking.process import Clock, loop
from composer_kd import Distillation
from composer_kd.answers import Identity
from composer_kd.batches import positions_of
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, make_loader

FOREVER = '1000000ba'
LONG = '10000ba'
"""For stored answers: which batches ask which teacher is worked out before the first of them."""

COUNTED_NOWHERE = -1
"""An ``ignore_index`` that no label has: every token counts, those of label -100 among them."""


class Held(Callback):
    """Waits for a turn before the first batch and after each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first = True

    def fit_start(self, state: State, logger: Logger) -> None:
        """Wait for the first."""
        self._go_on(state)

    def before_backward(self, state: State, logger: Logger) -> None:
        """The first loss is told: algorithms come before callbacks, so KD has joined it."""
        if self._first:
            self._first = False
            self._clock.tell(loss=float(ensure_tuple(state.loss)[0]))

    def batch_end(self, state: State, logger: Logger) -> None:
        """Wait for the next."""
        self._go_on(state)

    def _go_on(self, state: State) -> None:
        if not self._clock.next():
            state.stop_training()


class TeacherAlone(Callback):
    """After a first batch, in which the teacher is prepared, asks it the same again and again, and ends."""

    def __init__(self, clock: Clock, kd: Distillation) -> None:
        self._clock, self._kd = clock, kd
        self._asked: Any = None

    def after_forward(self, state: State, logger: Logger) -> None:
        """Keep what the teacher is asked."""
        self._asked = state.batch, positions_of(state.outputs, state.batch)

    def batch_end(self, state: State, logger: Logger) -> None:
        """Ask."""
        teacher: Any = self._kd.teachers[0]

        def step() -> None:
            with get_precision_context(state.precision, state.precision_config):
                teacher.outputs(*self._asked)

        loop(self._clock, step)
        state.stop_training()


class Samples(EpochDataset[Any]):
    """The samples of a few batches, by their number, for a loader that knows which they are."""

    def __init__(self, case: Case, batches: int) -> None:
        self._images, self._labels = (
            torch.cat(parts) for parts in zip(*(batch_of(case, seed) for seed in range(batches)), strict=True)
        )
        self.num_classes = case.classes

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int]:
        _, index = key
        return self._images[index], int(self._labels[index])


def known_data(case: Case, batches: int) -> DataSpec:
    """Data whose samples are known by number, as stored answers need it; read in the training's own process."""
    data = Samples(case, batches)
    return DataSpec(make_loader(
        data, case.batch_size, 17, True, views=1, identity=Identity({'name': case.name, 'samples': len(data)}, {}),
    ))


def distillation(case: Case, teachers: Sequence[Any], **settings: Any) -> Distillation:
    """KD as the peers do it, with settings of ours."""
    everywhere: dict[str, Any] = {'ignore_index': COUNTED_NOWHERE} if case.text and case.everywhere else {}
    return Distillation(list(teachers), **{
        'loss': LOSS, 'kd_loss_weight': KD_WEIGHT, 'base_loss_weight': BASE_WEIGHT, 'check_batches': 0, **everywhere,
        **settings,
    })


def fit(
    case: Case, data: DataSpec, kd: Distillation | None, callback: Callback, gpu: bool, duration: str = FOREVER,
) -> None:
    """Train with Composer as we would: convolutions in channels-last."""
    model = student_of(case)
    algorithms: list[Any] = [] if case.text else [ChannelsLast()]
    Trainer(
        model=model, train_dataloader=data, optimizers=optimizer_of(case, model), max_duration=duration, seed=17,
        algorithms=[*algorithms, *([] if kd is None else [kd])], callbacks=[callback], precision=case.precision,
        device='gpu' if gpu else 'cpu', device_train_microbatch_size=-(-case.batch_size // case.microbatches),
        progress_bar=False, log_to_console=False, loggers=[],
    ).fit()


def serve_bare(clock: Clock, case: Case) -> None:
    """A step without KD."""
    fit(case, data_of(case, clock.gpu), None, Held(clock), clock.gpu)


def serve_kd(clock: Clock, case: Case, teachers: int = 1, known: int = 0, **settings: Any) -> None:
    """A step with KD.

    Args:
        clock: When to run it.
        case: What to train.
        teachers: How many.
        known: Of how many batches of known samples the data is; 0 for data without an end.
        **settings: Of :class:`composer_kd.Distillation`.
    """
    kd = distillation(case, [teacher_of(case, number) for number in range(teachers)], **settings)
    data = known_data(case, known) if known else data_of(case, clock.gpu)
    fit(case, data, kd, Held(clock), clock.gpu, LONG if known else FOREVER)


def serve_known(clock: Clock, case: Case, known: int) -> None:
    """A step without KD on data whose samples are known by number."""
    fit(case, known_data(case, known), None, Held(clock), clock.gpu, LONG)


def serve_stored(
    clock: Clock, case: Case, teachers: int, known: int, form: dict[str, Any], **settings: Any,
) -> None:
    """A step with KD from answers that a first training has stored."""
    with tempfile.TemporaryDirectory() as folder:
        stores = [f'{folder}/{number}' for number in range(teachers)]
        filling = [
            {'module': teacher_of(case, number), 'cache': {'path': store, 'fill': True, 'format': form}}
            for number, store in enumerate(stores)
        ]
        for entry in filling:  # one after the other: formats that cannot be averaged can still take turns
            fit(case, known_data(case, known), distillation(case, [entry]), Callback(), clock.gpu, f'{known}ba')
        kd = distillation(case, [{'cache': store, 'name': f'stored-{i}'} for i, store in enumerate(stores)], **settings)
        fit(case, known_data(case, known), kd, Held(clock), clock.gpu, LONG)


def serve_teacher(clock: Clock, case: Case, **settings: Any) -> None:
    """A teacher's forward alone, prepared as for a step."""
    kd = distillation(case, [teacher_of(case)], **settings)
    fit(case, data_of(case, clock.gpu), kd, TeacherAlone(clock, kd), clock.gpu)
