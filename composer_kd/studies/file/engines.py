"""Optuna's samplers and pruners by snake-case name, and their settings, held against what they take.

Not offered are ``partial_fixed`` (what is fixed stands under ``set``) and ``nsgaiii``, which is made for several
objectives; a study has one. ``grid`` and ``brute_force`` need a finite space and end the search when it is used up.
Samplers that need further packages (``cma_es``: cmaes; ``gp``: scipy and torch) are refused where these are missing.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from composer_kd.names import nearest, snake_case, split_named

_NOT_OFFERED = ('base', 'base_ga', 'partial_fixed', 'nsgaiii')
_GIVEN = {'grid': ('search_space',)}
_NEEDS = {'cma_es': ('cmaes',), 'gp': ('scipy', 'torch'), 'qmc': ('scipy',)}
_WORDS = {'int': 'a whole number', 'float': 'a number', 'bool': 'true or false', 'str': 'a string', 'None': 'null'}
_PLAIN = {*_WORDS, 'dict[str, Any]'}


def classes(kind: str) -> dict[str, Any]:
    """Optuna's own classes by snake-case name.

    Args:
        kind: ``'sampler'`` or ``'pruner'``.

    Example:
        >>> sorted(classes('pruner'))[:3]
        ['hyperband', 'median', 'nop']
    """
    import optuna

    module, last = (optuna.samplers, 'Sampler') if kind == 'sampler' else (optuna.pruners, 'Pruner')
    named = {snake_case(name.removesuffix(last)): getattr(module, name) for name in dir(module) if name.endswith(last)}
    return {name: item for name, item in named.items() if name not in _NOT_OFFERED}


def check_sampler(value: Any) -> dict[str, Any]:
    """A sampler's name and settings as a mapping.

    Raises:
        ValueError: For an unknown name or setting (with the nearest valid one), or a value that Optuna refuses.

    Example:
        >>> check_sampler('tpe')
        {'name': 'tpe'}
    """
    return _checked(value, 'sampler', '')


def check_pruner(value: Any) -> dict[str, Any] | None:
    """A pruner's name and settings as a mapping; ``None`` for none.

    Raises:
        ValueError: As :func:`check_sampler`.
    """
    return None if value is None else _checked(value, 'pruner', '')


def _checked(value: Any, kind: str, at: str) -> dict[str, Any]:
    try:
        name, settings = split_named(value, '@')
    except (TypeError, ValueError) as error:
        told = f"{at.removesuffix(': ')}{str(error).removeprefix('@')}"
        raise ValueError(told.removeprefix(': ')) from None
    known = classes(kind)
    if name not in known:
        raise ValueError(f"{at}unknown {kind} '{name}'.{nearest(name, known)} Known: {', '.join(sorted(known))}.")
    missing = [package for package in _NEEDS.get(name, ()) if find_spec(package) is None]
    if missing:
        raise ValueError(
            f"{at}Optuna's {kind} '{name}' needs {' and '.join(missing)}; install with pip install "
            f"{' '.join(missing)}, or take another {kind}.",
        )
    built = _check_settings(known[name], name, settings, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            known[name](**built)
    except (ValueError, TypeError, AssertionError) as error:
        told = ' '.join(str(error).split()).rstrip('.')
        raise ValueError(f"{at}Optuna's {kind} '{name}' refused its settings {settings}: {told}.") from error
    return {'name': name, **settings}


def _check_settings(target: Any, name: str, settings: Mapping[str, Any], kind: str) -> dict[str, Any]:
    takes = {
        key: _members(parameter.annotation) for key, parameter in inspect.signature(target).parameters.items()
        if key not in _GIVEN.get(name, ())
    }
    # A setting that only a Python object can stand for is not one that a file can have.
    valid = sorted(key for key, members in takes.items() if members & (_PLAIN | {'BasePruner'}) - {'None'})
    built: dict[str, Any] = {key: {} for key in _GIVEN.get(name, ())}
    for key, value in settings.items():
        if key not in valid:
            raise ValueError(
                f".{key}: {kind} '{name}' has no such setting.{nearest(key, valid)} "
                f"Valid settings: {', '.join(valid) or 'none'}.",
            )
        if 'BasePruner' in takes[key] and value is not None:
            inner = _checked(value, kind, f'.{key}: ')
            built[key] = classes(kind)[inner.pop('name')](**inner)
        elif not _fits(value, takes[key]):
            words = ' or '.join(_WORDS.get(member, 'a mapping') for member in sorted(takes[key]) if member in _PLAIN)
            raise ValueError(f'.{key}: expected {words}, got {value!r}.')
        else:
            built[key] = value
    absent = [
        key for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is inspect.Parameter.empty and key not in built
    ]
    if absent:
        example = f'{{name: {name}, {absent[0]}: ...}}'
        raise ValueError(f"{kind} '{name}' needs {' and '.join(absent)}; give it as {example}.")
    return built


def _members(annotation: Any) -> set[str]:
    text = annotation if isinstance(annotation, str) else getattr(annotation, '__name__', str(annotation))
    return {member.strip() for member in re.sub(r'Callable.*', 'Callable', text).split('|')}


def _fits(value: Any, members: set[str]) -> bool:
    if value is None or isinstance(value, bool):
        return ('None' if value is None else 'bool') in members
    if isinstance(value, int):
        return bool({'int', 'float'} & members)
    if isinstance(value, Mapping):
        return 'dict[str, Any]' in members
    return ('float' if isinstance(value, float) else 'str') in members
