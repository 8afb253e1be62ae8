"""Losses a few rows at a time: what is calculated on the way never takes the memory of all logits.

Written out, a loss of ``(N, L, C)`` logits leaves several float32 tensors of that size behind for the backward pass. Of
many rows it is therefore calculated chunk by chunk, together with its gradient: of a chunk nothing is left but one
value a row and that gradient, in the precision of the student's logits. No copy is made of the logits of all rows
either, not in float32, not over the temperature, and not without the rows that do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from composer_kd.functional.inputs import at_least_float32, check_inputs, ready

Formula = Callable[..., Tensor]
"""Of scaled logits ``(..., C)``, student's and teacher's, the values of the rows ``(...)``, each from its row alone."""

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of the same, the values of the rows and their derivative by the student's, ``(..., C)``; changes neither."""

# A tensor of a chunk is 1 MiB a thread and stays in the processor's cache; a GPU needs more work at once to be busy,
# but what a formula leaves behind need not be kept for as much.
_ELEMENTS_PER_THREAD, _ELEMENTS_ON_DEVICE, _FEW_ON_DEVICE = 2**18, 2**23, 2**20

# float16 loses what is below 6e-8, and the gradient of one of 30,000 classes is: kept with a power of two for each row
# that brings its largest number to between these, it loses nothing that is above 2**-38 of that number.
_LARGEST_KEPT = 2.0**14

Piece = tuple[int | slice, ...]
"""An index of some rows."""


def chunk_elements(device: torch.device) -> int:
    """How many numbers of the logits are worked on at once.

    Example:
        >>> chunk_elements(torch.device('cuda'))
        8388608
    """
    return _ELEMENTS_PER_THREAD * torch.get_num_threads() if device.type == 'cpu' else _ELEMENTS_ON_DEVICE


def few_elements(device: torch.device) -> int:
    """Up to how many numbers of the logits a loss is calculated as its formula is written.

    Example:
        >>> few_elements(torch.device('cuda'))
        1048576
    """
    return chunk_elements(device) if device.type == 'cpu' else min(_FEW_ON_DEVICE, _ELEMENTS_ON_DEVICE)


def is_few(logits: Tensor) -> bool:
    """Whether a loss of these is calculated as its formula is written.

    Under ``torch.compile`` always: the compiler decides itself what is kept and what is calculated again, and chunks
    would take its graph apart.

    Example:
        >>> is_few(torch.empty(8, 10)), is_few(torch.empty(8, 2**24, device='meta'))
        (True, False)
    """
    return torch.compiler.is_compiling() or logits.dim() < 2 or logits.numel() <= few_elements(logits.device)


