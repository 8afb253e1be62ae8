"""Losses that compare how the samples of a microbatch lie to each other; any width, so that no projector is needed.

They grow with the number of samples they see, and are means over the microbatch, as the papers' are over the batch.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from composer_kd.functional.features.shapes import kept, pair, samples
from composer_kd.functional.reduction import reduce_rows
from composer_kd.functional.relations import unit

_ELEMENTS = 2**24
"""How many numbers of the angles of some anchors are there at once."""


def rkd_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Distances between samples (Park et al. 2019, RKD, arXiv 1904.05068, section 3.2, equations 6 to 8).

    .. math:: \frac{1}{N-1} \sum_{j \ne i} \ell_1 \left( \frac{\|s_i - s_j\|}{\mu_s},
        \frac{\|t_i - t_j\|}{\mu_t} \right)

    with Huber's :math:`\ell_1` and :math:`\mu` the mean distance between the samples. The paper's is a sum; the
    authors'
    code has a mean over :math:`N^2` pairs, a sample with itself among them, which is :math:`(N-1)/N` of this.

    Args:
        student: ``(N, D)``; maps ``(N, C, H, W)`` are flattened, of tokens ``(N, L, D)`` the mean of those that count
            is taken, any floating-point dtype. The gradient goes here.
        teacher: As many samples, of any width; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [3.0]])
        >>> rkd_distance(points, 7 * points), rkd_distance(points, points.flip(0))
        (tensor(0.), tensor(0.0833))
    """
    one, other, keep = _both(student, teacher, mask)
    pairs = (keep[:, None] & keep[None, :]).fill_diagonal_(False)
    count = pairs.sum().clamp_min(1)
    apart = _distances(one, pairs, count), _distances(other, pairs, count)
    gap = F.smooth_l1_loss(apart[0], apart[1], reduction='none')
    rows = gap.masked_fill(~pairs, 0).sum(1) / (keep.sum() - 1).clamp_min(1)
    return reduce_rows(rows, kept(mask), reduction)


def _distances(points: Tensor, pairs: Tensor, count: Tensor) -> Tensor:
    # the short cut by products of matrices loses all digits of small distances between large vectors
    apart = torch.cdist(points, points, compute_mode='donot_use_mm_for_euclid_dist')
    mean = apart.masked_fill(~pairs, 0).sum() / count
    return apart / torch.where(mean > 0, mean, 1)


def rkd_angle(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Angles between samples (Park et al. 2019, RKD, arXiv 1904.05068, section 3.2, equations 9 and 10).

    .. math:: \frac{1}{(N-1)(N-2)} \sum_{j \ne k} \ell_1 (\cos \angle s_j s_i s_k, \cos \angle t_j t_i t_k)

    seen from sample :math:`i`, with Huber's :math:`\ell_1`. The paper's is a sum; the authors' code has a mean over
    :math:`N^3`, which is :math:`(N-1)(N-2)/N^2` of this. Of many samples the angles are taken for a few anchors at a
    time and calculated again in the backward pass, so that :math:`N^3` numbers are never there at once.

    Args:
        student: ``(N, D)``; maps ``(N, C, H, W)`` are flattened, of tokens ``(N, L, D)`` the mean of those that count
            is taken, any floating-point dtype. The gradient goes here.
        teacher: As many samples, of any width; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> rkd_angle(corner, 5 * corner), rkd_angle(corner[:2], corner[:2])
        (tensor(0.), tensor(0.))
    """
    one, other, keep = _both(student, teacher, mask)
    each = max(1, _ELEMENTS // max(1, len(one) * max(len(one), one.shape[1], other.shape[1])))
    rows = []
    for begin in range(0, len(one), each):
        arguments = one, other, keep, slice(begin, begin + each)
        rows.append(_angles(*arguments) if each >= len(one) else cast(
            Tensor, checkpoint(_angles, *arguments, use_reentrant=False, preserve_rng_state=False),
        ))
    found = torch.cat(rows) if rows else one.sum(1)
    count = keep.sum()
    return reduce_rows(found / ((count - 1) * (count - 2)).clamp_min(1), kept(mask), reduction)


def _angles(student: Tensor, teacher: Tensor, keep: Tensor, anchors: slice) -> Tensor:
    sides = (unit(points[None] - points[anchors, None]) for points in (student, teacher))
    angles = [side @ side.transpose(1, 2) for side in sides]
    gap = F.smooth_l1_loss(angles[0], angles[1], reduction='none')
    number = torch.arange(len(student), device=student.device)
    ends = keep[None] & (number[None] != number[anchors, None])
    pairs = ends[:, :, None] & ends[:, None, :] & (number[:, None] != number[None, :])
    return gap.masked_fill(~pairs, 0).sum((1, 2))


def similarity_preserving(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Similarities of samples (Tung and Mori 2019, arXiv 1907.09682, section 3, equations 1 to 4).

    .. math:: \frac{1}{N} \sum_j (G_{s,ij} - G_{t,ij})^2, \quad G_i = \frac{(Q Q^\top)_i}{\|(Q Q^\top)_i\|_2}

    whose mean over :math:`i` is the paper's :math:`\frac{1}{b^2} \|G_t - G_s\|_F^2`.

    Args:
        student: ``(N, C, H, W)`` or ``(N, D)``, flattened to :math:`Q`; of tokens ``(N, L, D)`` the mean of those that
            count is taken, any floating-point dtype. The gradient goes here.
        teacher: As many samples, of any width; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> apart = torch.eye(2)
        >>> similarity_preserving(apart, 3 * apart), similarity_preserving(torch.ones(2, 5), apart)
        (tensor(0.), tensor(0.2929))
    """
    one, other, keep = _both(student, teacher, mask)
    alike = [unit(x @ x.T) for x in (_scaled(one), _scaled(other))]
    rows = (alike[0] - alike[1]).square().sum(1) / keep.sum().clamp_min(1)
    return reduce_rows(rows, kept(mask), reduction)


def _scaled(points: Tensor) -> Tensor:
    """Points brought to a largest number of one: products of small or large ones leave the range of float32."""
    most = points.detach().abs().amax() if points.numel() else points.new_ones(())
    return points / torch.where(most > 0, most, 1)


def _both(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    one, other = (samples(x, mask) for x in pair(student, teacher, (2, 3, 4), mask, same=False))
    keep = kept(mask)
    return one, other, torch.ones(len(one), dtype=torch.bool, device=one.device) if keep is None else keep
