"""Where a teacher's answers are stored, as a user writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from composer_kd.answers.manifest import NAME
from composer_kd.names import check_keys
from composer_kd.teachers.fetch import is_remote


@dataclass(frozen=True)
class CacheSpec:
    """Where a teacher's answers are stored.

    Attributes:
        path: A folder, or a URI to read from.
        fill: Whether answers that are not there yet are written down as they are asked for.
        form: How they are written, as :meth:`composer_kd.answers.Format.read` takes it; of a store that is there
            already, its own.
        local: Where the shards of a store that is complete are fetched to as they are asked for; ``None`` for reading
            them where they are or, of a URI, for a folder of the machine's own.
    """

    path: str
    fill: bool = False
    form: Any = None
    local: str | None = None


def read_cache(said: Any, where: str, kind: str) -> CacheSpec:
    """Read ``cache``.

    Args:
        said: A path or a mapping.
        where: What it is, for messages.
        kind: Of the teacher; ``'cache'`` where there is none but these answers.

    Raises:
        TypeError: For a value of the wrong kind.
        ValueError: For an unknown key or a path that cannot be written.
        FileNotFoundError: If there is no store and none is to be made.
    """
    if isinstance(said, (str, os.PathLike)):
        said = {'path': os.fspath(said)}
    if not isinstance(said, Mapping):
        raise TypeError(f'{where}: expected a path or {{path: PATH, fill: true}}, got {said!r}.')
    alone = kind == 'cache'
    check_keys(said, {'path', 'local'} if alone else {'path', 'fill', 'format'}, where)
    path, fill, local = said.get('path'), said.get('fill', False), said.get('local')
    if not isinstance(path, (str, os.PathLike)) or not str(path).strip():
        raise ValueError(f'{where}.path: expected the folder of a store, got {path!r}.')
    if not isinstance(fill, bool):
        raise TypeError(f'{where}.fill: expected true or false, got {fill!r}.')
    path = os.fspath(path)
    if is_remote(path) and not alone:
        raise ValueError(
            f"{where}.path: beside a teacher a store is read and written on this machine or a file system it shares, "
            f"got '{path}'. Give a folder; a store at a URI is read by {{cache: URI}} alone.",
        )
    if not fill and not is_remote(path) and not os.path.isfile(os.path.join(path, NAME)):
        raise FileNotFoundError(
            f"{where}: there is no {NAME} in '{path}', so no stored answers (relative to {os.getcwd()}). Write them "
            "with 'composer-kd cache RECIPE.yaml --out PATH'"
            + ('.' if alone else ', or let this run store what it asks: fill: true.'),
        )
    return CacheSpec(path, fill, said.get('format'), None if local is None else str(local))
