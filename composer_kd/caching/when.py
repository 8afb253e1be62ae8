"""Which batches of a recipe's own training ask its teachers, known before anything is trained."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from composer.core import Time, TimeUnit
from numpy.typing import NDArray

from composer_kd import schedule
from composer_kd.recipes.schema import Recipe
from composer_kd.schedule import Anchor, Bound, Clock
from composer_kd.settings import Settings

Batches = NDArray[np.int64]


def _in_batches(bound: Bound, per_epoch: int, batch_size: int) -> Fraction | None:
    # every batch of a training is full, so samples are batches too
    return bound.value / batch_size if bound.unit == TimeUnit.SAMPLE else bound.in_batches(per_epoch)


def asked_batches(recipe: Recipe, settings: Settings | None, per_epoch: int) -> Batches | None:
    """The batches of a recipe's training that are distilled, ascending; all of them without distillation.

    Args:
        recipe: The recipe.
        settings: Of its distillation.
        per_epoch: Batches of an epoch.

    Returns:
        ``None`` where they depend on tokens or on the clock.
    """
    duration: Any = Time.from_input(recipe.max_duration, 'ep')
    if recipe.scale_schedule_ratio not in (None, 1.0):
        duration = Time(int(duration.value * recipe.scale_schedule_ratio), duration.unit)
    size = int(recipe.train_data['batch_size'])
    moments = (
        [(Time.from_timestring(text), 'max_duration') for text in ('0dur', '1dur')] if settings is None else
        [(settings.start, 'start'), (settings.end, 'end'), (Time.from_timestring('1dur'), 'max_duration')]
    )
    found = [_in_batches(schedule.resolve(time, duration, per_epoch, name), per_epoch, size) for time, name in moments]
    if found[0] is None or found[1] is None:
        return None
    first, last = (math.ceil(moment) for moment in (found[0], min(m for m in found[1:] if m is not None)))
    inside: Batches = np.arange(first, max(first, last), dtype=np.int64)
    if settings is None:
        return inside
    anchor = Anchor(first, first // per_epoch)
    seed = recipe.seed if settings.seed is None else settings.seed
    if settings.probability >= 1 and settings.interval.every == 1:
        return inside
    asked: Batches = inside[np.array([
        schedule.is_on(
            Clock(batch, batch // per_epoch), anchor, settings.interval, settings.probability, seed,
        ) for batch in inside.tolist()
    ], bool)]
    return asked


def epochs_of(batches: Batches, per_epoch: int) -> list[int]:
    """The epochs that some batches lie in, ascending.

    Example:
        >>> epochs_of(np.array([0, 5, 6, 25]), 6)
        [0, 1, 4]
    """
    found: list[int] = np.unique(batches // per_epoch).tolist()
    return found
