"""Every problem that can be seen before data is read and a step is made."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

from composer.core import Time, Timestamp, TimeUnit
from composer.optim import ComposerScheduler

from composer_kd.plan.building import WHERE
from composer_kd.plan.course import Course
from composer_kd.plan.distilling import window_of
from composer_kd.plan.memory import FITS, GIB
from composer_kd.plan.reading import Source
from composer_kd.plan.result import Distilling, Level, Memory, Problem, problem
from composer_kd.recipes import Recipe
from composer_kd.schedule import Interval

_WORTHWHILE = 0.2


def of_batches(recipe: Recipe, sources: Sequence[Source], course: Course, ranks: int) -> Iterator[Problem]:
    """Batches that ranks cannot share, or that an epoch cannot fill."""
    for source in sources:
        size = source.batch_size
        if size % ranks:
            yield problem(
                'error', f'{source.where}.batch_size',
                f'{size} samples cannot be divided evenly over {ranks} ranks; make it a multiple of {ranks}, for '
                f'instance {max(1, size // ranks) * ranks}.',
            )
    train = sources[0]
    if train.data.samples is not None and train.batch_size > train.data.samples:
        yield problem(
            'error', 'train_data.batch_size',
            f'{train.batch_size:,} samples, and an epoch has {train.data.samples:,}; make the batch smaller or the '
            'data larger.',
        )
    asked, share = recipe.device_train_microbatch_size, max(1, train.batch_size // ranks)
    if isinstance(asked, (int, float)) and asked > share:
        yield problem(
            'warning', 'device_train_microbatch_size',
            f'{asked:g} samples, and a rank has {share} of a batch; it has no effect. Make it {share} or less, or '
            'leave it out.',
        )
    if asked == 'auto' and recipe.device == 'cpu':
        yield problem(
            'error', 'device_train_microbatch_size',
            "'auto' needs a GPU, and device is cpu; give a number or leave it out.",
        )
    if course.steps is None and train.data.samples is None:
        yield problem(
            'note', 'max_duration',
            f"{recipe.max_duration!r} cannot be counted in steps without the data: how many samples an epoch has is "
            'not known here. Give it in ba or sp to have it planned, or run this where the data is.',
        )


def of_distilling(course: Course, settings: Mapping[str, Any], distilling: Distilling | None) -> Iterator[Problem]:
    """A window that never opens, an interval that outlasts it, a cost that will hardly come back."""
    try:
        window = window_of(course, settings)
    except ValueError as error:
        yield problem('error', WHERE, str(error))
        return
    if distilling is None:
        return
    said = f"start={settings['start']}, end={settings['end']}, {course.steps:,} steps"
    if not distilling.active_steps:
        yield problem(
            'warning', f'{WHERE}.start',
            f'distillation is on for no step of this training ({said}). Give it a window of a batch or more, or take '
            'it out.',
        )
        return
    interval = Interval.parse(settings['interval'])
    first, last = (bound.in_batches(course.batches_per_epoch) for bound in (window.start, window.end))
    if first is not None and course.steps is not None:
        last = None if last is None else min(Fraction(course.steps), last)
        unit = (course.batches_per_epoch or 0) if interval.unit == TimeUnit.EPOCH else 1
        if last is not None and unit and interval.every > 1 and interval.every * unit >= last - first:
            yield problem(
                'warning', f'{WHERE}.interval',
                f"'{settings['interval']}' is as long as the window of {math.ceil(last - first):,} steps, so that it "
                'comes round only once. Make it shorter, or the window longer.',
            )
    if distilling.overhead is not None and distilling.overhead > _WORTHWHILE:
        yield problem(
            'note', WHERE,
            f'about {100 * distilling.overhead:.0f} % more FLOPs than without: the run has to reach its quality in '
            'that much fewer steps to gain. Published work distils for the first 20-50 % of BERT (end), draws one '
            'of several teachers a batch (teachers_per_batch; arXiv 2211.00683), and cuts the overhead by 80-90 % with '
            'little effect on accuracy (arXiv 2303.06480; interval too).',
        )


def of_schedule(recipe: Recipe, course: Course, schedulers: Sequence[ComposerScheduler]) -> Iterator[Problem]:
    """Learning-rate schedules that Composer refuses, and warm-ups of no batch."""
    length = course.batches_per_epoch
    state: Any = SimpleNamespace(
        max_duration=course.duration, timestamp=Timestamp(), get_elapsed_duration=lambda: Time(0.0, TimeUnit.DURATION),
        dataloader_len=None if length is None else Time(length, TimeUnit.BATCH),
    )
    for index, scheduler in enumerate(schedulers):
        where = f'scheduler[{index}]' if isinstance(recipe.scheduler, list) else 'scheduler'
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                scheduler(state, recipe.scale_schedule_ratio)
        except ValueError as error:
            yield problem('error', where, f"Composer refuses it for this training: {' '.join(str(error).split())}")
        except Exception:
            continue  # a schedule that asks for more of a training than its clock
        warmup = recipe.schedulers[index].get('t_warmup')
        span = None if warmup is None else course.in_batches(warmup)
        if span is not None and 0 < span < 1:
            yield problem(
                'warning', f'{where}.t_warmup',
                f"'{warmup}' of this training comes to no batch, so there is no warm-up. Make it longer, or 0.",
            )
        elif span is not None and course.steps is not None and span >= course.steps:
            yield problem(
                'warning', f'{where}.t_warmup',
                f"'{warmup}' is {math.ceil(span):,} steps, and the training has {course.steps:,}. Make it shorter.",
            )


def of_intervals(recipe: Recipe, course: Course) -> Iterator[Problem]:
    """Evaluations and checkpoints that do not come to pass."""
    if not recipe.evaluators:
        yield problem('note', 'evaluators', 'there are none, so the record will hold no quality; name one.')
    for label, spec in recipe.evaluators.items():
        interval = recipe.eval_interval if spec.interval is None else spec.interval
        where = 'eval_interval' if spec.interval is None else f'evaluators.{label}.interval'
        yield from _interval(where, interval, course, 'evaluated')
    yield from _interval('save_interval', recipe.save_interval, course, 'saved')


def _interval(where: str, interval: int | str, course: Course, done: str) -> Iterator[Problem]:
    time = Time.from_input(interval, TimeUnit.EPOCH)
    span = course.in_batches(time)
    if time.value <= 0:
        loss = 'no checkpoint is written: the run can neither be resumed nor teach' if done == 'saved' else (
            'it is never evaluated')
        yield problem('warning', where, f'0 means never, and {loss}. Give a number of epochs or a time string.')
    elif span is not None and course.steps is not None and span > course.steps:
        yield problem(
            'note', where,
            f"'{interval}' is longer than the training of {course.steps:,} steps: {done} at the end alone. Make it "
            'shorter for more.',
        )


def of_memory(memory: Memory) -> Iterator[Problem]:
    """An estimate above what a GPU has."""
    if memory.total is None or memory.microbatch is None or memory.total <= FITS * memory.limit:
        return
    need, limit = f'{memory.total / GIB:.0f}', f'{memory.limit / GIB:.0f}'
    told = f'about {need} of {limit} GiB a rank at a microbatch of {memory.microbatch:,}'
    remedy = 'set device_train_microbatch_size to auto or a smaller number' if memory.microbatch > 1 else (
        'shard the model (parallelism_config.fsdp) or take a smaller one')
    level: Level = 'error' if memory.total > memory.limit else 'warning'
    yield problem(level, 'device_train_microbatch_size', f'{told}; {remedy}.')
