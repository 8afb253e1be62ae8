"""What a user may write for ``prepare``, read and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from composer_kd.names import check_keys, nearest

PRECISIONS = ('auto', 'run', 'bf16', 'fp16', 'fp32')
_COMPILE = ('backend', 'mode', 'options', 'dynamic', 'fullgraph')
_MODES = ('default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs')

Choice = bool | str
"""``True``, ``False`` or ``'auto'``."""


@dataclass(frozen=True)
class Prepare:
    """How a teacher is prepared for inference.

    Attributes:
        precision: ``'run'``: the run's own; ``'bf16'``, ``'fp16'``, ``'fp32'``: this one, whatever the run's is. Where
            it is one of 16 bits, weights that every forward would cast are kept in it. ``'auto'``: as ``'run'``.
        channels_last: Whether the weights of convolutions and the images lie channels last; ``'auto'``: where the model
            has two-dimensional convolutions, on a CPU or a GPU of CUDA.
        fold_batchnorm: Whether each BatchNorm that follows one convolution or linear layer becomes part of it;
            ``'auto'``: where that can be seen from the model's code.
        compile: Arguments of ``torch.compile``; ``None`` for not at all.
        resolution: The side to which larger images are reduced for the teacher, in pixels; ``None`` for as they are.
        tolerance: How far the prepared teacher's first answers may be from the untouched one's, as a share of their
            spread over classes; ``None``: 1e-3 where products are of float32, 0.05 where they are of fewer bits.
        nothing: Whether the teacher is run as it is.

    Example:
        >>> read_prepare({'precision': 'bf16', 'compile': True}).compile
        {}
        >>> read_prepare('none').nothing
        True
    """

    precision: str = 'auto'
    channels_last: Choice = 'auto'
    fold_batchnorm: Choice = 'auto'
    compile: Mapping[str, Any] | None = None
    resolution: int | None = None
    tolerance: float | None = None
    nothing: bool = field(default=False, kw_only=True)

    @property
    def plain(self) -> Any:
        """As a plain type: ``'auto'``, ``'none'`` or what differs from ``'auto'``."""
        if self.nothing:
            return 'none'
        said = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        if self.compile is not None:
            said['compile'] = {
                key: value if isinstance(value, (str, bool, int, dict)) else getattr(value, '__name__', str(value))
                for key, value in self.compile.items()
            } or True
        return said or 'auto'

    @property
    def digits(self) -> int | None:
        """The resolution, as it makes another teacher; see :func:`with_resolution`."""
        return None if self.nothing else self.resolution


AUTO = Prepare()
_KEYS = tuple(f.name for f in fields(Prepare) if f.name != 'nothing')


def read_prepare(said: Any, where: str = 'prepare') -> Prepare:
    """Read ``prepare``.

    Args:
        said: ``'auto'``, ``'none'``, or a mapping with some of the attributes of :class:`Prepare`.
        where: What it is, for messages.

    Raises:
        TypeError: For a value of the wrong kind.
        ValueError: For an unknown key or name (with the nearest one), a value out of range, or two that do not go
            together.
    """
    if isinstance(said, Prepare):
        return said
    if isinstance(said, str):
        if said not in ('auto', 'none'):
            raise ValueError(
                f"{where}: expected 'auto', 'none' or a mapping such as {{precision: bf16}}, got {said!r}."
                f"{nearest(said, ('auto', 'none'))}",
            )
        return AUTO if said == 'auto' else Prepare('run', False, False, nothing=True)
    if not isinstance(said, Mapping):
        raise TypeError(
            f"{where}: expected 'auto', 'none' or a mapping such as {{precision: bf16}}, got {type(said).__name__}: "
            f'{said!r}.',
        )
    check_keys(said, _KEYS, where)
    precision = said.get('precision', 'auto')
    if precision not in PRECISIONS:
        raise ValueError(
            f"{where}.precision: expected {', '.join(map(repr, PRECISIONS[:-1]))} or {PRECISIONS[-1]!r}, got "
            f'{precision!r}.{nearest(precision, PRECISIONS)}',
        )
    return Prepare(
        precision, _choice(said.get('channels_last', 'auto'), f'{where}.channels_last'),
        _choice(said.get('fold_batchnorm', 'auto'), f'{where}.fold_batchnorm'),
        _compile(said.get('compile', False), f'{where}.compile'),
        _resolution(said.get('resolution'), f'{where}.resolution'),
        _tolerance(said.get('tolerance'), f'{where}.tolerance'),
    )


def prepare_opaque(prepare: Prepare, where: str) -> Prepare:
    """How a teacher that is a program is prepared: not at all, but for the size of its images.

    Args:
        prepare: What was asked for.
        where: The teacher, for messages.

    Raises:
        ValueError: For a step that was asked for by name and changes a model.

    Example:
        >>> prepare_opaque(AUTO, 'teachers[0]').nothing
        True
    """
    idle: dict[str, tuple[Any, ...]] = {
        'precision': ('auto', 'run'), 'channels_last': ('auto', False), 'fold_batchnorm': ('auto', False),
        'compile': (None,),
    }
    for name, values in idle.items():
        if getattr(prepare, name) not in values:
            raise ValueError(
                f"{where}.prepare.{name}: this teacher is a program, of which nothing can be changed. Give it a "
                'prepare of its own: prepare: auto.',
            )
    return Prepare('run', False, False, None, prepare.resolution, prepare.tolerance, nothing=prepare.resolution is None)


def _choice(said: Any, where: str) -> Choice:
    if isinstance(said, bool) or said == 'auto':
        return said if isinstance(said, bool) else 'auto'
    raise ValueError(f"{where}: expected true, false or 'auto', got {said!r}.{nearest(said, ('auto',))}")


def _compile(said: Any, where: str) -> Mapping[str, Any] | None:
    if isinstance(said, bool):
        return {} if said else None
    if not isinstance(said, Mapping):
        raise TypeError(
            f'{where}: expected true, false or arguments of torch.compile such as {{mode: reduce-overhead}}, got '
            f'{type(said).__name__}: {said!r}.',
        )
    check_keys(said, _COMPILE, where)
    settings = {key: value for key, value in said.items() if value is not None}
    backend, mode, options = settings.get('backend', 'inductor'), settings.get('mode'), settings.get('options')
    if not callable(backend):
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(
                f"{where}.backend: expected one of {', '.join(map(repr, known))}, got {backend!r}."
                f'{nearest(backend, known)}',
            )
    if mode is not None and mode not in _MODES:
        raise ValueError(
            f"{where}.mode: expected one of {', '.join(map(repr, _MODES))}, got {mode!r}.{nearest(mode, _MODES)}",
        )
    if options is not None and not isinstance(options, Mapping):
        raise TypeError(f'{where}.options: expected a mapping, got {type(options).__name__}: {options!r}.')
    if mode is not None and options is not None:
        raise ValueError(f"{where}: 'mode' stands for a set of options, so torch.compile takes one of both. Give one.")
    if backend != 'inductor' and (mode is not None or options is not None):
        raise ValueError(f"{where}: 'mode' and 'options' are inductor's, and the backend is {backend!r}. Leave them.")
    for key in ('dynamic', 'fullgraph'):
        if not isinstance(settings.get(key, False), bool):
            raise TypeError(f'{where}.{key}: expected true or false, got {settings[key]!r}.')
    return settings


def _resolution(said: Any, where: str) -> int | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, int) or said < 1:
        raise ValueError(f'{where}: expected a number of pixels of 1 or more, got {said!r}.')
    return said


def _tolerance(said: Any, where: str) -> float | None:
    if said is None:
        return None
    if isinstance(said, bool) or not isinstance(said, (int, float)) or not 0 <= said < math.inf:
        raise ValueError(f'{where}: expected a finite number of 0 or more, got {said!r}.')
    return float(said)
