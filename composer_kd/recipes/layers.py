"""YAML files in layers: bases merged under a file, single keys placed over it, interpolations resolved. Needs no torch.

Recipes and studies are read with it; ``what`` is the word that messages call the file by.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from composer_kd.names import is_text
from composer_kd.recipes.errors import dotted

_KEY = re.compile(r'[\w/-]+(\.[\w/-]+|\[[0-9]+\])*')
_INDEX = re.compile(r'[0-9]{1,9}')
_DEEPEST = 100

# Where null is also how a file says "with its default settings", so a null that removes nothing must not pass.
_MAPPINGS_OF_COMPONENTS = ('algorithms', 'callbacks', 'loggers')


def read_layers(path: str | os.PathLike[str], what: str = 'recipe') -> dict[str, Any]:
    r"""A YAML file with its bases merged under it; interpolations are left as they are.

    ``base: other.yaml`` (relative to the file that says it) is merged under the file: mappings key by key, anything
    else replaced. Of a list of bases each is merged over those before it. A key set to null over what the base says
    removes it.

    Args:
        path: The file.
        what: What the file is, for messages.

    Returns:
        What it says, without ``base``.

    Raises:
        FileNotFoundError: For a missing file or base.
        ValueError: For a file that is no YAML mapping, or bases in a circle.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / 'a.yaml').write_text('seed: 1\noptimizer: {name: sgd, lr: 0.1}')
        >>> _ = (folder / 'b.yaml').write_text('base: a.yaml\noptimizer: {lr: 0.5}')
        >>> read_layers(folder / 'b.yaml')
        {'seed': 1, 'optimizer': {'name': 'sgd', 'lr': 0.5}}
    """
    return _read(Path(path), (), what)


def override(said: dict[str, Any], text: str) -> dict[str, Any]:
    """What a file says with one ``key=value`` of the command line over it.

    Args:
        said: What the file says; it is not changed.
        text: ``key=value`` with a dotted key, the value in YAML; list items by number.

    Raises:
        ValueError: For anything else, or a key that has no place in what the file says.

    Example:
        >>> override({'optimizer': {'lr': 0.1}}, 'optimizer.lr=1e-3')
        {'optimizer': {'lr': 0.001}}
    """
    key, separator, value = text.partition('=')
    if not separator or not _KEY.fullmatch(key) or key[0] == '-' or not _is_path(_path(key)):
        raise ValueError(
            f"'{text}': expected key=value with a dotted key, as in optimizer.lr=0.1 or "
            'algorithms.distillation.teachers[0].run=runs/a.',
        )
    try:
        plain = OmegaConf.to_container(OmegaConf.from_dotlist([f'value={value}']), resolve=False)
    except Exception as error:
        raise ValueError(f"'{text}': the value is not valid YAML: {_told(error)}.") from error
    assert isinstance(plain, dict)
    return place(said, key, plain['value'])


def place(said: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """What a file says with a value at a dotted key: a mapping is merged into what is there, null takes it away.

    Args:
        said: What the file says; it is not changed.
        key: The dotted key; list items by number (``teachers[0].run`` or ``teachers.0.run``).
        value: Plain data.

    Raises:
        ValueError: For a key that is none, or has no place in what the file says.

    Example:
        >>> place({'optimizer': {'name': 'sgd', 'lr': 0.1}}, 'optimizer.lr', None)
        {'optimizer': {'name': 'sgd'}}
        >>> place({}, 'train_data.noise', 0.4)
        {'train_data': {'noise': 0.4}}
    """
    path = _path(key)
    if not _is_path(path):
        raise ValueError(f"'{key}': expected a dotted key, as in optimizer.lr.")
    placed: dict[str, Any] = _placed(said, path, 0, value)
    return placed


def resolve(said: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a file says with interpolations such as ``${run_name}`` or ``${oc.env:HOME}`` replaced.

    Args:
        said: What the file says, bases and overrides included.
        path: The file, for messages.

    Raises:
        ValueError: For an interpolation that cannot be resolved.

    Example:
        >>> resolve({'run_name': 'a', 'run_folder': 'runs/${run_name}'}, 'a.yaml')
        {'run_name': 'a', 'run_folder': 'runs/a'}
    """
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(said), resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        where = f'{error.full_key}: ' if error.full_key else ''
        reason = str(error.msg or error).split('\n')[0]
        raise ValueError(f"{where}cannot be resolved in '{path}': {reason}.") from error
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def refuse_what_no_file_holds(value: Any, path: tuple[str | int, ...] = ()) -> None:
    """Refuse what could not be written to a run folder's ``recipe.yaml``, or not be made use of when it is read again.

    Args:
        value: What a file says.
        path: Where that stands in the file.

    Raises:
        ValueError: With the path first, after a dot: validators of a nested mapping go on from their own.

    Example:
        >>> refuse_what_no_file_holds({'tags': {'a': b'1'}})
        Traceback (most recent call last):
        ValueError: .tags.a: expected plain data (strings, numbers, true, false, null, lists and mappings), got bytes...
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f'.{dotted((*path, str(key)))}: expected a string as key, got {key!r}; quote it.')
            refuse_what_no_file_holds(item, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            refuse_what_no_file_holds(item, (*path, index))
    elif isinstance(value, str):
        if not is_text(value) or '\0' in value:
            raise ValueError(f'.{dotted(path)}: expected text, got {value!r}, with characters that no path can have.')
    elif isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f'.{dotted(path)}: expected a number that fits into 64 bits, got one of {value.bit_length()}.')
    elif value is not None and not isinstance(value, (int, float)):
        raise ValueError(
            f'.{dotted(path)}: expected plain data (strings, numbers, true, false, null, lists and mappings), got '
            f'{type(value).__name__}: {value!r}.',
        )


def _read(path: Path, above: tuple[Path, ...], what: str) -> dict[str, Any]:
    here = path.resolve()
    if here in above:
        circle = ' -> '.join(file.name for file in (*above[above.index(here):], here))
        many = f'{what[:-1]}ies' if what.endswith('y') else f'{what}s'
        raise ValueError(f'base: the {many} are bases of each other: {circle}. Take one of these base lines out.')
    if not path.is_file():
        asked = f"base of '{above[-1].name}'" if above else what
        raise FileNotFoundError(f"{asked}: there is no file '{path}'. Give the path of a {what} (a YAML file).")
    try:
        said = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:
        raise ValueError(f"'{path}' is not valid YAML: {_told(error)}.") from error
    if not isinstance(said, dict) or not all(isinstance(key, str) for key in said):
        raise ValueError(f"'{path}': expected a mapping of keys to values, as a {what} is, got {type(said).__name__}.")
    plain = {str(key): value for key, value in said.items()}
    base = plain.pop('base', None)
    if base is None:
        return plain
    bases = [base] if isinstance(base, str) else base
    if not isinstance(bases, list) or not bases or not all(isinstance(one, str) for one in bases):
        raise ValueError(f"base: expected the path of a {what}, relative to '{path}', or a list of such, got {base!r}.")
    first, *others = (_read(path.parent / one, (*above, here), what) for one in bases)
    for over in (*others, plain):
        first = _merged(first, over, ())
    return dict(first)


def _told(error: Exception) -> str:
    """What is wrong with YAML: its own errors, and those of what makes its numbers and dates, and of deep nesting."""
    told = ' '.join(str(error).split())
    return told if isinstance(error, (YAMLError, OmegaConfBaseException)) else f'{type(error).__name__}: {told}'


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


def _path(key: str) -> list[str | int]:
    return [int(part) if _INDEX.fullmatch(part) else part for part in re.split(r'[.\[\]]+', key.rstrip(']')) if part]


def _is_path(path: list[str | int]) -> bool:
    return 0 < len(path) <= _DEEPEST and not isinstance(path[0], int)


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
