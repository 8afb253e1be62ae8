"""What a batch and a model's outputs hold: inputs, labels, logits, and which rows of the logits count."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Key = str | int | None
LogitsKey = str | int | Callable[[Any], Tensor] | None

POSITIONS = 'masked_positions'
"""In a batch or in outputs: at which of the ``N * L`` tokens a model gives logits, whole numbers, shape ``(M,)``."""


def find_logits(outputs: Any, key: LogitsKey, whose: str) -> Tensor:
    """The logits in a model's outputs.

    Args:
        outputs: A tensor; a mapping or Hugging Face ``ModelOutput`` with ``logits``; or a tuple, in which the first
            floating-point tensor of two or more dimensions is taken (a loss before it is passed over).
        key: A key or index of ``outputs``, or a function of them, where that does not fit.
        whose: Whose outputs, for messages.

    Returns:
        Logits, floating point, shape ``(N, ..., C)`` or ``(N, C, ...)``.

    Raises:
        TypeError: If there are none.
    """
    found: Any = None
    if callable(key):
        found = key(outputs)
    elif key is not None:
        try:
            found = outputs[key]
        except (KeyError, IndexError, TypeError) as error:
            raise TypeError(
                f'{whose}: logits_key={key!r} is not in outputs of type {type(outputs).__name__}.',
            ) from error
    elif isinstance(outputs, Tensor):
        found = outputs
    elif isinstance(outputs, Mapping) or hasattr(outputs, 'logits'):
        found = outputs['logits'] if isinstance(outputs, Mapping) and 'logits' in outputs else getattr(
            outputs, 'logits', None,
        )
    elif isinstance(outputs, (tuple, list)):
        tensors = (x for x in outputs if isinstance(x, Tensor) and x.is_floating_point() and x.dim() >= 2)
        found = next(tensors, None)
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 2:
        got = f'{tuple(found.shape)} of {found.dtype}' if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(
            f'{whose}: expected logits, a floating-point tensor of two or more dimensions, in outputs of type '
            f'{type(outputs).__name__}; got {got}. Say where they are with logits_key (a key, an index or a function '
            'of the outputs).',
        )
    return found


def target_of(batch: Any, key: Key) -> Any:
    """The labels of a batch, or ``None`` without any under ``key`` (default: ``'labels'``, or the second item)."""
    if isinstance(batch, Mapping):
        return batch.get('labels' if key is None else key)
    if isinstance(batch, (tuple, list)):
        index = 1 if key is None else key
        if isinstance(index, int) and -len(batch) <= index < len(batch):
            return batch[index]
    return None


def rows_of(
    outputs: Any, batch: Any, logits_key: LogitsKey, target_key: Key,
) -> tuple[Tensor, Any, Tensor | None, int]:
    """A student's logits and the labels, both at the positions where logits are wanted, these, and how many samples."""
    positions = positions_of(outputs, batch)
    logits, labels = find_logits(outputs, logits_key, 'student'), target_of(batch, target_key)
    samples = len(labels if isinstance(labels, Tensor) else logits)
    return at_positions(logits, positions, 3), at_positions(labels, positions, 2), positions, samples


def without_target(batch: Any, key: Key) -> Any:
    """The batch with its labels withheld: a mapping without them, a tuple with ``None`` in their place."""
    if isinstance(batch, Mapping):
        target = 'labels' if key is None else key
        return {name: value for name, value in batch.items() if name != target}
    if isinstance(batch, (tuple, list)):
        index = 1 if key is None else key
        if isinstance(index, int) and -len(batch) <= index < len(batch):
            items = list(batch)
            items[index] = None
            return type(batch)(items) if type(batch) in (tuple, list) else tuple(items)
    return batch


def positions_of(*holders: Any) -> Tensor | None:
    """The positions at which logits are wanted, of the first of outputs or batches that says so."""
    for holder in holders:
        found = holder.get(POSITIONS) if isinstance(holder, Mapping) else None
        if isinstance(found, Tensor) and found.dim() == 1 and not found.is_floating_point():
            return found
    return None


def at_positions(values: Any, positions: Tensor | None, dims: int) -> Any:
    """Of values with ``dims`` dimensions, of which the first two are ``(N, L)``, those at the positions; others as
    they are.
    """
    if positions is None or not isinstance(values, Tensor) or values.dim() != dims:
        return values
    return values.flatten(0, 1).index_select(0, positions)


