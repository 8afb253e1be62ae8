"""What features look like: a sample of the training data through a model, before the training begins."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from composer.core import DataSpec, State, get_precision_context
from torch.utils.data import DataLoader

from composer_kd.answers import SampleLoader
from composer_kd.batches import cut

_SAMPLES = 2


def loader_given() -> Any:
    """The training data given to the Composer ``Trainer`` that is being built, or ``None``.

    At ``INIT`` the state has none yet, and projectors must be there before a checkpoint is loaded.
    """
    from composer import Trainer
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == '__init__' and isinstance(frame.f_locals.get('self'), Trainer):
            return frame.f_locals.get('train_dataloader')
        frame = frame.f_back  # type: ignore[assignment]
    return None


@contextmanager
def undisturbed() -> Iterator[None]:
    """Every global generator of random numbers goes on afterwards from where it was."""
    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def sample_of(loader: Any) -> Any | None:
    """A batch of very few samples, made without iterating over the data: that would begin it.

    Args:
        loader: What a ``Trainer`` takes as its training data.

    Returns:
        A batch on the host, through the batch's and the microbatch's transforms; ``None`` where the data cannot be
        looked at by number.
    """
    if isinstance(loader, Mapping):
        loader = DataSpec(**loader)
    spec = loader if isinstance(loader, DataSpec) else None
    inner = loader.dataloader if spec is not None else loader
    with undisturbed():
        batch = _batch(inner)
        if batch is None or spec is None:
            return batch
        return spec.microbatch_transforms(spec.batch_transforms(batch))


def _batch(loader: Any) -> Any | None:
    if isinstance(loader, SampleLoader):
        chosen = range(_SAMPLES) if loader.chosen is None else loader.chosen[:_SAMPLES]
        return loader.samples([(0, int(index)) for index in chosen])[0]
    if isinstance(loader, DataLoader):
        try:
            if loader.batch_sampler is None and loader.batch_size is None:
                return loader.collate_fn(loader.dataset[0])
            samples = [loader.dataset[i] for i in range(min(_SAMPLES, len(loader.dataset)))]  # type: ignore[arg-type]
            return loader.collate_fn(samples) if samples else None
        except (NotImplementedError, TypeError, LookupError):
            return None
    if isinstance(loader, Sequence) and len(loader):
        return cut(loader[0], slice(0, _SAMPLES), torch.clone)
    return None


@contextmanager
def looking(model: torch.nn.Module) -> Iterator[None]:
    """The model in eval mode without gradients, and afterwards in the modes it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with undisturbed(), torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def run_student(model: torch.nn.Module, batch: Any, state: State) -> None:
    """One forward of a student on a batch of the host, wherever it lies; nothing of it changes."""
    weight = next(model.parameters(), None)
    device = torch.device('cpu') if weight is None else weight.device
    with looking(model), get_precision_context(state.precision, state.precision_config):
        model(_moved(batch, device))


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)) and not hasattr(batch, '_fields'):
        return type(batch)(_moved(value, device) for value in batch)
    return batch
