"""How the batch's mean is made of its microbatches' parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec, State
from composer.utils import dist
from torch import Tensor

from composer_kd.batches import Key, counting, target_of, trainer_behind


class Share:
    """How Composer weighs a microbatch, so that the KD term is one mean over all rows of the batch that count.

    Composer multiplies a microbatch's loss by its share of the batch (in samples, or in tokens with
    ``accumulate_train_batch_on_tokens``) and averages gradients over ranks. A mean over a microbatch's own rows is then
    wrong where microbatches or ranks hold different numbers of rows that count, as in masked language modelling. This
    takes Composer's factor out and divides by the rows of the whole batch over all ranks.
    """

    def __init__(self, target_key: Key, ignore_index: int) -> None:
        self._target_key, self._ignore_index = target_key, ignore_index
        self._spec: DataSpec | None = None
        self._on_tokens = False
        self._numerator: Tensor | float | None = None
        self._whole: Any = None
        self._tokens: list[int] = []
        self._parts: list[Any] | None = None
        self._microbatch, self._turn, self._shift = 1, -1, False
        self.full = False
        """Whether every label of this rank's batch is known to count, so that no row has to be looked at for it."""

    def bind(self) -> None:
        """Learn how the trainer that is calling measures a batch. Call within ``fit``."""
        trainer = trainer_behind()
        if trainer is not None:
            self._spec = trainer._train_data_spec
            self._on_tokens = trainer.accumulate_train_batch_on_tokens

    def size(self, batch: Any, target_key: Key) -> int:
        """The weight that Composer gives a (micro)batch: its samples, or its tokens that bear on the loss.

        A microbatch's tokens were counted when the batch began, if it began in host memory.
        """
        if self._spec is None:
            return len(target_of(batch, target_key))
        if self._on_tokens:
            if 0 <= self._turn < len(self._tokens):
                return self._tokens[self._turn]
            return self._spec.get_num_tokens_in_batch(batch, token_type='loss_generating')
        return int(self._spec.get_num_samples_in_batch(batch))

    def split(self, batch: Any, size: int) -> Sequence[Any]:
        """A batch in parts of ``size`` samples, as the trainer splits it into microbatches."""
        split = DataSpec([]).split_batch if self._spec is None else self._spec.split_batch
        return list(split(batch, size))

    def ready(self, batch: Any, state: State) -> Any:
        """A part of a batch as the student gets it: on the device, and through the trainer's transforms."""
        batch = state.device.batch_to_device(batch)
        return batch if self._spec is None else self._spec.microbatch_transforms(batch)

    def open_batch(self, state: State, shift: bool) -> None:
        """Count the rows of the whole batch, over all ranks. Every rank calls this for every batch that is on."""
        self.close_batch()
        labels = target_of(state.batch, self._target_key)
        mask = counting(labels, self._ignore_index, shift)
        self._numerator, self.full = None, False
        if mask is None:
            return
        rows, size = mask.sum(), self.size(state.batch, self._target_key)
        # labels are still in host memory here, as a rule, so this costs no wait for the device
        self.full = not rows.is_cuda and int(rows) == mask.numel()
        if not rows.is_cuda:
            assert state.device_train_microbatch_size is not None
            self._whole, self._shift = state.batch, shift
            self._microbatch = math.ceil(state.device_train_microbatch_size)
            self._tokens = [self.size(one, self._target_key) for one in self._in_parts()] if self._on_tokens else []
        if dist.get_world_size() > 1:
            both = state.device.tensor_to_device(torch.stack([rows.double(), rows.new_tensor(size).double()]))
            dist.all_reduce(both)  # the world size cancels in the ratio
            self._numerator = both[1] / both[0].clamp_min(1)
        elif rows.is_cuda:
            self._numerator = size / rows.clamp_min(1)
        else:
            self._numerator = size / max(int(rows), 1)

    def close_batch(self) -> None:
        """Let go of the batch."""
        self._whole = self._parts = None
        self._turn, self._tokens = -1, []

    def next_microbatch(self) -> None:
        """A microbatch begins. Call for each, in order."""
        self._turn += 1

    def _in_parts(self) -> list[Any]:
        """The microbatches as they lie in host memory; none where the batch did not begin there.

        The trainer moves microbatches to the device one by one, and what is counted there makes the step wait.
        """
        if self._parts is None:
            self._parts = [] if self._whole is None else list(self.split(self._whole, self._microbatch))
        return self._parts

    def labels_before(self) -> Any:
        """The microbatch's labels as they lie in host memory; ``None`` where none do."""
        parts = self._in_parts()
        return target_of(parts[self._turn], self._target_key) if 0 <= self._turn < len(parts) else None

    def places(self, labels: Any) -> Tensor | None:
        """Which of the microbatch's labels count, as flat positions ``(M,)`` on their device; ``None`` if not known.

        Args:
            labels: The microbatch's, on the device.
        """
        mask = counting(self.labels_before(), self._ignore_index, self._shift)
        if mask is None or not isinstance(labels, Tensor) or mask.shape != labels.shape:
            return None
        found = torch.from_numpy(np.flatnonzero(mask.numpy()))  # NumPy: there is no device that could be waited for
        return (found.pin_memory() if labels.is_cuda else found).to(labels.device, non_blocking=True)

    def mean(self, total: Tensor, batch: Any) -> Tensor:
        """The microbatch's sum over rows as the part it has, after Composer's weighing, of the batch's mean."""
        assert self._numerator is not None, 'open_batch saw class labels'
        factor = self._numerator / max(self.size(batch, self._target_key), 1)
        return total * (factor.to(total) if isinstance(factor, Tensor) else factor)

    @property
    def counts(self) -> bool:
        """Whether the batch has class labels to count."""
        return self._numerator is not None
