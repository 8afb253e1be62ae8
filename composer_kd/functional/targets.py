"""Losses that take the teacher's outputs as the target: its probabilities, its decision, its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from composer_kd.functional.checks import check_choice
from composer_kd.functional.chunks import row_losses
from composer_kd.functional.reduction import reduce_rows

CLASS_REDUCTIONS = ('sum', 'mean')


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Cross-entropy against the teacher's softened probabilities (Hinton et al. 2015, arXiv 1503.02531, section 2).

    .. math:: -T^2 \sum_c p_{t,c} \log p_{s,c}, \quad p = \mathrm{softmax}(z / T)

    :func:`~composer_kd.functional.divergences.kl_divergence` plus :math:`T^2` times the teacher's entropy: the same
    gradient, but of equal models it is that entropy and not zero.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        temperature: :math:`T`, above 0.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> soft_cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.6931)
    """
    rows = row_losses(_soft, student_logits, teacher_logits, mask, temperature, _soft_with_gradient)
    return reduce_rows(rows, mask, reduction)


def _soft(student: Tensor, teacher: Tensor) -> Tensor:
    probable = teacher.softmax(-1)
    log_student = student.log_softmax(-1).masked_fill(probable == 0, 0)  # 0 * -inf where both forbid the class
    return -(probable * log_student).sum(-1)


def _soft_with_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    probable, log_student = teacher.softmax(-1), student.log_softmax(-1)
    rows = -log_student.masked_fill(probable == 0, 0).mul_(probable).sum(-1)
    return rows, log_student.exp_().sub_(probable)


def hard_label(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Cross-entropy against the class the teacher holds most likely (Touvron et al. 2021, DeiT, arXiv 2012.12877,
    section 4).

    .. math:: -\log \mathrm{softmax}(z_s)_y, \quad y = \mathrm{argmax}_c \, z_{t,c}

    DeiT's hard-label distillation is this at equal weights, ``kd_loss_weight=0.5`` and ``base_loss_weight=0.5``.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; of equal largest logits one is taken.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> hard_label(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.1, 0.0]]))
        tensor(0.3133)
    """
    rows = row_losses(_hard, student_logits, teacher_logits, mask, gradient=_hard_with_gradient)
    return reduce_rows(rows, mask, reduction)


def _hard(student: Tensor, teacher: Tensor) -> Tensor:
    likeliest = teacher.argmax(-1, keepdim=True)
    return -student.log_softmax(-1).gather(-1, likeliest).squeeze(-1)


def _hard_with_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    likeliest = teacher.argmax(-1, keepdim=True)
    log_student = student.log_softmax(-1)
    rows = -log_student.gather(-1, likeliest)
    return rows.squeeze(-1), log_student.exp_().scatter_add_(-1, likeliest, torch.full_like(rows, -1))


def mse(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    class_reduction: str = 'sum',
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Squared error on logits (Ba and Caruana 2014, arXiv 1312.6184, section 2.2).

    .. math:: \sum_c (z_{s,c} - z_{t,c})^2

    Summed over classes, as every loss here. :class:`torch.nn.MSELoss`, which the papers on training with earlier runs
    used (arXiv 2211.00683, 2303.06480), is this over :math:`C`: ``class_reduction='mean'`` gives its scale, and with it
    their loss weights hold.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        class_reduction: ``'sum'``, or ``'mean'`` to divide by the number of classes.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``. A class both models forbid (``-inf``)
        adds nothing; one that a single model forbids makes it infinite.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]])
        >>> mse(student, teacher)
        tensor(4.)
        >>> mse(student, teacher, class_reduction='mean') == torch.nn.MSELoss()(student, teacher)
        tensor(True)
    """
    check_choice('class_reduction', class_reduction, CLASS_REDUCTIONS)
    rows = row_losses(_squares, student_logits, teacher_logits, mask, gradient=_squares_with_gradient)
    if class_reduction == 'mean':
        rows = rows / student_logits.shape[-1]
    return reduce_rows(rows, mask, reduction)


def _gap(student: Tensor, teacher: Tensor) -> Tensor:
    both_forbid = student.isneginf() & teacher.isneginf()
    return (student - teacher).masked_fill_(both_forbid, 0)  # -inf - -inf is NaN


def _squares(student: Tensor, teacher: Tensor) -> Tensor:
    return _gap(student, teacher).square().sum(-1)


def _squares_with_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    gap = _gap(student, teacher)
    return gap.square().sum(-1), gap.mul_(2)
