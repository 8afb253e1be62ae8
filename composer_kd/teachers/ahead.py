"""Teachers asked about several microbatches at once: without gradients there is room for more samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from composer.core import State
from torch import Tensor

from composer_kd.batches import POSITIONS, Key, batch_size_of, cut, labelled, positions_of, target_of
from composer_kd.teachers.teacher import Teacher

log = logging.getLogger(__name__)

Split = Callable[[Any, int], Sequence[Any]]
Ready = Callable[[Any], Any]

MIX = frozenset({'MixUp', 'CutMix'})
"""Composer's algorithms that change a microbatch just before the student's forward."""


def refuse_mixed_ahead(algorithms: Iterable[Any], size: int | None, microbatch: float | None) -> None:
    """Refuse to ask about several microbatches at once where each is changed when its turn comes.

    Raises:
        ValueError: Naming the algorithm.
    """
    if size is None or microbatch is None or size // math.ceil(microbatch) < 2:
        return
    for algorithm in algorithms:
        name = type(algorithm).__name__
        if any(kind.__name__ in MIX for kind in type(algorithm).__mro__):
            raise ValueError(
                f'teacher_microbatch_size: {size} is more than one microbatch of {math.ceil(microbatch)}, and {name} '
                'mixes each microbatch just before the student sees it, which is too late for a teacher that is asked '
                f'ahead. Give {math.ceil(microbatch)} or leave it out.',
            )


class Ahead:
    """Answers to as many whole microbatches at once as fit into ``size`` samples, kept until their turn comes.

    What the student gets is the batch as the loader gave it, in the trainer's parts, on the device and through the
    trainer's transforms. The first answer of a training is held against that; where the student got something else
    (an algorithm has changed it), or the device's memory does not suffice, teachers are asked microbatch by microbatch
    from there on.

    Args:
        size: Samples that a teacher is asked about at once; ``None`` for a microbatch.
        target_key: Where a batch holds the labels.
        ignore_index: The label that does not count.
    """

    def __init__(self, size: int | None, target_key: Key = None, ignore_index: int = -100) -> None:
        self._size, self._target_key, self._ignore_index = size, target_key, ignore_index
        self._split: Split | None = None
        self._ready: Ready | None = None
        self._able, self._seen, self._in_place = size is not None, False, False
        self._chunks: list[Any] = []
        self._answers: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._chunk: Any = None
        self._number, self._begin, self._samples, self._whole = -1, 0, 0, 0

    def fit_start(self, state: State, split: Split, ready: Ready) -> None:
        """Get ready.

        Args:
            state: The training.
            split: How the trainer splits a batch into parts of so many samples.
            ready: What the trainer does with a microbatch before the student gets it.

        Raises:
            ValueError: As :func:`refuse_mixed_ahead`.
        """
        self._split, self._ready = split, ready
        # nothing is moved there, and a transform that changes its input would change the student's, too
        self._in_place = state.device.name == 'cpu'
        microbatch = None if state.auto_microbatching else state.device_train_microbatch_size
        refuse_mixed_ahead(state.algorithms, self._size, microbatch)

    def open_batch(self, state: State) -> None:
        """A batch begins, or begins again in other microbatches."""
        self.close_batch()
        self._number, self._begin = -1, 0
        if not self._able or self._split is None or self._size is None:
            return
        assert state.device_train_microbatch_size is not None
        microbatch = math.ceil(state.device_train_microbatch_size)
        self._whole = batch_size_of(state.batch) or 0
        self._samples = self._size // microbatch * microbatch
        if self._samples > microbatch and self._whole > microbatch:
            self._chunks = list(self._split(state.batch, min(self._samples, self._whole)))

    def close_batch(self) -> None:
        """Let go of the batch and of what was answered to it."""
        self._chunks = []
        self._forget()

    def outputs(self, index: int, teacher: Teacher, batch: Any, positions: Tensor | None) -> Tensor | None:
        """A teacher's logits for a microbatch, or ``None`` if it is to be asked about that alone.

        Args:
            index: Which teacher.
            teacher: The teacher.
            batch: The microbatch as the student got it.
            positions: At which of its tokens logits are wanted; ``None`` for all.
        """
        if not self._chunks:
            return None
        number, begin = divmod(self._begin, self._samples)
        if number != self._number:
            self._forget()
            self._number = number
        if index not in self._answers:
            try:
                if self._chunk is None:
                    assert self._ready is not None
                    self._chunk = self._ready(_copied(self._chunks[number]) if self._in_place else self._chunks[number])
                if not self._seen and not self._same(batch, positions):
                    log.warning(
                        'teacher_microbatch_size: the student gets other inputs than the loader gave, so teachers are '
                        'asked microbatch by microbatch.',
                    )
                    self._stop()
                    return None
                self._answers[index] = self._ask(teacher, positions is not None)
            except torch.OutOfMemoryError:
                log.warning(
                    "Teacher '%s' runs out of memory on %d samples at once (teacher_microbatch_size): from here on "
                    'teachers are asked microbatch by microbatch.', teacher.name, self._samples,
                )
                self._stop()
                return None
        answer, places = self._answers[index]
        samples = batch_size_of(batch)
        assert samples is not None
        if positions is None:
            return answer[begin:begin + samples]
        assert places is not None
        return answer.index_select(0, torch.searchsorted(places, self._within(positions, begin)))

    def _ask(self, teacher: Teacher, some: bool) -> tuple[Tensor, Tensor | None]:
        places = self._places() if some else None
        return teacher.outputs(self._chunk, places), places

    def _places(self) -> Tensor:
        found = positions_of(self._chunk)
        if found is None:
            return labelled(target_of(self._chunk, self._target_key), self._ignore_index)
        return found.sort().values

    def _within(self, positions: Tensor, begin: int) -> Tensor:
        """A microbatch's positions as those of the samples it is asked with."""
        length: int = target_of(self._chunk, self._target_key).shape[1]
        return positions + begin * length

    def next_microbatch(self, batch: Any) -> None:
        """A microbatch is done."""
        self._begin += batch_size_of(batch) or 0
        if self._begin >= self._whole:  # the next batch may be one on which nobody is asked
            self.close_batch()

    def _same(self, batch: Any, positions: Tensor | None) -> bool:
        """Whether the student got what the teacher is about to be asked; once a training, so it may wait."""
        self._seen = True
        samples = batch_size_of(batch) or 0
        pairs = list(zip(_tensors(batch), _tensors(self._chunk), strict=False))
        if not pairs or any(one.shape[1:] != other.shape[1:] for one, other in pairs):
            return False
        if not all(torch.equal(one, other[:samples]) for one, other in pairs):
            return False
        return positions is None or bool(torch.isin(positions, self._places()).all())

    def _stop(self) -> None:
        self._able = False
        self.close_batch()

    def _forget(self) -> None:
        self._answers, self._chunk = {}, None


def _copied(batch: Any) -> Any:
    positions, copy = positions_of(batch), cut(batch, slice(None), Tensor.clone)
    return copy if positions is None else {**copy, POSITIONS: positions}


def _tensors(batch: Any) -> list[Tensor]:
    """A batch's tensors in order, but for positions, which count through a batch."""
    if isinstance(batch, Tensor):
        return [batch]
    if isinstance(batch, dict) or hasattr(batch, 'items'):
        batch = [value for key, value in batch.items() if key != POSITIONS]
    return [tensor for part in batch for tensor in _tensors(part)] if isinstance(batch, (list, tuple)) else []
