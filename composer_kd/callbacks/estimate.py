"""The estimate of a run's FLOPs: measured once on a small forward, multiplied by what the run has seen."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from composer.core import State
from composer.core.precision import get_precision_context

from composer_kd.callbacks.flops import first_samples, forward_flops_per_sample, untouched
from composer_kd.runs import Flops, Record

log = logging.getLogger(__name__)

T = TypeVar('T')

METHOD = (
    'matrix products, convolutions and attention of one evaluation-mode forward on the first batch, counted by '
    "torch's FlopCounterMode; a training step is taken as 3 forwards, a teacher as 1 on each sample it saw itself; "
    'extra forwards of algorithms (SAM), input sizes that change during training, and evaluation are left out'
)


def find_distillation(state: State) -> Any:
    """The algorithm that distils, or ``None``; known by what it answers, so that a stand-in of one will do."""
    for algorithm in state.algorithms:
        if callable(getattr(algorithm, 'summary', None)) and callable(getattr(algorithm, 'teacher_flops', None)):
            return algorithm
    return None


def measure(state: State) -> Flops:
    """Forward FLOPs on the batch at hand. Training must not stop for an estimate, so every failure becomes its text."""
    flops, distillation = Flops(method=METHOD), find_distillation(state)
    with get_precision_context(state.precision, state.precision_config):
        student = _counted(lambda: forward_flops_per_sample(state.model, state.batch), 'the student', flops)
        flops.student_forward_per_sample = student
        if distillation is not None:
            # whatever became of the student: other ranks may be waiting there
            with untouched():
                teachers = _counted(
                    lambda: distillation.teacher_flops(first_samples(state.batch, 2)[0]), 'the teachers', flops,
                ) or {}
            flops.teacher_forward_per_sample = {str(name): float(number) for name, number in teachers.items()}
    return flops


def _counted(count: Callable[[], T], what: str, flops: Flops) -> T | None:
    try:
        return count()
    except Exception as error:
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
        log.warning('The FLOPs of %s are not recorded: %s', what, reason)
        flops.method = f'{what} could not be counted ({reason}); otherwise {flops.method}'
        return None


def with_earlier(flops: Flops, earlier: Flops) -> Flops:
    """The estimate of a resumed run, with what was counted before for what is no longer there: a released teacher."""
    student = flops.student_forward_per_sample
    return flops.model_copy(update={
        'student_forward_per_sample': earlier.student_forward_per_sample if student is None else student,
        'teacher_forward_per_sample': {**earlier.teacher_forward_per_sample, **flops.teacher_forward_per_sample},
    })


def with_total(record: Record) -> Flops:
    """The estimate with its total brought up to what the run has seen; ``None`` where a part of it is unknown."""
    flops = record.flops
    counted = flops.teacher_forward_per_sample
    if flops.student_forward_per_sample is None or any(t.name not in counted for t in record.teachers if t.samples):
        return flops.model_copy(update={'total': None})
    total = 3 * flops.student_forward_per_sample * record.samples
    # what was read from a store cost no forward
    asked = {teacher.name: max(0, teacher.samples - teacher.stored) for teacher in record.teachers if teacher.samples}
    total += sum(counted[name] * samples for name, samples in asked.items())
    return flops.model_copy(update={'total': total})
