"""What a search varies."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from pydantic import ValidationError, model_validator

from composer_kd.recipes.errors import in_one_paragraph
from composer_kd.studies.file.fields import Number, Strict, distinct, flat, is_number


class Range(Strict):
    """Numbers from ``low`` to ``high``, both included; whole ones if ``low``, ``high`` and ``step`` are whole.

    Attributes:
        low: Least.
        high: Greatest.
        log: Whether they are drawn on a logarithmic scale.
        step: Distance between neighbours, counted from ``low``; ``None``: 1 between whole numbers, else none.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @model_validator(mode='after')
    def _in_order(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f".low: expected a number below high, {self.high!r}, got {self.low!r}.")
        if self.log and self.low <= 0:
            raise ValueError(f'.low: expected a number above 0 with log, got {self.low!r}.')
        if self.log and self.step is not None:
            raise ValueError('.step: goes with equal distances, and log has none; leave one of them out.')
        if self.step is not None:
            if self.step <= 0:
                raise ValueError(f'.step: expected a number above 0, got {self.step!r}.')
            low, high, step = (Decimal(str(number)) for number in (self.low, self.high, self.step))
            if (high - low) % step:
                last = low + (high - low) // step * step
                raise ValueError(
                    f'.high: is no whole number of steps of {self.step!r} above {self.low!r}; the last one below it is '
                    f'{last}, the next one {last + step}.',
                )
        return self

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole ones."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 1))

    @property
    def is_finite(self) -> bool:
        """Whether it holds a countable number of values."""
        return self.is_whole or self.step is not None


def parse_space(value: Any) -> dict[str, Range | list[Any]]:
    """A search space: dotted recipe keys to ranges and lists of values.

    Raises:
        ValueError: For anything else, with the path below the space first.

    Example:
        >>> parse_space({'optimizer.lr': {'low': 0.01, 'high': 1.0, 'log': True}, 'train_data.batch_size': [32, 64]})
        {'optimizer.lr': Range(low=0.01, high=1.0, log=True, step=None), 'train_data.batch_size': [32, 64]}
    """
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f'expected a mapping of recipe keys to ranges and lists, got {value!r}.')
    found: dict[str, Range | list[Any]] = {}
    for key, item in value.items():
        flat({key: None})
        if isinstance(item, Mapping) and not {'low', 'high', 'log', 'step'} & set(item):
            known = ', '.join(f'{key}.{inner}' for inner in list(item)[:3])
            hint = f' Or were dotted keys meant: {known}?' if item else ''
            raise ValueError(f'.{key}: expected a list of values or a mapping with low and high, got {item!r}.{hint}')
        if isinstance(item, Mapping):
            found[key] = _range(key, item)
        elif isinstance(item, list) and item:
            if not all(entry is None or isinstance(entry, (bool, str)) or is_number(entry) for entry in item):
                raise ValueError(f'.{key}: expected a list of strings, numbers, true, false and null, got {item!r}.')
            if not distinct(item):
                raise ValueError(f'.{key}: a value is there twice in {item!r}; keep one.')
            found[key] = list(item)
        else:
            raise ValueError(f'.{key}: expected a list of values or a mapping with low and high, got {item!r}.')
    return found


def _range(key: str, item: Mapping[str, Any]) -> Range:
    missing = [name for name in ('low', 'high') if name not in item]
    if missing:
        raise ValueError(f".{key}: missing {' and '.join(missing)}, got {dict(item)!r}.")
    try:
        return Range.model_validate(item)
    except ValidationError as error:
        told = in_one_paragraph(error, '')
        raise ValueError(f'.{key}{told}' if told.startswith(':') else f'.{key}.{told}') from None


def points(value: Range | list[Any]) -> list[Any]:
    """Every value of a finite range or a list.

    Example:
        >>> points(Range(low=8, high=32, step=8))
        [8, 16, 24, 32]
    """
    if not isinstance(value, Range):
        return list(value)
    assert value.is_finite, 'the schema refuses endless ranges where all points are needed'
    step = value.step or 1
    return [value.low + place * step for place in range(round((value.high - value.low) / step) + 1)]
