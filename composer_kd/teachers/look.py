"""A look at each teacher on real batches, before it is trusted."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from composer_kd.answers import Answer, Sparse
from composer_kd.batches import classes_last


class Look:
    """What the first batches show of one teacher.

    Args:
        name: The teacher's name.
        origin: Where it comes from.
        stored: Whether its answers come from a store.
        compared: Whether its logits are compared with the student's.
    """

    def __init__(self, name: str, origin: str, stored: bool = False, compared: bool = True) -> None:
        self._stored, self._compared = stored, compared
        self._who = f"Teacher '{name}' ({origin})"
        self._right: Tensor | None = None
        self._seen = 0
        self._classes = 0

    def at(self, student_logits: Tensor, answer: Answer, labels: Any, mask: Tensor | None) -> None:
        """Look at its logits for one microbatch, beside the student's.

        Args:
            student_logits: Shape ``(N, ..., C)``.
            answer: The teacher's logits, which should have the same shape; or what was stored of those of the rows that
                count, whose classes were compared before.
            labels: The batch's labels, or ``None``.
            mask: Which labels count, or ``None`` where labels are not class numbers.

        Raises:
            ValueError: For another shape.
        """
        if self._stored:
            self._at_stored(student_logits, answer, labels, mask)
            return
        assert isinstance(answer, Tensor)
        teacher_logits = answer
        if not self._compared and teacher_logits.shape != student_logits.shape:
            return  # of another task, whose labels these are not
        if teacher_logits.shape != student_logits.shape:
            raise ValueError(
                f'{self._who} gives logits of shape {tuple(teacher_logits.shape)} where the student gives '
                f'{tuple(student_logits.shape)}. Distillation on logits needs the same classes or vocabulary in the '
                'same order, at the same positions: choose a teacher made for this task, or say with logits_key where '
                'its logits are.',
            )
        logits = classes_last(teacher_logits, labels)
        if mask is None or mask.shape != logits.shape[:-1]:
            return
        chosen = mask if labels.shape == mask.shape else torch.zeros_like(mask)
        self._right = ((logits.argmax(dim=-1) == labels) & chosen).sum() + (0 if self._right is None else self._right)
        self._seen += int(chosen.sum())
        self._classes = logits.shape[-1]

    def _at_stored(self, student_logits: Tensor, answer: Answer, labels: Any, mask: Tensor | None) -> None:
        rows = student_logits.shape[:-1].numel() if mask is None or student_logits.dim() == 2 else int(mask.sum())
        if len(answer) != rows:
            raise ValueError(
                f'{self._who} has {len(answer)} stored rows where the student has {rows} that count: they are answers '
                'to other labels. Write the store again for this training.',
            )
        if mask is None or not isinstance(labels, Tensor) or labels.shape != student_logits.shape[:-1]:
            return
        if student_logits.dim() > 2:
            labels, mask = labels[mask], mask[mask]
        best = answer.likeliest() if isinstance(answer, Sparse) else answer.argmax(dim=-1)
        self._right = ((best == labels) & mask).sum() + (0 if self._right is None else self._right)
        self._seen += int(mask.sum())
        self._classes = student_logits.shape[-1]

    def verdict(self) -> None:
        """Warn, with the figure, if the teacher was right no more often than chance."""
        if self._right is None or self._seen == 0:
            return
        accuracy, chance = int(self._right) / self._seen, 1 / self._classes
        # two standard errors: of so few labels a teacher that guesses gets more than its share right every other time
        if accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / self._seen):
            warnings.warn(
                f'{self._who} is right on {accuracy:.1%} of {self._seen} labels of the first batches, no better than '
                f'chance ({chance:.1%} for {self._classes} classes) as far as so many can tell. Were its weights '
                'loaded, are its classes in this order, and its inputs normalised like these?', stacklevel=2,
            )
