"""Losses of attention and of the relations between tokens, for transformers."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.checks import is_number
from composer_kd.functional.divergences import kl_of
from composer_kd.functional.features.shapes import pair
from composer_kd.functional.reduction import reduce_rows

_MASKED = -1e2
"""Scores that are lower stand for keys that may not be looked at, as in the code of TinyBERT's authors."""


def attention_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Squared error of attention (Jiao et al. 2020, TinyBERT, arXiv 1909.10351, section 3.1, equation 7).

    .. math:: \frac{1}{h K} \sum_{i=1}^{h} \sum_k (A_{s,i,q,k} - A_{t,i,q,k})^2

    for each query :math:`q`, over heads and over the :math:`K` keys that count. The paper's :math:`A` are scores before
    the softmax; probabilities are taken too. Scores below -100, which a model's own mask makes, count as 0.

    Args:
        student: ``(N, heads, L, L)``, any floating-point dtype. The gradient goes here.
        teacher: Of the same shape; gets no gradient.
        mask: Which tokens count, ``(N, L)``. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N, L)``, one value a query, for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> attention_mse(torch.zeros(1, 2, 2, 2), torch.ones(1, 2, 2, 2))
        tensor(1.)
    """
    one, other = (x.masked_fill(x < _MASKED, 0) for x in pair(student, teacher, (4,), mask))
    gap = (one - other).square().mean(1)
    rows = gap.mean(-1) if mask is None else gap.sum(-1) / mask.ne(0).sum(-1, keepdim=True).clamp_min(1)
    return reduce_rows(rows, mask, reduction)


def attention_kl(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Divergence of attention, MiniLM's transfer (Wang et al. 2020, arXiv 2002.10957, section 3.1, equation 3).

    .. math:: \frac{1}{h} \sum_{i=1}^{h} \mathrm{KL}(A_{t,i,q} \| A_{s,i,q})

    for each query :math:`q`, of probabilities; the paper takes those of the last layer. Both models have the same
    number
    of heads.

    Args:
        student: ``(N, heads, L, L)``, probabilities, any floating-point dtype. The gradient goes here.
        teacher: Of the same shape; gets no gradient.
        mask: Which tokens count, ``(N, L)``. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N, L)``, nats, one value a query, for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> attention_kl(torch.full((1, 1, 2, 2), 0.5), torch.eye(2)[None, None])
        tensor(0.6931)
    """
    one, other = pair(student, teacher, (4,), mask)
    # a probability may be rounded to zero that was none, and its logarithm would be infinite
    logs = (x.clamp_min(torch.finfo(x.dtype).tiny).log() for x in (one, other))
    log_s, log_t = logs
    gap = torch.where(other > 0, other * (log_t - log_s), 0).sum(-1).mean(1)
    return reduce_rows(gap, mask, reduction)


def minilm(
    student: Tensor,
    teacher: Tensor,
    *,
    relation_heads: int = 1,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Relations of tokens by queries, keys or values (Wang et al. 2021, MiniLMv2, arXiv 2012.15828, section 3.1,
    equations 4 to 6; the value relation of MiniLM, arXiv 2002.10957, section 3.2).

    .. math:: \frac{1}{A} \sum_{a=1}^{A} \mathrm{KL}(R_{t,a,q} \| R_{s,a,q}), \quad
        R_a = \mathrm{softmax}\left( \frac{V_a V_a^\top}{\sqrt{d_a}} \right)

    for each token :math:`q`, where the vectors are split into :math:`A` relation heads. Widths and heads of the models
    may differ, so no projector is needed. MiniLMv2 uses three such losses, of queries, keys and values.

    Args:
        student: ``(N, L, D)``: the outputs of a query, key or value projection, any floating-point dtype. The gradient
            goes here.
        teacher: Of any ``D``; gets no gradient.
        relation_heads: :math:`A`, 1 or more, a divisor of both widths.
        mask: Which tokens count, ``(N, L)``: as queries and as keys. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N, L)``, nats, for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> teacher = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
        >>> minilm(torch.zeros(1, 2, 4), teacher), minilm(teacher, teacher, relation_heads=2)
        (tensor(0.4779), tensor(0.))
    """
    check_heads(relation_heads)
    one, other = pair(student, teacher, (3,), mask, same=False)
    if one.shape[:2] != other.shape[:2]:
        raise ValueError(f'expected as many tokens of both, got {tuple(one.shape)} and {tuple(other.shape)}.')
    rows = kl_of(*(_relation(x, relation_heads, mask) for x in (one, other))).mean(1)
    return reduce_rows(rows, mask, reduction)


def check_heads(value: int) -> None:
    """Refuse a number of relation heads that is no whole number of 1 or more.

    Raises:
        ValueError: Naming the setting.

    Example:
        >>> check_heads(0)
        Traceback (most recent call last):
        ValueError: relation_heads: expected a whole number of 1 or more, got 0.
    """
    if not is_number(value) or not isinstance(value, int) or value < 1:
        raise ValueError(f'relation_heads: expected a whole number of 1 or more, got {value!r}.')


def _relation(vectors: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    """Log-probabilities ``(N, heads, L, L)``."""
    if vectors.shape[-1] % heads:
        raise ValueError(f'relation_heads: expected a divisor of the width {vectors.shape[-1]}, got {heads}.')
    parts: Tensor = vectors.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores: Tensor = parts @ parts.transpose(-1, -2) / parts.shape[-1] ** 0.5
    if mask is not None and mask.dim() == 2:
        out = mask.eq(0)
        out = out & ~out.all(-1, keepdim=True)  # the softmax of nothing is NaN
        scores = scores.masked_fill(out[:, None, None, :], -torch.inf)
    return scores.log_softmax(-1)