def row_losses(
    formula: Formula,
    student_logits: Tensor,
    teacher_logits: Tensor,
    mask: Tensor | None,
    temperature: float = 1.0,
    gradient: Gradient | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    r"""What a loss is for each row, times temperature squared.

    Of few rows it is the formula as it is written, and can be derived as often as that can. Of many it has a first
    derivative only, and says so where a second is asked for.

    Args:
        formula: The loss of logits over the temperature, float32 (or float64).
        student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
        teacher_logits: Same shape; gets no gradient.
        mask: Weights, shape ``(...)``; rows of weight zero are taken as zeros, whatever they hold.
        temperature: What the logits are divided by; above 0.
        gradient: The formula with its derivative, where that is written by hand; otherwise torch derives it.
        labels: Class numbers ``(...)``, given to the formula by that name, zero for rows that do not count; ``None``
            for a formula that asks for none.

    Returns:
        Shape ``(...)``, float32 or float64.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If shapes do not match or a value is out of range.

    Example:
        >>> def total_variation(student, teacher):
        ...     return (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2
        >>> row_losses(total_variation, torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]]), None)
        tensor([0.3808])
    """
    check_inputs(student_logits, teacher_logits, mask, temperature)
    teacher_logits = teacher_logits.detach()
    dtype = at_least_float32(student_logits, teacher_logits)
    if labels is not None and mask is not None:
        labels = labels.masked_fill(mask.eq(0), 0)  # the label that does not count is no class to look up

    def formula_of(piece: Piece) -> Formula:
        return formula if labels is None else partial(formula, labels=labels[piece])

    if is_few(student_logits):
        both = (ready(logits, mask, dtype, temperature) for logits in (student_logits, teacher_logits))
        return formula_of(())(*both) * temperature**2

    def part(piece: Piece) -> tuple[Tensor, Tensor]:
        some = None if mask is None else mask[piece]
        student, teacher = student_logits.detach()[piece], teacher_logits[piece]
        return ready(student, some, dtype, temperature), ready(teacher, some, dtype, temperature)

    rows = in_chunks(
        student_logits, dtype, lambda piece: formula_of(piece)(*part(piece)),
        lambda piece: (gradient or _derived(formula_of(piece)))(*part(piece)), temperature,
    )
    return rows * temperature**2


def in_chunks(
    logits: Tensor,
    dtype: torch.dtype,
    values: Callable[[Piece], Tensor],
    derived: Callable[[Piece], tuple[Tensor, Tensor]],
    temperature: float = 1.0,
) -> Tensor:
    """One value per row of logits, chunk by chunk, with a gradient if the logits want one.

    Args:
        logits: Shape ``(..., C)``.
        dtype: Of the values.
        values: Those of the rows of a piece, where no gradient is wanted.
        derived: The values, and their derivative by the piece's logits over the temperature.
        temperature: What the logits were divided by.

    Returns:
        Shape ``(...)``.
    """
    if torch.is_grad_enabled() and logits.requires_grad:
        return cast(Tensor, _InChunks.apply(logits, dtype, pieces_of(logits), derived, temperature))
    rows = logits.new_empty(logits.shape[:-1], dtype=dtype)
    for piece in pieces_of(logits):
        rows[piece] = values(piece)
    return rows


def pieces_of(logits: Tensor) -> list[Piece]:
    """Indices of chunks of logits, ``(..., C)``: of whole rows, and of one at least.

    Example:
        >>> pieces_of(torch.empty(8, 2**24, device='meta'))[:2]
        [(slice(0, 1, None),), (slice(1, 2, None),)]
        >>> pieces_of(torch.empty(8, 10))
        [()]
    """
    elements = chunk_elements(logits.device)
    if logits.dim() < 2 or logits.numel() <= elements:
        return [()]
    return list(_pieces(logits.shape, elements))


def _pieces(shape: torch.Size, elements: int) -> Iterator[Piece]:
    each = math.prod(shape[1:])
    if len(shape) > 2 and each > elements:
        for i in range(shape[0]):
            for rest in _pieces(shape[1:], elements):
                yield (i, *rest)
        return
    size = max(1, elements // each)
    for begin in range(0, shape[0], size):
        yield (slice(begin, begin + size),)


def refuse_second_derivative() -> None:
    """Call in a backward pass that knows no second derivative: torch would take it for zero without a word.

    Raises:
        RuntimeError: If one is asked for.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            'A second derivative (create_graph=True) was asked for of a loss that takes many logits in chunks, which '
            f'has a first one only. Give it fewer rows at a time: of up to {few_elements(torch.device("cpu")):,} '
            f'logits on a CPU and {_FEW_ON_DEVICE:,} elsewhere, losses can be derived as often as you like.',
        )


def _derived(formula: Formula) -> Gradient:
    def derive(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = student.detach().requires_grad_()
            rows = formula(leaf, teacher)
        (slope,) = torch.autograd.grad(rows, leaf, torch.ones_like(rows))
        return rows.detach(), slope
    return derive


class _InChunks(torch.autograd.Function):
    # the values of the rows at the temperature, and their derivative by the logits, which are divided by it
    @staticmethod
    def forward(
        ctx: Any, student: Tensor, dtype: torch.dtype, pieces: list[Piece],
        derived: Callable[[Piece], tuple[Tensor, Tensor]], temperature: float,
    ) -> Tensor:
        rows = student.new_empty(student.shape[:-1], dtype=dtype)
        kept = torch.empty_like(student)
        scale = torch.empty_like(rows) if student.dtype == torch.float16 else None
        for piece in pieces:
            rows[piece], slope = derived(piece)
            if scale is not None:
                scale[piece] = power = _power_of_two(slope)
                slope = slope * power.unsqueeze(-1)
            kept[piece] = slope
        ctx.save_for_backward(kept, scale)
        ctx.pieces, ctx.temperature = pieces, temperature
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        kept, scale = ctx.saved_tensors
        factor = grads[0] / ctx.temperature
        factor = (factor if scale is None else factor / scale).unsqueeze(-1)
        # what nobody asks for again is used up: a second tensor of the size of the logits is never there
        found = torch.empty_like(kept) if torch._C._autograd._get_current_graph_task_keep_graph() else kept
        if kept.dtype == factor.dtype:
            torch.mul(kept, factor, out=found)
        else:
            for piece in ctx.pieces:
                found[piece] = kept[piece].to(factor.dtype) * factor[piece]
        return found, None, None, None, None


def _power_of_two(slope: Tensor) -> Tensor:
    """For each row, what brings its largest number close to the largest of float16; 1 where that is 0 or not finite."""
    most = slope.abs().amax(-1)
    power = torch.exp2(torch.floor(math.log2(_LARGEST_KEPT) - torch.log2(most)))
    return torch.where((most > 0) & (most < torch.inf), power, 1).clamp_max(2.0**100)
