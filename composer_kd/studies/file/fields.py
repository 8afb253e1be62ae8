"""The kinds of values a study file is made of."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, PlainValidator, model_validator

from composer_kd.names import nearest, refuse_unknown
from composer_kd.recipes.layers import refuse_what_no_file_holds

_DURATION = re.compile(r'(\d+(?:\.\d+)?(?:e\+?\d+)?)(ep|ba|sp|tok|iter)')
_KEY = re.compile(r'[A-Za-z_][\w.\[\]/-]*')
_WORD = re.compile(r'[A-Za-z_][\w-]*')
_LONGEST = 80


class Strict(BaseModel):
    """A mapping with known keys; an unknown one is answered with the nearest, and null is a key left out."""

    null_says: ClassVar[frozenset[str]] = frozenset()
    """Keys where null is not the same as leaving them out."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True)

    @model_validator(mode='before')
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError(f'expected a mapping, got {type(data).__name__}: {data!r}.')
        refuse_unknown(data, cls.model_fields)
        refuse_what_no_file_holds(data)
        return {key: value for key, value in data.items() if value is not None or key in cls.null_says}


def slug(name: str) -> str:
    """A name as the beginning of a file name: ASCII lower-case letters, digits, dots and hyphens.

    Example:
        >>> slug('always on'), slug('first 25 %'), slug('Café, lr=0.1')
        ('always-on', 'first-25', 'cafe-lr-0.1')
    """
    plain = unicodedata.normalize('NFKD', name).encode('ascii', 'ignore').decode().lower()
    return re.sub(r'[^a-z0-9.]+', '-', plain).strip('-.')


def flat(said: Any) -> dict[str, Any]:
    """Nested mappings as dotted keys; keys that are dotted already stay. An empty mapping is a value.

    Raises:
        ValueError: If it is no mapping, a key is none, or one is said twice.

    Example:
        >>> flat({'optimizer.lr': 0.1, 'train_data': {'noise': 0.4, 'path': None}})
        {'optimizer.lr': 0.1, 'train_data.noise': 0.4, 'train_data.path': None}
    """
    if not isinstance(said, Mapping):
        raise ValueError(f'expected a mapping of recipe keys to values, got {type(said).__name__}: {said!r}.')
    found: dict[str, Any] = {}
    for key, value in said.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key) or '..' in key or key.endswith('.'):
            raise ValueError(f'expected dotted keys of a recipe, as in optimizer.lr, got {key!r}.')
        # What is named by something else than a word (a layer's dotted name, a number) is no key of a recipe.
        deeper = isinstance(value, Mapping) and value and all(
            isinstance(inner, str) and _WORD.fullmatch(inner) for inner in value
        )
        entries = {f'{key}.{inner}': item for inner, item in flat(value).items()} if deeper else {key: value}
        for name, item in entries.items():
            if name in found:
                raise ValueError(f"'{name}' is said twice; keep one.")
            found[name] = item
    return found


def over(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of ``above`` after those of ``base``, each key once: applied in that order, ``above`` has its way.

    Example:
        >>> over({'a': 1, 'b.c': 2}, {'a': 3})
        {'b.c': 2, 'a': 3}
    """
    return {**{key: value for key, value in base.items() if key not in above}, **above}


def is_whole(value: Any) -> bool:
    """Whether it is an integer, and not true or false."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(least: int, words: str = '') -> Callable[[Any], int]:
    def check(value: Any) -> int:
        if not is_whole(value) or value < least:
            raise ValueError(f'expected a whole number{words} of {least} or more, got {value!r}.')
        return int(value)
    return check


def _number(value: Any) -> int | float:
    if not is_number(value):
        raise ValueError(f'expected a number, got {value!r}.')
    return int(value) if isinstance(value, int) else float(value)


def _above_zero(value: Any) -> float:
    if not is_number(value) or value <= 0:
        raise ValueError(f'expected a number above 0, got {value!r}.')
    return float(value)


def choice(*valid: str) -> PlainValidator:
    """One of a few names; another one is answered with the nearest."""
    def check(value: Any) -> str:
        if value not in valid or not isinstance(value, str):
            raise ValueError(f"expected one of {', '.join(valid)}, got {value!r}.{nearest(value, valid)}")
        return value
    return PlainValidator(check)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'expected a string that is not empty, got {value!r}.')
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(rf'[A-Za-z0-9][\w.-]{{0,{_LONGEST - 1}}}', value, re.ASCII):
        offered = f", such as '{slug(value)[:_LONGEST]}'" if isinstance(value, str) and slug(value) else ''
        raise ValueError(
            f'expected a name that can be a folder (up to {_LONGEST} letters, digits, dots, hyphens and underscores)'
            f'{offered}, got {value!r}.',
        )
    return value


