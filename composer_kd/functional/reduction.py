"""From one value per row to one value: the same reduction for every loss."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.checks import check_choice, check_mask

REDUCTIONS = ('mean', 'none')


def blank(logits: Tensor, mask: Tensor | None) -> Tensor:
    """The logits with every row that does not count set to zero.

    Taking such rows out of the result alone is not enough: the gradient of an infinite or NaN row is NaN even when
    it is multiplied by zero.

    Args:
        logits: Shape ``(..., C)``.
        mask: Weights, shape ``(...)``; rows of weight zero do not count. ``None``: all do.

    Returns:
        The same tensor without a mask, otherwise a copy of the same shape and dtype.

    Example:
        >>> blank(torch.tensor([[1.0, 2.0], [float('nan'), 3.0]]), torch.tensor([True, False]))
        tensor([[1., 2.],
                [0., 0.]])
    """
    return logits if mask is None else logits.masked_fill(mask.eq(0).unsqueeze(-1), 0)


def masked_mean(rows: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Weighted mean over the rows that count.

    .. math:: \sum_i m_i r_i \,/\, \sum_i m_i

    Rows of weight zero are left out even where they are infinite or NaN. An empty mask gives a zero that has a graph,
    so that the backward pass of a batch in which nothing counts still runs.

    Args:
        rows: Values per row, any shape, any floating-point dtype.
        mask: Weights of the rows, of that shape: bool, or numbers of zero or more. ``None``: all count the same.

    Returns:
        A 0-d tensor, float32 (float64 for float64).

    Raises:
        TypeError: If ``mask`` is not a tensor.
        ValueError: If ``mask`` has another shape.

    Example:
        >>> masked_mean(torch.tensor([1.0, 3.0, float('nan')]), torch.tensor([True, True, False]))
        tensor(2.)
        >>> masked_mean(torch.tensor([1.0, 3.0]), torch.zeros(2))
        tensor(0.)
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if mask is None:
        return rows.sum() / max(rows.numel(), 1)
    check_mask(mask, rows.shape)
    weights = mask.to(rows.dtype)
    total = weights.sum()
    # Compared on the device: a Python condition on a tensor would make the training step wait for the GPU.
    return (torch.where(mask.ne(0), rows, 0) * weights).sum() / torch.where(total > 0, total, 1)


def reduce_rows(rows: Tensor, mask: Tensor | None, reduction: str) -> Tensor:
    """What a loss returns from its values per row.

    Args:
        rows: Values per row, shape ``(...)``.
        mask: Weights of the rows, of that shape, or ``None``.
        reduction: ``'mean'`` for :func:`masked_mean`; ``'none'`` for the rows themselves, unweighted, those of weight
            zero set to zero.

    Returns:
        A 0-d tensor, or one of the shape of ``rows``.

    Raises:
        TypeError: If ``mask`` is not a tensor.
        ValueError: For another reduction, or a mask of another shape.

    Example:
        >>> reduce_rows(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 0.5]), 'none')
        tensor([0., 3.])
    """
    check_choice('reduction', reduction, REDUCTIONS)
    if reduction == 'mean':
        return masked_mean(rows, mask)
    if mask is None:
        return rows
    check_mask(mask, rows.shape)
    return torch.where(mask.ne(0), rows, 0)
