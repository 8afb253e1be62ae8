"""Copies of models that share their weights with the original until a step replaces some."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar('Module', bound=nn.Module)

CAST = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)
"""Layers whose weights autocast casts in every forward, on every device."""


def sharing_copy(module: Module) -> Module:
    """A copy with the same weights in the same memory, in eval mode.

    Its parameters are objects of their own, so that moving or replacing those of one model leaves the other as it is.

    Args:
        module: The model.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> other = sharing_copy(model)
        >>> other.weight is model.weight, other.weight.data_ptr() == model.weight.data_ptr()
        (False, True)
    """
    shared: dict[int, Tensor] = {}
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:
            shared[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    for buffer in module.buffers():
        if type(buffer) is Tensor:
            shared[id(buffer)] = buffer.detach()
    # what is in the memo is taken for a copy that was made already
    return copy.deepcopy(module, {**shared}).eval()


def to_channels_last(module: nn.Module) -> None:
    """Lay weights of four dimensions channels last, in place."""
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def has_images(module: nn.Module) -> bool:
    """Whether it has two-dimensional convolutions."""
    return any(isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)) for part in module.modules())


def castable(module: nn.Module) -> list[nn.Module]:
    """The layers whose float32 weights autocast would cast in every forward.

    Of their own class alone: one that inherits may do something else with its weights.
    """
    return [
        part for part in module.modules()
        if type(part) in CAST and part._parameters.get('weight') is not None and part.weight.dtype is torch.float32
    ]


def keep_in(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep weights that autocast to ``dtype`` would cast in every forward in it, in place.

    The same rounding as autocast's, once. A weight that an embedding shares keeps its float32 there.
    """
    kept: dict[int, nn.Parameter] = {}
    for part in castable(module):
        for name in ('weight', 'bias'):
            value = part._parameters.get(name)
            if value is not None and value.dtype is torch.float32:
                if id(value) not in kept:
                    kept[id(value)] = nn.Parameter(value.detach().to(dtype), requires_grad=False)
                setattr(part, name, kept[id(value)])
