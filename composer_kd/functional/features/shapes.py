"""What every loss of features does to its arguments first."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.checks import check_mask
from composer_kd.functional.inputs import at_least_float32


def pair(student: Any, teacher: Any, dims: tuple[int, ...], mask: Any, same: bool = True) -> tuple[Tensor, Tensor]:
    """Features of both in float32 (float64 for float64), the teacher's without a gradient.

    Args:
        student: The student's.
        teacher: The teacher's.
        dims: How many dimensions they may have.
        mask: Which tokens or samples count: of the first two dimensions or of the first; of attention those of the
            keys.
        same: Whether they must have one shape; otherwise one number of samples is enough.

    Returns:
        Both, where tokens and samples that do not count are zero.

    Raises:
        TypeError: If one is no tensor.
        ValueError: If they cannot be compared.

    Example:
        >>> pair(torch.ones(2, 3), torch.ones(2, 4), (2,), None)
        Traceback (most recent call last):
        ValueError: expected features of one shape, got (2, 3) of the student and (2, 4) of the teacher; a projector ...
    """
    for name, feature in (('student', student), ('teacher', teacher)):
        if not isinstance(feature, Tensor):
            raise TypeError(f'{name}: expected a tensor of features, got {type(feature).__name__}.')
        if not feature.is_floating_point() or feature.dim() not in dims:
            raise ValueError(
                f"{name}: expected floating-point features of {' or '.join(map(str, dims))} dimensions, got "
                f'{tuple(feature.shape)} of {feature.dtype}; choose another layer or another loss.',
            )
    if student.dim() != teacher.dim() or len(student) != len(teacher) or (same and student.shape != teacher.shape):
        what = 'one shape' if same else 'one number of dimensions and samples'
        raise ValueError(
            f'expected features of {what}, got {tuple(student.shape)} of the student and {tuple(teacher.shape)} of the '
            'teacher; a projector brings widths together, and both models must see the same batch.',
        )
    dtype = at_least_float32(student, teacher)
    if mask is not None:
        check_mask(mask, student.shape[:1] if getattr(mask, 'ndim', 0) == 1 else tokens_of(student))
    return blanked(student.to(dtype), mask), blanked(teacher.detach().to(dtype), mask)


def tokens_of(feature: Tensor) -> torch.Size:
    """Samples and tokens of hidden states or attention; samples alone of anything else.

    Example:
        >>> tokens_of(torch.empty(2, 5, 8)), tokens_of(torch.empty(2, 4, 5, 5)), tokens_of(torch.empty(2, 8))
        (torch.Size([2, 5]), torch.Size([2, 5]), torch.Size([2]))
    """
    if feature.dim() == 3:
        return feature.shape[:2]
    return torch.Size((feature.shape[0], feature.shape[-1])) if feature.dim() == 4 else feature.shape[:1]


def blanked(feature: Tensor, mask: Tensor | None) -> Tensor:
    """The features with zeros for tokens or samples that do not count; of attention for such queries and keys.

    Example:
        >>> blanked(torch.ones(1, 2, 2), torch.tensor([[1, 0]]))
        tensor([[[1., 1.],
                 [0., 0.]]])
    """
    if mask is None:
        return feature
    out = mask.eq(0)
    if out.dim() == 2 and feature.dim() == 4:
        return feature.masked_fill(out[:, None, :, None] | out[:, None, None, :], 0)
    return feature.masked_fill(out.reshape(*out.shape, *[1] * (feature.dim() - out.dim())), 0)


def one_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Maps at one resolution: of each side the larger is averaged down to the smaller.

    Example:
        >>> [tuple(maps.shape) for maps in one_size(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 4, 4))]
        [(1, 3, 4, 4), (1, 3, 4, 4)]
    """
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    one, other = (
        x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (student, teacher)
    )
    return one, other


def samples(feature: Tensor, mask: Tensor | None) -> Tensor:
    """One vector a sample, ``(N, D)``: the mean of its tokens that count, maps flattened.

    Example:
        >>> samples(torch.tensor([[[1.0], [3.0], [0.0]]]), torch.tensor([[1, 1, 0]]))
        tensor([[2.]])
    """
    if feature.dim() != 3:
        return feature.flatten(1)
    if mask is None or mask.dim() != 2:
        return feature.mean(1)
    return feature.sum(1) / mask.ne(0).sum(1, keepdim=True).clamp_min(1)


def kept(mask: Tensor | None) -> Tensor | None:
    """Which samples count, ``(N,)``: those with a token that does; ``None`` for all.

    Example:
        >>> kept(torch.tensor([[1, 0], [0, 0]]))
        tensor([ True, False])
    """
    if mask is None:
        return None
    return mask.ne(0) if mask.dim() == 1 else mask.ne(0).any(1)
