"""A teacher that sees other images, or numbers its classes or words otherwise, made to fit the student's data."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from composer_kd.models.traits import Traits, read_statistics
from composer_kd.names import nearest
from composer_kd.teachers.preparing.steps import on_images

log = logging.getLogger(__name__)

CLASSES = ('match', 'ignore')
VOCABULARY = ('exact', 'shared')


@dataclass(frozen=True)
class Align:
    """How a teacher's inputs and answers are made to fit the student's, as the user wrote it.

    Attributes:
        normalize: ``'auto'``: its images are normalised as it was trained, where that is known; ``'none'``: they are as
            the student gets them; or mean and standard deviation by channel, for pixels in 0 to 1.
        resolution: The side that its images' shorter one is brought to, up or down, in pixels; ``'auto'``: as it was
            trained, where that is known; ``None``: as the student gets them.
        classes: ``'match'``: where both sides know the names of their classes, its logits are put in the student's
            order; ``'ignore'``: they are taken as they are.
        vocabulary: ``'exact'``: both give as many logits; ``'shared'``: the logits of both are cut to as many as the
            smaller has, whose words must be the same.

    Example:
        >>> read_align({'resolution': 224}, 'teachers[0]').resolution
        224
    """

    normalize: str | tuple[tuple[float, ...], tuple[float, ...]] = 'auto'
    resolution: int | str | None = None
    classes: str = 'match'
    vocabulary: str = 'exact'


AS_THEY_ARE = Align()


def _one_of(said: Any, names: Sequence[str], where: str) -> str:
    if said not in names:
        raise ValueError(f"{where}: expected {' or '.join(map(repr, names))}, got {said!r}.{nearest(said, names)}")
    return str(said)


def read_align(item: Mapping[str, Any], where: str) -> Align:
    """Read ``normalize``, ``resolution``, ``classes`` and ``vocabulary`` of an entry of ``teachers``.

    Raises:
        ValueError: For a value out of range or an unknown name, with the nearest valid one.
    """
    said = item.get('normalize', 'auto')
    if isinstance(said, str):
        normalize: Any = _one_of(said, ('auto', 'none'), f'{where}.normalize')
    else:
        normalize = read_statistics(said, f'{where}.normalize')
    resolution = item.get('resolution')
    whole = isinstance(resolution, int) and not isinstance(resolution, bool) and resolution > 0
    if resolution not in (None, 'auto') and not whole:
        raise ValueError(
            f"{where}.resolution: expected a number of pixels of 1 or more, or 'auto', got {resolution!r}.",
        )
    return Align(
        normalize, resolution, _one_of(item.get('classes', 'match'), CLASSES, f'{where}.classes'),
        _one_of(item.get('vocabulary', 'exact'), VOCABULARY, f'{where}.vocabulary'),
    )


class Alignment:
    """What is done to a teacher's inputs and answers in a step.

    Args:
        scale: By channel, what the student's images are multiplied by; ``None`` for nothing.
        shift: By channel, what is added then.
        resolution: The side of the images; ``None`` for as they are.
        order: Of the student's classes, their places in the teacher's logits; ``None`` for the same.
        shared: How many logits are kept; ``None`` for all.
        dtype: Of its images; ``None`` for the student's.
        who: The teacher, for messages.

    Example:
        >>> one = Alignment(order=[2, 0, 1])
        >>> one.answers(torch.tensor([[10.0, 20.0, 30.0]])).tolist()
        [[30.0, 10.0, 20.0]]
    """

    def __init__(
        self, scale: Sequence[float] | None = None, shift: Sequence[float] | None = None,
        resolution: int | None = None, order: Sequence[int] | None = None, shared: int | None = None,
        dtype: torch.dtype | None = None, who: str = 'teacher',
    ) -> None:
        self.resolution, self.shared = resolution, shared
        self._who, self._dtype = who, dtype
        self._scale, self._shift = (
            None if values is None else torch.tensor(values).reshape(1, -1, 1, 1) for values in (scale, shift)
        )
        self._order = None if order is None else torch.tensor(order)
        self._there: dict[torch.device, list[Tensor | None]] = {}

    def _on(self, device: torch.device) -> list[Tensor | None]:
        if device not in self._there:
            tensors = (self._scale, self._shift, self._order)
            self._there[device] = [None if one is None else one.to(device) for one in tensors]
        return self._there[device]

    @property
    def told(self) -> str:
        """What changes its answers, as text; empty for nothing."""
        parts = []
        if self._scale is not None and self._shift is not None:
            scale, shift = (one.flatten().tolist() for one in (self._scale, self._shift))
            parts.append(f"images * {[f'{x:.6g}' for x in scale]} + {[f'{x:.6g}' for x in shift]}")
        if self.resolution is not None:
            parts.append(f'images to {self.resolution}')
        if self._order is not None:
            parts.append(f'classes {self._order.tolist()}')
        if self.shared is not None:
            parts.append(f'the first {self.shared} logits')
        return '; '.join(parts)

    @property
    def nothing(self) -> bool:
        """Whether inputs and answers stay as they are."""
        return not self.told and self._dtype is None

    def digest(self, digest: str) -> str:
        """The digest of a teacher whose answers are changed so: what is learnt from it is not the same."""
        return hashlib.sha256(f'{digest} {self.told}'.encode()).hexdigest() if self.told else digest

    def inputs(self, batch: Any) -> Any:
        """A batch as the teacher is to see it.

        Raises:
            ValueError: If images are to be changed and there are none in it.
        """
        if self._scale is None and self.resolution is None and self._dtype is None:
            return batch
        changed, found = on_images(batch, self._images)
        if not found and (self._scale is not None or self.resolution is not None):
            raise ValueError(
                f'{self._who}: its images are to be normalised or resized, and its batches hold none: tensors of '
                "floating point with four dimensions. Set normalize: none and leave 'resolution' out.",
            )
        return changed

    def _images(self, images: Tensor) -> Tensor:
        scale, shift, _ = self._on(images.device)
        if scale is not None and shift is not None:
            if images.shape[1] != scale.shape[1]:
                raise ValueError(
                    f'{self._who}: its normalisation is of {scale.shape[1]} channels, and its images have '
                    f'{images.shape[1]}. Choose a teacher for such images, or set normalize.',
                )
            images = torch.addcmul(shift.to(images.dtype), images, scale.to(images.dtype))
        least = min(images.shape[-2:])
        if self.resolution is not None and least != self.resolution:
            size = [math.floor(side * self.resolution / least + 0.5) for side in images.shape[-2:]]
            images = functional.interpolate(images, size, mode='bilinear', antialias=True)
        return images if self._dtype is None else images.to(self._dtype)

    def answers(self, logits: Tensor) -> Tensor:
        """Logits in the student's order, and as many as both have."""
        order = self._on(logits.device)[2]
        if order is not None:
            logits = logits.index_select(-1 if logits.shape[-1] == len(order) else 1, order)
        return logits if self.shared is None else logits[..., :self.shared]


