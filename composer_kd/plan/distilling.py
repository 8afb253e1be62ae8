"""How often the teachers run, and what they add to the FLOPs of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd import schedule
from composer_kd.plan.course import Course
from composer_kd.plan.result import Distilling, Model
from composer_kd.schedule import Anchor, Interval, Window
from composer_kd.teachers import AUTO_SHARE, settle
from composer_kd.times import parse_time


def window_of(course: Course, settings: Mapping[str, Any]) -> Window:
    """The window as :class:`composer_kd.Distillation` resolves it when the training begins.

    Raises:
        ValueError: If the window closes before it opens, or depends on a length that is not known.
    """
    start, end = (
        schedule.resolve(parse_time(settings[key], key), course.duration, course.batches_per_epoch, key)
        for key in ('start', 'end')
    )
    first, last = start.in_batches(course.batches_per_epoch), end.in_batches(course.batches_per_epoch)
    if (start.unit == end.unit and start.value > end.value) or (None not in (first, last) and first > last):  # type: ignore[operator]
        raise ValueError(f"start: '{settings['start']}' lies after end '{settings['end']}' in this training.")
    return Window(start, end)


def _own_windows(course: Course, settings: Mapping[str, Any], whole: Window) -> list[Window | None]:
    """The windows that losses have of their own; ``None`` for one that is on in the whole."""
    found: list[Window | None] = []
    for loss in settings['losses'] or [{}]:
        bounds = [
            getattr(whole, key) if loss.get(key) is None else schedule.resolve(
                parse_time(loss[key], key), course.duration, course.batches_per_epoch, key,
            ) for key in ('start', 'end')
        ]
        found.append(None if loss.get('start') is None and loss.get('end') is None else Window(*bounds))
    return found


def follow(
    course: Course, settings: Mapping[str, Any], names: Sequence[str], weights: Sequence[float], seed: int,
    sam_interval: int | None = None, ranks: int = 1,
) -> Distilling:
    """Go through all batches of a training as its schedule will.

    Args:
        course: The course, its steps known.
        settings: :attr:`composer_kd.Distillation.settings`.
        names: Of the teachers.
        weights: Their weights.
        seed: Of the run; that of the settings goes first.
        sam_interval: Every how many steps SAM runs everything a second time; ``None`` without it.
        ranks: Of the training.

    Raises:
        ValueError: As :func:`window_of`.
    """
    assert course.steps is not None
    window, interval = window_of(course, settings), Interval.parse(settings['interval'])
    own = _own_windows(course, settings, window)
    anchor = window.anchor(course.batches_per_epoch)
    seed = seed if settings['seed'] is None else settings['seed']
    batches, samples = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    active, first, last = 0, None, None
    for batch in range(0 if anchor is None else anchor.batch, course.steps):
        clock = course.clock(batch)
        if window.closed(clock):
            break
        if not window.start.reached(clock):
            continue
        anchor = anchor or Anchor(batch, clock.epoch)
        if not any(one is None or one.contains(clock) for one in own):
            continue
        if not schedule.is_on(clock, anchor, interval, settings['probability'], seed):
            continue
        active, first, last = active + 1, batch if first is None else first, batch
        passes = 2 if sam_interval and (batch + 1) % sam_interval == 0 else 1
        asked = schedule.askers(
            clock, anchor, interval, weights, settings['teachers_per_batch'], settings['sampling'], seed, ranks,
        )
        for i, number in asked.items():
            batches[names[i]] += 1
            samples[names[i]] += passes * course.batch_size * number // ranks
    return Distilling(active_steps=active, first_step=first, last_step=last, batches=batches, samples=samples)


def on_device(
    teachers: Sequence[Model], settings: Mapping[str, Any] | None, ranks: int, memory: float, gpu: bool,
) -> int:
    """Bytes of a device's memory that teachers take all the time: of those in host memory, next to none.

    Args:
        teachers: The teachers.
        settings: :attr:`composer_kd.Distillation.settings`, or ``None`` without distillation.
        ranks: Of the training.
        memory: Of a device, in bytes.
        gpu: Whether it is a GPU.
    """
    if settings is None:
        return 0
    sampling, sizes = settings['sampling'], [teacher.bytes or 0 for teacher in teachers]
    held = schedule.ever_asked(len(sizes), settings['teachers_per_batch'], sampling, 0, ranks)
    mine = [sizes[i] for i in sorted(held)]
    can = [sampling != 'by_rank'] * len(mine)
    places = settle(settings['placement'], mine, AUTO_SHARE * memory, ranks, gpu, can)
    shares = {'replicated': 1, 'sharded': ranks}
    return sum(size // shares[place] for size, place in zip(mine, places, strict=True) if place in shares)
