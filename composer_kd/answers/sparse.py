"""Answers in few numbers, as they lie in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.functional import all_classes, on_outcomes


@dataclass(frozen=True)
class Sparse:
    """A teacher's probabilities of some classes of each row, and of all the others together.

    Attributes:
        classes: Shape ``(R, k)`` int64.
        log_probabilities: Shape ``(R, k)`` float32, at ``temperature``; ``-inf`` in places that are not used.
        log_rest: Shape ``(R,)`` float32: the log of the mass of all other classes.
        temperature: What the teacher's logits were divided by.
        drawn: Whether the classes were drawn, so that the probabilities are estimates without bias.
        count: The number of all classes.
    """

    classes: Tensor
    log_probabilities: Tensor
    log_rest: Tensor
    temperature: float
    drawn: bool
    count: int

    def __len__(self) -> int:
        return len(self.classes)

    def logits(self) -> Tensor:
        """Logits over the outcomes, ``(R, k + 1)``, whose softmax at ``temperature`` is what the teacher holds."""
        return torch.cat([self.log_probabilities, self.log_rest.unsqueeze(-1)], dim=-1) * self.temperature

    def seen(self, logits: Tensor) -> Tensor:
        """Another model's logits ``(R, C)`` over the same outcomes, ``(R, k + 1)``."""
        used = self.log_probabilities > -torch.inf if self.drawn else None
        return on_outcomes(logits, self.classes, used, self.temperature)

    def dense(self) -> Tensor:
        """Logits over all classes, ``(R, C)``, of drawn ones; ``-inf`` for those that were not drawn."""
        return all_classes(self.classes, self.log_probabilities, self.count) * self.temperature

    def likeliest(self) -> Tensor:
        """The class that the teacher holds likeliest among those that are known, ``(R,)``."""
        best = self.log_probabilities.argmax(dim=-1, keepdim=True)
        return self.classes.gather(-1, best).squeeze(-1)


Answer = Tensor | Sparse
"""What a teacher says of the rows of a microbatch: logits ``(..., C)``, or a few of them."""


def on_the_same(student: Tensor, answers: Sequence[Any], only_best: bool = False) -> tuple[Tensor, list[Tensor]]:
    """Student and teachers over the same outcomes, as logits that any loss of softmax probabilities compares.

    Args:
        student: Logits ``(R, C)``.
        answers: Of each teacher: logits of that shape, or :class:`Sparse`. Of those that were not drawn one at most,
            and then none drawn.
        only_best: Whether the loss asks for the likeliest class alone, which is never 'all the others'.

    Returns:
        The student's logits and each teacher's, all of one shape: over all classes, or over some and the others.
    """
    sparse = [answer for answer in answers if isinstance(answer, Sparse)]
    if not sparse:
        return student, list(answers)
    if len(answers) > 1 and all(answer.drawn for answer in sparse):
        return student, [answer.dense() if isinstance(answer, Sparse) else answer for answer in answers]
    frame = sparse[0]
    targets = [answer.logits() if answer is frame else frame.seen(answer) for answer in answers]
    if only_best:
        targets = [target.index_fill(-1, target.new_tensor([target.shape[-1] - 1]).long(), -torch.inf)
                   for target in targets]
    return frame.seen(student), targets
