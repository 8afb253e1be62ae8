"""The layers of a model that can be tapped: their names, and what they were seen to give."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.inspecting.result import Layer

TOP, ALL = 'top', 'all'
_LISTS = (nn.ModuleList, nn.ModuleDict)
_FEW = 4


def observe(model: nn.Module, run: Callable[[], Any], samples: int, tokens: int | None) -> list[Layer]:
    """The modules that give tensors while a model runs once, in their order in ``named_modules()``.

    Of a module that gives several tensors it is the first of two or more dimensions; of one that runs several times the
    last.

    Args:
        model: The model; its hooks are taken away again.
        run: Runs it.
        samples: Of the batch that it runs on.
        tokens: Length of the batch's sequences; ``None`` where it has none.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        >>> [(one.name, one.kind, one.shape) for one in observe(model, lambda: model(torch.zeros(2, 4)), 2, None)]
        [('0', 'hidden', (3,)), ('1', 'hidden', (3,))]
    """
    seen: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name, module in model.named_modules():
        if name:
            def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                found = _tensor(output)
                if found is not None:
                    seen[name] = tuple(found.shape)
            hooks.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    layers = []
    for name, module in model.named_modules():
        if name in seen:
            by_sample = seen[name][0] == samples
            shape = seen[name][1:] if by_sample else seen[name]
            kind = kind_of(name, type(module).__name__, shape, tokens) if by_sample else 'other'
            layers.append(Layer(name, kind, shape, by_sample, type(module).__name__))
    return layers


def _tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.is_floating_point() and output.dim() >= 2 else None
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.values()
    elif isinstance(output, (tuple, list)):
        items = output
    return next((found for item in items if (found := _tensor(item)) is not None), None)


def kind_of(name: str, module: str, shape: tuple[int, ...], tokens: int | None) -> str:
    """What losses on layers would take a layer for.

    Args:
        name: Of the layer.
        module: Its class.
        shape: Of its output for one sample.
        tokens: Length of the batch's sequences; ``None`` where it has none.

    Example:
        >>> kind_of('layer4', 'Sequential', (512, 7, 7), None), kind_of('layer.0.attention.self', 'A', (12, 9, 9), 9)
        ('map', 'attention')
    """
    if len(shape) in (1, 2):
        return 'hidden'
    if len(shape) != 3:
        return 'other'
    square = shape[1] == shape[2]
    named = any(part in text.lower() for part in ('attn', 'attention') for text in (name, module))
    # a square map of an image's pixels looks the same
    return 'attention' if square and (shape[2] == tokens or named) else 'map'


def chosen(model: nn.Module, layers: list[Layer], which: str) -> list[Layer]:
    """Those of all layers that are asked for.

    Args:
        model: The model.
        layers: All.
        which: ``'top'``: the model's stages, and the single blocks of models that keep them in one list or row;
            ``'all'``; or a pattern of names, as in ``'*.layer.*'``.

    Raises:
        ValueError: For a pattern that fits none.
    """
    if which == ALL:
        return layers
    if which == TOP:
        top = set(_top(model, '', {layer.name for layer in layers}))
        return [layer for layer in layers if layer.name in top]
    found = [layer for layer in layers if fnmatchcase(layer.name, which)]
    if not found:
        few = ', '.join(layer.name for layer in chosen(model, layers, TOP)[:5])
        raise ValueError(
            f"--layers: {which!r} fits none of the {len(layers)} layers of the teacher. Give 'top', 'all' or a pattern "
            f'of names such as {few}.',
        )
    return found


def _top(module: nn.Module, prefix: str, seen: set[str]) -> Iterator[str]:
    children = [
        (f'{prefix}{name}', child) for name, child in module.named_children()
        # metrics are modules, too
        if any(other == f'{prefix}{name}' or other.startswith(f'{prefix}{name}.') for other in seen)
    ]
    if len(children) == 1 and not isinstance(children[0][1], _LISTS) and list(children[0][1].children()):
        yield from _top(children[0][1], f'{children[0][0]}.', seen)  # a wrapper, such as Composer's
        return
    few = sum(any(True for _ in child.parameters()) for _, child in children) <= _FEW
    for name, child in children:
        if not isinstance(child, _LISTS):
            yield name
        if isinstance(child, _LISTS) or (few and _is_row(child)):
            yield from (f'{name}.{key}' for key, _ in child.named_children())
        elif any(isinstance(inner, _LISTS) or (few and _is_row(inner)) for inner in child.modules()):
            yield from _top(child, f'{name}.', seen)


def _is_row(module: nn.Module) -> bool:
    """Whether it is a row of blocks, each of several layers."""
    sizes = [len(list(block.children())) for block in module.children()]
    return isinstance(module, nn.Sequential) and len(sizes) >= _FEW and all(sizes)
