"""What a model sees and answers: the statistics of its images, and the names of its classes in their order."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_PLACEHOLDER = re.compile(r'(label[_ ]?)?\d+', re.IGNORECASE)


@dataclass(frozen=True)
class Traits:
    """What is known of a model beside its weights; each may be unknown.

    A data set or a model says them of itself in an attribute ``traits``. A recipe's data hands them to its student.

    Attributes:
        mean: By channel, of pixels in 0 to 1, subtracted from the images that the model gets.
        std: The standard deviation by which they are divided then.
        resolution: The side of the images that it was trained or evaluated on, in pixels.
        classes: The names of its classes, in the order of its logits.

    Example:
        >>> Traits(mean=(0.5,), std=(0.5,)).normalised
        True
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resolution: int | None = None
    classes: tuple[str, ...] | None = None

    @property
    def normalised(self) -> bool:
        """Whether it is known how its images are normalised."""
        return self.mean is not None and self.std is not None


def read_statistics(said: Any, where: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel.

    Args:
        said: A mapping with ``mean`` and ``std``: a number of each channel, of pixels in 0 to 1.
        where: What it is, for messages.

    Raises:
        ValueError: For other keys, other lengths, or a value out of range.

    Example:
        >>> read_statistics({'mean': [0.5], 'std': [0.25]}, 'normalize')
        ((0.5,), (0.25,))
    """
    expected = f'{where}: expected {{mean: [...], std: [...]}}, a number of each channel for pixels in 0 to 1'
    if not isinstance(said, Mapping) or set(said) != {'mean', 'std'}:
        raise ValueError(f'{expected}, got {said!r}.')
    found = []
    for key in ('mean', 'std'):
        values = said[key]
        fine = isinstance(values, Sequence) and not isinstance(values, str) and len(values) > 0 and all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            and (key == 'mean' or value > 0) for value in values
        )
        if not fine:
            raise ValueError(f'{expected}{" above 0" if key == "std" else ""}; {key} is {values!r}.')
        found.append(tuple(float(value) for value in values))
    if len(found[0]) != len(found[1]):
        raise ValueError(f'{expected}; mean has {len(found[0])} and std {len(found[1])}.')
    return found[0], found[1]


def class_names(names: Iterable[Any] | None) -> tuple[str, ...] | None:
    """Names of classes, or ``None`` where they are no names: missing, numbered (``LABEL_0``) or WordNet's numbers.

    Example:
        >>> class_names(['cat', 'dog']), class_names(['LABEL_0', 'LABEL_1']), class_names(['n01440764', 'n01443537'])
        (('cat', 'dog'), None, None)
    """
    found = tuple(str(name) for name in names or ())
    if not found or all(_PLACEHOLDER.fullmatch(name) or re.fullmatch(r'n\d{8}', name) for name in found):
        return None
    return found


def traits_of(model: Any) -> Traits:
    """What a model says of itself, in ``traits`` or, of its classes, in its Hugging Face configuration.

    Args:
        model: The model, or what wraps it as ``module`` or ``model``.

    Example:
        >>> traits_of(object())
        Traits(mean=None, std=None, resolution=None, classes=None)
    """
    for part in (model, getattr(model, 'module', None), getattr(model, 'model', None)):
        said = getattr(part, 'traits', None)
        if isinstance(said, Traits):
            return said
    inner = getattr(model, 'model', model)
    labels = getattr(getattr(inner, 'config', None), 'id2label', None)
    if type(inner).__name__.endswith('Classification') and isinstance(labels, Mapping):
        return Traits(classes=class_names(labels[key] for key in sorted(labels, key=int)))
    return Traits()
