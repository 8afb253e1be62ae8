"""BatchNorm as part of the convolution or linear layer before it (Jacob et al. 2018, arXiv 1712.05877, section 3.2).

With fixed statistics ``BN(Wx + b) = s(Wx + b - mean) + beta``, ``s = gamma / sqrt(var + eps)``, is the layer with the
weight ``sW`` and the bias ``s(b - mean) + beta``.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from composer_kd.teachers.preparing.copies import sharing_copy

log = logging.getLogger(__name__)

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TOLD = 200


@dataclass(frozen=True)
class Pairs:
    """Which BatchNorms can be folded.

    Attributes:
        names: Layer and BatchNorm of each, as in ``named_modules()``.
        obstacle: Why there are none; ``None`` where there are some.
    """

    names: tuple[tuple[str, str], ...] = ()
    obstacle: str | None = None


def find_pairs(model: nn.Module) -> Pairs:
    """Find the BatchNorms of a model that read nothing but a layer that nothing else reads.

    The model's code is run on symbols (``torch.fx``), on a copy; parts that depend on values are passed over whole.

    Args:
        model: The model.

    Example:
        >>> find_pairs(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))).names
        (('0', '1'),)
    """
    if not any(isinstance(part, NORMS) for part in model.modules()):
        return Pairs(obstacle='it has no BatchNorm')
    try:
        traced = sharing_copy(model)
        tracer = _Tracer()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of the model's own code, that symbols are not what it expects
            graph = tracer.trace(traced, _defaults(traced))
    except Exception as error:  # whatever a model's code does with a symbol
        told = ' '.join(str(error).split())[:_TOLD]
        return Pairs(obstacle=f'its code cannot be followed by torch.fx ({type(error).__name__}: {told})')
    names = _pairs(graph, traced, tracer.passed_over)
    if not names:
        return Pairs(obstacle='no BatchNorm of it reads just one convolution or linear layer that nothing else reads')
    return Pairs(names)


class _Tracer(fx.Tracer):
    """Follows a model's code; a submodule whose code cannot be followed becomes one step."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_over: list[nn.Module] = []

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        stack, before = self.module_stack.copy(), len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception as error:
            log.debug('%s cannot be followed by torch.fx: %s', type(m).__name__, error)
            self.module_stack = stack
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            self.passed_over.append(m)
            return self.create_proxy('call_module', self.path_of_module(m), args, kwargs)


def _defaults(model: nn.Module) -> dict[str, Any] | None:
    """What stands for arguments that nobody gives: ``forward(x, return_features=False)`` asks for no features."""
    plain = (bool, int, float, str, type(None))
    found = {
        name: p.default for name, p in inspect.signature(model.forward).parameters.items()
        if p.default is not p.empty and isinstance(p.default, plain)
    }
    return found or None


def _pairs(graph: fx.Graph, model: nn.Module, passed_over: list[nn.Module]) -> tuple[tuple[str, str], ...]:
    nodes = list(graph.nodes)
    calls: list[tuple[fx.Node, Any]] = [
        (node, model.get_submodule(str(node.target))) for node in nodes if node.op == 'call_module'
    ]
    times = Counter(id(module) for _, module in calls)
    read = {str(node.target).rpartition('.')[0] for node in nodes if node.op == 'get_attr'}
    # what is called where nothing can be seen, or has its weights read, is left alone
    unseen = {id(part) for module in passed_over for part in module.modules()}
    unseen |= {id(part) for _, module in calls for part in module.modules() if part is not module}
    unseen |= {id(model.get_submodule(name)) for name in read}
    modules = dict(calls)
    found = []
    for node, norm in calls:
        before = node.args[0] if len(node.args) == 1 and not node.kwargs else None
        layer = modules.get(before) if isinstance(before, fx.Node) else None
        if (
            isinstance(before, fx.Node) and layer is not None and _plain_norm(norm) and _plain_layer(layer)
            and layer.weight.shape[0] == norm.num_features and len(before.args) == 1 and not before.kwargs
            and len(before.users) == 1 and times[id(layer)] == times[id(norm)] == 1
            and not {id(layer), id(norm)} & unseen
        ):
            found.append((str(before.target), str(node.target)))
    return tuple(found)


def _plain_norm(module: Any) -> bool:
    return bool(
        type(module) in NORMS and not _hooked(module) and module.running_mean is not None and not module.training,
    )


def _plain_layer(module: Any) -> bool:
    return bool(
        type(module) in LAYERS and not _hooked(module) and isinstance(module._parameters.get('weight'), Tensor)
        and module.weight.is_floating_point(),
    )


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def fold(model: nn.Module, names: tuple[tuple[str, str], ...]) -> None:
    """Fold BatchNorms into the layers before them, in place; an ``nn.Identity`` stands where each was.

    Args:
        model: A copy of the model that :func:`find_pairs` looked at.
        names: Of :class:`Pairs`.
    """
    gone: dict[int, nn.Module] = {}
    for layer, norm in names:
        before = model.get_submodule(norm)
        _fold(model.get_submodule(layer), before)
        gone[id(before)] = nn.Identity().eval()
    for part in list(model.modules()):
        children: Mapping[str, nn.Module | None] = dict(part._modules)
        for name, child in children.items():
            if child is not None and id(child) in gone:
                setattr(part, name, gone[id(child)])


def _fold(layer: Any, norm: Any) -> None:
    weight = layer.weight.detach()

    def exact(value: Tensor) -> Tensor:
        return value.detach().to('cpu', torch.float64)  # some devices have no float64

    scale = torch.rsqrt(exact(norm.running_var) + norm.eps)
    if norm.weight is not None:
        scale = scale * exact(norm.weight)
    bias = -exact(norm.running_mean) if layer.bias is None else exact(layer.bias) - exact(norm.running_mean)
    bias = bias * scale if norm.bias is None else bias * scale + exact(norm.bias)
    folded = exact(weight) * scale.reshape(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter(folded.to(weight), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(weight), requires_grad=False)
