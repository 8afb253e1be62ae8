"""Distillation taken apart into the label's class and the others, and logits brought to one scale."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from composer_kd.functional.checks import check_class_labels, check_logits, check_temperature, check_weight
from composer_kd.functional.chunks import row_losses
from composer_kd.functional.divergences import kl_of
from composer_kd.functional.reduction import reduce_rows


def decoupled_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    labels: Tensor,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Decoupled knowledge distillation (Zhao et al. 2022, arXiv 2203.08679, section 3.2, equation 7).

    .. math:: T^2 \left( \alpha \, \mathrm{KL}(b_t \| b_s) + \beta \, \mathrm{KL}(\hat p_t \| \hat p_s) \right),
        \quad b = (p_y, 1 - p_y), \quad \hat p_c = \frac{p_c}{1 - p_y} \; (c \ne y)

    The first term is of the label's class :math:`y` against all others, the second of the others among themselves.
    With :math:`\beta` replaced by the teacher's :math:`1 - p_{t,y}` and :math:`\alpha = 1` it would be
    :func:`~composer_kd.functional.divergences.kl_divergence`.

    A row in which either model allows no class but the label (all others ``-inf``) has no second term. Otherwise a
    class
    that the teacher forbids adds nothing, and one that the student alone forbids makes it infinite.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        labels: Class numbers, shape ``(...)``, 0 to ``C - 1``; of rows that do not count any number.
        temperature: :math:`T`, above 0.
        alpha: :math:`\alpha`, 0 or more.
        beta: :math:`\beta`, 0 or more.
        standardize: Whether to bring both models' logits to one scale first, as :func:`standardized_kl` does.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[2.0, 1.0, 0.0]])
        >>> decoupled_kd(student, teacher, labels=torch.tensor([0]))
        tensor(0.9042)
    """
    check_logits(student_logits, teacher_logits)
    check_class_labels(labels, student_logits.shape[:-1], 'labels')
    check_temperature(temperature)
    check_weight('alpha', alpha)
    check_weight('beta', beta)
    if student_logits.shape[-1] < 2:
        raise ValueError('decoupled_kd: expected two classes or more, got 1; use binary_kl_divergence for one.')
    if standardize:
        formula = partial(_decoupled_standard, alpha=alpha, beta=beta, temperature=temperature)
        rows = row_losses(formula, student_logits, teacher_logits, mask, labels=labels)
    else:
        formula = partial(_decoupled, alpha=alpha, beta=beta)
        rows = row_losses(formula, student_logits, teacher_logits, mask, temperature, labels=labels)
    return reduce_rows(rows, mask, reduction)


def _decoupled_standard(
    student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float, temperature: float,
) -> Tensor:
    student, teacher = (_standard(logits) / temperature for logits in (student, teacher))
    return _decoupled(student, teacher, labels, alpha, beta) * temperature**2


def _decoupled(student: Tensor, teacher: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    place = labels.long().unsqueeze(-1)
    log_s, others_s, alone_s = _apart(student, place)
    log_t, others_t, alone_t = _apart(teacher, place)
    target = kl_of(log_s, log_t)
    rest = kl_of(others_s.log_softmax(-1), others_t.log_softmax(-1)).masked_fill((alone_s | alone_t).squeeze(-1), 0)
    return alpha * target + beta * rest


def _apart(logits: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the label's class and of all others together ``(..., 2)``, the others' logits, and whether
    none of them is allowed.
    """
    others = logits.scatter(-1, place, -torch.inf)
    alone = others.isneginf().all(-1, keepdim=True)
    # 1 - p loses all its digits where p is close to 1, so it is never formed; the gradient of a sum of nothing is NaN
    others = others.masked_fill(alone, 0)
    together = others.logsumexp(-1, keepdim=True).masked_fill(alone, -torch.inf)
    return torch.cat([logits.gather(-1, place), together], -1).log_softmax(-1), others, alone


def standardized_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 2.0,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Forward KL of standardised logits (Sun et al. 2024, arXiv 2403.01427, section 4, algorithm 1).

    .. math:: T^2 \, \mathrm{KL}\left( \mathrm{softmax}(Z(z_t) / T) \, \| \, \mathrm{softmax}(Z(z_s) / T) \right),
        \quad Z(z) = \frac{z - \bar z}{\sigma(z)}

    Mean and standard deviation are those of the row's classes (divided by :math:`C`). The student need not match the
    level and the spread of the teacher's logits, only what they say relative to each other. A row of equal logits has
    no spread: it becomes zeros, without a gradient. A class at ``-inf`` is left out of mean and deviation, and stays
    there.

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        temperature: :math:`T`, above 0: the paper's base temperature.
        mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
        reduction: ``'mean'`` over the rows that count, or ``'none'``.

    Returns:
        Nats, float32 or float64: 0-d, or of shape ``(...)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> student, teacher = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 30.0, 50.0]])
        >>> standardized_kl(student, teacher)
        tensor(0.)
    """
    check_temperature(temperature)
    rows = row_losses(partial(_kl_standard, temperature=temperature), student_logits, teacher_logits, mask)
    return reduce_rows(rows, mask, reduction)


def _kl_standard(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    log_s, log_t = ((_standard(logits) / temperature).log_softmax(-1) for logits in (student, teacher))
    return kl_of(log_s, log_t) * temperature**2


def _standard(logits: Tensor) -> Tensor:
    forbidden = logits.isneginf()
    count = (~forbidden).sum(-1, keepdim=True).clamp_min(1)
    allowed = logits.masked_fill(forbidden, 0)
    gap = (allowed - allowed.sum(-1, keepdim=True) / count).masked_fill(forbidden, 0)
    # rounding leaves a little of equal logits, which must not be blown up to a spread of one
    same = gap.abs().amax(-1, keepdim=True) <= 8 * torch.finfo(gap.dtype).eps * allowed.abs().amax(-1, keepdim=True)
    gap = gap.masked_fill(same, 0)
    spread = (gap.square().sum(-1, keepdim=True) / count).masked_fill(same, 1).sqrt()
    return (gap / spread).masked_fill(forbidden, -torch.inf)
