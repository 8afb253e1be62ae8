"""How far a classifier's confidence can be taken at its word: pure functions of NumPy arrays.

Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv 1706.04599): expected calibration error (section 2)
and temperature scaling (section 4.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COLDEST, HOTTEST = 0.05, 20.0
"""Between which temperatures the best one is looked for."""
_PIECE = 2**22


@dataclass(frozen=True)
class Reliability:
    """Confidence beside how often it was borne out, in bins of equal width over 0 to 1.

    Attributes:
        counts: Rows of each bin, shape ``(bins,)`` int64.
        confidence: Their mean confidence, 0 to 1, shape ``(bins,)``; 0 of an empty bin.
        accuracy: The share of them that was right, 0 to 1, shape ``(bins,)``; 0 of an empty bin.
    """

    counts: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """The expected calibration error, 0 to 1: ``sum_b n_b / n |accuracy_b - confidence_b|`` (section 2, eq. 3).

        Example:
            >>> reliability(np.array([0.95, 0.95]), np.array([True, False])).error
            0.45
        """
        total = int(self.counts.sum())
        if not total:
            return 0.0
        return round(float((self.counts * np.abs(self.accuracy - self.confidence)).sum() / total), 12)


def reliability(confidence: NDArray[Any], right: NDArray[np.bool_], bins: int = 15) -> Reliability:
    """Sort rows into bins by their confidence.

    Args:
        confidence: The probability of the likeliest class, 0 to 1, shape ``(n,)``; a bin holds what lies above its
            lower and not above its upper edge.
        right: Whether that class was the label, shape ``(n,)``.
        bins: How many, 1 or more; 15 in the paper.

    Raises:
        ValueError: For other shapes, values outside 0 to 1, or no bins.

    Example:
        >>> found = reliability(np.array([0.2, 0.9, 0.8]), np.array([False, True, True]), bins=2)
        >>> found.counts.tolist(), found.accuracy.tolist(), round(found.error, 3)
        ([1, 2], [0.0, 1.0], 0.167)
    """
    confidence = np.asarray(confidence, np.float64)
    if bins < 1:
        raise ValueError(f'bins: expected 1 or more, got {bins}.')
    if confidence.ndim != 1 or confidence.shape != np.shape(right):
        raise ValueError(
            f'right: expected one value for each of the rows of confidence, shape {confidence.shape}, got '
            f'{np.shape(right)}.',
        )
    # a softmax in float32 may pass 1 by its last digit
    if not bool(((confidence >= 0) & (confidence <= 1 + 1e-5)).all()):
        raise ValueError('confidence: expected probabilities from 0 to 1.')
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(place, minlength=bins)
    least = np.maximum(counts, 1)
    return Reliability(
        counts, np.bincount(place, confidence, bins) / least,
        np.bincount(place, np.asarray(right, np.float64), bins) / least,
    )


def scaled_confidence(logits: NDArray[Any], temperature: float) -> Floats:
    """The probability of the likeliest class once logits are divided by a temperature.

    Args:
        logits: Shape ``(n, C)``.
        temperature: Above 0.

    Returns:
        0 to 1, shape ``(n,)``.

    Example:
        >>> scaled_confidence(np.array([[0.0, 2.0]]), 2.0).round(3).tolist()
        [0.731]
    """
    found = np.empty(len(logits))
    for piece in _pieces(logits):
        part = logits[piece].astype(np.float64)
        part -= part.max(axis=1, keepdims=True)
        found[piece] = 1 / np.exp(part / temperature).sum(axis=1)
    return found


def nll(logits: NDArray[Any], labels: NDArray[np.int64], temperature: float = 1.0) -> float:
    """The mean negative log-likelihood of the labels, logits divided by a temperature.

    Args:
        logits: Shape ``(n, C)``.
        labels: Classes, shape ``(n,)``.
        temperature: Above 0.

    Returns:
        Nats, 0 or more.

    Example:
        >>> round(nll(np.zeros((1, 2)), np.array([1])), 4)
        0.6931
    """
    total = 0.0
    for piece in _pieces(logits):
        part = logits[piece].astype(np.float64) / temperature
        part -= part.max(axis=1, keepdims=True)
        own = part[np.arange(len(part)), labels[piece]]
        total += float((np.log(np.exp(part).sum(axis=1)) - own).sum())
    return total / len(logits)


def best_temperature(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The temperature at which the labels are likeliest (section 4.2): above 1 for a model that is too sure of itself.

    The negative log-likelihood is convex in the inverse temperature, so that it has one minimum.

    Args:
        logits: Shape ``(n, C)``, finite.
        labels: Classes, shape ``(n,)``.

    Returns:
        :data:`COLDEST` to :data:`HOTTEST`; one of these ends where the minimum lies beyond it, as of a model that is
        always right.

    Raises:
        ValueError: Without rows, or for labels of another shape.

    Example:
        >>> logits = np.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])  # says 88 %, is right on 75 %
        >>> round(best_temperature(logits, np.array([0, 0, 0, 1])), 2)  # 2 / log(3)
        1.82
    """
    from scipy.optimize import minimize_scalar

    if logits.ndim != 2 or not len(logits) or labels.shape != logits.shape[:1]:
        raise ValueError(f'expected logits (n, C) and labels (n,) with n above 0, got {logits.shape}, {labels.shape}.')
    found = minimize_scalar(
        lambda heat: nll(logits, labels, math.exp(heat)), bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method='bounded', options={'xatol': 1e-4},
    )
    inside = math.exp(float(found.x))
    # a bounded search stops short of its ends
    return min((COLDEST, inside, HOTTEST), key=lambda heat: nll(logits, labels, heat))


def _pieces(logits: NDArray[Any]) -> list[slice]:
    size = max(1, _PIECE // max(1, logits.shape[1]))
    return [slice(first, first + size) for first in range(0, len(logits), size)]
