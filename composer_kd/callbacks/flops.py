"""Counting the FLOPs of a forward pass without leaving a trace in the model or in a random generator."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from composer_kd.batches import batch_size_of, cut


def first_samples(batch: Any, count: int) -> tuple[Any, int]:
    """The first samples of a batch, and how many there are.

    The first tensor found says how many samples the batch has; tensors and lists of another length stay whole.

    Args:
        batch: A tensor, or a mapping or sequence of batches.
        count: The number of samples wanted, at least 1.

    Returns:
        The smaller batch, of the same structure (a mapping of another type becomes a ``dict``), and its samples.

    Raises:
        ValueError: If there is no tensor with a sample in the batch.

    Example:
        >>> small, samples = first_samples((torch.zeros(8, 3), torch.zeros(8)), 2)
        >>> [tuple(tensor.shape) for tensor in small], samples
        ([(2, 3), (2,)], 2)
    """
    size = batch_size_of(batch)
    if not size:
        raise ValueError(f'expected a batch with a tensor of samples, got {type(batch).__name__}')
    # Copies, since a model may work on its input in place.
    return cut(batch, slice(0, count), torch.Tensor.clone), min(count, size)


@contextlib.contextmanager
def untouched(model: torch.nn.Module | None = None) -> Iterator[None]:
    """Whatever runs inside leaves random generators, and the modes and buffers of the model, as they were.

    The model is in evaluation mode inside, no gradient is recorded, and compiled code runs eagerly: a batch of
    another size would otherwise have the training step compiled anew for sizes that vary.

    Args:
        model: The model, or ``None`` to guard the generators alone.
    """
    modules = list(model.modules()) if model is not None else []
    modes = [module.training for module in modules]
    buffers = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in modules for name, buffer in module._buffers.items() if buffer is not None
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), torch.compiler.set_stance('force_eager'):
            if model is not None:
                model.eval()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        for module, training in zip(modules, modes, strict=True):
            module.training = training
        for module, name, buffer, version, value in buffers:
            module._buffers[name] = buffer
            # The version counts changes in place, so nothing is compared on the device.
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(value)


def forward_flops(run: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products, convolutions and attention in a call.

    Args:
        run: What to count; called once.

    Returns:
        FLOPs, two for each multiply-add.

    Example:
        >>> forward_flops(lambda: torch.zeros(4, 8) @ torch.zeros(8, 2))
        128.0
    """
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def forward_flops_per_sample(model: torch.nn.Module, batch: Any, samples: int = 2) -> float:
    """FLOPs of one forward pass on one sample; the model and the random generators stay as they are.

    Args:
        model: A model that takes a batch. Wrapped for data parallelism, the module inside is run.
        batch: A batch on the model's device; the first samples of it are used.
        samples: How many.

    Returns:
        FLOPs per sample.

    Raises:
        Exception: Whatever the model raises on so small a batch.

    Example:
        >>> forward_flops_per_sample(torch.nn.Linear(8, 2, bias=False), torch.zeros(16, 8))
        32.0
    """
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        model = model.module
    small, count = first_samples(batch, samples)
    with untouched(model):
        return forward_flops(lambda: model(small)) / count
