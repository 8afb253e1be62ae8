"""A recipe from a file: its bases merged under it, the command line over it, interpolations resolved."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import YAMLError

from composer_kd.recipes.errors import dotted, in_one_paragraph
from composer_kd.recipes.schema import Recipe

# Where null is also how a file says "with its default settings", so a null that removes nothing must not pass.
_MAPPINGS_OF_COMPONENTS = ('algorithms', 'callbacks', 'loggers')


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    ``base: other.yaml`` (relative to the file that says it) is merged under the file: mappings key by key, anything
    else replaced. A key set to null, in a file over its base or on the command line, removes what the base says.
    Interpolations such as ``${run_name}`` or ``${oc.env:HOME}`` are resolved after all is merged; what they resolve to
    is written to the run folder, so keep secrets out of recipes.

    Args:
        path: The file.
        overrides: ``key=value`` with a dotted key, the value in YAML; list items by number
            (``algorithms.distillation.teachers[0].run=runs/a``).

    Returns:
        The recipe, checked by itself; :func:`composer_kd.recipes.check_recipe` holds its components against what
        they are made with.

    Raises:
        FileNotFoundError: For a missing file or base.
        ValueError: For a file that is no YAML mapping, bases in a circle, an override that cannot be applied, an
            interpolation that cannot be resolved, or a recipe that says what none may say; in one paragraph.
    """
    said = _read(Path(path), ())
    for override in overrides:
        said = _overridden(said, override)
    return parse_recipe(_resolved(said, str(path)))


def parse_recipe(said: Mapping[str, Any]) -> Recipe:
    """The recipe of plain data, as :meth:`composer_kd.runs.RunFolder.read_recipe` returns it.

    Raises:
        ValueError: If it says what no recipe may say; in one paragraph.

    Example:
        >>> parse_recipe({'run_name': 'a', 'model': 'm', 'train_data': {'name': 'd', 'batch_size': 8},
        ...               'optimizer': 'adam', 'max_duration': '1ep'}).run_folder
        'runs/a'
    """
    try:
        return Recipe.model_validate(said)
    except ValidationError as error:
        raise ValueError(in_one_paragraph(error)) from error


def _read(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    here = path.resolve()
    if here in above:
        circle = ' -> '.join(file.name for file in (*above[above.index(here):], here))
        raise ValueError(f'base: the recipes are bases of each other: {circle}. Take one of these base lines out.')
    if not path.is_file():
        asked = f"base of '{above[-1].name}'" if above else 'recipe'
        raise FileNotFoundError(f"{asked}: there is no file '{path}'. Give the path of a recipe (a YAML file).")
    try:
        said = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ValueError(f"'{path}' is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise ValueError(f"'{path}': expected a mapping of keys to values, as a recipe is, got {type(said).__name__}.")
    plain = {str(key): value for key, value in said.items()}
    base = plain.pop('base', None)
    if base is None:
        return plain
    if not isinstance(base, str):
        raise ValueError(f"base: expected the path of a recipe, relative to '{path}', got {base!r}.")
    merged: dict[str, Any] = _merged(_read(path.parent / base, (*above, here)), plain, ())
    return merged


def _merged(base: Any, over: Any, path: tuple[str, ...]) -> Any:
    if not isinstance(base, dict) or not isinstance(over, dict):
        return over
    merged = dict(base)
    for key, value in over.items():
        if value is None and key in base:
            del merged[key]
        elif value is None and len(path) == 1 and path[0] in _MAPPINGS_OF_COMPONENTS:
            raise ValueError(_nothing_to_remove((*path, str(key))))
        else:
            # Nothing underneath counts as an empty mapping, so that the rule on null holds there as well.
            merged[key] = _merged(base[key] if base.get(key) is not None else {}, value, (*path, str(key)))
    return merged


def _nothing_to_remove(path: Sequence[str | int]) -> str:
    return (
        f"{dotted(path)}: null takes away what the recipe underneath says, and it says nothing there. To add "
        f"'{path[-1]}' with its default settings, write {{}}."
    )


def _overridden(said: dict[str, Any], override: str) -> dict[str, Any]:
    key, separator, text = override.partition('=')
    path = [int(part) if part.isdecimal() else part for part in re.split(r'[.\[\]]+', key.rstrip(']')) if part]
    if not separator or not path or isinstance(path[0], int) or not re.fullmatch(r'[\w.\[\]/-]+', key) or key[0] == '-':
        raise ValueError(
            f"'{override}': expected key=value with a dotted key, as in optimizer.lr=0.1 or "
            'algorithms.distillation.teachers[0].run=runs/a.',
        )
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f'value={text}']), resolve=False)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"'{override}': the value is not valid YAML: {' '.join(str(error).split())}.") from error
    assert isinstance(value, dict)
    placed: dict[str, Any] = _placed(said, path, 0, value['value'])
    return placed


def _placed(at: Any, path: list[str | int], depth: int, value: Any) -> Any:
    part, here, last = path[depth], dotted(path[:depth]), depth == len(path) - 1
    if isinstance(at, list):
        if not isinstance(part, int) or part >= len(at):
            raise ValueError(
                f"'{dotted(path)}': {here} is a list of {len(at)}; expected a number below that, got {part!r}.",
            )
        items = list(at)
        if last and value is None:
            del items[part]
        else:
            items[part] = _merged(items[part], value, ()) if last else _placed(items[part], path, depth + 1, value)
        return items
    if at is not None and not isinstance(at, dict):
        raise ValueError(f"'{dotted(path)}': {here} is {at!r}, which holds no keys; give {here} itself.")
    entries, key = dict(at or {}), str(part)
    if not last:
        entries[key] = _placed(entries.get(key), path, depth + 1, value)
        return entries
    if value is not None:
        entries[key] = _merged(entries.get(key), value, tuple(map(str, path)))
    elif key in entries:
        del entries[key]
    elif depth == 1 and path[0] in _MAPPINGS_OF_COMPONENTS:
        raise ValueError(_nothing_to_remove(path))
    else:
        entries[key] = None
    return entries


def _resolved(said: dict[str, Any], path: str) -> dict[str, Any]:
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(said), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f'{error.full_key}: ' if error.full_key else ''
        reason = str(error.msg or error).split('\n')[0]
        raise ValueError(f"{where}cannot be resolved in '{path}': {reason}.") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}