def _metric(value: Any) -> str:
    if not isinstance(value, str) or not all(value.partition('/')):
        raise ValueError(f"expected evaluator/metric, as in 'test/MulticlassAccuracy', got {value!r}.")
    return value


def parse_duration(value: Any) -> tuple[float, str]:
    """Number and unit of a duration.

    Raises:
        ValueError: For anything else than a whole number of 1 or more with a unit.

    Example:
        >>> parse_duration('2ep'), parse_duration('1e6tok')
        ((2.0, 'ep'), (1000000.0, 'tok'))
    """
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    number = float(found[1]) if found else 0.0
    if found is None or number < 1 or not number.is_integer():
        raise ValueError(
            "expected a whole number with a unit, a Composer time string such as '8ep', '500ba', '1e6sp' or '1e9tok', "
            f'got {value!r}.',
        )
    return number, found[2]


def _duration(value: Any) -> str:
    # A bare number is one of epochs, as in a recipe.
    text = f'{value}ep' if is_whole(value) else value
    parse_duration(text)
    return str(text)


def _durations(value: Any) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"expected a list of time strings, as in [2ep, 4ep, 8ep], got {value!r}.")
    found: dict[tuple[float, str], str] = {}
    for index, item in enumerate(value):
        try:
            text = _duration(item)
        except ValueError as error:
            raise ValueError(f'[{index}]: {error}') from None
        if parse_duration(text) in found:
            raise ValueError(f"[{index}]: '{text}' is there twice; keep one.")
        found[parse_duration(text)] = text
    return list(found.values())


def _seeds(value: Any) -> list[int]:
    if is_whole(value) and value >= 1:
        return list(range(value))
    whole = isinstance(value, list) and all(is_whole(item) and item >= 0 for item in value)
    if not whole or not value or len(set(value)) < len(value):
        raise ValueError(
            'expected how many seeds (1 or more, they are 0, 1, ...) or a list of different whole numbers of 0 or '
            f'more, got {value!r}.',
        )
    return list(value)


def texts(words: str) -> PlainValidator:
    """A list of strings."""
    def check(value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            raise ValueError(f'expected a list of {words}, got {value!r}.')
        return list(value)
    return PlainValidator(check)


def distinct(values: Iterable[Any]) -> bool:
    """Whether no two are equal; 1, 1.0 and true are, as they are to a search."""
    seen: list[Any] = []
    for value in values:
        if value in seen:
            return False
        seen.append(value)
    return True


Set = Annotated[dict[str, Any], PlainValidator(flat)]
Text = Annotated[str, PlainValidator(_text)]
Name = Annotated[str, PlainValidator(_name)]
Metric = Annotated[str, PlainValidator(_metric)]
Duration = Annotated[str, PlainValidator(_duration)]
Durations = Annotated[list[str], PlainValidator(_durations)]
Folder = Annotated[Path, PlainValidator(lambda value: Path(_text(value)))]
Seeds = Annotated[list[int], PlainValidator(_seeds)]
Count = Annotated[int, PlainValidator(_whole(1))]
CountOrZero = Annotated[int, PlainValidator(_whole(0))]
Number = Annotated[int | float, PlainValidator(_number)]
AboveZero = Annotated[float, PlainValidator(_above_zero)]
