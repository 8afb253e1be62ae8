"""Values that are not finite: noticed without waiting for the device, then named, or left out and counted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

log = logging.getLogger(__name__)

ON_NONFINITE = ('stop', 'skip')


class Guard:
    """Counts what is not finite in the teachers' answers and in the KD term of a batch.

    Nothing is read from the device until the batch is over and the losses are read anyway. The step of such a batch is
    then done, but no checkpoint of it is written: checkpoints come later than this.

    Args:
        mode: ``'stop'`` or ``'skip'``.
        who: The teachers as messages call them.
        forbidden: Whether the losses stay finite where a teacher forbids a class with minus infinity; of each where
            they are several.
        losses: What the losses are called, where they are several.
    """

    def __init__(
        self, mode: str, who: Sequence[str], forbidden: bool | Sequence[bool], losses: Sequence[str] = (),
    ) -> None:
        self.skips = mode == 'skip'
        self._who, self._losses = list(who), list(losses) or ['']
        self._fine = [forbidden] if isinstance(forbidden, bool) else list(forbidden)
        self._forbidden = all(self._fine)
        self._counts: Tensor | None = None

    def open_batch(self) -> None:
        """Forget what an earlier try at the batch left behind."""
        self._counts = None

    def teacher(self, index: int, logits: Tensor, mask: Tensor | None = None) -> None:
        """Look at a teacher's answer to a microbatch.

        Args:
            index: Which teacher's.
            logits: Shape ``(..., C)``.
            mask: Which rows count, shape ``(...)``; ``None`` for all.
        """
        if logits.numel():
            self._add(index, _broken(logits, mask, self._forbidden).any())

    def rows(
        self, values: Tensor, target: Tensor | None, mask: Tensor | None = None, index: int = 0,
    ) -> Tensor | None:
        """Look at the KD term of a microbatch, or at one loss of it.

        Args:
            values: The loss, one value a row, ``(...)``, or one for all rows.
            target: The logits it was compared with, ``(..., C)``; ``None`` where it compares something else.
            mask: Which rows count, shape ``(...)``; ``None`` for all.
            index: Which of the losses.

        Returns:
            With ``'skip'``, which values are to be left out, of the shape of ``values``; ``None`` otherwise.
        """
        if not self.skips:
            self._add(len(self._who) + index, ~torch.isfinite(values.detach().sum()))
            return None
        bad = ~torch.isfinite(values.detach())
        if target is not None:
            # a loss may look finite on a broken target, as a first choice among NaNs does
            broken = _broken(target, mask, self._fine[index]) | _all_forbidden(target, mask)
            bad |= broken if broken.shape == values.shape else broken.any()
        self._add(len(self._who) + index, bad.sum())
        return bad

    def _add(self, index: int, count: Tensor) -> None:
        if self._counts is None:
            self._counts = torch.zeros(len(self._who) + len(self._losses), device=count.device)
        self._counts[index] += count

    def counts(self, like: Tensor) -> Tensor:
        """What was found on this rank, in the device and type of ``like``: microbatches by teacher, and then by loss,
        with ``'stop'`` microbatches, with ``'skip'`` the rows left out.
        """
        size = len(self._who) + len(self._losses)
        return like.new_zeros(size) if self._counts is None else self._counts.to(like)

    def close_batch(self, total: Sequence[float], base: float, state: State, before: int) -> int:
        """Say what was found. Call on every rank, at ``BATCH_END``.

        Args:
            total: The counts, summed over all ranks.
            base: The model's own loss, for the message; NaN where it was not kept.
            state: The training, one batch on.
            before: Samples or tokens left out so far.

        Returns:
            Samples or tokens left out in this batch, over all ranks.

        Raises:
            RuntimeError: With ``'stop'``, on every rank, naming batch, teachers and ranks.
        """
        if not any(total):
            return 0
        found: list[list[float]] = dist.all_gather_object(self.counts(torch.zeros(1)).tolist())
        names = [
            f'{who} on {_ranks([rank for rank, counts in enumerate(found) if counts[i]])}'
            for i, who in enumerate(self._who) if total[i]
        ]
        first = len(self._who)
        terms = ' and '.join(
            f"{f'a loss {label!r}' if label else 'a KD term'} that is not finite on "
            f'{_ranks([rank for rank, counts in enumerate(found) if counts[first + i]])}'
            for i, label in enumerate(self._losses) if total[first + i]
        )
        batch = int(state.timestamp.batch) - 1
        what = f"logits that are not finite from {'; '.join(names)}" if names else (
            f"{terms}, though no teacher's logits were NaN or plus infinity"
        )
        if self.skips:
            rows = int(sum(total[first:]))
            if not before or len(str(before)) < len(str(before + rows)):  # the 1st, and when there is a digit more
                log.warning(
                    'Distillation met %s at batch %d; %d samples or tokens were left out of it there, %d so far.',
                    what, batch, rows, before + rows,
                )
            return rows
        raise RuntimeError(
            f"Distillation stopped at batch {batch} (precision {state.precision.value}, the model's own loss "
            f'{base:.4g}): {what}. Nothing after the last checkpoint was saved. Check that teacher, or the learning '
            "rate where it is the student's loss that grew; amp_fp16 overflows where amp_bf16 does not. "
            "on_nonfinite='skip' leaves such samples out and counts them.",
        )


def _broken(logits: Tensor, mask: Tensor | None, forbidden: bool) -> Tensor:
    """Rows with a value that no logit may have, ``(...)``; minus infinity forbids a class where the loss takes that."""
    bad = ~(logits.amax(dim=-1) < torch.inf)  # NaN is less than nothing
    if not forbidden:
        bad |= ~(logits.amin(dim=-1) > -torch.inf)
    return bad if mask is None else bad & mask.ne(0)


def _all_forbidden(logits: Tensor, mask: Tensor | None) -> Tensor:
    bad = torch.isneginf(logits.amax(dim=-1))
    return bad if mask is None else bad & mask.ne(0)


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def left_out(student: Tensor, bad: Any) -> None:
    """Keep rows that are left out from sending anything back: NaN times a weight of zero is NaN.

    Args:
        student: What the loss was given as the student's logits, ``(..., C)``: not the logits themselves, whose
            gradient from the model's own loss is none of ours.
        bad: Which rows, ``(...)``, or all of them, a scalar.
    """
    if student.requires_grad:
        student.register_hook(lambda grad: grad.masked_fill(bad.reshape(bad.shape + (1,) * (
            grad.dim() - bad.dim() if bad.dim() else 0)), 0.0))