def labelled(labels: Tensor, ignore_index: int) -> Tensor:
    """The flat positions of the labels that count, ``(M,)``; waits for the device where the labels lie on one."""
    return (labels.flatten() != ignore_index).nonzero().squeeze(1)


def call_module(module: torch.nn.Module, batch: Any, input_key: Key, target_key: Key) -> Any:
    """Call a plain module on a batch's input.

    The input of a tuple is its first item; of a mapping, those of its entries without the labels that the module's
    ``forward`` has parameters for; of a tensor, itself. ``input_key`` says otherwise.
    """
    if input_key is not None:
        return module(batch[input_key])
    if isinstance(batch, Mapping):
        parameters = inspect.signature(module.forward).parameters
        inputs = without_target(batch, target_key)
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
            inputs = {name: value for name, value in inputs.items() if name in parameters}
        return module(**inputs)
    return module(batch[0] if isinstance(batch, (tuple, list)) else batch)


def classes_last(logits: Tensor, labels: Any) -> Tensor:
    """Logits with the classes in the last dimension; ``(N, C, ...)`` beside labels ``(N, ...)`` is turned round."""
    if (
        isinstance(labels, Tensor) and logits.dim() > 2 and labels.shape != logits.shape[:-1]
        and labels.shape == (logits.shape[0], *logits.shape[2:])
    ):
        return logits.movedim(1, -1)
    return logits


def batch_size_of(batch: Any) -> int | None:
    """The samples of a batch: the length of the first tensor in it, or ``None`` without any."""
    if isinstance(batch, Tensor):
        return len(batch) if batch.ndim else None
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    if isinstance(batch, (list, tuple)):
        return next((size for part in batch if (size := batch_size_of(part)) is not None), None)
    return None


def cut(batch: Any, samples: slice | Tensor, copy: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> Any:
    """Some samples of a batch: tensors and lists of another length than the batch's stay whole.

    Args:
        batch: A tensor, or a mapping or sequence of batches.
        samples: Which: a slice, or whole numbers on the batch's device.
        copy: What each tensor is passed through.

    Returns:
        The smaller batch, of the same structure (a mapping of another type becomes a ``dict``), without positions:
        those count through the whole batch, and a model finds its own from the labels.
    """
    size = batch_size_of(batch)

    def part_of(part: Any) -> Any:
        if isinstance(part, Tensor):
            return copy(part[samples] if part.ndim and len(part) == size else part)
        if isinstance(part, Mapping):
            return {key: part_of(value) for key, value in part.items() if key != POSITIONS}
        if isinstance(part, (list, tuple)):
            if len(part) == size and not any(isinstance(item, (Tensor, Mapping)) for item in part):
                return part[samples] if isinstance(samples, slice) else [part[i] for i in samples.tolist()]
            items = [part_of(item) for item in part]
            if isinstance(part, tuple) and hasattr(part, '_fields'):
                return type(part)(*items)
            return tuple(items) if isinstance(part, tuple) else items
        return part

    return part_of(batch)


def _class_labels(labels: Any) -> bool:
    return isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool


def counting(labels: Any, ignore_index: int, shift: bool) -> Tensor | None:
    """Which labels count, as a boolean tensor of their shape; ``None`` where labels are not class numbers.

    Args:
        labels: The labels.
        ignore_index: The label that does not count.
        shift: Whether the logits at a position answer for the label one position later (causal language models).
    """
    if not _class_labels(labels):
        return None
    mask: Tensor = labels != ignore_index
    if shift and mask.dim() > 1:
        mask = torch.cat([mask[..., 1:], torch.zeros_like(mask[..., :1])], dim=-1)
    return mask


def trainer_behind() -> Any:
    """The Composer ``Trainer`` whose ``fit`` is on the call stack, or ``None``.

    Composer scales a microbatch's loss by its share of the batch, measured by the trainer's data spec in samples or in
    tokens. An algorithm is handed the state and not the trainer, and the state knows neither; a setting that has to
    repeat the trainer's would be silently wrong whenever it did not.
    """
    from composer import Trainer
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get('self')
        if isinstance(owner, Trainer):
            return owner
        frame = frame.f_back  # type: ignore[assignment]
    return None
