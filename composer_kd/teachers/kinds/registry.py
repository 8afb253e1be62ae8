"""Kinds of teachers by name: where a model comes from, and what is known of it before it is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from composer_kd.names import Registry, check_keys, check_settings

COMMON = frozenset({
    'name', 'weight', 'logits_key', 'digest', 'cache', 'prepare', 'normalize', 'resolution', 'classes', 'vocabulary',
})
"""What may be said of a live teacher of any kind."""

RESERVED = (COMMON - {'cache'}) | {'model', 'algorithms', 'weights', 'prefix'}
"""What no kind can be called, as it is a setting already."""


@dataclass(frozen=True)
class Kind:
    """One kind of teacher.

    Attributes:
        load: ``load(source, **settings)``: the model. A parameter called ``where`` gets the name of the teacher for
            messages, and one called ``student`` the student. Every rank calls it.
        expected: What stands behind the kind's name in an entry, for messages.
        check: ``check(source, where, **settings)``: raises a ``ValueError`` or ``TypeError`` for what ``load`` would
            refuse, before anything is loaded.
        here: ``here(source, **settings)``: whether nothing has to be fetched; ``None`` for always.
        outputs: ``outputs(source, **settings)``: the number of classes, if that is known before the model is there.
        opaque: Whether the model is a program of which no layer can be looked at.
        source: What the source is in Python.
        told: ``told(source, **settings)``: the source as it is recorded, where more than its name tells it apart.
        architecture: ``architecture(source, **settings)``: the model without its weights on torch's default device,
            for ``composer-kd plan``.

    Example:
        >>> kind = Kind(lambda source, width=4: nn.Linear(width, int(source)), 'a number of classes')
        >>> list(kind.settings()), kind.opaque
        (['width'], False)
    """

    load: Callable[..., Any]
    expected: str = 'a name, path or URI'
    check: Callable[..., None] | None = None
    here: Callable[..., bool] | None = None
    outputs: Callable[..., int | None] | None = None
    opaque: bool = False
    source: type = str
    told: Callable[..., str] | None = None
    architecture: Callable[..., nn.Module] | None = None

    def settings(self) -> dict[str, inspect.Parameter]:
        """The parameters of ``load`` that an entry may set."""
        return {
            name: parameter for name, parameter in list(inspect.signature(self.load).parameters.items())[1:]
            if name not in ('where', 'student')
        }


TEACHERS: Registry[Kind | Callable[..., Any]] = Registry('kind of teacher', 'composer_kd.teachers')
"""Kinds by name: our own, and third parties', added with ``TEACHERS.register(name)`` or under the entry-point group
``composer_kd.teachers``, as a :class:`Kind` or as the bare function ``load``, which returns an ``nn.Module`` (called on
the batch's input) or a ``ComposerModel``. An entry names the kind and its source, and its settings beside them.

Example:
    >>> from composer_kd.teachers import parse_teachers
    >>> @TEACHERS.register('linear')
    ... def linear(source: str, width: int = 4) -> nn.Module:
    ...     return nn.Linear(width, int(source))
    >>> parse_teachers({'linear': 3, 'width': 8})[0].origin
    'linear:3'
"""


def kind_of(name: str, where: str = 'teachers') -> Kind:
    """The kind of that name.

    Args:
        name: Its name.
        where: What asked, for messages.

    Raises:
        ValueError: For an unknown name, with the nearest and all names.
        TypeError: For something in the registry that is neither a kind nor a function.

    Example:
        >>> kind_of('onnx').opaque
        True
    """
    found = TEACHERS.get(name, where)
    if isinstance(found, Kind):
        return found
    if isinstance(found, type) or not callable(found):
        raise TypeError(f"{where}: expected a Kind or a function in the registry under '{name}', got {found!r}.")
    return Kind(found)


def kinds_in(item: Mapping[str, Any]) -> list[str]:
    """The kinds that an entry names: more than one only where it is wrong, or has a store beside it.

    Raises:
        ValueError: If a registered kind has the name of a setting.

    Example:
        >>> kinds_in({'run': 'runs/a', 'cache': 'stores/a', 'weight': 2})
        ['run', 'cache']
    """
    names = TEACHERS.names()
    clash = sorted(RESERVED & set(names))
    if clash:
        raise ValueError(
            f"teachers: a kind of teacher is registered as '{clash[0]}', which is a setting of all. Register it under "
            'another name.',
        )
    return [name for name in item if name in names]


def live_kind(item: Mapping[str, Any]) -> str | None:
    """The kind of an entry that names a model; ``None`` for stored answers alone.

    Example:
        >>> live_kind({'timm': 'resnet18', 'cache': 'stores/a'}), live_kind({'cache': 'stores/a'})
        ('timm', None)
    """
    return next((name for name in kinds_in(item) if name != 'cache'), None)


def check_entry(kind: Kind, name: str, source: Any, settings: Mapping[str, Any], where: str) -> None:
    """Hold an entry's settings against its kind's.

    Args:
        kind: The kind.
        name: Its name.
        source: What stands behind it.
        settings: The entry's other settings, but those of any kind.
        where: The entry, for messages.

    Raises:
        ValueError: For an unknown or missing setting, or what the kind refuses.
        TypeError: For a source or a value of another type.
    """
    parameters = kind.settings()
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        check_keys(settings, {name, *COMMON, *parameters}, where)
    first = next(iter(inspect.signature(kind.load).parameters), '')
    check_settings(kind.load, settings, where, given=(first, 'where', 'student'))
    if kind.check is not None:
        kind.check(source, where, **settings)


def load_kind(kind: Kind, source: Any, settings: Mapping[str, Any], where: str, student: Any) -> nn.Module:
    """Load a teacher of a kind.

    Raises:
        ValueError: If its function returns no ``nn.Module``; and whatever that raises.
    """
    asked = inspect.signature(kind.load).parameters
    given = {key: value for key, value in (('where', where), ('student', student)) if key in asked}
    module = kind.load(source, **settings, **given)
    if not isinstance(module, nn.Module):
        raise ValueError(
            f'{where}: the function of this kind of teacher has to return an nn.Module, it returned '
            f'{type(module).__name__}.',
        )
    return module
