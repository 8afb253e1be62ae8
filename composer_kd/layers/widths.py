"""Shapes of features: what a loss takes, and how wide a projector is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Shape = tuple[int, ...]

_FORMS = {
    'map': 'feature maps (N, C, H, W)', 'hidden': 'hidden states (N, L, D) or (N, D)',
    'attention': 'attention (N, heads, L, L)',
}


class Shapes(NamedTuple):
    """Of the features of a sample: the student's by tap, and each teacher's."""

    student: Mapping[str, Shape]
    teachers: Mapping[int, Mapping[str, Shape]]


def width_of(shape: Shape) -> int:
    """The width of features of that shape: the channels of maps, the last dimension of anything else.

    Example:
        >>> width_of((2, 16, 8, 8)), width_of((2, 7, 32))
        (16, 32)
    """
    return shape[1] if len(shape) == 4 else shape[-1]


def _fits(takes: str, shape: Shape) -> bool:
    if takes == 'map':
        return len(shape) == 4
    if takes == 'attention':
        return len(shape) == 4 and shape[-1] == shape[-2]
    return len(shape) in (2, 3) if takes == 'hidden' else True


def check_shapes(entry: Any, shapes: Shapes) -> None:
    """Refuse features that a loss does not take, or that have another number of dimensions in the teacher.

    Args:
        entry: The loss and its layers.
        shapes: Of the features.

    Raises:
        ValueError: Naming the layer and its shape.
    """
    takes, layers, label = entry.loss.takes, entry.layers, entry.label
    for theirs in shapes.teachers.values():
        for mine, other in zip(map(str, layers.student), map(str, layers.teacher), strict=True):
            sides = (('student_layer', mine, shapes.student[mine]), ('teacher_layer', other, theirs[other]))
            for key, path, shape in sides:
                if not _fits(takes, shape):
                    raise ValueError(
                        f"losses.{label}.{key}: '{path}' gives features of shape {shape}, and '{entry.loss.name}' "
                        f'takes {_FORMS[takes]}. Name another layer, or another loss.',
                    )
            if len(sides[0][2]) != len(sides[1][2]):
                raise ValueError(
                    f"losses.{label}: the student's '{mine}' gives features of shape {sides[0][2]} and the teacher's "
                    f"'{other}' of {sides[1][2]}. Name layers of one kind.",
                )


def told_unseen(label: str) -> str:
    """What to tell where a projector's widths cannot be observed."""
    return (
        f'losses.{label}.projector: its widths are observed on a sample of the training data, which is not there yet, '
        'or cannot be looked at by number without beginning it (an IterableDataset). Give the Trainer its '
        'train_dataloader when it is built, or say them: projector: {kind: linear, student_width: 64, '
        'teacher_width: 256}; or projector: none.'
    )
