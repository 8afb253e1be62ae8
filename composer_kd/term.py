"""The KD scalar of a microbatch: which rows count, and how the batch's mean is made of its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec, State
from composer.utils import dist
from torch import Tensor

from composer_kd.answers import Answer, Format, on_the_same
from composer_kd.batches import Key, classes_last, counting, target_of, trainer_behind
from composer_kd.functional import combine_logits, combine_probabilities
from composer_kd.guard import Guard, left_out
from composer_kd.losses import Loss

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
    guard: Guard,
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
    bad = guard.rows(values, target, rows.mask)
    if bad is not None:
        left_out(student, bad)
        values = values.masked_fill(bad, 0.0)
    return share.mean(values.sum(), batch) if rows.counted and share.counts else values.mean()


def check_formats(formats: Sequence[Format | None], at_once: int, loss: Loss, combine: str, heat: float | None) -> None:
    """Refuse stored answers that do not say what the loss asks for.

    Args:
        formats: Of each teacher, how its answers are stored; ``None`` where they are not.
        at_once: How many teachers answer for a batch.
        loss: The loss.
        combine: How several answers become one.
        heat: The temperature of the loss, where it has one and that does not vary.

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
                f'{told} at the temperature {form.temperature:g}, and the loss has {has}. Set loss.temperature to '
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
