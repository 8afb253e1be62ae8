"""Several teachers as one: their logits, or their probabilities, averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from composer_kd.functional.checks import check_choice, check_logits, check_temperature, is_number
from composer_kd.functional.chunks import pieces_of
from composer_kd.functional.inputs import at_least_float32

SPACES = ('softmax', 'sigmoid')

_Shares = list[tuple[Tensor, float]]


@torch.no_grad()
def combine_logits(logits: Sequence[Tensor], weights: Sequence[float] | None = None) -> Tensor:
    r"""Weighted mean of logits, as in the sequences paper (Liu et al. 2023, arXiv 2303.06480).

    .. math:: z = \sum_i w_i z_i \,/\, \sum_i w_i

    Args:
        logits: One tensor per teacher, all of one shape ``(..., C)``, any floating-point dtype.
        weights: One number per teacher, zero or more and not all zero. ``None``: all the same.

    Returns:
        Logits, shape ``(..., C)``, float32 or float64, without a graph.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes or counts do not match or a weight is out of range.

    Example:
        >>> combine_logits([torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]])], weights=[3, 1])
        tensor([[1., 3.]])
    """
    shares, dtype = _shares(logits, weights)
    return _in_chunks(lambda some: _mix_logits(some, dtype), shares, dtype)


@torch.no_grad()
def combine_probabilities(
    logits: Sequence[Tensor],
    weights: Sequence[float] | None = None,
    *,
    temperature: float = 1.0,
    space: str = 'softmax',
) -> Tensor:
    r"""Logits of the weighted mean of the teachers' softened probabilities (Hinton et al. 2015, arXiv 1503.02531,
    section 2: the arithmetic mean of an ensemble).

    .. math:: z \text{ such that } f(z / T) = \sum_i w_i f(z_i / T) \,/\, \sum_i w_i,
        \quad f = \mathrm{softmax} \text{ or } \sigma

    Calculated from log-probabilities, so that classes far too unlikely for float32 keep their order. Softmax leaves one
    constant per row free: it is chosen so that teachers who agree give their own logits back.

    Args:
        logits: One tensor per teacher, all of one shape ``(..., C)``, any floating-point dtype.
        weights: One number per teacher, zero or more and not all zero. ``None``: all the same.
        temperature: :math:`T`, above 0: the one that the loss will use.
        space: ``'softmax'``, or ``'sigmoid'`` for classes that are each answered on their own.

    Returns:
        Logits, shape ``(..., C)``, float32 or float64, without a graph. A single teacher's are returned as they are.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes or counts do not match or a value is out of range.

    Example:
        >>> one, other = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
        >>> combine_probabilities([one, other]).softmax(-1)
        tensor([[0.6904, 0.3096]])
        >>> (one.softmax(-1) + other.softmax(-1)) / 2
        tensor([[0.6904, 0.3096]])
    """
    check_temperature(temperature)
    check_choice('space', space, SPACES)
    shares, dtype = _shares(logits, weights)
    if len(shares) == 1:
        return shares[0][0].detach().to(dtype)
    mix = _mix_softmax if space == 'softmax' else _mix_sigmoid
    return _in_chunks(lambda some: mix(some, dtype, temperature), shares, dtype)


def _in_chunks(mix: Callable[[_Shares], Tensor], shares: _Shares, dtype: torch.dtype) -> Tensor:
    """What is mixed, a few rows at a time: nothing of the size of all logits is made but the result."""
    first = shares[0][0]
    pieces = pieces_of(first)
    if len(pieces) == 1:
        return mix(shares)
    mixed = torch.empty_like(first, dtype=dtype)
    for piece in pieces:
        mixed[piece] = mix([(one[piece], share) for one, share in shares])
    return mixed


def _mix_logits(shares: _Shares, dtype: torch.dtype) -> Tensor:
    combined: Tensor | None = None
    for one, share in shares:
        combined = one.to(dtype) * share if combined is None else combined.add_(one.to(dtype), alpha=share)
    assert combined is not None
    return combined


def _mix_softmax(shares: _Shares, dtype: torch.dtype, temperature: float) -> Tensor:
    mixed: Tensor | None = None
    level: Tensor | float = 0.0
    for one, share in shares:
        scaled = one.to(dtype) / temperature
        normaliser = scaled.logsumexp(-1, keepdim=True)
        level = level + share * normaliser
        weighted = scaled.sub_(normaliser - math.log(share))
        mixed = weighted if mixed is None else torch.logaddexp(mixed, weighted, out=mixed)
    assert mixed is not None
    return mixed.add_(level).mul_(temperature)


def _mix_sigmoid(shares: _Shares, dtype: torch.dtype, temperature: float) -> Tensor:
    yes: Tensor | None = None
    no: Tensor | None = None
    for one, share in shares:
        scaled = one.to(dtype) / temperature
        one_yes = F.logsigmoid(scaled).add_(math.log(share))
        one_no = F.logsigmoid(scaled.neg_()).add_(math.log(share))
        yes = one_yes if yes is None else torch.logaddexp(yes, one_yes, out=yes)
        no = one_no if no is None else torch.logaddexp(no, one_no, out=no)
    assert yes is not None
    assert no is not None
    return yes.sub_(no).mul_(temperature)


def _shares(
    logits: Sequence[Tensor], weights: Sequence[float] | None,
) -> tuple[_Shares, torch.dtype]:
    """The teachers that count, with weights that sum to one, and the dtype to calculate in."""
    if isinstance(logits, Tensor) or not isinstance(logits, Sequence):
        raise TypeError(
            f'logits: expected a list with one tensor for each teacher, got {type(logits).__name__}; pass [logits].',
        )
    if not logits:
        raise ValueError('logits: expected one tensor for each teacher, got an empty list; pass at least one.')
    for one in logits:
        if not isinstance(one, Tensor) or not isinstance(logits[0], Tensor) or one.shape != logits[0].shape:
            got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in logits]
            raise ValueError(
                f'logits: expected tensors of one shape (..., C), one for each teacher, got {got}; only teachers with '
                'the same classes can be combined.',
            )
        check_logits(one, one)
    numbers = [1.0] * len(logits) if weights is None else list(weights)
    fine = all(is_number(w) and w >= 0 and math.isfinite(w) for w in numbers)
    if len(numbers) != len(logits) or not fine or not sum(numbers) > 0:
        raise ValueError(
            f'weights: expected {len(logits)} finite numbers of zero or more, one for each teacher and not all zero, '
            f'got {numbers}; pass None to weigh all the same.',
        )
    total = math.fsum(numbers)
    # A teacher of weight zero is left out altogether: 0 * -inf is NaN.
    shares = [(one, float(w) / total) for one, w in zip(logits, numbers, strict=True) if w > 0]
    return shares, at_least_float32(*logits)
