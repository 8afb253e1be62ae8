"""Names and settings: looked up, checked at every depth, and answered with the nearest valid one."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

T = TypeVar('T')

_FEW = 16


def snake_case(name: str) -> str:
    """``CosineAnnealing`` as ``cosine_annealing``; runs of capitals stay together (``LRMonitor``: ``lr_monitor``)."""
    return re.sub(r'(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])', '_', name).lower()


def is_text(value: str) -> bool:
    r"""Whether it can be written to a file: it holds no half of a character.

    Example:
        >>> is_text('Größe'), is_text('\ud800')
        (True, False)
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def nearest(name: object, valid: Iterable[str]) -> str:
    """A sentence that offers the valid name nearest to ``name``, or an empty string if none is near."""
    close = difflib.get_close_matches(str(name), list(valid), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ''


def refuse_unknown(given: Iterable[Any], valid: Iterable[str]) -> None:
    """Refuse keys that a schema does not have.

    Raises:
        ValueError: Naming the first, and the nearest valid one, or all if none is near or they are few.
    """
    valid = sorted(valid)
    for key in given:
        if key not in valid:
            near = nearest(key, valid)
            # A list of sixty keys helps nobody who meant the one beside what they wrote.
            everything = '' if near and len(valid) > _FEW else f" Valid keys: {', '.join(valid)}."
            raise ValueError(f"unknown key '{key}'.{near}{everything}")


def check_keys(given: Mapping[Any, Any], valid: Iterable[str], where: str) -> None:
    """Refuse keys that are not in ``valid``.

    Args:
        given: The mapping as it came from the user.
        valid: The keys it may have.
        where: What the mapping is, for the message (``"teachers[0]"``).

    Raises:
        ValueError: Naming the first unknown key, the nearest valid one and all valid ones.
    """
    valid = sorted(valid)
    for key in given:
        if key not in valid:
            raise ValueError(
                f"{where}: unknown key '{key}'.{nearest(key, valid)} Valid keys: {', '.join(valid) or 'none'}.",
            )


def check_settings(
    target: Callable[..., Any], settings: Mapping[str, Any], where: str, given: Iterable[str] = (),
) -> None:
    """Hold ``settings`` against the keyword parameters of ``target`` before it is called.

    Args:
        target: The function or class that will be called with ``settings``.
        settings: Keyword arguments from the user.
        where: What the settings are for, for the message (``"optimizer"``).
        given: Parameters that the caller fills in itself: they are neither missing nor allowed in ``settings``.

    Raises:
        ValueError: For an unknown key (with the nearest valid one) or a missing one.
    """
    parameters = {
        name: p for name, p in inspect.signature(target).parameters.items() if name not in {'self', *given}
    }
    kinds = inspect.Parameter
    if not any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        named = [n for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
        check_keys(settings, named, where)
    missing = [
        name for name, p in parameters.items()
        if p.default is kinds.empty and p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
        and name not in settings
    ]
    if missing:
        raise ValueError(f"{where}: missing {', '.join(repr(name) for name in missing)}.")


class Registry(Generic[T]):
    """Things by name: our own, those registered in Python, and those that installed packages offer.

    A third party adds one with the decorator :meth:`register`, or in its ``setup.py`` under the entry-point group
    of the registry (``entry_points={'composer_kd.losses': ['mine = my_package:my_loss']}``). Entry points are
    loaded when they are asked for, not before.

    Args:
        kind: What it holds, in the singular, for messages (``"loss"``).
        group: The entry-point group.

    Example:
        >>> greetings = Registry('greeting', 'composer_kd.greetings')
        >>> @greetings.register('hello')
        ... def hello():
        ...     return 'Hello!'
        >>> greetings.get('hello')()
        'Hello!'
    """

    def __init__(self, kind: str, group: str) -> None:
        self.kind = kind
        self.group = group
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that adds what it decorates under ``name``; a name that is taken raises a ``ValueError``."""
        def add(item: T) -> T:
            if self._items.get(name, item) is not item:
                raise ValueError(f"There is already a {self.kind} named '{name}'; choose another name.")
            self._items[name] = item
            return item
        return add

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._items, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str, where: str | None = None) -> T:
        """The item of that name.

        Args:
            name: The name.
            where: What asked, for the message.

        Raises:
            ValueError: If there is none, with the nearest name and all names.
        """
        if name not in self._items:
            for point in entry_points(group=self.group):
                if point.name == name:
                    self._items[name] = point.load()
                    break
            else:
                known = self.names()
                raise ValueError(
                    f"{where + ': ' if where else ''}unknown {self.kind} '{name}'.{nearest(name, known)} "
                    f"Known: {', '.join(known)}.",
                )
        return self._items[name]


def split_named(value: str | Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """``'x'``, ``{'name': 'x', 'a': 1}`` as ``('x', {'a': 1})``.

    Raises:
        TypeError: If ``value`` is neither a string nor a mapping, or its ``name`` is no string.
        ValueError: If the mapping has no ``name``.
    """
    if isinstance(value, str):
        return value, {}
    if not isinstance(value, Mapping):
        raise TypeError(f'{where}: expected a name or a mapping with a name, got {type(value).__name__}: {value!r}.')
    settings = dict(value)
    if 'name' not in settings:
        came = ', '.join(map(repr, settings)) or 'an empty mapping'
        raise ValueError(f"{where}: expected the key 'name', got {came}.")
    name = settings.pop('name')
    if not isinstance(name, str):
        raise TypeError(f'{where}.name: expected a string, got {type(name).__name__}: {name!r}.')
    return name, settings


def described(value: Any, depth: int = 6) -> str:
    """A value as text that is the same in every process: objects by type and content, not by their place in memory.

    Args:
        value: The value.
        depth: How far to look into what it holds.

    Example:
        >>> import functools
        >>> described({'a': 1, 'key': functools.partial(max, 3)})
        '{a: 1, key: partial {args: [3], func: max, keywords: {}}}'
    """
    if value is None or isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, Mapping):
        inner = (f'{key}: {described(value[key], depth - 1)}' for key in sorted(value, key=str)) if depth else ()
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(described(item, depth - 1) for item in value) if depth else ''}]"
    if isinstance(value, functools.partial):
        return f'partial {described({"args": value.args, "func": value.func, "keywords": value.keywords}, depth)}'
    if hasattr(value, '__qualname__'):
        return str(value.__qualname__)
    return f'{type(value).__qualname__} {described(getattr(value, "__dict__", {}), depth)}'
