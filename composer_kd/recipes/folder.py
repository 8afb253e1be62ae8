"""Whose run folder is it: taken, resumed, refused or, where asked for, emptied."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from typing import Any

from composer.utils import dist

from composer_kd.recipes.schema import WITHOUT_EFFECT, Recipe
from composer_kd.runs import RunFolder, digest


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


def claim_folder(recipe: Recipe) -> int:
    """Make the run folder this run's own and write ``recipe.yaml``; rank zero acts and all ranks learn of it.

    An unfinished run of the same recipe is resumed (with ``autoresume``, the default), with ``overwrite: true`` as
    well: a run that is restarted after a crash keeps its checkpoints. Of a folder that is overwritten only what a
    run writes is removed.

    Returns:
        How many times the run was started, this time included.

    Raises:
        ValueError: If the folder holds a finished run or that of another recipe and ``overwrite`` is not set, or holds
            anything but a run.
    """
    answer: list[Any] = [None]
    if dist.get_global_rank() == 0:
        try:
            answer = [_claim(recipe)]
        except (OSError, ValueError) as error:
            # The other ranks wait below: they have to hear of it.
            answer = [error]
    dist.broadcast_object_list(answer)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return int(answer[0])


def _claim(recipe: Recipe) -> int:
    folder = RunFolder(recipe.run_folder)
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"run_folder: '{folder.path}' is a file; give the path of a folder.")
    start = 1
    if folder.recipe_path.exists():
        refused = refusal(folder, recipe)
        if refused is None:
            start = 1 + max((int(found[1]) for found in map(_START.match, _names(folder)) if found), default=0)
        elif not recipe.overwrite:
            raise ValueError(f'run_folder: {refused} Choose another run_name, or remove that run with overwrite=true.')
        else:
            _empty(folder)
    elif folder.path.exists() and any(folder.path.iterdir()):
        raise ValueError(
            f"run_folder: '{folder.path}' is not empty and holds no recipe.yaml, so it is no run's. Choose another "
            'run_folder; nothing there was touched.',
        )
    folder.write_recipe(recipe.plain())
    return start


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
