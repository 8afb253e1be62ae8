"""The ways in which teachers are prepared for inference, and which of them is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer_kd.tuning.spread import Spread

OWN, COMPILED = 'as the recipe says', 'compiled'
COMPILE: Any = True
"""What compiling is asked for with."""
_NOTHING = {'precision': 'run', 'channels_last': False, 'fold_batchnorm': False}
_WORTH_IT, _LEAST = 0.95, 5


def variants_of(said: Mapping[str, Any], compiled: bool) -> dict[str, Any]:
    """The ways that are measured by their names, each with its setting ``prepare``; the recipe's own first.

    Args:
        said: The recipe's distillation.
        compiled: Whether compiling is one of them.
    """
    own = said.get('prepare', 'auto')
    # a resolution makes another teacher, so it is not for speed to decide
    kept = {key: own[key] for key in ('resolution', 'tolerance') if isinstance(own, Mapping) and key in own}
    ways: dict[str, Any] = {
        'auto': kept or 'auto', 'none': {**kept, **_NOTHING} if kept else 'none', 'bf16': {**kept, 'precision': 'bf16'},
    }
    if compiled:
        ways[COMPILED] = {**kept, 'compile': COMPILE}
    first = {name: value for name, value in ways.items() if value == own} or {OWN: own}
    return {**first, **ways}


def pick(teachers: Mapping[str, Mapping[str, Spread]], ways: Mapping[str, Any]) -> str:
    """The way that is taken: the fastest over all teachers, or the recipe's own if that is hardly slower.

    Hardly slower is what is less than 5 %, or where the quartiles of both overlap, or are of too few measurements.

    Args:
        teachers: By name and way, the forward of each.
        ways: All ways, the recipe's own first.

    Example:
        >>> seen = {'a': {'auto': Spread.of([1.0, 1.1] * 5), 'none': Spread.of([0.8, 0.9] * 5)}}
        >>> pick(seen, {'auto': 'auto', 'none': 'none'})
        'none'
    """
    own = next(iter(ways))

    def sums(way: str) -> tuple[float, float, float]:
        found = [measured.get(way, next(iter(measured.values()))) for measured in teachers.values()]
        return sum(one.seconds for one in found), sum(one.low for one in found), sum(one.high for one in found)
    enough = [way for way in ways if all(found[way].count >= _LEAST for found in teachers.values() if way in found)]
    best = min(enough, key=sums, default=own)
    (fast, _, high), (slow, low, _) = sums(best), sums(own)
    return best if fast < _WORTH_IT * slow and high < low else own
