"""Losses that take the teacher's outputs as the target: its probabilities, its decision, its logits."""

from __future__ import annotations

from torch import Tensor

from composer_kd.functional.checks import check_choice
from composer_kd.functional.inputs import prepare
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
    student, teacher = prepare(student_logits, teacher_logits, mask, temperature)
    probable = teacher.softmax(-1)
    log_student = student.log_softmax(-1).masked_fill(probable == 0, 0)  # 0 * -inf where both forbid the class
    return reduce_rows(-(probable * log_student).sum(-1) * temperature**2, mask, reduction)


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
    student, teacher = prepare(student_logits, teacher_logits, mask)
    likeliest = teacher.argmax(-1, keepdim=True)
    return reduce_rows(-student.log_softmax(-1).gather(-1, likeliest).squeeze(-1), mask, reduction)


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
    student, teacher = prepare(student_logits, teacher_logits, mask)
    gap = student - teacher
    gap = gap.masked_fill_(student.isneginf() & teacher.isneginf(), 0)  # -inf - -inf is NaN
    rows = gap.square().sum(-1)
    if class_reduction == 'mean':
        rows = rows / student.shape[-1]
    return reduce_rows(rows, mask, reduction)
