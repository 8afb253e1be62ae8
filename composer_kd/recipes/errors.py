"""Errors of a user, told in one paragraph."""

from __future__ import annotations

import errno
import os
import shutil
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

_EXPECTED = {
    'bool_type': 'true or false', 'int_type': 'a whole number', 'float_type': 'a number', 'string_type': 'a string',
    'list_type': 'a list', 'dict_type': 'a mapping', 'model_type': 'a mapping',
}
_SHOWN = 3
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.ENAMETOOLONG)
_ROOM = 2**20
_LOST = ('Connection closed', 'Connection reset', 'Broken pipe', 'Timed out', 'timed out')


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


def wants_traceback() -> bool:
    """Whether ``COMPOSER_KD_TRACEBACK`` in the environment asks for whole tracebacks."""
    return os.environ.get('COMPOSER_KD_TRACEBACK', '') not in ('', '0')


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error says no more than that another rank has ended, or did not answer.

    Example:
        >>> is_lost_rank(RuntimeError('[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer'))
        True
    """
    told = str(error)
    return isinstance(error, RuntimeError) and (
        type(error).__name__ in ('DistBackendError', 'DistNetworkError', 'DistStoreError')
        or ('gloo' in told and any(sign in told for sign in _LOST))
    )


def told_to_user(error: BaseException) -> str | None:
    """The message of an error that this package raised about what the user gave; ``None`` for any other error.

    An error is of that kind if its innermost frame lies in this package and its type is one that arguments and broken
    states are answered with. With ``COMPOSER_KD_TRACEBACK=1`` in the environment none is.
    """
    foreseen = isinstance(error, (ValueError, TypeError, FileNotFoundError, RuntimeError)) and is_ours(error)
    if wants_traceback() or not foreseen:
        return None
    return ' '.join(str(error).split())


def _behind(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it; of a sharded save that failed, those of all ranks."""
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting:
        found = waiting.pop(0)
        if not isinstance(found, BaseException) or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        failures = getattr(found, 'failures', None)
        waiting += [failure[0] for failure in failures.values()] if isinstance(failures, dict) else []
        waiting += [found.__cause__, found.__context__]


def cannot_write(folder: str | os.PathLike[str], error: BaseException) -> str | None:
    """What to tell where a run folder could not be written; ``None`` if the error is of another kind.

    Args:
        folder: The run folder.
        error: What was raised, by the file system or by what writes checkpoints.

    Example:
        >>> cannot_write('runs/a', OSError(errno.EROFS, 'Read-only file system', 'runs/a/.lock')).split('. ')[0]
        "run_folder: 'runs/a' cannot be written: Read-only file system (runs/a/.lock)"
    """
    for found in _behind(error):
        if isinstance(found, OSError) and found.errno in _FULL:
            return _told_full(folder, found)
        if isinstance(found, OSError) and found.errno in _CLOSED and _is_about(folder, found):
            where = f' ({found.filename})' if found.filename is not None else ''
            return (
                f"run_folder: '{folder}' cannot be written: {found.strerror}{where}. What is in it was left as it is. "
                'See to its permissions and its disk, or choose another run_folder.'
            )
        # All that the writer of checkpoints says of another rank's disk.
        if 'inline_container' in str(found) and _free(folder) < _ROOM:
            return _told_full(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    return None


def _is_about(folder: str | os.PathLike[str], error: OSError) -> bool:
    if not isinstance(error.filename, str):
        return error.errno in (errno.EROFS, errno.EIO)
    there, here = Path(error.filename).absolute(), Path(folder).absolute()
    return there.is_relative_to(here) or here.is_relative_to(there)


def _free(folder: str | os.PathLike[str]) -> int:
    place = Path(folder).absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _told_full(folder: str | os.PathLike[str], error: OSError) -> str:
    # Which file it was is known of an open alone, not of a write; data may be cached on another disk.
    what = f'{error.strerror}: {error.filename}' if error.filename is not None else str(error.strerror)
    return (
        f"run_folder: a disk is full ({what}); that of '{folder}' has {_free(folder) / 2**20:,.1f} MiB free. What was "
        'saved before is whole. Make room and give the same command again: the run goes on from its latest checkpoint.'
    )
