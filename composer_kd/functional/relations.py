"""Losses that compare logits or probabilities by direction, by correlation, or by how much must be moved."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.checks import check_weight
from composer_kd.functional.chunks import row_losses
from composer_kd.functional.inputs import at_least_float32, check_inputs, ready
from composer_kd.functional.reduction import reduce_rows


def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 1.0,
    gamma: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""DIST, correlations in place of a divergence (Huang et al. 2022, arXiv 2205.10536, section 3.2, equations
    7 to 10).

    .. math:: T^2 \left( \beta \, \frac{1}{N} \sum_i d(p_{s,i,\cdot}, p_{t,i,\cdot})
        + \gamma \, \frac{1}{C} \sum_c d(p_{s,\cdot,c}, p_{t,\cdot,c}) \right), \quad d(u, v) = 1 - \rho(u, v)

    :math:`\rho` is Pearson's correlation: between the classes of a row (inter-class), and between the rows of a class
    (intra-class), over the rows of this call that count. The second depends on the size of the microbatch, as the
    paper's does on that of the batch; a row's value holds it in full. Where neither side varies (one row, a class that
    is certain everywhere) :math:`d` is 0, where one alone does not it is 1, and neither has a gradient. A class at
    ``-inf`` has probability zero, whoever forbids it. The factor :math:`T^2` is that of the authors' code.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        temperature: :math:`T` of :math:`p = \mathrm{softmax}(z / T)`, above 0.
        beta: Weight of the inter-class term, 0 or more.
        gamma: Weight of the intra-class term, 0 or more.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
            Within
            the intra-class term all rows above zero count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> teacher = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> dist(teacher, teacher), dist(-teacher, teacher)
        (tensor(0.), tensor(4.))
    """
    check_inputs(student_logits, teacher_logits, mask, temperature)
    check_weight('beta', beta)
    check_weight('gamma', gamma)
    dtype = at_least_float32(student_logits, teacher_logits)
    both = (ready(logits, mask, dtype, temperature).softmax(-1) for logits in (student_logits, teacher_logits.detach()))
    student, teacher = (probable.flatten(0, -2) if probable.dim() > 1 else probable.unsqueeze(0) for probable in both)
    inter = _apart(student, teacher, -1)
    keep = None if mask is None else mask.ne(0).reshape(-1, 1)
    intra = _apart(student, teacher, 0, keep).mean()
    rows = ((beta * inter + gamma * intra) * temperature**2).reshape(student_logits.shape[:-1])
    return reduce_rows(rows, mask, reduction)


def cosine(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Cosine distance of logits, which leaves their scale to the student.

    .. math:: 1 - \frac{z_s \cdot z_t}{\|z_s\| \, \|z_t\|}

    Of logits that are all zero the angle is not defined: 0 where both are, 1 where one is, without a gradient. A class
    both models forbid (``-inf``) adds nothing; one that a single model forbids makes it infinite.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        From 0 to 2, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[5.0, 5.0]]))
        tensor(0.2929)
    """
    rows = row_losses(_cosine, student_logits, teacher_logits, mask)
    return reduce_rows(rows, mask, reduction)


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    forbids = student.isneginf(), teacher.isneginf()
    either = forbids[0] | forbids[1]
    rows = direction_gap(student.masked_fill(either, 0), teacher.masked_fill(either, 0))
    return rows.masked_fill((forbids[0] ^ forbids[1]).any(-1), torch.inf)


def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Total variation, the probability that would have to be moved (Wen et al. 2023, arXiv 2307.15190, section 3;
    here over the classes of a row).

    .. math:: \frac{1}{2} \sum_c |p_{s,c} - p_{t,c}|, \quad p = \mathrm{softmax}(z / T)

    Without a factor of the temperature, so that it stays between 0 and 1. Finite whoever forbids a class (``-inf``).

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        temperature: :math:`T`, above 0.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        From 0 to 1, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> total_variation(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.3808)
    """
    rows = row_losses(_moved, student_logits, teacher_logits, mask, temperature) / temperature**2
    return reduce_rows(rows, mask, reduction)


def _moved(student: Tensor, teacher: Tensor) -> Tensor:
    return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2


def _apart(student: Tensor, teacher: Tensor, dim: int, keep: Tensor | None = None) -> Tensor:
    """One minus Pearson's correlation along a dimension, over the places to keep."""
    return direction_gap(_centred(student, dim, keep), _centred(teacher, dim, keep), dim)


def _centred(values: Tensor, dim: int, keep: Tensor | None) -> Tensor:
    if keep is None:
        gap = values - values.mean(dim, keepdim=True)
        level = values.abs().amax(dim, keepdim=True)
    else:
        kept = values.masked_fill(~keep, 0)
        gap = (kept - kept.sum(dim, keepdim=True) / keep.sum().clamp_min(1)).masked_fill(~keep, 0)
        level = kept.abs().amax(dim, keepdim=True)
    # what rounding leaves of equal values is no variation
    same = gap.abs().amax(dim, keepdim=True) <= 8 * torch.finfo(gap.dtype).eps * level
    return gap.masked_fill(same, 0)


def direction_gap(student: Tensor, teacher: Tensor, dim: int = -1) -> Tensor:
    """One minus the cosine along a dimension: 0 where both are zero, 1 where one is.

    As half the squared distance of the two unit vectors, which is exactly zero of equal ones; no epsilon is added to a
    length, which would make small vectors look apart from themselves.

    Example:
        >>> direction_gap(torch.tensor([3e-30, 0.0]), torch.tensor([3e-30, 0.0]))
        tensor(0.)
    """
    one, other = unit(student, dim), unit(teacher, dim)
    gap = (one - other).square().sum(dim) / 2
    zero = one.detach().abs().amax(dim).eq(0), other.detach().abs().amax(dim).eq(0)
    return torch.where(zero[0] ^ zero[1], gap + 0.5, gap)


def unit(values: Tensor, dim: int = -1) -> Tensor:
    """Values over their length along a dimension; what has none stays zero, without a gradient.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
        tensor([[0.6000, 0.8000],
                [0.0000, 0.0000]])
    """
    most = values.detach().abs().amax(dim, keepdim=True)
    values = values / most.masked_fill(most == 0, 1)  # the squares of small values would be zero
    squares = values.square().sum(dim, keepdim=True)
    return (values / squares.masked_fill(most == 0, 1).sqrt()).masked_fill(most == 0, 0)
