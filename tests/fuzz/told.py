"""The rule that an error has to keep: raised by this package, and beginning with the key that it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from composer_kd.recipes.errors import dotted, told_to_user


def told(call: Callable[[], Any]) -> tuple[Any, str | None]:
    """What a call returns; or the message that a user is told, where it refuses. Any other error is a traceback."""
    try:
        return call(), None
    except Exception as error:
        message = told_to_user(error)
        if message is None:
            raise AssertionError(f'a traceback: {type(error).__name__}: {str(error)[:500]}') from error
        return None, message


def begins_with(message: str, names: Iterable[str]) -> bool:
    """Whether a message begins with one of these keys, whole: what follows goes on from there, or says what is wrong."""
    return any(name and message.startswith(name) and message[len(name):len(name) + 1] in (':', '.', '[', ' ') for name in names)


def names(message: str, path: tuple[str | int, ...], also: Iterable[str] = ()) -> bool:
    """Whether a message names what lies at a path: it begins with the path, a longer one, or that of the mapping or list
    that holds it; where something of Composer's or torch's refused its settings, that of the component. Of the top level,
    which has no name, the key itself follows. ``also`` are keys that it stands against.
    """
    here, above = dotted(path), dotted(path[:-1])
    refused = re.match(r"(\S+): '[^']+' refused its settings", message)
    if refused and begins_with(f'{here} ', [refused[1]]):
        return True
    if begins_with(message, [here, above, *also]):
        return True
    if message.startswith('missing: '):
        return any(here == missing or missing.startswith(f'{here}.') for missing in message[9:].partition('. ')[0].split(', '))
    return message.startswith(f"recipe: unknown key '{path[0]}'")
