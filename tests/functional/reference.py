"""The losses in NumPy float64, written from the papers' formulas one class at a time where that is clearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def log_softmax(z: Array) -> Array:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def softmax(z: Array) -> Array:
    return np.exp(log_softmax(z))


def sigmoid(z: Array) -> Array:
    return np.exp(-np.logaddexp(0, -z))


def _expect(p: Array, values: Array) -> Array:
    """Sum of p * values over classes, with 0 * anything = 0."""
    out = np.zeros(p.shape[:-1])
    for index in np.ndindex(*p.shape):
        if p[index] > 0:
            out[index[:-1]] += p[index] * values[index]
    return out


def _kl(p: Array, log_p: Array, log_q: Array) -> Array:
    with np.errstate(invalid='ignore'):
        return _expect(p, log_p - log_q)


def kl_divergence(s: Array, t: Array, temperature: float = 1.0) -> Array:
    log_s, log_t = log_softmax(s / temperature), log_softmax(t / temperature)
    return temperature**2 * _kl(np.exp(log_t), log_t, log_s)


def reverse_kl(s: Array, t: Array, temperature: float = 1.0) -> Array:
    log_s, log_t = log_softmax(s / temperature), log_softmax(t / temperature)
    return temperature**2 * _kl(np.exp(log_s), log_s, log_t)


def jensen_shannon(s: Array, t: Array, beta: float = 0.5, temperature: float = 1.0) -> Array:
    p_s, p_t = softmax(s / temperature), softmax(t / temperature)
    mixture = beta * p_t + (1 - beta) * p_s
    with np.errstate(divide='ignore'):
        log_s, log_t, log_m = np.log(p_s), np.log(p_t), np.log(mixture)
    return temperature**2 * (beta * _kl(p_t, log_t, log_m) + (1 - beta) * _kl(p_s, log_s, log_m))


def soft_cross_entropy(s: Array, t: Array, temperature: float = 1.0) -> Array:
    return -(temperature**2) * _expect(softmax(t / temperature), log_softmax(s / temperature))


def hard_label(s: Array, t: Array) -> Array:
    labels = t.argmax(axis=-1)
    log_s = log_softmax(s)
    return -np.array([log_s[(*index, labels[index])] for index in np.ndindex(*labels.shape)]).reshape(labels.shape)


def mse(s: Array, t: Array, class_reduction: str = 'sum') -> Array:
    with np.errstate(invalid='ignore'):
        squares = np.where(np.isneginf(s) & np.isneginf(t), 0, (s - t) ** 2)
    return squares.sum(axis=-1) if class_reduction == 'sum' else squares.mean(axis=-1)


def binary_kl_divergence(s: Array, t: Array, temperature: float = 1.0) -> Array:
    s, t = s / temperature, t / temperature
    yes = _kl(sigmoid(t), -np.logaddexp(0, -t), -np.logaddexp(0, -s))
    no = _kl(sigmoid(-t), -np.logaddexp(0, t), -np.logaddexp(0, s))
    return temperature**2 * (yes + no)