def align(asked: Align, teacher: Traits, student: Traits, where: str, dtype: torch.dtype | None) -> Alignment:
    """What has to be done so that a teacher fits a student, but for the vocabulary.

    Args:
        asked: What the user wrote.
        teacher: What is known of the teacher.
        student: What is known of the student, and its data.
        where: The teacher, for messages.
        dtype: In which type it takes images; ``None`` for that of the student's.

    Raises:
        ValueError: For names of classes that are not the same, or what was asked for and cannot be known.
    """
    scale, shift = _normalisation(asked, teacher, student, where)
    resolution = asked.resolution
    if resolution == 'auto':
        resolution = None if teacher.resolution == student.resolution else teacher.resolution
        if teacher.resolution is None:
            raise ValueError(
                f"{where}.resolution: 'auto', and the teacher does not say on which images it was trained. Give the "
                'number of pixels.',
            )
    order = None if asked.classes == 'ignore' else order_of(teacher.classes, student.classes, where)
    assert not isinstance(resolution, str)
    return Alignment(scale, shift, resolution, order, None, dtype, where)


def _normalisation(
    asked: Align, teacher: Traits, student: Traits, where: str,
) -> tuple[list[float] | None, list[float] | None]:
    by_name = isinstance(asked.normalize, tuple)
    mean, std = asked.normalize if isinstance(asked.normalize, tuple) else (teacher.mean, teacher.std)
    if asked.normalize == 'none' or mean is None or std is None:
        return None, None
    if student.mean is None or student.std is None:
        told = (
            f'{where}: the teacher was trained on images normalised with the mean {_short(mean)} and the standard '
            f'deviation {_short(std)}, and how the student\'s are is not known'
        )
        if by_name:
            raise ValueError(
                f'{told}. Say it of the student: model.traits = composer_kd.models.Traits(mean=..., std=...), or take '
                'data that does.',
            )
        log.warning(
            "%s: it gets them as they are. Say it of the student (model.traits = composer_kd.models.Traits(mean=..., "
            "std=...)), or set normalize: none where they are the same.", told,
        )
        return None, None
    if len(mean) != len(student.mean):
        raise ValueError(
            f'{where}: the teacher was trained on images of {len(mean)} channels, and the student gets '
            f'{len(student.mean)}. Choose a teacher for such images, or set normalize: none.',
        )
    if all(map(math.isclose, (*mean, *std), (*student.mean, *student.std))):
        return None, None
    scale = [own / theirs for own, theirs in zip(student.std, std, strict=True)]
    shift = [(own - theirs) / by for own, theirs, by in zip(student.mean, mean, std, strict=True)]
    return scale, shift


def _short(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def _plain(name: str) -> str:
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def order_of(
    teacher: Sequence[str] | None, student: Sequence[str] | None, where: str,
) -> list[int] | None:
    """Of each of the student's classes, its place in the teacher's logits; ``None`` where all stand in the same.

    Args:
        teacher: The names of the teacher's classes; ``None`` where they are not known.
        student: Likewise.
        where: The teacher, for messages.

    Raises:
        ValueError: If one side has names that the other has not, with the nearest.

    Example:
        >>> order_of(['cat', 'dog', 'ox'], ['Ox', 'cat', 'dog'], 'teachers[0]')
        [2, 0, 1]
    """
    if teacher is None or student is None:
        return None
    theirs, own = [_plain(name) for name in teacher], [_plain(name) for name in student]
    if theirs == own:
        return None
    if len(set(theirs)) < len(theirs) or len(set(own)) < len(own):
        return None  # names that stand for two classes tell neither apart
    if set(theirs) != set(own):
        strange = [name for name in own if name not in set(theirs)]
        left = [name for name in theirs if name not in set(own)]
        told = '; '.join(f"'{name}' is not among them.{nearest(name, left)}" for name in strange[:3])
        raise ValueError(
            f'{where}: the teacher has other classes than the student: of its {len(theirs)}, {len(left)} are not the '
            f"student's ({', '.join(left[:3])}), and of the student's {len(own)}, {len(strange)} are not its own. "
            f'{told} Choose a teacher of the same classes; if they are the same under other names and in the same '
            'order, set classes: ignore.',
        )
    return [theirs.index(name) for name in own]
