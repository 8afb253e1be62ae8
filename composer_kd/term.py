"""The KD scalar of a microbatch: which rows count, and what the losses make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.answers import Answer, Format, on_the_same
from composer_kd.batches import classes_last
from composer_kd.functional import combine_logits, combine_probabilities
from composer_kd.guard import Guard, left_out
from composer_kd.losses import Loss
from composer_kd.share import Share

COMBINE = ('logits', 'probabilities')
# Losses that stay finite where the teacher alone forbids a class; the others are infinite there by their definition.
FORBIDDEN_FINE = frozenset({
    'kl_divergence', 'forward_kl', 'soft_cross_entropy', 'jensen_shannon', 'hard_label', 'decoupled_kd', 'dist',
    'standardized_kl', 'total_variation',
})

_MOST = 0.75
"""Of what share of rows on it costs less to calculate the loss of all than to copy out those that count."""

Places = Callable[[], Tensor | None]

UNBIASED = frozenset({'kl_divergence', 'forward_kl', 'soft_cross_entropy'})
"""Losses that are linear in the teacher's probabilities, but for what the student has no part in."""


class Term:
    """The KD term of a microbatch, summed up over its losses.

    Attributes:
        parts: Each loss by its index, before it is weighed.

    Example:
        >>> import torch
        >>> term = Term()
        >>> term.add(0, 1.0, torch.tensor(2.0))
        >>> term.add(1, 0.5, torch.tensor(4.0))
        >>> term.total
        tensor(4.)
    """

    def __init__(self) -> None:
        self.parts: dict[int, Tensor] = {}
        self._total: Tensor | None = None

    def add(self, index: int, weight: float, value: Tensor) -> None:
        """Add a loss, a scalar, of that weight."""
        self.parts[index] = value
        weighed = value if weight == 1 else weight * value
        self._total = weighed if self._total is None else self._total + weighed

    @property
    def total(self) -> Tensor:
        """The sum, a scalar with a graph."""
        assert self._total is not None, 'a batch that is on has a loss'
        return self._total


@dataclass(frozen=True)
class Rows:
    """Student and teacher logits of the rows that a loss looks at.

    Attributes:
        student: Shape ``(..., C)``.
        teachers: Each of that shape, or sparse.
        mask: Which of the rows count, where not all do.
        counted: Whether there is one label a row, so that the rows were counted over the whole batch.
        labels: Class numbers of the rows, ``(...)``, where there is one a row; of rows that do not count any number.
    """

    student: Tensor
    teachers: list[Answer]
    mask: Tensor | None
    counted: bool
    labels: Tensor | None = None


def rows_that_count(
    student: Tensor, teachers: Sequence[Answer], labels: Any, mask: Tensor | None, places: Places = lambda: None,
    shift: bool = False,
) -> Rows:
    """Bring classes last and, for token logits, keep the rows that count.

    Of token logits those rows alone are copied out, since the rest (85 % in masked language modelling) would cost as
    much in the loss, unless most of them count (in causal language modelling all but one a sample), where the copies
    would cost more. For one row a sample all rows are kept and weighed.

    Args:
        student: Logits as the model gives them.
        teachers: Logits of each teacher, or of a few classes of the rows that count.
        labels: The labels, or ``None``.
        mask: Which labels count; ``None`` if all do or they are no class numbers.
        places: Asked for the flat positions of the labels that count. Where they are not known, the device is waited
            for once, to count them.
        shift: Whether the logits at a position answer for the label one position later.
    """
    student = classes_last(student, labels)
    teachers = [classes_last(logits, labels) if isinstance(logits, Tensor) else logits for logits in teachers]
    counted = isinstance(labels, Tensor) and labels.shape == student.shape[:-1]
    classes = labels if counted else None
    if classes is not None and shift and classes.dim() > 1:
        classes = classes.roll(-1, -1)  # the last position answers for nothing, and does not count
    if mask is None or not counted:
        return Rows(student, teachers, None, counted, classes)
    if student.dim() == 2:
        return Rows(student, teachers, mask, True, classes)
    # stored answers are those of the rows that count already
    whole = [logits for logits in teachers if isinstance(logits, Tensor) and logits.dim() > 2]
    where = places()
    if where is not None and len(where) >= _MOST * mask.numel() and len(whole) == len(teachers):
        return Rows(student, teachers, mask, True, classes)

    def some(logits: Tensor) -> Tensor:
        return logits[mask] if where is None else logits.flatten(0, -2).index_select(0, where)

    assert classes is not None
    classes = classes[mask] if where is None else classes.flatten().index_select(0, where)

    return Rows(some(student), [
        some(logits) if isinstance(logits, Tensor) and logits.dim() > 2 else logits for logits in teachers
    ], None, True, classes)


