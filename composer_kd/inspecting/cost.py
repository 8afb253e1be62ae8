"""What a teacher costs: time beside a training step, and memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import torch
from composer.devices import Device
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from composer_kd.inspecting.result import Memory, Timing
from composer_kd.inspecting.subject import Subject
from composer_kd.tuning.steps import alone, enough, in_turn, sort_out, time_steps

_LAYERS = ('student_layer', 'teacher_layer', 'projector')


def time_teacher(subject: Subject, seconds: float, tell: Callable[[float], None]) -> tuple[Timing, list[str]]:
    """Steps of the recipe's own training, with and without this teacher in turn, as ``composer-kd tune`` times them.

    Args:
        subject: What is inspected.
        seconds: How long to measure, about, once all has warmed up; above 0.
        tell: Is told which share is done.

    Returns:
        The times, and what they do not see.

    Raises:
        ValueError: If something is wrong with the recipe's training or its data.
        FileNotFoundError: For missing data.
    """
    said, notes = _without_layers(subject.said)
    # how to prepare it is for composer-kd tune to say
    item = {'prepare': 'none', **subject.item}
    kd = in_turn(said, [item])
    over = enough([str(item['name'])], seconds)

    def told(count: int, passed: float) -> bool:
        tell(min(1.0, passed / seconds))
        return over(count, passed)
    timed = sort_out(time_steps(alone(subject.recipe, kd), told), [str(item['name'])])
    (teacher,), size = timed.teachers.values(), int(subject.recipe.train_data['batch_size'])
    rest = 0.0 if timed.rest is None else timed.rest.seconds
    return Timing(
        size, timed.off, teacher, timed.rest, (teacher.seconds + rest) / timed.off.seconds, teacher.seconds / size,
    ), notes


def _without_layers(said: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A distillation without losses on layers, which are layers of its own teachers."""
    losses = said.get('losses')
    if not isinstance(losses, list):
        return dict(said), []
    kept = [one for one in losses if not (isinstance(one, Mapping) and any(one.get(key) for key in _LAYERS))]
    if len(kept) == len(losses):
        return dict(said), []
    left = {key: value for key, value in said.items() if key != 'losses'}
    return ({**left, 'losses': kept} if kept else left), [
        "times are without the recipe's losses on layers, which name layers of its own teachers",
    ]


class _Live(TorchDispatchMode):
    """The bytes of tensors that came about inside, and are there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._there: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)
        }
        made = func(*args, **(kwargs or {}))
        self._there = {key: one for key, one in self._there.items() if not one[0].expired()}
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given:  # not a view of what was there
                    self._there[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.most = max(self.most, sum(size for _, size in self._there.values()))
        return made


def weigh(model: nn.Module, run: Callable[[], Any], samples: int, device: Device) -> Memory:
    """The memory of a forward: on a GPU what its allocator says, elsewhere the tensors that are there at once.

    Args:
        model: On the device.
        run: Runs it once.
        samples: Of the batch that it runs on.
        device: Where it is.

    Example:
        >>> from composer.devices import DeviceCPU
        >>> model = nn.Linear(3, 2)
        >>> found = weigh(model, lambda: model(torch.zeros(5, 3)), 5, DeviceCPU())
        >>> found.weights, found.peak - found.weights  # the input and the output, in float32
        (32, 100)
    """
    weights = bytes_of(model)
    if device.name == 'gpu':
        gc.collect()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        more, how = torch.cuda.max_memory_allocated() - before, "the GPU's allocator"
    else:
        with torch.no_grad(), _Live() as live:
            run()
        more, how = live.most, 'tensors there at once, without what operators need inside'
    return Memory(weights, weights + more, samples, how)


def bytes_of(model: nn.Module) -> int:
    """Bytes of a model's parameters and buffers; what is shared counts once.

    Example:
        >>> bytes_of(nn.Linear(3, 2))
        32
    """
    every = {id(one): one for one in (*model.parameters(), *model.buffers())}
    return sum(one.numel() * one.element_size() for one in every.values())
