"""The losses of features in NumPy float64, written from the papers' formulas with loops where that is clearest."""

from __future__ import annotations

import numpy as np

from .reference import Array, softmax


def huber(x: Array) -> Array:
    return np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5)


def hint(s: Array, t: Array) -> Array:
    return ((s - t) ** 2).mean(-1) if s.ndim == 3 else ((s - t) ** 2).reshape(len(s), -1).mean(-1)


hidden_mse = hint


def cosine_hidden(s: Array, t: Array) -> Array:
    return 1 - (s * t).sum(-1) / (np.linalg.norm(s, axis=-1) * np.linalg.norm(t, axis=-1))


def attention_transfer(s: Array, t: Array) -> Array:
    maps = [(x**2).sum(1).reshape(len(x), -1) for x in (s, t)]
    maps = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in maps]
    return ((maps[0] - maps[1]) ** 2).mean(1)


def attention_mse(s: Array, t: Array) -> Array:
    return ((s - t) ** 2).mean(axis=(1, 3))


def attention_kl(s: Array, t: Array) -> Array:
    return (t * (np.log(t) - np.log(s))).sum(-1).mean(1)


def minilm(s: Array, t: Array, relation_heads: int = 1) -> Array:
    out = np.zeros(s.shape[:2])
    for n, q in np.ndindex(*out.shape):
        for a in range(relation_heads):
            rows = []
            for x in (s, t):
                width = x.shape[-1] // relation_heads
                part = x[n, :, a * width:(a + 1) * width]
                rows.append(softmax(part @ part[q] / np.sqrt(width)))
            out[n, q] += (rows[1] * (np.log(rows[1]) - np.log(rows[0]))).sum() / relation_heads
    return out


def _flat(x: Array) -> Array:
    return x.mean(1) if x.ndim == 3 else x.reshape(len(x), -1)


def rkd_distance(s: Array, t: Array) -> Array:
    tables = []
    for x in (_flat(s), _flat(t)):
        table = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        tables.append(table / table[~np.eye(len(x), dtype=bool)].mean() if len(x) > 1 else table)
    gap = huber(tables[0] - tables[1])
    return gap.sum(1) / max(len(s) - 1, 1)


def rkd_angle(s: Array, t: Array) -> Array:
    s, t = _flat(s), _flat(t)
    out = np.zeros(len(s))
    for i, j, k in np.ndindex(len(s), len(s), len(s)):
        if len({i, j, k}) == 3:
            angles = [
                (x[j] - x[i]) @ (x[k] - x[i]) / (np.linalg.norm(x[j] - x[i]) * np.linalg.norm(x[k] - x[i]))
                for x in (s, t)
            ]
            out[i] += huber(angles[0] - angles[1])
    return out / max((len(s) - 1) * (len(s) - 2), 1)


def similarity_preserving(s: Array, t: Array) -> Array:
    tables = []
    for x in (_flat(s), _flat(t)):
        table = x @ x.T
        tables.append(table / np.linalg.norm(table, axis=1, keepdims=True))
    return ((tables[0] - tables[1]) ** 2).sum(1) / len(s)


def contrastive(s: Array, t: Array, temperature: float = 0.07, labels: Array | None = None) -> Array:
    s, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (_flat(s), _flat(t)))
    table = np.exp(s @ t.T / temperature)
    level, out = table.mean(), np.zeros(len(s))
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i and (labels is None or labels[j] != labels[i])]
        for one in (table, table.T) if others else ():
            h = one[i] / (one[i] + len(others) * level)
            out[i] -= np.log(h[i]) + sum(np.log(1 - h[j]) for j in others)
    return out
