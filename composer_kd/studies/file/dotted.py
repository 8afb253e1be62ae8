"""``key=value`` of the command line where a study file itself has dotted keys of recipes."""

from __future__ import annotations

import re
from typing import Any

from composer_kd.recipes.layers import override

_HOMES = (
    r'set', r'methods\.[^.=]+\.set', r'comparison\.earlier\.set', r'search\.space', r'sequence\.steps\[\d{1,9}\]',
)
_DOTTED = re.compile(rf"({'|'.join(_HOMES)})\.([^=]+)=(.*)", re.DOTALL)


def override_dotted(said: dict[str, Any], text: str) -> dict[str, Any] | None:
    """What a study says with one ``key=value`` over it, where the key goes on with a recipe's own.

    A key that the study already has keeps its spelling, dotted or nested, so that none is said twice.

    Args:
        said: What the study says; it is not changed.
        text: ``key=value``.

    Returns:
        What it says then, or ``None`` if the key is one of the study's alone.

    Raises:
        ValueError: For a value that is no YAML.

    Example:
        >>> override_dotted({'set': {'optimizer.lr': 0.1}}, 'set.optimizer.lr=0.5')
        {'set': {'optimizer.lr': 0.5}}
        >>> override_dotted({'search': {'space': {'lr': {'low': 1, 'high': 2}}}}, 'search.space.lr.high=3')
        {'search': {'space': {'lr': {'low': 1, 'high': 3}}}}
    """
    found = _DOTTED.fullmatch(text)
    if found is None:
        return None
    home, key, written = found.groups()
    value = override({}, f'value={written}')['value']
    path = [part for part in re.split(r'[.\[\]]+', home) if part]
    at: Any = said
    for part in path:
        if isinstance(at, list):
            at = at[int(part)] if int(part) < len(at) else None
        else:
            at = at.get(part) if isinstance(at, dict) else None
    replaced: dict[str, Any] = _replaced(said, path, _with(dict(at) if isinstance(at, dict) else {}, key, value))
    return replaced


def _with(entries: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    for known, item in entries.items():
        if key.startswith(f'{known}.') and isinstance(item, dict):
            return {**entries, known: _with(item, key[len(known) + 1:], value)}
    return {**entries, key: value}


def _replaced(at: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    if isinstance(at, list):
        index = int(path[0])
        if index >= len(at):
            raise ValueError(f"'sequence.steps[{index}]': there are {len(at)} steps; expected a number below that.")
        return [*at[:index], _replaced(at[index], path[1:], value), *at[index + 1:]]
    entries = at if isinstance(at, dict) else {}
    return {**entries, path[0]: _replaced(entries.get(path[0]), path[1:], value)}
