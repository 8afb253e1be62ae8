"""What of a study was changed since its first runs were made, and may not be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_SHOWN = 3
_NOTHING = object()


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """What differs between two :meth:`~composer_kd.studies.file.schema.StudySpec.digest_parts`, in words.

    Methods and steps may be added; runs that were made follow from what they followed from then, so nothing else may
    differ.

    Args:
        before: When the study was begun.
        now: As its file says it now.

    Returns:
        One paragraph, or ``None`` if nothing differs that may not.

    Example:
        >>> changed({'name': 'a', 'methods': {'x': {'set': {'lr': 1}}}},
        ...         {'name': 'a', 'methods': {'x': {'set': {'lr': 2}}, 'y': {}}})
        'methods.x.set.lr was 1 and is 2'
    """
    found = list(_differences(before, now, ''))
    if not found:
        return None
    more = len(found) - _SHOWN
    return '; '.join(found[:_SHOWN]) + (f'; and {more} more' if more > 0 else '')


def _differences(before: Any, now: Any, path: str) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            added = key not in before and path == 'methods'
            if not added:
                where = f'{path}.{key}'.removeprefix('.')
                yield from _differences(before.get(key, _NOTHING), now.get(key, _NOTHING), where)
        # What is placed later has its way, so an order that differs is another recipe.
        if path.endswith('.set') and set(before) == set(now) and list(before) != list(now):
            yield f'the order of the keys of {path} was {_told(list(before))} and is {_told(list(now))}'
    elif isinstance(before, list) and isinstance(now, list) and (len(before) == len(now) or path == 'steps'):
        for index, item in enumerate(before):
            yield from _differences(item, now[index] if index < len(now) else _NOTHING, f'{path}[{index}]')
    elif before != now or isinstance(before, bool) != isinstance(now, bool):
        if before is _NOTHING:
            yield f'{path} was not there and is {_told(now)}'
        elif now is _NOTHING:
            yield f'{path} was {_told(before)} and is not there'
        else:
            yield f'{path} was {_told(before)} and is {_told(now)}'


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + '...'
