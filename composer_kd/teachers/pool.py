"""The teachers of one training: loaded, compared across ranks, placed, asked, let go."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.batches import POSITIONS, Key, LogitsKey, target_of
from composer_kd.teachers.build import build_teachers
from composer_kd.teachers.placement import choose_placements, size_of
from composer_kd.teachers.specs import TeacherSpec
from composer_kd.teachers.teacher import Teacher

log = logging.getLogger(__name__)

Split = Callable[[Any, int], Sequence[Any]]
_Part = tuple[Any, Tensor | None, Tensor | None]


class Pool:
    """The teachers of one training.

    Args:
        specs: What the user asked for; user's modules among them are forgotten once they are teachers.
        placement: Of :data:`composer_kd.teachers.placement.PLACEMENTS`.
        microbatch_size: Samples of a batch that a teacher is asked about at once, 1 or more; ``None`` for all.
        input_key: As of :func:`build_teachers`, and so are ``target_key`` and ``logits_key``.
        target_key: Where a batch holds the labels.
        logits_key: Where outputs hold the logits.

    Attributes:
        teachers: The teachers, once they are loaded. Those that this rank never asks are released.
    """

    def __init__(
        self, specs: list[TeacherSpec], placement: str = 'replicated', microbatch_size: int | None = None,
        input_key: Key = None, target_key: Key = None, logits_key: LogitsKey = None,
    ) -> None:
        self.teachers: list[Teacher] = []
        self._specs, self._placement, self._size = specs, placement, microbatch_size
        self._keys = (input_key, target_key, logits_key)
        self._split: Split | None = None
        self._lockstep = _Lockstep()

    def load(self, state: State, held: Collection[int]) -> None:
        """Load all teachers, compare them across ranks and place those that this rank keeps; every rank calls this.

        Args:
            state: The training, with the student after the other algorithms' surgery.
            held: Indices of the teachers that this rank will ask.

        Raises:
            FileNotFoundError: As :func:`build_teachers`.
            ValueError: Likewise, for a teacher that is not what its ``digest`` says, or not the same on every rank, and
                for a placement that this training does not allow.
        """
        student: Any = state.model
        teachers = build_teachers(self._specs, student, *self._keys)
        by_rank = len(held) < len(teachers) or any(dist.all_gather_object(len(held) < len(teachers)))
        placements = choose_placements(self._placement, [size_of(t.module) for t in teachers], state, by_rank)
        self._compare(teachers, placements)
        for index, (teacher, placement) in enumerate(zip(teachers, placements, strict=True)):
            if index in held:
                teacher.place(state, placement)
            else:
                teacher.release()
            if self._placement == 'auto' and placement != 'replicated':
                log.info("Teacher '%s' is large for this device's memory: placement '%s'.", teacher.name, placement)
        self.teachers = teachers
        # a module that the user has let go of must be free to go when its window closes
        self._specs[:] = [dataclasses.replace(spec, source=None) for spec in self._specs]

    def _compare(self, teachers: Sequence[Teacher], placements: Sequence[str]) -> None:
        for spec, teacher in zip(self._specs, teachers, strict=True):
            if spec.digest is not None and not teacher.digest.startswith(spec.digest):
                raise ValueError(
                    f'teachers[{spec.index}].digest: {spec.origin} was to have the digest {spec.digest}, and has '
                    f'{teacher.digest[:16]}: it is not the teacher that was meant. Give that one, or this digest.',
                )
        everywhere: list[list[str]] = dist.all_gather_object([teacher.digest for teacher in teachers])
        for index, (teacher, placement) in enumerate(zip(teachers, placements, strict=True)):
            digests = [ranks[index] for ranks in everywhere]
            if len(set(digests)) == 1:
                continue
            told = '; '.join(
                f"{digest[:16]} on rank {', '.join(str(r) for r, d in enumerate(digests) if d == digest)}"
                for digest in dict.fromkeys(digests)
            )
            who = f"Teacher '{teacher.name}' ({teacher.origin})"
            message = f'{who} is not the same on every rank: its digest is {told}.'
            if self._specs[index].kind != 'module' or placement == 'sharded':
                raise ValueError(
                    f'{message} Was it changed while it was read, or is it another file on another machine? Give '
                    'every rank the same weights.',
                )
            warnings.warn(f"{message} For an ensemble across ranks, use sampling='by_rank'.", stacklevel=2)

    def fit_start(self, state: State, split: Split) -> None:
        """Get ready to answer.

        Args:
            state: The training.
            split: How Composer splits a batch into microbatches of so many samples.
        """
        self._split = split
        for teacher in self.held:
            teacher.to_device(state)

    @property
    def held(self) -> list[Teacher]:
        """The teachers that this rank has in memory."""
        return [teacher for teacher in self.teachers if not teacher.released]

    def open_batch(self, state: State) -> None:
        """A batch begins on which a teacher will answer; every rank calls this."""
        if any(teacher.placement == 'sharded' for teacher in self.held):
            assert self._split is not None
            self._lockstep.open_batch(state, self._split)

    def outputs(
        self, asked: Sequence[int], batch: Any, positions: Tensor | None, scheduled: Collection[int],
    ) -> dict[int, Tensor]:
        """The answers of some teachers to a microbatch.

        Args:
            asked: Their indices.
            batch: The microbatch, on the device.
            positions: At which of its tokens logits are wanted; see :meth:`Teacher.outputs`.
            scheduled: Those of them that are asked in every microbatch of this batch, on all ranks; the others are
                looked at beside them, once.

        Returns:
            Logits by index.
        """
        parts: list[_Part] = [(batch, positions, None)]
        if self._size is not None:
            assert self._split is not None
            parts = _parts(batch, positions, self._size, self._split, self._keys[1])
        answers = {}
        for i in asked:
            teacher = self.teachers[i]
            said = [teacher.outputs(part, where) for part, where, _ in parts]
            if teacher.placement == 'sharded':
                for _ in range(self._lockstep.missing(len(parts), self._size, i in scheduled)):
                    teacher.outputs(*parts[-1][:2])  # other ranks have more to ask, and need this one's part of it
            answers[i] = _joined(said, [places for _, _, places in parts])
        self._lockstep.close_microbatch()
        return answers

    def flops(self, batch: Any, positions: Tensor | None) -> dict[str, float]:
        """FLOPs of one forward for one sample, by teacher; every rank calls this.

        Raises:
            RuntimeError: On every rank, if they cannot be counted on one.
        """
        counted: dict[str, float] | str
        try:
            counted = {teacher.name: teacher.flops(batch, positions) for teacher in self.held}
        except Exception as error:  # others wait for this rank's answer, whatever it is
            counted = f'{type(error).__name__}: {error}'
        found: list[dict[str, float] | str] = dist.all_gather_object(counted)
        for rank in found:
            if isinstance(rank, str):
                raise RuntimeError(rank)
        return {name: flops for rank in found if isinstance(rank, dict) for name, flops in rank.items()}

    def release(self) -> None:
        """Give up the memory of all."""
        for teacher in self.teachers:
            teacher.release()


class _Lockstep:
    """How often a sharded teacher has to run on this rank, so that it runs equally often on all.

    A student that is sharded itself makes as many microbatches on every rank; one under DDP need not, as where the last
    batch of an epoch is uneven. The ranks with fewer then ask again in their last one, before its gradients are summed
    over ranks, so that all ranks communicate in the same order.
    """

    def __init__(self) -> None:
        self._microbatch = 1
        self._left = self._extra = 0

    def open_batch(self, state: State, split: Split) -> None:
        assert state.device_train_microbatch_size is not None
        self._microbatch = math.ceil(state.device_train_microbatch_size)
        self._left, self._extra = -1, 0
        if not state.fsdp_enabled and dist.get_world_size() > 1:
            own = len(split(state.batch, self._microbatch))
            most = state.device.tensor_to_device(torch.tensor([own]))
            dist.all_reduce(most, reduce_operation='MAX')
            self._left, self._extra = own, int(most.item()) - own

    def missing(self, calls: int, size: int | None, scheduled: bool) -> int:
        """How many more calls than ``calls`` are due in this microbatch, in parts of ``size``."""
        due = 1 if size is None else math.ceil(self._microbatch / size)
        return max(due - calls, 0) + (self._extra * due if scheduled and self._left == 1 else 0)

    def close_microbatch(self) -> None:
        self._left -= 1


def _parts(
    batch: Any, positions: Tensor | None, size: int, split: Split, target_key: Key,
) -> list[_Part]:
    """A microbatch in parts of ``size`` samples: each with its own positions, and their places among all."""
    whole = {key: value for key, value in batch.items() if key != POSITIONS} if isinstance(batch, dict) else batch
    parts = list(split(whole, size))
    if positions is None:
        return [(part, None, None) for part in parts]
    found: list[_Part] = []
    before = 0
    for part in parts:
        labels = target_of(part, target_key)
        tokens = labels.shape[0] * labels.shape[1]
        places = ((positions >= before) & (positions < before + tokens)).nonzero().squeeze(1)
        found.append((part, positions[places] - before, places))
        before += tokens
    return found


def _joined(said: Sequence[Tensor], places: Sequence[Tensor | None]) -> Tensor:
    if len(said) == 1:
        return said[0]
    joined = torch.cat(list(said))
    order = [where for where in places if where is not None]
    return joined if not order else torch.empty_like(joined).index_copy_(0, torch.cat(order), joined)
