"""What teacher and student say of every label of the validation data."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec, Precision, get_precision_context
from composer.devices import Device
from composer.models import ComposerModel
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.batches import (
    at_positions,
    batch_size_of,
    classes_last,
    counting,
    positions_of,
    target_of,
)
from composer_kd.functional import kl_divergence
from composer_kd.inspecting.seen import Judged, Sample, Seen, pieces
from composer_kd.teachers import Teacher

KEPT = 2**25
"""Logits that are kept to look for the best temperature: 128 MiB in float32."""


@dataclass
class Rows:
    """What was seen of the validation data.

    Attributes:
        samples: How many.
        labels: Of the rows that count, ``(n,)``; empty where labels are no classes.
        classes: Of the answers; 0 where labels are no classes.
        teacher: What it said.
        student: Likewise; ``None`` without one.
        kl: KL(teacher || student) at temperature 1 in nats, ``(n,)``; empty without a student.
        logits: The teacher's, of all rows or of a random part of them, ``(m, C)`` float32.
        logits_labels: Of these rows, ``(m,)``.
        left_out: Metrics that could not be computed.
    """

    samples: int
    labels: NDArray[np.int64]
    classes: int
    teacher: Seen
    student: Seen | None
    kl: NDArray[np.float32]
    logits: NDArray[np.float32]
    logits_labels: NDArray[np.int64]
    left_out: list[str] = field(default_factory=list)


def read_rows(
    judge: ComposerModel, teacher: Teacher, student: Teacher | None, data: DataSpec, device: Device, *,
    precision: Precision, precision_config: Any = None, metric_names: list[str] | None = None,
    microbatch: Any = None, batches: int | None = None, target_key: Any = None, ignore_index: int = -100,
    temperature: float = 1.0, tell: Callable[[float], None] = lambda share: None,
) -> Rows:
    """Ask teacher and student about the validation data, labels withheld.

    Args:
        judge: The model whose metrics are the task's, on any device; it is not run.
        teacher: On the device.
        student: On the device; ``None`` for none.
        data: The validation data.
        device: Where all runs.
        precision: In which.
        precision_config: Composer's, of that precision.
        metric_names: Patterns of metrics, as of an evaluator; ``None`` for all.
        microbatch: Samples that are asked about at once, if a number.
        batches: How many batches are looked at; ``None`` for all.
        target_key: Where a batch holds the labels.
        ignore_index: The label that does not count.
        temperature: At which entropies are told.
        tell: Is told which share is done.

    Raises:
        ValueError: For a model whose answers are not finite, or of another shape than labels or the other's.
    """
    judged = Judged(teacher, judge, metric_names, device)
    other = None if student is None else Judged(student, judge, metric_names, device)
    shift = bool(getattr(judge, 'shift_labels', False))
    sample, labels_seen, kls, samples, classes = Sample(KEPT), [], [], 0, 0
    for part in parts_of(data, device, microbatch, batches, tell):
        samples += batch_size_of(part) or 0
        positions, row_labels = wanted(part, target_key, ignore_index, shift)
        with torch.no_grad(), get_precision_context(precision, precision_config):
            logits = judged.ask(part, positions)
            answer = None if other is None else other.ask(part, positions)
        judged.measure(part, logits, positions, row_labels)
        if answer is not None and other is not None:
            # logits that are cut to a shared vocabulary are the teacher's own alone
            shared = getattr(teacher, 'shared', None)
            if answer.shape[:-1] != logits.shape[:-1] or (shared is None and answer.shape[-1] != logits.shape[-1]):
                raise ValueError(
                    f'The teacher ({teacher.origin}) gives logits of shape {tuple(logits.shape)} where the student '
                    f'gives {tuple(answer.shape)}. Choose a teacher made for this task.',
                )
            other.measure(part, answer, positions, row_labels)
        labelled = target_of(part, target_key) if positions is None else row_labels
        found = _classed(logits, labelled, ignore_index)
        if found is None:
            continue
        rows, labels, keep = found
        classes = rows.shape[-1]
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise ValueError(
                f'The teacher ({teacher.origin}) has {classes} outputs, and the labels of this data go from '
                f'{int(labels.min())} to {int(labels.max())}. Choose a teacher made for this task.',
            )
        judged.look(rows, labels, temperature)
        sample.add(rows, labels)
        labels_seen.append(labels.cpu())
        if answer is not None and other is not None:
            theirs = classes_last(answer, labelled).flatten(0, -2)[keep][..., :classes]
            other.look(theirs, labels, temperature)
            kls += [
                kl_divergence(theirs[piece], rows[piece], reduction='none').float().cpu() for piece in pieces(rows)
            ]
    logits_kept, logits_labels = sample.taken()
    return Rows(
        samples, torch.cat(labels_seen).numpy() if labels_seen else np.empty(0, np.int64), classes, judged.seen(),
        None if other is None else other.seen(), torch.cat(kls).numpy() if kls else np.empty(0, np.float32),
        logits_kept, logits_labels, sorted(judged.left_out),
    )


def parts_of(
    data: DataSpec, device: Device, microbatch: Any, batches: int | None, tell: Callable[[float], None],
) -> Iterator[Any]:
    """The microbatches of a loader on the device, as Composer's evaluation makes them."""
    try:
        whole: int | None = len(data.dataloader)  # type: ignore[arg-type]
    except TypeError:
        whole = None
    count = batches if whole is None else whole if batches is None else min(whole, batches)
    for index, batch in enumerate(data.dataloader):
        if batches is not None and index >= batches:
            return
        batch = data.batch_transforms(batch)
        size = microbatch if isinstance(microbatch, int) else batch_size_of(batch) or 1
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of a last microbatch that is smaller
            parts = list(data.split_batch(batch, size))
        for part in parts:
            yield data.microbatch_transforms(device.batch_to_device(part))
        tell(0.0 if count is None else (index + 1) / count)


def wanted(part: Any, target_key: Any, ignore_index: int, shift: bool) -> tuple[Tensor | None, Tensor | None]:
    """Of tokens, at which places of a batch logits are wanted, ``(M,)``, and their labels, ``(M,)``; else ``None``."""
    labels = target_of(part, target_key)
    mask = counting(labels, ignore_index, shift)
    if not isinstance(part, Mapping) or mask is None or mask.dim() != 2:
        return None, None
    positions = positions_of(part)
    if positions is None or shift:
        positions = mask.flatten().nonzero().squeeze(1)
    if shift:
        labels = torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], ignore_index)], dim=1)
    return positions, at_positions(labels, positions, 2)


def _classed(logits: Tensor, labels: Any, ignore_index: int) -> tuple[Tensor, Tensor, Tensor] | None:
    """Logits and labels of the rows that count, and which these are; ``None`` where labels are no classes."""
    mask = counting(labels, ignore_index, False)
    logits = classes_last(logits, labels)
    if mask is None or mask.shape != logits.shape[:-1] or logits.shape[-1] < 2:
        return None
    keep = mask.flatten().nonzero().squeeze(1)
    return logits.flatten(0, -2)[keep], labels.flatten()[keep], keep
