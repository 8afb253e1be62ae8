"""A teacher's answer in few numbers: its likeliest classes, or classes drawn by their probability.

Either way a row becomes ``k`` classes with their probabilities, and the mass of all the others as one more outcome.
Student and teacher are compared on these ``k + 1`` outcomes, by any loss that compares softmax probabilities.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from composer_kd.functional.checks import check_logits, check_temperature
from composer_kd.functional.chunks import pieces_of, refuse_second_derivative
from composer_kd.functional.inputs import at_least_float32, ready


@torch.no_grad()
def top_k(logits: Tensor, k: int, temperature: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    r"""The likeliest classes of each row, and the mass of the rest.

    Compared on these outcomes, a divergence is at most what it is on all classes (data-processing inequality), and zero
    where student and teacher agree on them. As a target it is biased: the order of the rest is lost (Anshumann et al.
    2025, *Sparse Logit Sampling*, arXiv 2503.16870, section 3).

    Args:
        logits: Shape ``(..., C)``, any floating-point dtype.
        k: Classes to keep, 1 to ``C``.
        temperature: :math:`T` of :math:`p = \mathrm{softmax}(z / T)`, above 0.

    Returns:
        Classes ``(..., k)`` int64, the likeliest first; their log-probabilities ``(..., k)``; and the log of the mass
        of the rest ``(...)``, ``-inf`` for ``k = C``. Float32 or float64.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> classes, kept, rest = top_k(torch.tensor([[0.0, 2.0, 1.0]]), 2)
        >>> classes, kept.exp(), rest.exp()
        (tensor([[1, 2]]), tensor([[0.6652, 0.2447]]), tensor([0.0900]))
    """
    check_logits(logits, logits)
    check_temperature(temperature)
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f'k: expected 1 to {logits.shape[-1]}, the number of classes, got {k}.')
    scaled = logits.to(at_least_float32(logits)) / temperature
    scaled = scaled - scaled.amax(-1, keepdim=True)  # of logits of 1e4 the sums would keep three digits
    kept, classes = scaled.topk(k, dim=-1)
    rest = scaled.scatter(-1, classes, -torch.inf).logsumexp(-1)
    total = torch.logaddexp(kept.logsumexp(-1), rest)
    return classes, kept - total.unsqueeze(-1), rest - total


@torch.no_grad()
def draw(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    r"""Classes drawn with replacement by the teacher's own probability, and how often each was drawn.

    Drawn ``m`` of ``n`` times, a class has the probability ``m / n``: an estimate without bias, so that the gradient of
    a loss that is linear in the teacher's probabilities has none either (Anshumann et al. 2025, *Sparse Logit
    Sampling*, arXiv 2503.16870, section 4, with the teacher itself as the proposal).

    Args:
        logits: Shape ``(..., C)``, any floating-point dtype.
        uniform: ``(..., n)``, numbers from 0 to below 1, by which the draws are made.
        temperature: :math:`T` of :math:`p = \mathrm{softmax}(z / T)`, above 0.

    Returns:
        Classes ``(..., n)`` int64, the drawn ones first, ascending, then zeros; and how often each was drawn
        ``(..., n)`` int64, zero for those that stand in no class's place.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> draw(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[0.5, 0.95, 0.3]]))
        (tensor([[1, 2, 0]]), tensor([[2, 1, 0]]))
    """
    check_logits(logits, logits)
    check_temperature(temperature)
    scaled = logits.to(at_least_float32(logits)) / temperature
    # in float64: sums in float32 step over half of the classes whose probability is below their last digit
    reached = (scaled - scaled.amax(-1, keepdim=True)).double().exp().cumsum(-1)
    # times the last of the sums, not one: sums of 30,000 classes end beside it; and below it, by its rounding too
    end = reached[..., -1:].contiguous()
    places = torch.minimum(uniform.to(reached) * end, torch.nextafter(end, torch.zeros_like(end)))
    drawn = torch.searchsorted(reached, places, right=True).sort(-1).values
    first = torch.ones_like(drawn, dtype=torch.bool)
    first[..., 1:] = drawn[..., 1:] != drawn[..., :-1]
    group = first.cumsum(-1) - 1
    counts = torch.zeros_like(drawn).scatter_add_(-1, group, torch.ones_like(drawn))
    classes = torch.zeros_like(drawn).scatter_(-1, group, drawn)
    return classes, counts


def on_outcomes(student_logits: Tensor, classes: Tensor, used: Tensor | None, temperature: float = 1.0) -> Tensor:
    r"""A student's logits over ``k`` classes of each row, and over all the others together.

    .. math:: z' \text{ such that } \mathrm{softmax}(z' / T) = (p_{c_1}, \ldots, p_{c_k}, 1 - \textstyle\sum_i p_{c_i})

    Args:
        student_logits: Shape ``(..., C)``, any floating-point dtype; the gradient goes here.
        classes: Shape ``(..., k)`` int64, no class twice in a row among those used.
        used: Which of them are meant, shape ``(..., k)``; ``None`` for all.
        temperature: :math:`T`, above 0.

    Returns:
        Shape ``(..., k + 1)``, float32 or float64; ``-inf`` where a class is not used.

    Example:
        >>> on_outcomes(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([[1]]), None).exp()
        tensor([[0.6652, 0.3348]])
    """
    others_than = classes
    if used is not None:
        # what is not used must not take its class away from the others: all such places point at a class that is
        others_than = torch.where(used, classes, classes[..., :1])
    taken, rest = _TakenAndRest.apply(student_logits, classes, others_than, temperature)
    if used is not None:
        taken = taken.masked_fill(~used, -torch.inf)
    outcomes: Tensor = torch.cat([taken, rest], dim=-1).log_softmax(-1)
    return outcomes * temperature


class _TakenAndRest(torch.autograd.Function):
    # The logits of some classes, and logsumexp over all the others, whose gradient in torch is NaN where a row has
    # nothing but -inf left; a few rows at a time, and nothing is kept but the student's logits as they came.
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, classes: Tensor, others_than: Tensor, temperature: float,
    ) -> tuple[Tensor, Tensor]:
        dtype = at_least_float32(logits)
        taken = torch.empty_like(classes, dtype=dtype)
        rest = taken.new_empty((*logits.shape[:-1], 1))
        for piece in pieces_of(logits):
            scaled = ready(logits[piece], None, dtype, temperature)
            taken[piece] = scaled.gather(-1, classes[piece])
            rest[piece] = scaled.scatter(-1, others_than[piece], -torch.inf).logsumexp(-1, keepdim=True)
        ctx.save_for_backward(logits, classes, others_than, rest)
        ctx.temperature = temperature
        return taken, rest

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        logits, classes, others_than, rest = ctx.saved_tensors
        of_taken, of_rest = (grad / ctx.temperature for grad in grads)
        level = rest.clamp_min(torch.finfo(rest.dtype).min)
        found = torch.empty_like(logits)
        for piece in pieces_of(logits):
            slope = (ready(logits[piece], None, rest.dtype, ctx.temperature) - level[piece]).exp_()
            slope.scatter_(-1, others_than[piece], 0).mul_(of_rest[piece])
            found[piece] = slope.scatter_add_(-1, classes[piece], of_taken[piece])
        return found, None, None, None


def all_classes(classes: Tensor, log_probabilities: Tensor, count: int) -> Tensor:
    """Log-probabilities of the kept classes among all of them, ``-inf`` for those that are not.

    Args:
        classes: Shape ``(..., k)`` int64.
        log_probabilities: Shape ``(..., k)``; ``-inf`` for places that are not used.
        count: All classes.

    Returns:
        Shape ``(..., count)``.

    Example:
        >>> all_classes(torch.tensor([[2, 0]]), torch.tensor([[0.75, 0.25]]).log(), 4).exp()
        tensor([[0.2500, 0.0000, 0.7500, 0.0000]])
    """
    dense = torch.zeros(*classes.shape[:-1], count, dtype=log_probabilities.dtype, device=classes.device)
    return dense.scatter_add_(-1, classes, log_probabilities.exp()).log()
