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


def decoupled_kd(
    s: Array, t: Array, labels: NDArray[np.int64], temperature: float = 1.0, alpha: float = 1.0, beta: float = 8.0,
    standardize: bool = False,
) -> Array:
    if standardize:
        s, t = standard(s), standard(t)
    out = np.zeros(s.shape[:-1])
    for index in np.ndindex(*out.shape):
        label = labels[index]
        kept = [c for c in range(s.shape[-1]) if c != label]
        both = []
        for z in (s[index] / temperature, t[index] / temperature):
            log_p = log_softmax(z)
            top = log_p[kept].max()
            both.append((np.array([log_p[label], top + np.log(np.exp(log_p[kept] - top).sum())]), log_softmax(z[kept])))
        (binary_s, rest_s), (binary_t, rest_t) = both
        target = _kl(np.exp(binary_t), binary_t, binary_s)
        out[index] = temperature**2 * (alpha * target + beta * _kl(np.exp(rest_t), rest_t, rest_s))
    return out


def standard(z: Array) -> Array:
    out = np.full_like(z, -np.inf)
    for index in np.ndindex(*z.shape[:-1]):
        allowed = np.isfinite(z[index])
        row = z[index][allowed]
        deviation = np.sqrt(((row - row.mean()) ** 2).mean())
        out[index][allowed] = (row - row.mean()) / deviation if deviation > 0 else 0.0
    return out


def standardized_kl(s: Array, t: Array, temperature: float = 2.0) -> Array:
    return kl_divergence(standard(s), standard(t), temperature)


def _correlation(u: Array, v: Array) -> float:
    u, v = u - u.mean(), v - v.mean()
    flat = [np.abs(x).max() < 1e-14 for x in (u, v)]
    if any(flat):
        return 1.0 if all(flat) else 0.0
    return float((u / np.linalg.norm(u)) @ (v / np.linalg.norm(v)))


def dist(s: Array, t: Array, temperature: float = 1.0, beta: float = 1.0, gamma: float = 1.0) -> Array:
    p_s, p_t = (softmax(z / temperature).reshape(-1, z.shape[-1]) for z in (s, t))
    inter = np.array([1 - _correlation(a, b) for a, b in zip(p_s, p_t, strict=True)])
    intra = np.mean([1 - _correlation(a, b) for a, b in zip(p_s.T, p_t.T, strict=True)])
    return (temperature**2 * (beta * inter + gamma * intra)).reshape(s.shape[:-1])


def cosine(s: Array, t: Array) -> Array:
    s, t = (np.where(np.isneginf(z), 0, z) for z in (s, t))
    return 1 - (s * t).sum(-1) / np.sqrt((s * s).sum(-1) * (t * t).sum(-1))


def total_variation(s: Array, t: Array, temperature: float = 1.0) -> Array:
    return 0.5 * np.abs(softmax(s / temperature) - softmax(t / temperature)).sum(-1)
