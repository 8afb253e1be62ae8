"""The loss of a model's own training, in the memory of its gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.checks import check_logits
from composer_kd.functional.chunks import Piece, in_chunks, is_few
from composer_kd.functional.inputs import at_least_float32


def cross_entropy(logits: Tensor, labels: Tensor, *, ignore_index: int = -100) -> Tensor:
    """Cross-entropy with labels, one value per row: :func:`torch.nn.functional.cross_entropy` for many classes.

    Of many rows, a few are taken at a time and nothing is kept for the backward pass but the gradient, as in
    :mod:`composer_kd.functional.chunks`, where torch keeps the log-probabilities in float32 beside it.

    Args:
        logits: Shape ``(..., C)``, any floating-point dtype.
        labels: Shape ``(...)`` int64.
        ignore_index: The label of rows that do not count.

    Returns:
        Nats, shape ``(...)``, float32 or float64; zero for rows that do not count.

    Raises:
        TypeError: If ``logits`` are no tensor.
        ValueError: If they are not of floating point, or the labels no class numbers, one for each row.

    Example:
        >>> cross_entropy(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, -100]))
        tensor([0.6931, 0.0000])
    """
    check_logits(logits, logits)
    if labels.shape != logits.shape[:-1] or labels.dtype != torch.int64:
        raise ValueError(
            f'labels: expected shape {tuple(logits.shape[:-1])} int64, the class of each row of the logits, got '
            f'{tuple(labels.shape)} {labels.dtype}.',
        )
    dtype = at_least_float32(logits)
    if is_few(logits):
        rows = F.cross_entropy(
            logits.to(dtype).reshape(-1, logits.shape[-1]), labels.flatten(), ignore_index=ignore_index,
            reduction='none',
        )
        return rows.view(labels.shape)

    def parts(piece: Piece) -> tuple[Tensor, Tensor, Tensor]:
        log_probable = logits.detach()[piece].to(dtype).log_softmax(-1)
        left_out = (labels[piece] == ignore_index).unsqueeze(-1)
        label = labels[piece].unsqueeze(-1).masked_fill(left_out, 0)
        return log_probable, label, left_out

    def values(piece: Piece) -> Tensor:
        log_probable, label, left_out = parts(piece)
        return -log_probable.gather(-1, label).masked_fill(left_out, 0).squeeze(-1)

    def derived(piece: Piece) -> tuple[Tensor, Tensor]:
        log_probable, label, left_out = parts(piece)
        rows = -log_probable.gather(-1, label).masked_fill(left_out, 0)
        slope = log_probable.exp_().scatter_add_(-1, label, torch.full_like(rows, -1)).masked_fill_(left_out, 0)
        return rows.squeeze(-1), slope

    return in_chunks(logits, dtype, values, derived)
