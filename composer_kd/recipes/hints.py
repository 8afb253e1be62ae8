"""Values from a recipe, held against the type hints of what they are for."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from composer.core import Time, TimeUnit

from composer_kd.times import read_time

_WORDS = {
    bool: 'true or false', int: 'a whole number', float: 'a number', str: 'a string', type(None): 'null',
    Time: "a time string such as '0.5dur', '3ep' or '100ba'",
}
_UNIONS = (typing.Union, types.UnionType)


def is_time(value: object) -> bool:
    """Whether Composer reads ``value`` as a time string.

    Example:
        >>> is_time('0.5dur'), is_time('5 epochs')
        (True, False)
    """
    return isinstance(value, str) and read_time(value, TimeUnit.EPOCH) is not None


def _members(hint: Any) -> list[Any]:
    if typing.get_origin(hint) not in _UNIONS:
        return [hint]
    members = [member for part in typing.get_args(hint) for member in _members(part)]
    # Where a time is welcome, a string has to be one: ``str | Time`` is how Composer spells "a time string".
    left_out = {str, torch.Tensor} if Time in members else {torch.Tensor}  # and no file holds a tensor
    return [member for member in members if member not in left_out]


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data may stand for ``hint``; anything may where the hint is of no plain type.

    Example:
        >>> fits(1, float), fits('1', float), fits([0.9, 0.99], tuple[float, float]), fits(None, int | None)
        (True, False, True, True)
    """
    return any(_fits_one(value, member) for member in _members(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    arguments = typing.get_args(hint)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin is Literal:
        return value in arguments
    if origin in (bool, type(None)):
        return isinstance(value, origin)
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    if origin is str:
        return isinstance(value, str)
    if origin is Time:
        return is_time(value) or (isinstance(value, int) and not isinstance(value, bool))
    if origin in (Callable, torch.Tensor, torch.nn.Module):
        return not isinstance(value, (bool, int, float, str))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(origin) and issubclass(origin, (Sequence, set, frozenset)):
        if not isinstance(value, (list, tuple)):
            return False
        if origin is tuple and arguments and Ellipsis not in arguments:
            return len(value) == len(arguments) and all(map(fits, value, arguments))
        return not arguments or all(fits(item, arguments[0]) for item in value)
    return True


def in_words(hint: Any) -> str:
    """The plain types that ``hint`` accepts, for a message.

    Example:
        >>> in_words(int | None)
        'a whole number or null'
    """
    return ' or '.join(dict.fromkeys(_one_in_words(member) for member in _members(hint)))


def _one_in_words(hint: Any) -> str:
    origin = typing.get_origin(hint) or hint
    if origin is Literal:
        return ' or '.join(map(repr, typing.get_args(hint)))
    if origin in _WORDS:
        return _WORDS[origin]
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return 'a mapping'
    if inspect.isclass(origin) and issubclass(origin, (Sequence, set, frozenset)):
        elements = [argument for argument in typing.get_args(hint) if argument is not Ellipsis]
        return f'a list of {in_words(elements[0])}' if elements else 'a list'
    return str(getattr(origin, '__name__', origin))


def hints_of(target: Any) -> dict[str, Any]:
    """The type hints of the parameters of a function or class, without those that cannot be read."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        found = typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        # One name that only a type checker imports hides the hints of all; read the others one by one.
        found = {}
        for name, hint in inspect.get_annotations(function).items() if callable(function) else ():
            try:
                found[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
            except (NameError, TypeError, AttributeError):
                continue
    return {name: hint for name, hint in found.items() if name != 'return'}


def check_types(settings: Mapping[str, Any], hints: Mapping[str, Any], where: str, target: Any = None) -> None:
    """Refuse settings whose type their hint does not accept.

    Args:
        settings: Plain data by name.
        hints: Type hints by name; names without a hint are not looked at.
        where: What the settings are for, for messages.
        target: The function or class they are for: a parameter's default always fits, whatever its hint says.

    Raises:
        TypeError: Naming the setting, what was expected and what came.
    """
    parameters = inspect.signature(target).parameters if target is not None else {}
    for name, value in settings.items():
        if name not in hints or (name in parameters and _same(parameters[name].default, value)):
            continue
        if not fits(value, hints[name]):
            raise TypeError(
                f'{where}.{name}: expected {in_words(hints[name])}, got {type(value).__name__}: {value!r}.',
            )


def _same(default: Any, value: Any) -> bool:
    return default is value or (type(default) is type(value) and bool(default == value))
