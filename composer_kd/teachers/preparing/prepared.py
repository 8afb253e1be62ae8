"""A teacher that was prepared, and the look at its first answers that it has to pass."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.batches import batch_size_of, cut
from composer_kd.teachers.preparing.checking import agreement, relative_error
from composer_kd.teachers.preparing.copies import sharing_copy
from composer_kd.teachers.preparing.steps import Step, on_images

log = logging.getLogger(__name__)

CHECKED, COMPARED = 8, 64
"""At most so many samples of the first batch are checked; on so many a smaller resolution is compared."""

Ask = Callable[[nn.Module, Any, Tensor | None], Tensor]
"""Of a model, a batch without labels and positions in it, the logits."""


class Prepared:
    """A prepared model, checked at its first answer against the untouched one.

    Until it is settled both are there, which share the memory of the weights that no step changed: what the steps
    changed (in the worst case all weights) lies there twice, and nothing else.

    Args:
        model: The untouched model.
        steps: Of :func:`composer_kd.teachers.preparing.choose_steps`, one or more.
        who: The teacher, for messages.
        tolerance: How far the first answers may be off; see :func:`tolerance_of`.
        ask: Asks a model.
        together: Whether all ranks have to ask the model equally often, as where its weights lie in parts: then its
            first answer takes three forwards, whatever the batch and however far it is off.

    Attributes:
        untouched: The model as it came, until the preparation is settled.
        steps: That are taken.
        error: Of the first answer, once there was one.
        agreement: With a smaller resolution, the share of rows with the first choice that they have at full size, and
            the KL divergence from that, once there was an answer.
        failed: Why what was asked for cannot be had, once that is known.

    Raises:
        ValueError: If the model cannot be copied, or a step fails, that was asked for by name.
    """

    def __init__(
        self, model: nn.Module, steps: Sequence[Step], who: str, tolerance: float, ask: Ask,
        together: bool = False,
    ) -> None:
        self.untouched: nn.Module | None = model
        self.steps = list(steps)
        self.error: float | None = None
        self.agreement: tuple[float, float] | None = None
        self.failed: str | None = None
        self._who, self._tolerance, self._ask, self._together = who, tolerance, ask, together
        self._left_out: set[str] = set()
        self._model: nn.Module | None = self._made_or_left(model)

    def _made_or_left(self, model: nn.Module) -> nn.Module:
        try:
            return self._made(self.steps)
        except Exception as error:
            changing = [step for step in self.steps if step.change is not None]
            for step in changing:
                if step.asked:
                    told = f'{self._who}: prepare.{step.name} fails: {_told(error)}. Leave it out.'
                    raise ValueError(told) from error
            log.debug('%s cannot be copied, so it is not prepared: %s', self._who, error)
            self.leave_out([step.name for step in changing])
            return model

    @property
    def labels(self) -> list[str]:
        """What was done, for logs and records."""
        return [step.label for step in self.steps]

    @property
    def left_out(self) -> list[str]:
        """The settings of steps that failed and were left out."""
        return sorted(self._left_out)

    def leave_out(self, names: Collection[str]) -> None:
        """Take no steps of these settings, as another rank or an earlier part of the training did not."""
        fresh = set(names) - self._left_out
        self._left_out |= fresh
        if fresh & {step.name for step in self.steps}:
            self.steps = [step for step in self.steps if step.name not in fresh]
            if self.untouched is not None:
                self._model = self._made(self.steps)

    def _made(self, steps: Sequence[Step]) -> nn.Module:
        assert self.untouched is not None
        changes = [step.change for step in steps if step.change is not None]
        if not changes:
            return self.untouched
        model = sharing_copy(self.untouched)
        for change in changes:
            change(model)
        return model.eval()

    @property
    def model(self) -> nn.Module:
        """The prepared model."""
        assert self._model is not None
        return self._model

    def settle(self) -> bool:
        """Let the untouched model go; whether that is another one than answers from now on."""
        untouched, self.untouched = self.untouched, None
        return untouched is not self._model

    def release(self) -> None:
        """Let both models go."""
        self.untouched = self._model = None

    def answer(self, batch: Any, positions: Tensor | None, labels: Any, check: bool = True) -> Tensor:
        """The prepared teacher's logits, checked the first time.

        Args:
            batch: The batch without its labels.
            positions: At which of its tokens they are wanted; see :meth:`composer_kd.teachers.Teacher.outputs`.
            labels: The batch's labels.
            check: Whether to check an answer that is the first.
        """
        if check and self.error is None:
            return self._first(batch, positions, labels)
        return self._run(self.model, self.steps, batch, positions)

    def flops_of(self, count: Callable[[], Any]) -> Any:
        """Call what counts the operations of a forward: not of a compiled one, whose kernels do not tell."""
        if not any(step.name == 'compile' for step in self.steps):
            return count()
        with torch.compiler.set_stance('force_eager'):
            return count()

    def _run(self, model: nn.Module, steps: Sequence[Step], batch: Any, positions: Tensor | None) -> Tensor:
        with ExitStack() as contexts:
            for step in steps:
                if step.around is not None:
                    contexts.enter_context(step.around())
                if step.images is not None:
                    batch, found = on_images(batch, step.images)
                    if not found and step.name == 'resolution':
                        raise ValueError(
                            f'{self._who}: prepare.resolution makes images smaller, and its batches hold none: tensors '
                            'of floating point with four dimensions. Leave it out.',
                        )
            logits = self._ask(model, batch, positions)
            return logits.clone() if any(step.clones for step in steps) else logits

    def _first(self, batch: Any, positions: Tensor | None, labels: Any) -> Tensor:
        # a compiled model is compiled for the size of its batches, so for no smaller one
        compiled = any(step.name == 'compile' for step in self.steps)
        few, places, some = (batch, positions, labels) if compiled else _few(batch, positions, labels)
        resolution = [step for step in self.steps if step.name == 'resolution']
        untouched = self.untouched
        assert untouched is not None
        whole = None
        if resolution and not self._together:
            whole = self._at_full_size(untouched, *_few(batch, positions, labels, COMPARED)[:2])
        try:
            expected = self._run(untouched, resolution, few, places)
        except (RuntimeError, AssertionError, TypeError, IndexError) as error:
            if not resolution or out_of_memory(error):
                raise
            raise ValueError(
                f'{self._who}: it cannot take images at prepare.resolution: {_told(error)}. Leave it out.',
            ) from error
        answer, off, reason = self._measured(self.model, self.steps, few, places, some, expected)
        if off > self._tolerance and self._together:
            self._refuse(self.steps[-1], off, reason)
        elif off > self._tolerance:
            answer, off = None, self._blame(few, places, some, expected, reason)
        if answer is None or few is not batch or self._together:
            answer = self._run(self.model, self.steps, batch, positions)
        if whole is not None:
            self._compare(answer, whole)
        self.error = off
        log.info('%s is prepared (%s); its first answers are off by %.2g of their spread.', self._who, ', '.join(
            self.labels) or 'no step is left', off)
        return answer

    def _measured(
        self, model: nn.Module, steps: Sequence[Step], batch: Any, positions: Tensor | None, labels: Any,
        expected: Tensor,
    ) -> tuple[Tensor | None, float, str]:
        """An answer, how far it is off, and in words why, where there is none."""
        try:
            answer = self._run(model, steps, batch, positions)
        except Exception as error:
            if out_of_memory(error):
                raise
            return None, math.inf, _told(error)
        return answer, relative_error(answer, expected, labels), ''

    def _blame(self, batch: Any, positions: Tensor | None, labels: Any, expected: Tensor, reason: str) -> float:
        """Take one step after the other, and leave out those that take the answers too far off."""
        kept: list[Step] = []
        last = 0.0
        for step in self.steps:
            try:
                model = self._made([*kept, step])
                _, off, why = self._measured(model, [*kept, step], batch, positions, labels, expected)
            except Exception as failure:
                if out_of_memory(failure):
                    raise
                off, why = math.inf, _told(failure)
            if off <= self._tolerance:
                kept.append(step)
                last = off
                continue
            self._left_out.add(step.name)
            self._refuse(step, off, why) if step.asked else self._warn(step, off, why)
        if len(kept) == len(self.steps):  # each alone is fine
            last = math.inf
            self._refuse(kept[-1], last, reason or 'it gives other answers each time it is asked')
        self.steps, self._model = kept, self._made(kept)
        return last

    def _refuse(self, step: Step, error: float, why: str) -> None:
        if self.failed is None:
            self.failed = f'{self._off(step, error, why)} Leave that out, or give prepare.tolerance a larger value.'

    def _warn(self, step: Step, error: float, why: str) -> None:
        warnings.warn(f'{self._off(step, error, why)} That is left out.', stacklevel=2)

    def _off(self, step: Step, error: float, why: str) -> str:
        if why:
            return f'{self._who}: prepare.{step.name} ({step.label}) fails: {why}.'
        return (
            f'{self._who}: prepare.{step.name} ({step.label}) takes its first answers {error:.2g} of their spread away '
            f'from those of the untouched model, and {self._tolerance:g} is allowed.'
        )

    def _at_full_size(self, model: nn.Module, batch: Any, positions: Tensor | None) -> Tensor:
        size = batch_size_of(batch) or 0
        parts = [cut(batch, slice(begin, begin + CHECKED)) for begin in range(0, size, CHECKED)]
        return torch.cat([self._ask(model, part, None) for part in parts]) if positions is None else self._ask(
            model, batch, positions,
        )

    def _compare(self, answer: Tensor, whole: Tensor) -> None:
        if answer.shape[1:] != whole.shape[1:]:
            raise ValueError(
                f'{self._who}: at prepare.resolution its answers are of the shape {tuple(answer.shape[1:])} a sample, '
                f'and at full size {tuple(whole.shape[1:])}. It answers for places in the image; leave it out.',
            )
        self.agreement = agreement(answer[:len(whole)], whole)
        log.info(
            '%s makes the same first choice at %s as at full size for %.1f%% of %d samples; KL %.3g nats.', self._who,
            next(step.label for step in self.steps if step.name == 'resolution'), 100 * self.agreement[0], len(whole),
            self.agreement[1],
        )


def out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help, which is Composer's to try."""
    return isinstance(error, torch.OutOfMemoryError) or 'out of memory' in str(error)


def _few(
    batch: Any, positions: Tensor | None, labels: Any, most: int = CHECKED,
) -> tuple[Any, Tensor | None, Any]:
    """The first samples of a batch, with their positions and labels."""
    size = batch_size_of(batch)
    whole = batch, positions, labels
    if size is None or size <= most or _mixes(positions, labels):
        return whole
    few = slice(0, most)
    some = cut(labels, few) if isinstance(labels, Tensor) and len(labels) == size else labels
    if positions is not None:
        positions = positions[positions < most * labels.shape[1]]
    return cut(batch, few), positions, some


def _mixes(positions: Tensor | None, labels: Any) -> bool:
    """Whether it is not known which positions are whose."""
    return positions is not None and not (isinstance(labels, Tensor) and labels.dim() == 2)


def _told(error: BaseException) -> str:
    told = ' '.join(str(error).split()) or type(error).__name__
    return f'{told[:300]}...' if len(told) > 300 else told.rstrip('.')
