"""Projectors: what brings a student's features to the width of a teacher's."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from composer_kd.layers.widths import Shape, width_of
from composer_kd.names import check_keys, nearest

KINDS = ('linear', 'mlp', 'none')
_KEYS = ('kind', 'hidden', 'student_width', 'teacher_width')


@dataclass(frozen=True)
class Projector:
    """What was asked for.

    Attributes:
        kind: ``'linear'``: one linear layer, of feature maps a convolution of size 1; ``'mlp'``: two, with a ReLU
            between; ``'none'``.
        hidden: The width between the two of an ``'mlp'``; ``None`` for the teacher's.
        student_width: Of the student's features, where it is not to be observed.
        teacher_width: Of the teacher's features, likewise.
    """

    kind: str
    hidden: int | None = None
    student_width: int | None = None
    teacher_width: int | None = None

    @property
    def plain(self) -> Any:
        """As a plain type."""
        more = {key: getattr(self, key) for key in _KEYS[1:] if getattr(self, key) is not None}
        return {'kind': self.kind, **more} if more else self.kind


def read_projector(said: Any, default: bool, where: str) -> Projector:
    """Read ``projector``: a kind, ``{kind: ..., hidden: ...}``, true, false or ``None`` for the loss's default.

    Args:
        said: What the user wrote.
        default: Whether the loss has one by default.
        where: What it is, for messages.

    Raises:
        TypeError: For a value of the wrong kind.
        ValueError: For an unknown kind or key, or a width below one.

    Example:
        >>> read_projector(None, True, 'projector').kind, read_projector({'kind': 'mlp'}, False, 'projector').kind
        ('linear', 'mlp')
    """
    if said is None or isinstance(said, bool):
        return Projector('linear' if (default if said is None else said) else 'none')
    if isinstance(said, str):
        said = {'kind': said}
    if not isinstance(said, Mapping):
        raise TypeError(f'{where}: expected one of {", ".join(KINDS)} or a mapping with a kind, got {said!r}.')
    check_keys(said, _KEYS, where)
    kind = said.get('kind', 'linear')
    if kind not in KINDS:
        raise ValueError(f"{where}: expected {', '.join(map(repr, KINDS))}, got {kind!r}.{nearest(kind, KINDS)}")
    for key in _KEYS[1:]:
        width = said.get(key)
        if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
            raise ValueError(f'{where}.{key}: expected a whole number of 1 or more, got {width!r}.')
    if said.get('hidden') is not None and kind != 'mlp':
        raise ValueError(f"{where}.hidden: it is the width inside an 'mlp', and the kind is {kind!r}. Leave it out.")
    if (said.get('student_width') is None) != (said.get('teacher_width') is None):
        raise ValueError(f'{where}: student_width and teacher_width go together. Give both, or neither.')
    return Projector(kind, *(said.get(key) for key in _KEYS[1:]))


def build_projector(asked: Projector, seen: tuple[Shape, Shape] | None, seed: str) -> nn.Module:
    """A projector with initial weights that depend on ``seed`` alone; no other generator is drawn from.

    Args:
        asked: Which; not of the kind ``'none'``.
        seen: Shapes of the student's features and of the teacher's: the width of maps ``(N, C, H, W)`` is that of
            their channels, of anything else the last. ``None`` where they were not observed, and the widths are said.
        seed: Any text.

    Raises:
        ValueError: If the widths that are said are not those that were observed.

    Example:
        >>> build_projector(Projector('linear'), ((2, 8, 3, 3), (2, 16, 3, 3)), 'a')(torch.zeros(2, 8, 3, 3)).shape
        torch.Size([2, 16, 3, 3])
    """
    said = (asked.student_width, asked.teacher_width)
    student, teacher = said if seen is None else map(width_of, seen)
    assert student is not None
    assert teacher is not None
    if None not in said and said != (student, teacher):
        raise ValueError(
            f'losses: a projector of {said[0]} to {said[1]} was asked for, and the layers are {student} and {teacher} '
            'wide. Leave student_width and teacher_width out, or say these.',
        )

    def layer(width: int, to: int) -> nn.Module:
        return nn.Conv2d(width, to, 1) if seen is not None and len(seen[0]) == 4 else nn.Linear(width, to)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=7).digest(), 'big'))
        if asked.kind == 'linear':
            return layer(student, teacher)
        hidden = asked.hidden or teacher
        return nn.Sequential(layer(student, hidden), nn.ReLU(), layer(hidden, teacher))
