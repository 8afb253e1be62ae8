"""Errors of a user, told in one paragraph."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

_EXPECTED = {
    'bool_type': 'true or false', 'int_type': 'a whole number', 'float_type': 'a number', 'string_type': 'a string',
    'list_type': 'a list', 'dict_type': 'a mapping', 'model_type': 'a mapping',
}
_SHOWN = 3


def dotted(path: Sequence[str | int]) -> str:
    """A path as it is written on the command line.

    Example:
        >>> dotted(['algorithms', 'distillation', 'teachers', 0, 'run'])
        'algorithms.distillation.teachers[0].run'
    """
    return ''.join(f'[{part}]' if isinstance(part, int) else f'.{part}' for part in path).removeprefix('.')


def _told(error: Any, what: str) -> str:
    path = dotted([part for part in error['loc'] if part != '[key]'])
    if error['type'] == 'value_error':
        told = str(error['ctx']['error'])
        # A validator of a nested mapping begins with a dot or a bracket where its own path goes on.
        return f'{path}{told}'.removeprefix('.') if told.startswith(('.', '[')) else f"{path or what}: {told}"
    expected = _EXPECTED.get(error['type'])
    came = error['input']
    problem = f'expected {expected}' if expected else error['msg'][:1].lower() + error['msg'][1:]
    return f"{path}: {problem}, got {type(came).__name__}: {came!r}."


def in_one_paragraph(error: ValidationError, what: str = 'recipe') -> str:
    """What a recipe has wrong: where, what was expected, what came.

    Args:
        error: Of one of the schema's models.
        what: What it is that has it wrong, where it is no recipe.

    Returns:
        The first few faults, and how many more there are.
    """
    errors = error.errors(include_url=False)
    faults = [_told(fault, what) for fault in errors if fault['type'] != 'missing']
    missing = [dotted(fault['loc']) for fault in errors if fault['type'] == 'missing']
    if missing:
        faults.append(f"missing: {', '.join(missing)}. Add to the {what}, or give on the command line as key=value.")
    more = len(faults) - _SHOWN
    return ' '.join([*faults[:_SHOWN], *([f'And {more} more.'] if more > 0 else [])])


def is_ours(error: BaseException) -> bool:
    """Whether this package raised the error, and not something that it called."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return bool(frames) and str(frames[-1].f_globals.get('__name__', '')).split('.')[0] == 'composer_kd'


def told_to_user(error: BaseException) -> str | None:
    """The message of an error that this package raised about what the user gave; ``None`` for any other error.

    An error is of that kind if its innermost frame lies in this package and its type is one that arguments and broken
    states are answered with. With ``COMPOSER_KD_TRACEBACK=1`` in the environment none is.
    """
    if os.environ.get('COMPOSER_KD_TRACEBACK', '') not in ('', '0'):
        return None
    if not isinstance(error, (ValueError, TypeError, FileNotFoundError, RuntimeError)) or not is_ours(error):
        return None
    return ' '.join(str(error).split())
