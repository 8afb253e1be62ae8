"""Numbers, units and ranges as plots show them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import stdev
from typing import NamedTuple


class Scale(NamedTuple):
    """A unit that fits: values times ``factor`` are in ``unit``; ``label`` is for an axis."""

    factor: float
    unit: str
    label: str


_SECONDS = ((3 * 3600.0, 3600.0, 'h'), (600.0, 60.0, 'min'), (0.0, 1.0, 's'))
_COUNTS = ((1e18, 'E'), (1e15, 'P'), (1e12, 'T'), (1e9, 'G'), (1e6, 'M'))


def scale(cost: str, label: str, largest: float) -> Scale:
    """The unit in which costs are best read.

    Args:
        cost: Name of the cost, as in ``report.costs.COSTS``.
        label: Its label there, whose ``(s`` or ``FLOPs`` is replaced.
        largest: The largest value to be shown.

    Example:
        >>> scale('train_seconds', 'Training time (s, without evaluation)', 7.2e4).label
        'Training time (h, without evaluation)'
        >>> scale('flops', 'Training FLOPs (estimate)', 3e15)
        Scale(factor=1e-15, unit='PFLOPs', label='Training PFLOPs (estimate)')
    """
    if cost.endswith('_seconds'):
        least, seconds, unit = next(item for item in _SECONDS if largest >= item[0] or not item[0])
        return Scale(1 / seconds, unit, label.replace('(s', f'({unit}', 1))
    if cost == 'flops':
        for least, prefix in _COUNTS:
            if largest >= least:
                return Scale(1 / least, f'{prefix}FLOPs', label.replace('FLOPs', f'{prefix}FLOPs', 1))
        return Scale(1.0, 'FLOPs', label)
    units = {'gpu_hours': 'GPU-hours', 'samples': 'samples', 'batches': 'batches'}
    return Scale(1.0, units.get(cost, ''), label)


def number(value: float, digits: int = 4) -> str:
    """A number for people: that many significant digits, thousands parted, no exponent where it can be helped.

    Example:
        >>> number(1234.5678), number(0.00012345), number(3.0), number(1.5e12)
        ('1,235', '0.0001234', '3', '1.5e+12')
    """
    if not math.isfinite(value):
        return '-'
    if value and not 1e-4 <= abs(value) < 1e9:
        return f'{value:.{digits}g}'
    whole = len(str(int(abs(value))))
    decimals = max(0, digits - whole) if abs(value) >= 1 else digits - 1 - math.floor(math.log10(abs(value) or 1.0))
    text = f'{value:,.{max(0, decimals)}f}'
    return text.rstrip('0').rstrip('.') if '.' in text else text


def sd(values: Sequence[float]) -> float:
    """Sample standard deviation of the finite values; 0 for fewer than two.

    Example:
        >>> sd([1.0, 2.0, 3.0]), sd([1.0])
        (1.0, 0.0)
    """
    found = [value for value in values if math.isfinite(value)]
    return stdev(found) if len(found) > 1 else 0.0


def plus_minus(value: float, spread: float) -> str:
    """A mean with its standard deviation, where it has one, for a hover text."""
    return number(value) + (f' ± {number(spread, 2)}' if spread else '')


def of_many(count: int, what: str, several: str = '') -> str:
    """A number of things.

    Example:
        >>> of_many(1, 'seed'), of_many(3, 'search', 'searches')
        ('1 seed', '3 searches')
    """
    return f'{count} {what if count == 1 else several or what + "s"}'


def direction(metric: str, higher_is_better: bool) -> str:
    """The label of an axis of quality."""
    return f"{metric} ({'higher' if higher_is_better else 'lower'} is better)"


def in_all(cost_label: str) -> str:
    """The label of a cost for that of several runs together.

    Example:
        >>> in_all('Training time (s)'), in_all('GPU-hours')
        ('Total training time (s)', 'Total GPU-hours')
    """
    return 'Total ' + (cost_label if cost_label[1:2].isupper() else cost_label[:1].lower() + cost_label[1:])


def around(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis with a little room beyond the values."""
    low, high = min(values), max(values)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def steps(low: float, high: float) -> tuple[float, ...]:
    """Where a logarithmic axis from ``low`` to ``high`` has its ticks within a power of ten."""
    return (1.0, 2.0, 5.0) if high > 8 * low else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)


def wide(values: Iterable[float]) -> bool:
    """Whether positive values span more than a factor of 4, so that an axis of them is better logarithmic."""
    found = [value for value in values if math.isfinite(value)]
    return bool(found) and min(found) > 0 and max(found) > 4 * min(found)