def kd_term(
    loss: Loss, rows: Rows, weights: Sequence[float], combine: str, temperature: float | None, share: Share, batch: Any,
    guard: Guard, index: int = 0,
) -> Tensor:
    """The KD scalar of a microbatch, ready for Composer's weighing.

    Args:
        loss: The loss.
        rows: The logits, from :func:`rows_that_count`.
        weights: One for each teacher.
        combine: ``'logits'`` or ``'probabilities'``.
        temperature: The temperature, where it follows a scheduler.
        share: How Composer weighs this microbatch.
        batch: The microbatch.
        guard: Looks at what is not finite.
        index: Which of the training's losses it is, for the guard.

    Returns:
        A scalar with a graph to the student's logits; zero, with a graph, where no row counts.
    """
    student = rows.student
    if student.numel() == 0:
        return student.float().sum()
    student, teachers = on_the_same(student, rows.teachers, loss.name == 'hard_label')
    if len(teachers) == 1:
        target = teachers[0]
    elif combine == 'logits':
        target = combine_logits(teachers, weights)
    else:
        heat = temperature if temperature is not None else float(loss.settings.get('temperature', 1.0))
        assert loss.space is not None, 'settings refuse it'
        target = combine_probabilities(teachers, weights, temperature=heat, space=loss.space)
    if guard.skips:
        student = student.view_as(student)
    values = loss.rows(student, target, temperature=temperature, mask=rows.mask, labels=rows.labels)
    bad = guard.rows(values, target, rows.mask, index)
    if bad is not None:
        left_out(student, bad)
        values = values.masked_fill(bad, 0.0)
    return share.mean(values.sum(), batch) if rows.counted and share.counts else values.mean()


def check_formats(
    formats: Sequence[Format | None], at_once: int, loss: Loss, combine: str, heat: float | None, where: str = 'loss',
) -> None:
    """Refuse stored answers that do not say what the loss asks for.

    Args:
        formats: Of each teacher, how its answers are stored; ``None`` where they are not.
        at_once: How many teachers answer for a batch.
        loss: The loss.
        combine: How several answers become one.
        heat: The temperature of the loss, where it has one and that does not vary.
        where: Which setting the loss is, for messages.

    Raises:
        ValueError: Naming what does not go together, and what does.
    """
    sparse = [form for form in formats if form is not None and form.name != 'dense']
    for form in sparse:
        told = f"teachers: stored answers of the format '{form.describe()}' hold probabilities of some classes"
        if loss.space != 'softmax' or loss.all_classes:
            raise ValueError(
                f"{told}, and the loss '{loss.name}' asks for all logits. Store them as dense, or use a loss of "
                'softmax probabilities such as kl_divergence.',
            )
        if loss.has_temperature and heat != form.temperature:
            has = 'one that varies' if heat is None else f'{heat:g}'
            raise ValueError(
                f'{told} at the temperature {form.temperature:g}, and the loss has {has}. Set {where}.temperature to '
                f'{form.temperature:g}, or store them at another or as dense.',
            )
        if form.name == 'sampled' and loss.name not in UNBIASED:
            raise ValueError(
                f"{told} that were drawn: they are right on average for losses that are linear in them "
                f"({', '.join(sorted(UNBIASED))}), which '{loss.name}' is not. Use one of these, or store top_k.",
            )
    if at_once < 2 or not sparse:
        return
    if combine != 'probabilities':
        raise ValueError(
            f"combine: {at_once} teachers answer for a batch and the answers of {len(sparse)} are stored as "
            "probabilities, so that their logits cannot be averaged. Use combine='probabilities', "
            'teachers_per_batch=1, or store them as dense.',
        )
    top = sum(form.name == 'top_k' for form in sparse)
    if top > 1 or (top < len(sparse) and top):
        raise ValueError(
            f'teachers: {at_once} answer for a batch, and {top} of them are stored as top_k beside '
            f'{len(sparse) - 1} more that know other classes only: their mean is not known. Use '
            'teachers_per_batch=1, or store them all as sampled or dense.',
        )
