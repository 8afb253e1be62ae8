"""One change to plain data, at any depth."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import junk

Path = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """A change: what was done, where (of a key that is misspelt now, where it was too), and the data after it."""

    kind: str
    path: Path
    was: Path
    data: Any = field(repr=False)


def paths(data: Any, above: Path = ()) -> Iterator[Path]:
    """The paths of everything in nested mappings and lists, the whole itself left out."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from paths(value, (*above, key))


def at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def _misspelt(key: str, how: int) -> str:
    place = how % (len(key) + 1)
    return (key[:place] + key[place + 1:], key[:place] + 'q' + key[place:], key.upper() + '_', key + ' ')[how % 4]


def changes(data: Any, values: Any = junk.values) -> st.SearchStrategy[Change]:
    """The data with one thing in it replaced, taken away, added or misspelt."""
    return _changes(data, sorted(paths(data), key=str), values)


@st.composite
def _changes(draw: Any, data: Any, places: list[Path], values: Any) -> Change:
    path = was = draw(st.sampled_from(places))
    kind = draw(st.sampled_from(['replace', 'replace', 'replace', 'delete', 'add', 'misspell', 'swap']))
    changed = copy.deepcopy(data)
    holder, key = at(changed, path[:-1]), path[-1]
    if kind == 'add' and isinstance(holder[key], dict):
        new = draw(junk.odd_keys)
        holder[key][new] = draw(values)
        path = (*path, new)
    elif kind == 'add' and isinstance(holder[key], list):
        holder[key].append(draw(values))
        path = (*path, len(holder[key]) - 1)
    elif kind == 'delete':
        del holder[key]
    elif kind == 'misspell' and isinstance(holder, dict):
        new = _misspelt(key, draw(st.integers(0, 200)))
        items = [(new if k == key else k, v) for k, v in holder.items()]
        holder.clear()
        holder.update(items)
        path = (*path[:-1], new)
    elif kind == 'swap':
        holder[key] = copy.deepcopy(at(data, draw(st.sampled_from(places))))
    else:
        holder[key] = draw(values)
    return Change(kind, path, was, changed)
