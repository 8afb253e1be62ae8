"""What every loss does to its arguments first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from composer_kd.functional.checks import check_logits, check_mask, check_temperature
from composer_kd.functional.reduction import blank


def at_least_float32(*tensors: Tensor) -> torch.dtype:
    """The dtype to calculate in: float32, or float64 if one of the tensors is.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16))
        torch.float32
    """
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def check_inputs(student_logits: Any, teacher_logits: Any, mask: Any, temperature: Any = 1.0) -> None:
    """Refuse what a loss cannot compare.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> check_inputs(torch.zeros(1, 2), torch.zeros(1, 2), None, 0.0)
        Traceback (most recent call last):
        ValueError: temperature: expected a finite number above 0, got 0.0; 1 leaves the logits as they are.
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])


def ready(logits: Tensor, mask: Tensor | None, dtype: torch.dtype, temperature: float) -> Tensor:
    """Logits as a loss calculates with them.

    Args:
        logits: Shape ``(..., C)``, floating point.
        mask: Weights of the rows, shape ``(...)``; rows of weight zero come back as zeros. ``None``: all count.
        dtype: Float32 or float64.
        temperature: What the logits are divided by; above 0.

    Returns:
        Of that shape and dtype; the same tensor where nothing is to be done.

    Example:
        >>> ready(torch.ones(2, 2), torch.tensor([True, False]), torch.float32, 2.0)
        tensor([[0.5000, 0.5000],
                [0.0000, 0.0000]])
    """
    logits = blank(logits, mask).to(dtype)
    return logits if temperature == 1 else logits / temperature
