"""What arguments must look like. Only shapes, dtypes and Python numbers are read, never what a tensor holds: that would
make the training step wait for the GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def is_number(value: Any) -> bool:
    """Whether it is a Python or NumPy real number; ``True`` and ``False`` are none.

    Example:
        >>> is_number(4), is_number(True), is_number('4')
        (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a value that is none of ``choices``.

    Raises:
        ValueError: Naming them.

    Example:
        >>> check_choice('reduction', 'sum', ('mean', 'none'))
        Traceback (most recent call last):
        ValueError: reduction: expected 'mean' or 'none', got 'sum'.
    """
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f'{name}: expected {" or ".join(map(repr, choices))}, got {value!r}.')


def check_temperature(value: Any) -> None:
    """Refuse a temperature that is not a finite number above 0.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.

    Example:
        >>> check_temperature(0)
        Traceback (most recent call last):
        ValueError: temperature: expected a finite number above 0, got 0; 1 leaves the logits as they are.
    """
    if not is_number(value):
        raise TypeError(f'temperature: expected a number above 0, got {type(value).__name__} {value!r}; pass a float.')
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(
            f'temperature: expected a finite number above 0, got {value!r}; 1 leaves the logits as they are.',
        )


def check_beta(value: Any) -> None:
    """Refuse a mixture weight that is not strictly between 0 and 1.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.

    Example:
        >>> check_beta(1.0)
        Traceback (most recent call last):
        ValueError: beta: expected a number between 0 and 1, both excluded, got 1.0; use kl_divergence or reverse_kl ...
    """
    if not is_number(value):
        raise TypeError(f'beta: expected a number between 0 and 1, got {type(value).__name__} {value!r}; pass a float.')
    if not 0 < value < 1:
        raise ValueError(
            f'beta: expected a number between 0 and 1, both excluded, got {value!r}; use kl_divergence or reverse_kl '
            'for the divergences at the two ends.',
        )


def check_weight(name: str, value: Any) -> None:
    """Refuse a weight that is not a finite number of 0 or more.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is out of range.

    Example:
        >>> check_weight('alpha', -1)
        Traceback (most recent call last):
        ValueError: alpha: expected a finite number of 0 or more, got -1.
    """
    if not is_number(value):
        raise TypeError(f'{name}: expected a number of 0 or more, got {type(value).__name__} {value!r}; pass a float.')
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f'{name}: expected a finite number of 0 or more, got {value!r}.')


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises:
        TypeError: Naming the setting.

    Example:
        >>> check_flag('standardize', 1)
        Traceback (most recent call last):
        TypeError: standardize: expected true or false, got 1.
    """
    if not isinstance(value, bool):
        raise TypeError(f'{name}: expected true or false, got {value!r}.')


def check_logits(student_logits: Any, teacher_logits: Any) -> None:
    """Refuse logits that cannot be compared.

    Raises:
        TypeError: If one is not a tensor.
        ValueError: If they are not of floating point, or not both of the same shape ``(..., C)`` with ``C`` above 0.

    Example:
        >>> check_logits(torch.zeros(8, 10), torch.zeros(8, 100))
        Traceback (most recent call last):
        ValueError: expected student_logits and teacher_logits of one shape (..., C), got (8, 10) and (8, 100); ...
    """
    for name, logits in (('student_logits', student_logits), ('teacher_logits', teacher_logits)):
        if not isinstance(logits, Tensor):
            raise TypeError(f'{name}: expected a tensor of logits, got {type(logits).__name__}; pass logits.')
        if not logits.is_floating_point():
            raise ValueError(f'{name}: expected floating-point logits, got {logits.dtype}; pass logits, not labels.')
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            'expected student_logits and teacher_logits of one shape (..., C), got '
            f'{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}; both models must see the same batch and '
            'have the same classes, in the last dimension.',
        )
    if student_logits.dim() == 0 or student_logits.shape[-1] == 0:
        raise ValueError(
            f'expected logits of shape (..., C) with at least one class, got {tuple(student_logits.shape)}; '
            'the classes are the last dimension.',
        )


def check_mask(mask: Any, rows: torch.Size) -> None:
    """Refuse a mask that does not have one weight for each row.

    Raises:
        TypeError: If it is not a tensor of real numbers or bools.
        ValueError: If it has another shape.

    Example:
        >>> check_mask(torch.ones(8, 10), torch.Size([8]))
        Traceback (most recent call last):
        ValueError: mask: expected shape (8,), one weight for each row of the logits (shape without the classes), ...
    """
    if not isinstance(mask, Tensor) or mask.is_complex():
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f'mask: expected None or a tensor of bools or weights, got {got}; convert it first.')
    if mask.shape != rows:
        raise ValueError(
            f'mask: expected shape {tuple(rows)}, one weight for each row of the logits (shape without the classes), '
            f'got {tuple(mask.shape)}; reshape or expand it.',
        )


def is_class_labels(labels: Any, rows: torch.Size) -> bool:
    """Whether it is one class number for each row.

    Example:
        >>> is_class_labels(torch.tensor([3, 1]), torch.Size([2])), is_class_labels(torch.eye(2), torch.Size([2]))
        (True, False)
    """
    return isinstance(labels, Tensor) and labels.shape == rows and not (
        labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool
    )


def check_class_labels(labels: Any, rows: torch.Size, where: str) -> None:
    """Refuse what is not one class number for each row.

    Raises:
        ValueError: If there are no labels, or not such ones.

    Example:
        >>> check_class_labels(None, torch.Size([8]), "loss 'decoupled_kd'")
        Traceback (most recent call last):
        ValueError: loss 'decoupled_kd': it needs a label for each row, class numbers of shape (8,), got none; give ...
    """
    if is_class_labels(labels, rows):
        return
    got = f'a tensor of shape {tuple(labels.shape)} of {labels.dtype}' if isinstance(labels, Tensor) else (
        'none' if labels is None else type(labels).__name__
    )
    raise ValueError(
        f'{where}: it needs a label for each row, class numbers of shape {tuple(rows)}, got {got}; give target_key '
        'where labels are elsewhere in the batch. Soft labels are no class numbers: take another loss for them.',
    )
