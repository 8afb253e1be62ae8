"""Divergences between what student and teacher hold probable.

Shared by all: logits of shape ``(..., C)``, calculated in float32 (float64 for float64), summed over classes, averaged
over the rows that count, times temperature squared. A class that both models forbid (logit ``-inf``) adds nothing;
:func:`torch.nn.functional.kl_div` gives NaN there. Many rows are taken a few at a time, without a second derivative:
see :mod:`composer_kd.functional.chunks`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.checks import check_beta
from composer_kd.functional.chunks import row_losses
from composer_kd.functional.reduction import reduce_rows


def kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Forward KL, the distillation loss of Hinton et al. 2015 (arXiv 1503.02531, section 2).

    .. math:: T^2 \, \mathrm{KL}(p_t \| p_s) = T^2 \sum_c p_{t,c} \log \frac{p_{t,c}}{p_{s,c}},
        \quad p = \mathrm{softmax}(z / T)

    The factor :math:`T^2` keeps the size of the gradient about the same at every temperature. It is infinite where the
    student forbids a class that the teacher does not.

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
        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> kl_divergence(student, teacher)
        tensor(0.3278)
        >>> kl_divergence(student, teacher, temperature=4.0)
        tensor(0.4848)
    """
    rows = row_losses(_forward, student_logits, teacher_logits, mask, temperature, _forward_with_gradient)
    return reduce_rows(rows, mask, reduction)


def _forward(student: Tensor, teacher: Tensor) -> Tensor:
    return kl_of(student.log_softmax(-1), teacher.log_softmax(-1))


def kl_of(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    """KL of log-probabilities, teacher against student, over the last dimension.

    Example:
        >>> import torch
        >>> kl_of(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log())
        tensor(0.6931)
    """
    probable = log_teacher.exp()
    # -inf - -inf is NaN, and 0 * log(0 / x) is 0 by continuity
    excess = (log_teacher - log_student).masked_fill_(probable == 0, 0)
    return (probable * excess).sum(-1)


def _forward_with_gradient(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    # by hand, as the commonest of all: p_s - p_t, and nothing is calculated twice
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    probable = log_teacher.exp()
    excess = log_teacher.sub_(log_student).masked_fill_(probable == 0, 0)
    return excess.mul_(probable).sum(-1), log_student.exp_().sub_(probable)


def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Reverse KL, which leaves the student free to drop what the teacher holds unlikely (Gu et al. 2023, MiniLLM,
    arXiv 2306.08543, section 2.1; here over the classes of a row, not over sampled sequences).

    .. math:: T^2 \, \mathrm{KL}(p_s \| p_t) = T^2 \sum_c p_{s,c} \log \frac{p_{s,c}}{p_{t,c}},
        \quad p = \mathrm{softmax}(z / T)

    It is infinite where the teacher forbids a class that the student does not.

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
        >>> reverse_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.4338)
    """
    return reduce_rows(row_losses(_reverse, student_logits, teacher_logits, mask, temperature), mask, reduction)


def _reverse(student: Tensor, teacher: Tensor) -> Tensor:
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    probable = log_student.exp()
    excess = (log_student - log_teacher).masked_fill_(probable == 0, 0)
    return (probable * excess).sum(-1)


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence (Agarwal et al. 2023, GKD, arXiv 2306.13649, equation 1).

    .. math:: T^2 \left[ \beta \, \mathrm{KL}(p_t \| m) + (1 - \beta) \, \mathrm{KL}(p_s \| m) \right],
        \quad m = \beta p_t + (1 - \beta) p_s, \quad p = \mathrm{softmax}(z / T)

    Finite whatever the models forbid, and symmetric at :math:`\beta = 1/2`. Towards the ends it vanishes as
    :math:`\beta \, \mathrm{KL}(p_t \| p_s)` and :math:`(1 - \beta) \, \mathrm{KL}(p_s \| p_t)`, so the loss weight is
    not comparable between values of :math:`\beta`. First derivatives only.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        beta: Weight of the teacher in the mixture, between 0 and 1, both excluded.
        temperature: :math:`T`, above 0.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> jensen_shannon(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.0895)
    """
    check_beta(beta)
    rows = row_losses(partial(_mixed, beta=beta), student_logits, teacher_logits, mask, temperature)
    return reduce_rows(rows, mask, reduction)


def _mixed(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    student_probable, teacher_probable = log_student.exp(), log_teacher.exp()
    # The gradients through log(m / p_t) and log(m / p_s) cancel: what is left reaches the student through p_s alone.
    with torch.no_grad():
        gap = log_student - log_teacher
        # log(beta + (1 - beta) e^gap) without overflow: the larger of the two is taken out, which also makes it
        # exactly zero for gap = 0
        shared = torch.where(gap > 0, gap.new_full((), beta), 1 - beta).mul_(torch.expm1(-gap.abs())).log1p_()
        over_teacher = (F.relu(gap) + shared).masked_fill_(teacher_probable == 0, 0)
        over_student = (F.relu(-gap) + shared).masked_fill_(student_probable == 0, 0)
        rows_of_teacher = (teacher_probable * over_teacher).sum(-1)
    return -beta * rows_of_teacher - (1 - beta) * (student_probable * over_student).sum(-1)


def binary_kl_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Forward KL of each class on its own, for students trained with binary cross-entropy on logits (Yang et al. 2023,
    arXiv 2308.06453, the one-versus-all logits loss, here with a temperature).

    .. math:: T^2 \sum_c \left[ p_{t,c} \log \frac{p_{t,c}}{p_{s,c}}
        + (1 - p_{t,c}) \log \frac{1 - p_{t,c}}{1 - p_{s,c}} \right], \quad p = \sigma(z / T)

    Such a student's logits mean independent yes-or-no answers; a softmax over them would throw away their level.

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
        >>> binary_kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]))
        tensor(0.3278)
    """
    return reduce_rows(row_losses(_binary, student_logits, teacher_logits, mask, temperature), mask, reduction)


def _binary(student: Tensor, teacher: Tensor) -> Tensor:
    return _yes(student, teacher) + _yes(-student, -teacher)


def _yes(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum(p_t * log(p_t / p_s))`` over classes, with ``p`` the sigmoid of the arguments."""
    probable = teacher.sigmoid()
    excess = (F.logsigmoid(teacher) - F.logsigmoid(student)).masked_fill_(probable == 0, 0)
    return (probable * excess).sum(-1)
