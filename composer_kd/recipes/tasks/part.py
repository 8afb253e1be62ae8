"""A part of data: the same samples whenever it is asked for, each with the index that it has in the whole.

For training on data that grows, or on windows of it: ``part: [0, 0.5]`` of one run and ``part: [0.5, 1]`` of the next
share no sample and leave none out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Part = Sequence[float]
"""``[start, end]``, shares of the samples: 0 <= start < end <= 1."""

Chosen = range | NDArray[np.int64]
"""Indices of samples, ascending; a range where they follow one another, as that takes no memory."""


def window(part: Part | None, count: int) -> range:
    """The places of a part in the order of the data.

    Args:
        part: ``[start, end]``; ``None`` for all.
        count: Samples of the whole.

    Returns:
        From the start's share of the samples up to the end's, each rounded: parts that meet neither overlap nor leave
        a sample out.

    Raises:
        ValueError: If it is no part, or holds no sample.

    Example:
        >>> window([0, 0.5], 5), window([0.5, 1], 5)
        (range(0, 2), range(2, 5))
    """
    if part is None:
        return range(count)
    if len(part) != 2 or not 0 <= part[0] < part[1] <= 1:
        raise ValueError(
            f'part: expected [start, end], shares of the samples with 0 <= start < end <= 1, as [0, 0.5] for the '
            f'first half; got {list(part)}.',
        )
    places = range(round(part[0] * count), round(part[1] * count))
    if count and not places:
        raise ValueError(f'part: {list(part)} of {count} samples is none at all; make it larger.')
    return places


def choose(part: Part | None, count: int, labels: NDArray[np.int64] | None = None) -> Chosen:
    """The samples of a part.

    Args:
        part: ``[start, end]``; ``None`` for all.
        count: Samples of the whole.
        labels: ``(count,)`` of data that lies class after class: each class then gives its share. ``None`` for data
            that is mixed already, of which samples that follow one another are taken.

    Returns:
        Their indices in the whole, ascending.

    Raises:
        ValueError: If it is no part, or holds no sample.

    Example:
        >>> choose([0.5, 1], 6, np.array([0, 0, 0, 0, 1, 1])).tolist()
        [2, 3, 5]
    """
    places = window(part, count)
    if part is None or labels is None:
        return places
    # The k-th of a class's n samples stands at (k + 1/2) / n of an order in which every part has the classes in their
    # proportions.
    by_class = np.argsort(labels, kind='stable')
    sizes = np.bincount(labels)
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    place = (np.arange(count) - first + 0.5) / np.repeat(sizes, sizes)
    order = by_class[np.argsort(place, kind='stable')]
    return np.sort(order[places.start:places.stop]).astype(np.int64)


def pick(chosen: Chosen, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """The indices at those places among the chosen."""
    return places + chosen.start if isinstance(chosen, range) else chosen[places]
