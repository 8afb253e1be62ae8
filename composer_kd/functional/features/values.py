"""Losses that compare features value by value: hints, hidden states, and where a network looks."""

from __future__ import annotations

from torch import Tensor

from composer_kd.functional.features.shapes import one_size, pair
from composer_kd.functional.reduction import reduce_rows
from composer_kd.functional.relations import direction_gap, unit


def hint(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Squared error of features, the hints of FitNets (Romero et al. 2015, arXiv 1412.6550, section 2.2, equation 3).

    .. math:: \frac{1}{D} \sum_d (f_{s,d} - f_{t,d})^2

    The paper's is half the sum; the mean keeps a weight right at another width. The student's features come through a
    projector, the paper's regressor. Maps of another resolution are averaged down to the smaller one.

    Args:
        student: ``(N, C, H, W)``, ``(N, L, D)`` or ``(N, D)``, any floating-point dtype. The gradient goes here.
        teacher: As the student's, but for ``H`` and ``W``; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N,)``, or ``(N, L)`` of tokens, for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> hint(torch.zeros(2, 3), torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 0.0]]))
        tensor(1.5000)
    """
    if getattr(student, 'ndim', 0) == 4 == getattr(teacher, 'ndim', 0):
        student, teacher = one_size(*pair(student, teacher, (4,), mask, same=False))
    one, other = pair(student, teacher, (2, 3, 4), mask)
    gap = (one - other).square()
    return reduce_rows(gap.mean(-1) if gap.dim() == 3 else gap.flatten(1).mean(1), mask, reduction)


def hidden_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Squared error of hidden states (Jiao et al. 2020, TinyBERT, arXiv 1909.10351, section 3.1, equation 8).

    .. math:: \frac{1}{D} \sum_d (h_{s,d} - h_{t,d})^2

    The student's come through a projector, the paper's :math:`W_h`. A mean over the tokens that count.

    Args:
        student: ``(N, L, D)`` or ``(N, D)``, any floating-point dtype. The gradient goes here.
        teacher: Of the same shape; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N, L)`` or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> hidden_mse(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 3.0), mask=torch.tensor([[1, 0]]))
        tensor(9.)
    """
    one, other = pair(student, teacher, (2, 3), mask)
    return reduce_rows((one - other).square().mean(-1), mask, reduction)


def cosine_hidden(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Cosine distance of hidden states (Sanh et al. 2019, DistilBERT, arXiv 1910.01108, section 3).

    .. math:: 1 - \frac{h_s \cdot h_t}{\|h_s\| \, \|h_t\|}

    Zero vectors: 0 where both are, 1 where one is, without a gradient.

    Args:
        student: ``(N, L, D)`` or ``(N, D)``, any floating-point dtype. The gradient goes here.
        teacher: Of the same shape; gets no gradient.
        mask: Which tokens count, ``(N, L)``; which samples, ``(N,)``, where there are none. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N, L)`` or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> cosine_hidden(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
        tensor(1.)
    """
    return reduce_rows(direction_gap(*pair(student, teacher, (2, 3), mask)), mask, reduction)


def attention_transfer(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: str = 'mean',
) -> Tensor:
    r"""Activation-based attention transfer (Zagoruyko and Komodakis 2017, arXiv 1612.03928, section 3.1, equation 2).

    .. math:: \frac{1}{HW} \left\| \frac{Q_s}{\|Q_s\|_2} - \frac{Q_t}{\|Q_t\|_2} \right\|_2^2,
        \quad Q = \sum_c f_c^2

    Squared, and a mean over positions, as in the authors' code (the paper's is the norm itself). The number of channels
    may differ, so no projector is needed. Of other resolutions the larger map is averaged down to the smaller.

    Args:
        student: ``(N, C, H, W)``, any floating-point dtype. The gradient goes here.
        teacher: Of any ``C``, ``H`` and ``W``; gets no gradient.
        mask: Which samples count, ``(N,)``. ``None``: all.
        reduction: ``'mean'`` over what counts, or ``'none'``.

    Returns:
        Float32 or float64: 0-d, or ``(N,)`` for ``reduction='none'``.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> import torch
        >>> student = torch.tensor([[[[1.0, 0.0]]]])
        >>> attention_transfer(student, student.flip(-1)), attention_transfer(student, 5 * student)
        (tensor(1.), tensor(0.))
    """
    both = one_size(*(x.square().sum(1, keepdim=True) for x in pair(student, teacher, (4,), mask, same=False)))
    one, other = (unit(x.flatten(1)) for x in both)
    return reduce_rows((one - other).square().mean(1), mask, reduction)
