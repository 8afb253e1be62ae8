"""What every loss does to its arguments first."""

from __future__ import annotations

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


def prepare(
    student_logits: Tensor, teacher_logits: Tensor, mask: Tensor | None, temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Check the arguments of a loss and make its logits ready.

    Args:
        student_logits: Shape ``(..., C)``, floating point.
        teacher_logits: Likewise; cut from its graph, so that gradients reach the student only.
        mask: Weights of the rows, shape ``(...)``; rows of weight zero come back as zeros.
        temperature: What the logits are divided by; above 0.

    Returns:
        Student's and teacher's logits over the temperature, both in float32, or in float64 if one came so.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> prepare(torch.ones(1, 2), torch.zeros(1, 2), None, temperature=2.0)
        (tensor([[0.5000, 0.5000]]), tensor([[0., 0.]]))
    """
    check_logits(student_logits, teacher_logits)
    check_temperature(temperature)
    if mask is not None:
        check_mask(mask, student_logits.shape[:-1])
    dtype = at_least_float32(student_logits, teacher_logits)

    def ready(logits: Tensor) -> Tensor:
        logits = blank(logits, mask).to(dtype)
        return logits if temperature == 1 else logits / temperature

    return ready(student_logits), ready(teacher_logits.detach())
