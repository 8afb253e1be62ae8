"""How far a prepared teacher's answers are from the untouched one's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from composer_kd.batches import classes_last


def relative_error(answer: Tensor, expected: Tensor, labels: Any = None) -> float:
    r"""How far an answer is off, as a share of what it says.

    ``rms(answer - expected) / rms(expected - mean over classes)``: the softmax sees only what differs between classes.
    What is not finite in ``expected`` is left out where it is the same in both.

    Args:
        answer: Logits, ``(N, ..., C)``.
        expected: Likewise.
        labels: The batch's labels: ``(N, ...)`` beside ``(N, C, ...)`` says where the classes are.

    Returns:
        The error; infinite for another shape, or for what is not finite in one of both alone.

    Example:
        >>> round(relative_error(torch.tensor([[1.1, -1.0]]), torch.tensor([[1.0, -1.0]])), 4)
        0.0707
    """
    if answer.shape != expected.shape:
        return float('inf')
    if not expected.numel():
        return 0.0
    one, other = (classes_last(logits, labels).float() for logits in (answer, expected))
    fine = torch.isfinite(other)
    same = (one == other) | (one.isnan() & other.isnan())
    broken = (~fine & ~same).any()
    zero = other.new_zeros(())
    off = torch.where(fine, one - other, zero).square().sum()
    seen = torch.where(fine, other, zero)
    # a regression's one output has no spread over classes
    mean = seen.sum(-1, keepdim=True) / fine.sum(-1, keepdim=True).clamp_min(1) if other.shape[-1] > 1 else 0.0
    spread = torch.where(fine, seen - mean, zero).square().sum()
    error = torch.where(off == 0, zero, (off / spread).sqrt())
    found = float(torch.where(broken, torch.inf, error))
    return found if found == found else float('inf')


def agreement(answer: Tensor, expected: Tensor) -> tuple[float, float]:
    """The share of rows with the same first choice, and the mean KL(expected, answer), in nats.

    Args:
        answer: Logits, ``(N, C)``.
        expected: Likewise.
    """
    one, other = answer.float().log_softmax(-1), expected.float().log_softmax(-1)
    same = (one.argmax(-1) == other.argmax(-1)).float().mean()
    return float(same), float((other.exp() * (other - one)).nan_to_num(0.0).sum(-1).mean())
