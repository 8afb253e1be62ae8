"""Where a teacher's weights lie: on every device whole, in parts over all of them, or in host memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil
import torch
from composer.core import State
from composer.distributed.fsdp2 import create_mixed_precision_policy
from composer.utils import dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from composer_kd.teachers.kinds.opaque import is_opaque

log = logging.getLogger(__name__)

PLACEMENTS = ('auto', 'replicated', 'sharded', 'host')

AUTO_SHARE = 0.25
"""The share of a device's memory that ``'auto'`` gives to teachers."""

SMALLEST_BLOCK = 2**17
"""Parameters that a layer must have to be sharded, or brought in, by itself."""


def size_of(module: torch.nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(value.numel() * value.element_size() for value in {
        id(value): value for value in (*module.parameters(), *module.buffers())
    }.values())


def device_memory(state: State) -> int:
    """Bytes of memory that a rank has for its device."""
    if state.device.name == 'gpu':
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return int(psutil.virtual_memory().total) // dist.get_local_world_size()


def why_not_sharded(state: State, by_rank: bool) -> str | None:
    """Why no teacher can be sharded in this training; ``None`` where it can."""
    if by_rank:
        return "sampling='by_rank' gives each rank another teacher"
    if state.tp_config is not None:
        return 'the student is split by tensor parallelism'
    if state.auto_microbatching:
        return "with device_train_microbatch_size='auto' one rank may run out of memory while the others wait for it"
    return None


def choose_placements(asked: str, teachers: Sequence[Any], state: State, by_rank: bool) -> list[str]:
    """The placement of each teacher that this rank keeps; of sharded ones, the same on every rank.

    ``'auto'`` keeps teachers whole on every device as long as all of them take no more than a quarter of its memory,
    then shards them, and where that is not possible or not enough, leaves them in host memory. On a CPU, whose memory
    is the host's, they are sharded or whole.

    Args:
        asked: Of :data:`PLACEMENTS`.
        teachers: The teachers, each with a ``module`` and a ``name``.
        state: The training.
        by_rank: Whether ranks ask different teachers.

    Raises:
        ValueError: For ``'sharded'`` where it is impossible.
    """
    obstacles = [why_not_sharded(state, by_rank) or _why_not_this(teacher.module) for teacher in teachers]
    for teacher, obstacle in zip(teachers, obstacles, strict=True):
        if asked == 'sharded' and obstacle is not None:
            raise ValueError(
                f"placement: teacher '{teacher.name}' cannot be 'sharded', as {obstacle}. Use 'host', 'replicated' or "
                "'auto'.",
            )
    room = [AUTO_SHARE * device_memory(state)]
    dist.broadcast_object_list(room)  # memory may differ from node to node
    shardable = [obstacle is None for obstacle in obstacles]
    sizes = [size_of(teacher.module) for teacher in teachers]
    opaque = [is_opaque(teacher.module) for teacher in teachers]
    for teacher, program in zip(teachers, opaque, strict=True):
        if program and asked == 'host':
            raise ValueError(
                f"placement: teacher '{teacher.name}' is a program, whose layers cannot be brought one by one from the "
                "'host'. Use 'replicated' or 'auto'.",
            )
    chosen = settle(asked, sizes, room[0], dist.get_world_size(), state.device.name == 'gpu', shardable)
    return ['replicated' if program else one for one, program in zip(chosen, opaque, strict=True)]


def _why_not_this(module: torch.nn.Module) -> str | None:
    if is_opaque(module):
        return 'it is a program, whose weights cannot be laid in parts'
    if any(parameter.dim() == 0 for parameter in module.parameters()):
        return 'it has parameters without a dimension, which FSDP2 cannot split'
    if len({parameter.dtype for parameter in module.parameters()}) > 1:
        return 'its parameters are of several types, which FSDP2 does not gather together'
    return None


def settle(
    asked: str, sizes: Sequence[int], room: float, ranks: int, gpu: bool, shardable: Sequence[bool],
) -> list[str]:
    """The placement of each teacher; see :func:`choose_placements`.

    Args:
        asked: Of :data:`PLACEMENTS`.
        sizes: Bytes of each teacher.
        room: Bytes that all teachers may take of a device's memory.
        ranks: How many ranks there are.
        gpu: Whether they train on GPUs.
        shardable: Whether each can be sharded.

    Example:
        >>> settle('auto', [60, 60, 900], room=100, ranks=8, gpu=True, shardable=[True] * 3)
        ['replicated', 'sharded', 'host']
    """
    if asked != 'auto':
        # on a single rank the part that it has is the whole
        return ['replicated' if asked == 'sharded' and ranks == 1 else asked] * len(sizes)
    chosen = []
    for size, can in zip(sizes, shardable, strict=True):
        part = size / ranks
        if size <= room:
            chosen.append('replicated')
            room -= size
        elif ranks > 1 and can and (part <= room or not gpu):
            chosen.append('sharded')
            room -= part
        else:
            chosen.append('host' if gpu else 'replicated')
    return chosen


def blocks(module: torch.nn.Module) -> list[torch.nn.Module]:
    """The layers of a model that can be sharded or brought in one after another: those in lists and sequences.

    Only such with parameters of their own that no other part of the model shares, and not too small.
    """
    found: list[torch.nn.Module] = []

    def walk(inner: torch.nn.Module) -> None:
        for child in inner.children():
            container = isinstance(inner, (torch.nn.ModuleList, torch.nn.Sequential))
            large = sum(p.numel() for p in child.parameters()) >= SMALLEST_BLOCK
            if container and large and not isinstance(child, (torch.nn.ModuleList, torch.nn.Sequential)):
                found.append(child)
            else:
                walk(child)

    walk(module)
    uses = _uses(module)
    return [block for block in found if all(uses[id(parameter)] == 1 for parameter in block.parameters())]


def _mesh(state: State) -> DeviceMesh:
    mesh: DeviceMesh | None = getattr(state.fsdp_config, 'device_mesh', None)
    if mesh is not None:
        return mesh
    return init_device_mesh('cuda' if state.device.name == 'gpu' else 'cpu', (dist.get_world_size(),))


def shard(module: torch.nn.Module, state: State) -> None:
    """Shard a module over the student's mesh, or over all ranks, in place (FSDP2; Zhao et al. 2023, arXiv 2304.11277).

    Each rank keeps a part of every parameter; a layer's parts are gathered when it runs: in the precision of the
    student's where FSDP shards it too, in their own otherwise.
    """
    mesh, config = _mesh(state), state.fsdp_config
    policy = MixedPrecisionPolicy() if config is None else create_mixed_precision_policy(
        state.precision, config.mixed_precision,
    )
    module.requires_grad_(False)
    parts = (*blocks(module), module)
    for part in parts:
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    state.device.module_to_device(module)
    module.register_forward_hook(lambda *_: _forget_order(parts), always_call=True)


def _forget_order(parts: Sequence[Any]) -> None:
    # FSDP2 notes the order of all forwards for the backward pass to come, and a teacher never has one.
    for part in parts:
        group = part._get_fsdp_state()._fsdp_param_group
        if group is not None:
            group._post_forward_indices.clear()
            group.comm_ctx.post_forward_order.clear()


def bring_when_used(module: torch.nn.Module, device: torch.device) -> None:
    """Leave a module's weights in host memory, and bring each layer's to the device for as long as it runs, in place.

    Args:
        module: The module, on the CPU. On a GPU's host its memory is pinned, so that copies do not hold the host up.
        device: Where it runs.
    """
    # autocast keeps the low-precision copies of weights that could learn until the end of the forward
    module.requires_grad_(False)
    layers = blocks(module)
    everywhere, left = _uses(module), {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    for layer in layers:
        here = _uses(layer)
        # what other parts of the model use too, such as a table of positions, comes with the model
        own = [left.pop(key) for key in here if here[key] == everywhere[key]]
        _bring(layer, own, device)
    _bring(module, list(left.values()), device)


def _uses(module: torch.nn.Module) -> Counter[int]:
    return Counter(
        id(tensor) for named in (module.named_parameters, module.named_buffers)
        for _, tensor in named(remove_duplicate=False)
    )


def _bring(part: torch.nn.Module, own: list[Tensor], device: torch.device) -> None:
    kept = [tensor.data.pin_memory() if device.type == 'cuda' else tensor.data for tensor in own]

    def bring(*_: Any) -> None:
        for tensor, home in zip(own, kept, strict=True):
            tensor.data = home.to(device, non_blocking=True, copy=True)

    def let_go(*_: Any) -> None:
        for tensor, home in zip(own, kept, strict=True):
            tensor.data = home

    let_go()
    part.register_forward_pre_hook(bring, prepend=True)
    part.register_forward_hook(let_go, always_call=True)  # after running out of memory too
