"""Whose run folder is it: taken, resumed, refused or, where asked for, emptied."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from typing import Any

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist

from composer_kd.recipes.errors import cannot_write
from composer_kd.recipes.mending import mend
from composer_kd.recipes.schema import WITHOUT_EFFECT, Recipe
from composer_kd.runs import RunFolder, digest
from composer_kd.runs.files import is_leftover
from composer_kd.runs.lock import LOCK_NAME, FolderLock


def _without_workers(value: Any) -> Any:
    # How many processes fetch samples changes nothing about them, and may have to change in the middle of a training.
    if isinstance(value, Mapping):
        return {key: _without_workers(part) for key, part in value.items() if key != 'num_workers'}
    return value


def recipe_digest(plain: Mapping[str, Any]) -> str:
    """SHA-256 of what a resolved recipe trains: names, folders, tags, console settings and
    numbers of worker processes are left out.

    Args:
        plain: The recipe as plain data, as in a run folder's ``recipe.yaml``.

    Example:
        >>> recipe_digest({'seed': 1, 'run_name': 'a'}) == recipe_digest({'seed': 1, 'run_name': 'b'})
        True
    """
    kept = {key: _without_workers(value) for key, value in plain.items() if key not in WITHOUT_EFFECT}
    # A digest does not see the order of keys, and the order of algorithms is part of what they do.
    return digest({**kept, 'algorithms': list((kept.get('algorithms') or {}).items())})


class ReleaseFolder(Callback):
    """Lets the run folder go once all other callbacks are closed.

    Events: close. State touched: none. Checkpoint: nothing.

    Args:
        lock: What is let go; ``None`` on ranks that hold nothing.
    """

    def __init__(self, lock: FolderLock | None) -> None:
        self._lock = lock

    def close(self, state: State, logger: Logger) -> None:
        """Nothing yet: what others write as they close is still the run's."""

    def post_close(self) -> None:
        """Let it go."""
        if self._lock is not None:
            self._lock.release()


def claim_folder(recipe: Recipe) -> tuple[int, FolderLock | None]:
    """Make the run folder this run's own and write ``recipe.yaml``; rank zero acts and all ranks learn of it.

    Until the lock is let go, no other process gets the folder.

    An unfinished run of the same recipe is resumed (with ``autoresume``, the default), with ``overwrite: true`` as
    well: a run that is restarted after a crash keeps its checkpoints. What a kill left behind half written is removed
    first, see :func:`~composer_kd.recipes.mending.mend`. Of a folder that is overwritten only what a run writes is
    removed.

    Returns:
        How many times the run was started, this time included; and, on rank zero, the lock on the folder.

    Raises:
        ValueError: If the folder holds a finished run or that of another recipe and ``overwrite`` is not set, or holds
            anything but a run, or another process is training in it, or it cannot be written, or its only checkpoint
            is damaged.
    """
    answer: list[Any] = [None]
    lock = None
    if dist.get_global_rank() == 0:
        try:
            start, lock = _claim(recipe)
            answer = [start]
        # The other ranks wait below: they have to hear of it.
        except OSError as error:
            answer = [ValueError(cannot_write(recipe.run_folder, error) or f'run_folder: {error}')]
        except ValueError as error:
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return int(answer[0]), lock


def _claim(recipe: Recipe) -> tuple[int, FolderLock]:
    folder = RunFolder(recipe.run_folder)
    _start(folder, recipe)
    folder.path.mkdir(parents=True, exist_ok=True)
    # The other ranks wait meanwhile, and give up after dist_timeout.
    lock = FolderLock(folder.path, wait=recipe.dist_timeout / 2)
    try:
        # Once more: whoever had the folder until now may have finished the run.
        start = _start(folder, recipe)
        if start is None:
            _empty(folder)
        else:
            mend(recipe)
        folder.write_recipe(recipe.plain())
    except BaseException:
        lock.release()
        raise
    return start or 1, lock


def _start(folder: RunFolder, recipe: Recipe) -> int | None:
    """The number of this start; ``None`` if another run is to be removed first."""
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"run_folder: '{folder.path}' is a file; give the path of a folder.")
    if folder.recipe_path.exists():
        refused = refusal(folder, recipe)
        if refused is None:
            return 1 + max((int(found[1]) for found in map(_START.match, _names(folder)) if found), default=0)
        if not recipe.overwrite:
            raise ValueError(f'run_folder: {refused} Choose another run_name, or remove that run with overwrite=true.')
        return None
    if not holds_nothing(folder):
        raise ValueError(
            f"run_folder: '{folder.path}' is not empty and holds no recipe.yaml, so it is no run's. Choose another "
            'run_folder; nothing there was touched.',
        )
    return 1


def holds_nothing(folder: RunFolder) -> bool:
    """Whether a run folder is missing or empty, but for what a training that was killed at its start leaves behind."""
    return not folder.path.exists() or all(
        path.name == LOCK_NAME or is_leftover(path) for path in folder.path.iterdir()
    )


_START = re.compile(r'start(\d+)-')


def _names(folder: RunFolder) -> list[str]:
    return [path.name for path in folder.logs.iterdir()] if folder.logs.is_dir() else []


def refusal(folder: RunFolder, recipe: Recipe) -> str | None:
    """Why the run in the folder cannot be gone on with by this recipe; ``None`` if it can. Nothing is touched."""
    plain = recipe.plain()
    if not folder.record_path.exists() and not (folder.checkpoints.is_dir() and any(folder.checkpoints.iterdir())):
        return None  # a start that failed before the first step left nothing to lose
    try:
        earlier = folder.read_recipe()
        finished = folder.record_path.exists() and folder.read_record().status == 'finished'
    except ValueError as error:
        return str(error)
    if recipe_digest(earlier) != recipe_digest(plain):
        what = _difference(_without_workers(earlier), _without_workers(plain))
        return f"'{folder.path}' holds the run of another recipe: {what}."
    if finished:
        return f"'{folder.path}' holds this run, finished."
    if not recipe.autoresume:
        return f"'{folder.path}' holds this run, unfinished, and autoresume is false."
    return None


def _difference(there: Any, here: Any, path: str = '') -> str:
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in dict.fromkeys([*there, *here]):
            if (path or key not in WITHOUT_EFFECT) and there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f'{path}.{key}' if path else str(key))
        return 'the same algorithms in another order'
    return f'{path} is {there!r} there and {here!r} here'


def _empty(folder: RunFolder) -> None:
    for path in (folder.checkpoints, folder.logs):
        if path.is_dir():
            shutil.rmtree(path)
    folder.record_path.unlink(missing_ok=True)
    folder.recipe_path.unlink(missing_ok=True)
