"""Before a training with losses on layers begins: what cannot be had, what features look like, and the projectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from composer.utils.parallelism import FSDPConfig

from composer_kd.entries import Entry, Layers
from composer_kd.layers import Taps, build_projector, find_module, loader_given, run_student, sample_of
from composer_kd.layers.widths import Shape, Shapes, check_shapes, told_unseen
from composer_kd.teachers import Pool, Teacher


def name_of(index: int, pair: int, teacher: int) -> str:
    """What the projector of a loss's pair of layers and of a teacher is called, in the state too."""
    return f'loss{index}_layer{pair}_teacher{teacher}'


def _layers(entries: Mapping[int, Entry]) -> list[tuple[int, Layers]]:
    return [(i, entry.layers) for i, entry in entries.items() if entry.layers is not None]


def check_paths(entries: Mapping[int, Entry], student: torch.nn.Module, teachers: Sequence[Any]) -> None:
    """Look the layers up in models that are there, before any training.

    Raises:
        ValueError: For a layer that is not there, or a teacher that has none.
    """
    for index, layers in _layers(entries):
        where = f'losses.{entries[index].label}'
        for tap in layers.student:
            find_module(student, tap.path, 'the student', f'{where}.student_layer')
        for teacher in teachers:
            _refuse_without_layers(teacher)
            for tap in layers.teacher:
                who = f"teacher '{teacher.name}' ({teacher.origin})"
                find_module(teacher.module, tap.path, who, f'{where}.teacher_layer')


def observe(entries: Mapping[int, Entry], taps: Taps, state: State, pool: Pool) -> Shapes | None:
    """The shapes of all features of a sample; ``None`` where the data cannot be looked at now. Every rank calls this.

    Raises:
        ValueError: For features that a loss does not take.
    """
    batch = sample_of(loader_given())
    everywhere = dist.all_gather_object(batch is None)
    if any(everywhere):
        return None
    taps.open()
    run_student(state.model, batch, state)
    student = {str(tap): tuple(feature.shape) for tap, feature in taps.take().items()}
    mine: dict[int, dict[str, Shape]] = {}
    on_device = state.device.batch_to_device(batch)
    for i, teacher in enumerate(pool.teachers):
        if isinstance(teacher, Teacher) and not teacher.released:
            teacher.look_at(on_device, state)
            assert teacher.watch is not None
            mine[i] = {str(tap): tuple(feature.shape) for tap, feature in teacher.watch.take().items()}
    found: dict[int, dict[str, Shape]] = {}
    for rank in dist.all_gather_object(mine):  # of teachers by rank, none has them all
        found |= rank
    shapes = Shapes(student, found)
    for entry in entries.values():
        check_shapes(entry, shapes)
    return shapes


def build_projectors(
    entries: Mapping[int, Entry], teachers: int, seed: int, shapes: Shapes | None,
) -> dict[str, torch.nn.Module]:
    """The projectors by name: of each pair of layers and each teacher, where a loss has any.

    Raises:
        ValueError: For widths that were neither seen nor said, or that differ.
    """
    modules: dict[str, torch.nn.Module] = {}
    for index, layers in _layers(entries):
        asked = layers.projector
        if asked.kind == 'none':
            continue
        if shapes is None and asked.student_width is None:
            raise ValueError(told_unseen(entries[index].label))
        for pair, (mine, theirs) in enumerate(zip(layers.student, layers.teacher, strict=True)):
            for i in range(teachers):
                seen = None if shapes is None else (shapes.student[str(mine)], shapes.teachers[i][str(theirs)])
                name = name_of(index, pair, i)
                modules[name] = build_projector(asked, seen, f'{seed}/{name}')
    return modules


def refuse_impossible(state: State, pool: Pool) -> None:
    """Refuse trainings and teachers that layers cannot be had of.

    Raises:
        ValueError: Naming what is in the way.
    """
    if isinstance(getattr(state, 'fsdp_config', None), FSDPConfig):
        raise ValueError(
            "losses: layers are not captured under FSDP1, which flattens the student's parameters. Use FSDP2 "
            "(parallelism_config={'fsdp': FSDP2Config(...)}), DDP, or losses of logits.",
        )
    if getattr(state, 'tp_config', None) is not None:
        raise ValueError(
            'losses: layers are not captured under tensor parallelism, where a rank has a part of each. Use FSDP2, '
            'DDP, or losses of logits.',
        )
    for teacher in pool.teachers:
        _refuse_without_layers(teacher)


def _refuse_without_layers(teacher: Any) -> None:
    live = isinstance(teacher, Teacher) and not teacher.released
    opaque = getattr(teacher.module if live else teacher, 'opaque', False)
    if not isinstance(teacher, Teacher) or opaque:
        raise ValueError(
            f"losses: teacher '{teacher.name}' ({teacher.origin}) has no layers that can be captured: it is an "
            'exported program or stored answers. Use losses of logits, or the model itself.',
        )
