"""Data by name, and what is known of it before any of it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from composer_kd.names import Registry

DATA: Registry[Callable[..., Any]] = Registry('data', 'composer_kd.data')
"""Functions ``build(batch_size, seed, train, **settings)`` that return a DataLoader or a Composer DataSpec.

``batch_size`` is that of one rank, ``seed`` the run's, and ``train`` says whether the data is shuffled and augmented
(the recipe's ``train_data``) or read in order, the same each time (an evaluator's).

The loader's dataset may say what its labels need: ``num_classes`` (an int), and ``vocabulary`` (the digest of
:func:`composer_kd.models.vocabulary_digest`). Both are held against the model's before training. Its ``traits``
(:class:`composer_kd.models.Traits`) say how its images are normalised and what its classes are called, for
teachers that were trained otherwise.
"""


@dataclass(frozen=True)
class DataShape:
    """What is known of data without reading its samples.

    Attributes:
        samples: In an epoch, over all ranks; ``None`` where that is not known without the data.
        batch: A batch of that many samples, of zeros or ones, on torch's default device.
        tokens: Of a sample, where it has any.
        disk_bytes: What the data takes on disk, where that is known.
        note: Where these figures come from.
    """

    samples: int | None
    batch: Callable[[int], Any]
    tokens: int = 0
    disk_bytes: int | None = None
    note: str = ''


SHAPES: dict[str, Callable[..., DataShape]] = {}
"""By the name of the data: functions ``shape(train, **settings)``, for ``composer-kd plan``."""


def describes(name: str) -> Callable[[Callable[..., DataShape]], Callable[..., DataShape]]:
    """Register a function as the one that tells the shape of the data of that name."""

    def register(function: Callable[..., DataShape]) -> Callable[..., DataShape]:
        SHAPES[name] = function
        return function

    return register
