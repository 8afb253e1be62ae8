"""The teachers of one training: loaded, compared across ranks, placed, asked, let go."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.answers import Answer
from composer_kd.batches import Key, LogitsKey
from composer_kd.teachers.ahead import Ahead, Ready, Split
from composer_kd.teachers.build import AnyTeacher, build_teachers
from composer_kd.teachers.parts import Part, joined, parts_of
from composer_kd.teachers.placement import choose_placements
from composer_kd.teachers.specs import TeacherSpec
from composer_kd.teachers.stores import Stores, refuse_sharded
from composer_kd.teachers.teacher import Teacher
from composer_kd.teachers.words import shared_by

log = logging.getLogger(__name__)


class Pool:
    """The teachers of one training.

    Args:
        specs: What the user asked for; user's modules among them are forgotten once they are teachers.
        placement: Of :data:`composer_kd.teachers.placement.PLACEMENTS`.
        microbatch_size: Samples of a batch that a teacher is asked about at once, 1 or more; ``None`` for those of a
            microbatch. With more than those of a microbatch, see :class:`composer_kd.teachers.ahead.Ahead`.
        input_key: As of :func:`build_teachers`, and so are ``target_key`` and ``logits_key``.
        target_key: Where a batch holds the labels.
        logits_key: Where outputs hold the logits.
        temperature: Of the training's loss, where that is one number.
        ignore_index: The label that does not count.

    Attributes:
        teachers: The teachers, once they are loaded. Those that this rank never asks are released.
        shared: To how many logits everybody's are cut, as the vocabulary of one ends there; ``None`` for all.
    """

    def __init__(
        self, specs: list[TeacherSpec], placement: str = 'replicated', microbatch_size: int | None = None,
        input_key: Key = None, target_key: Key = None, logits_key: LogitsKey = None, temperature: float | None = None,
        ignore_index: int = -100,
    ) -> None:
        self.teachers: list[AnyTeacher] = []
        self.shared: int | None = None
        self._specs, self._placement, self._size = specs, placement, microbatch_size
        self._keys = (input_key, target_key, logits_key)
        self._temperature = temperature
        self.stores = Stores()
        self.heard: dict[int, list[Any]] = {}
        """Of the teachers that are watched, what was captured in the latest microbatch, part by part."""
        self._split: Split | None = None
        self._lockstep = _Lockstep()
        self._ahead = Ahead(microbatch_size, target_key, ignore_index)

    def load(self, state: State, held: Collection[int], by_rank: bool = False) -> None:
        """Load all teachers, compare them across ranks and place those that this rank keeps; every rank calls this.

        Args:
            state: The training, with the student after the other algorithms' surgery.
            held: Indices of the teachers that this rank will ask.
            by_rank: Whether ranks ask different teachers.

        Raises:
            FileNotFoundError: As :func:`build_teachers`.
            ValueError: Likewise, for a teacher that is not the same on every rank, and for a placement that this
                training does not allow.
        """
        student: Any = state.model
        teachers = build_teachers(self._specs, student, *self._keys, self._temperature)
        self._compare(teachers)
        mine = {i: teacher for i, teacher in enumerate(teachers) if i in held and isinstance(teacher, Teacher)}
        chosen = choose_placements(self._placement, list(mine.values()), state, by_rank)
        placements = dict(zip(mine, chosen, strict=True))
        refuse_sharded(teachers, placements)
        for index, teacher in enumerate(teachers):
            if index in held:
                teacher.place(state, placements.get(index, 'stored'))
                if self._placement == 'auto' and placements.get(index, 'replicated') != 'replicated':
                    log.info("Teacher '%s' is large for this device: it is %s.", teacher.name, placements[index])
            else:
                teacher.release()
        self.teachers = teachers
        self.shared = shared_by(teachers)
        keepers = {i: teacher.keeper for i, teacher in enumerate(teachers) if teacher.keeper is not None}
        self.stores.take(
            {i: keeper for i, keeper in keepers.items() if i in held}, mine, bool(keepers),
            any(keeper.fill for keeper in keepers.values()),
        )
        # a module that the user has let go of must be free to go when its window closes
        self._specs[:] = [dataclasses.replace(spec, source=None) for spec in self._specs]

    def _compare(self, teachers: Sequence[AnyTeacher]) -> None:
        everywhere: list[list[str]] = dist.all_gather_object([teacher.digest for teacher in teachers])
        for index, teacher in enumerate(teachers):
            digests = [ranks[index] for ranks in everywhere]
            if len(set(digests)) == 1:
                continue
            told = '; '.join(
                f"{digest[:16]} on rank {', '.join(str(r) for r, d in enumerate(digests) if d == digest)}"
                for digest in dict.fromkeys(digests)
            )
            who = f"Teacher '{teacher.name}' ({teacher.origin})"
            message = f'{who} is not the same on every rank: its digest is {told}.'
            if self._specs[index].kind != 'module' or self._placement == 'sharded':
                raise ValueError(
                    f'{message} Was it changed while it was read, or is it another file on another machine? Give '
                    'every rank the same weights.',
                )
            warnings.warn(f"{message} For an ensemble across ranks, use sampling='by_rank'.", stacklevel=2)

    def fit_start(self, state: State, split: Split, ready: Ready) -> None:
        """Get ready to answer.

        Args:
            state: The training.
            split: How Composer splits a batch into microbatches of so many samples.
            ready: What Composer does with a microbatch before the student gets it.

        Raises:
            ValueError: Where teachers cannot be asked about several microbatches at once.
        """
        self._split = split
        self._ahead.fit_start(state, split, ready)
        for teacher in self.held:
            teacher.to_device(state)

    @property
    def held(self) -> list[AnyTeacher]:
        """The teachers that this rank has in memory."""
        return [teacher for teacher in self.teachers if not teacher.released]

    def open_batch(self, state: State) -> None:
        """A batch begins on which a teacher will answer; every rank calls this."""
        self.stores.open_batch()
        self._ahead.open_batch(state)
        if any(teacher.placement == 'sharded' for teacher in self.held):
            assert self._split is not None
            self._lockstep.open_batch(state, self._split)

    def outputs(
        self, asked: Sequence[int], batch: Any, positions: Tensor | None, scheduled: Collection[int],
        counted: Tensor | None = None,
    ) -> dict[int, Answer]:
        """The answers of some teachers to a microbatch.

        Args:
            asked: Their indices.
            batch: The microbatch, on the device.
            positions: At which of its tokens logits are wanted; see :meth:`Teacher.outputs`.
            scheduled: Those of them that are asked in every microbatch of this batch, on all ranks; the others are
                looked at beside them, once.
            counted: Which of the microbatch's labels count; ``None`` where they are no class numbers.

        Returns:
            By index, logits; of stored answers, the rows of samples or of the tokens whose labels count.
        """
        parts = parts_of(batch, positions, self._size, self._keys[1])
        answers: dict[int, Answer] = {}
        self.heard = {}
        for i in asked:
            teacher = self.teachers[i]
            if teacher.keeper is not None:
                ask = partial(self._whole, teacher) if isinstance(teacher, Teacher) else None
                answers[i] = self.stores.answer(i, batch, positions, counted, ask)
                continue
            assert isinstance(teacher, Teacher)
            if i in scheduled and teacher.placement != 'sharded' and teacher.watch is None:
                ahead = self._ahead.outputs(i, teacher, batch, positions)
                if ahead is not None:
                    answers[i] = ahead
                    continue
            said = []
            for part, where, _ in parts:
                said.append(teacher.outputs(part, where))
                if teacher.watch is not None:
                    self.heard.setdefault(i, []).append(teacher.watch.take())
            answers[i] = joined(said, [places for _, _, places in parts])
            if teacher.placement == 'sharded':
                self._repeat(teacher, parts[-1], self._lockstep.due(self._size) - len(parts))
        # every rank in the same order: the microbatches that only others have come round by round, as theirs do
        for _ in range(self._lockstep.rounds()):
            for i in asked:
                teacher = self.teachers[i]
                if i in scheduled and isinstance(teacher, Teacher) and teacher.placement == 'sharded':
                    self._repeat(teacher, parts[-1], self._lockstep.due(self._size))
        self.stores.next_microbatch(batch)
        self._ahead.next_microbatch(batch)
        return {i: self._cut(answer) for i, answer in answers.items()}

    def cut_student(self, logits: Tensor) -> Tensor:
        """A student's logits, of the words that it shares with its teachers: the softmax is one over these alone."""
        return logits if self.shared is None else logits[..., :self.shared]

    def _cut(self, answer: Answer) -> Answer:
        # answers in few classes are of these words already
        return self.cut_student(answer) if isinstance(answer, Tensor) else answer

    def _whole(self, teacher: Teacher, batch: Any, positions: Tensor | None) -> Tensor:
        """A live teacher's logits for samples whose answers are not stored."""
        parts = parts_of(batch, positions, self._size, self._keys[1])
        said = [teacher.outputs(part, where) for part, where, _ in parts]
        return joined(said, [places for _, _, places in parts])

    @staticmethod
    def _repeat(teacher: Teacher, part: Part, times: int) -> None:
        """Take part where other ranks have more to ask a sharded teacher than this one."""
        for _ in range(times):
            teacher.outputs(*part[:2])

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
        self.stores.release()
        self._ahead.close_batch()
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

    def due(self, size: int | None) -> int:
        """How often a teacher is asked in a microbatch, in parts of ``size`` samples."""
        return 1 if size is None else math.ceil(self._microbatch / size)

    def rounds(self) -> int:
        """A microbatch is done: how many more the others have, if it was the last one here."""
        self._left -= 1
        return self._extra if self._left == 0 else 0
