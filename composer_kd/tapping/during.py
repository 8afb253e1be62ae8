"""What losses on layers do in a training: capture, bring to one width, compare, and teach the projectors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.batches import Key, batch_size_of, target_of
from composer_kd.decision import Decision, Part
from composer_kd.entries import Entry
from composer_kd.features import FeatureLoss
from composer_kd.guard import Guard, left_out
from composer_kd.layers import Learner, Tap, Taps, Watch
from composer_kd.layers.widths import Shapes, check_shapes
from composer_kd.share import Share
from composer_kd.tapping.start import build_projectors, check_paths, name_of, observe, refuse_impossible
from composer_kd.teachers import Pool, Teacher
from composer_kd.term import Term

log = logging.getLogger(__name__)

Heard = Mapping[int, Sequence[Mapping[Tap, Tensor]]]
"""Of each teacher, what was captured of the parts of a microbatch."""


class Tapping:
    """The losses of one training that compare layers; where there are none, nothing is done.

    Args:
        entries: All losses.
        share: How Composer weighs microbatches.
        target_key: Where a batch holds the labels.
    """

    def __init__(self, entries: Sequence[Entry], share: Share, target_key: Key = None) -> None:
        self._entries = {i: entry for i, entry in enumerate(entries) if entry.layers is not None}
        self._share, self._target_key = share, target_key
        self._student: Taps | None = None
        self._learner: Learner | None = None
        self._numerators: dict[str, Tensor | float] = {}
        self._checked = False

    def __bool__(self) -> bool:
        return bool(self._entries)

    def load(self, state: State, pool: Pool) -> None:
        """Hook the layers and build the projectors, before the student is wrapped and any checkpoint is loaded.

        Every rank calls this, at ``INIT``.

        Raises:
            ValueError: For a layer that is not there, a training or a teacher that layers cannot be had of, and widths
                that cannot be seen.
        """
        if not self._entries:
            return
        refuse_impossible(state, pool)
        model: Any = state.model
        self.check_paths(model, pool.held)
        self._student = Taps(model, [tap for _, entry in self._each() for tap in entry.student], 'the student')
        wanted = [tap for _, entry in self._each() for tap in entry.teacher]
        for teacher in pool.held:
            assert isinstance(teacher, Teacher)
            who = f"teacher '{teacher.name}' ({teacher.origin})"
            teacher.watch = Watch(wanted, who)
        log.info('Losses compare layers, so teachers are prepared in precision and layout alone.')
        shapes = observe(self._entries, self._student, state, pool)
        modules = build_projectors(self._entries, len(pool.teachers), state.rank_zero_seed, shapes)
        if modules:
            self._learner = Learner(modules, state)
            log.info('Distillation trains %d projectors of %d parameters with the student.', len(modules), sum(
                p.numel() for module in modules.values() for p in module.parameters()))

    def check_paths(self, student: torch.nn.Module, teachers: Sequence[Any]) -> None:
        """As :func:`check_paths`."""
        check_paths(self._entries, student, teachers)

    def _each(self) -> list[tuple[int, Any]]:
        return [(i, entry.layers) for i, entry in self._entries.items()]

    def fit_start(self, state: State, at_once: int | None) -> None:
        """Hook on again after an earlier fit, and refuse teachers that are asked about several microbatches at once."""
        if self._student is not None:
            self._student.put_back()
        microbatch = None if state.auto_microbatching else state.device_train_microbatch_size
        if self._entries and at_once is not None and microbatch is not None and at_once // math.ceil(microbatch) > 1:
            raise ValueError(
                f'teacher_microbatch_size: {at_once} is more than one microbatch of {math.ceil(microbatch)}, and the '
                'features of layers are kept for one microbatch alone. Give that or less, or leave it out.',
            )

    def fit_end(self) -> None:
        """The training is over: what is saved or exported of the student has no hooks."""
        if self._student is not None:
            self._student.remove()

    def open_batch(self, state: State, now: Decision) -> None:
        """A batch begins: count its samples and tokens over all ranks. Every rank calls this."""
        if self._learner is not None:
            self._learner.open_batch()
        if now.closed and self._student is not None:
            self._student.remove()
        if not now.on or not self._on(now):
            return
        tokens = _token_mask(state.batch)
        size = self._share.size(state.batch, self._target_key)
        samples = float(batch_size_of(state.batch) or size)
        rows = torch.stack([
            torch.tensor(samples, dtype=torch.float64),
            torch.tensor(samples, dtype=torch.float64) if tokens is None else tokens.sum().double(),
            torch.tensor(float(size), dtype=torch.float64),
        ]) if tokens is None or not tokens.is_cuda else torch.stack([
            tokens.new_tensor(samples, dtype=torch.float64), tokens.sum().double(),
            tokens.new_tensor(float(size), dtype=torch.float64),
        ])
        if dist.get_world_size() > 1:
            rows = state.device.tensor_to_device(rows)
            dist.all_reduce(rows)  # the world size cancels in the ratio
        each: Any = rows.unbind() if rows.is_cuda or dist.get_world_size() > 1 else rows.tolist()
        least = [torch.clamp(each[k], min=1) if isinstance(each[k], Tensor) else max(each[k], 1.0) for k in (0, 1)]
        self._numerators = {'samples': each[2] / least[0], 'tokens': each[2] / least[1]}

    def _on(self, now: Decision) -> list[Part]:
        return [part for part in now.parts if part.index in self._entries]

    def before_forward(self, now: Decision) -> None:
        """The student is about to answer."""
        if self._student is not None and self._on(now):
            self._student.open()

    def add(self, term: Term, state: State, now: Decision, heard: Heard, guard: Guard) -> None:
        """Add the losses of layers that are on to a microbatch's KD term."""
        parts = self._on(now)
        if not parts:
            return
        assert self._student is not None
        student = self._student.take()
        teachers = {
            i: {tap: torch.cat([part[tap] for part in heard[i]]) if len(heard[i]) > 1 else heard[i][0][tap]
                for tap in heard[i][0]} for i in now.teachers
        }
        if not self._checked:
            self._check(student, teachers, parts)
        mask, labels = _token_mask(state.batch), target_of(state.batch, self._target_key)
        for part in parts:
            layers, total = self._entries[part.index].layers, None
            assert layers is not None
            for i in now.teachers:
                for pair, (mine, theirs) in enumerate(zip(layers.student, layers.teacher, strict=True)):
                    value = self._one(
                        part.index, self._projected(student[mine], part.index, pair, i, guard), teachers[i][theirs],
                        mask, labels, state.batch, guard,
                    ) * (now.weights[i] / len(layers.student))
                    total = value if total is None else total + value
            assert total is not None
            term.add(part.index, part.weight, total / sum(now.weights[i] for i in now.teachers))

    def _projected(self, feature: Tensor, index: int, pair: int, teacher: int, guard: Guard) -> Tensor:
        name = name_of(index, pair, teacher)
        if self._learner is None or name not in self._learner.modules:
            return feature.view_as(feature) if guard.skips else feature
        module, feature = self._learner.modules[name], feature.to(next(self._learner.modules[name].parameters()).dtype)
        # where widths were said and no map was seen there are no convolutions: the same product, channel by channel
        by_channel = feature.dim() == 4 and not any(isinstance(part, torch.nn.Conv2d) for part in module.modules())
        projected: Tensor = module(feature.movedim(1, -1)).movedim(-1, 1) if by_channel else module(feature)
        return projected

    def _one(
        self, index: int, student: Tensor, teacher: Tensor, mask: Tensor | None, labels: Any, batch: Any, guard: Guard,
    ) -> Tensor:
        loss = self._entries[index].loss
        assert isinstance(loss, FeatureLoss)
        of_tokens = mask is not None and loss.takes != 'map' and student.dim() > 2 and mask.shape in (
            student.shape[:2], torch.Size((student.shape[0], student.shape[-1])) if student.dim() == 4 else None,
        )
        values = loss.rows(student, teacher, mask=mask if of_tokens else None, labels=labels)
        if values.dim() == 2 and not of_tokens:
            values = values.mean(dim=1)
        bad = guard.rows(values, None, None, index)
        if bad is not None:
            left_out(student, bad.unsqueeze(1) if bad.dim() == 2 and student.dim() == 4 else bad)  # queries, not heads
            values = values.masked_fill(bad, 0.0)
        numerator = self._numerators['tokens' if values.dim() == 2 else 'samples']
        factor = numerator / max(self._share.size(batch, self._target_key), 1)
        return values.sum() * (factor.to(values) if isinstance(factor, Tensor) else factor)

    def _check(self, student: Mapping[Tap, Tensor], teachers: Any, parts: Sequence[Part]) -> None:
        """Look at the first features of the training; nothing of that waits for the device."""
        self._checked = True
        shapes = Shapes({str(tap): tuple(f.shape) for tap, f in student.items()}, {
            i: {str(tap): tuple(f.shape) for tap, f in found.items()} for i, found in teachers.items()})
        for part in parts:
            entry = self._entries[part.index]
            assert entry.layers is not None
            check_shapes(entry, shapes)
            for tap in entry.layers.student:
                if not student[tap].requires_grad:
                    raise ValueError(
                        f"losses.{entry.label}: the student's layer '{tap}' carries no gradient, so that nothing would "
                        'be learnt from it: it and all before it are frozen, or it lies within activation '
                        'checkpointing with use_reentrant=True. Use use_reentrant=False, or another layer.',
                    )

    def after_backward(self, state: State, now: Decision) -> None:
        """All microbatches of a batch are done: average the projectors' gradients. Every rank calls this."""
        if self._learner is not None and now.on:
            self._learner.reduce(state, {
                name for part in self._on(now) for i in now.askers
                for pair in range(len(self._entries[part.index].layers.student))  # type: ignore[union-attr]
                if (name := name_of(part.index, pair, i)) in self._learner.modules
            })

    def batch_end(self) -> None:
        """The student has made its step."""
        if self._learner is not None:
            self._learner.step()

    def state_dict(self) -> dict[str, str]:
        """The projectors, where there are any."""
        return {} if self._learner is None else {'projectors': self._learner.state_text()}

    def load_state_dict(self, state: Mapping[str, Any], or_anew: bool = False) -> None:
        """Go on with a checkpoint's projectors, where it has any; where they are others, refuse, or begin anew."""
        if self._learner is None or not state.get('projectors'):
            return
        try:
            self._learner.load_text(state['projectors'])
        except ValueError as error:
            if not or_anew:
                raise
            log.warning('Projectors begin anew. %s', error)


def _token_mask(batch: Any) -> Tensor | None:
    mask = batch.get('attention_mask') if isinstance(batch, Mapping) else None
    return mask.ne(0) if isinstance(mask, Tensor) and mask.dim() == 2 else None
