"""A loss of features with its settings, looked up by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from composer_kd.names import Registry, check_settings, split_named

Takes = Literal['hidden', 'map', 'attention', 'any']


@dataclass(frozen=True)
class FeatureSpec:
    """What :data:`FEATURE_LOSSES` holds: a function and what cannot be read from its signature.

    Args:
        function: ``function(student, teacher, *, <settings>, mask=None, reduction)``; with ``reduction='none'`` it
            gives one value a row, ``(N,)``, or ``(N, L)`` for tokens.
        takes: Which features: ``'hidden'`` ``(N, L, D)`` or ``(N, D)``, ``'map'`` ``(N, C, H, W)``, ``'attention'``
            ``(N, heads, L, L)``, or ``'any'``.
        projector: Whether a projector to the teacher's width is built by default.
        checks: By setting, a function that raises for a value out of range.
        needs_labels: Whether it is handed the labels.
    """

    function: Callable[..., Tensor]
    takes: Takes = 'any'
    projector: bool = False
    checks: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    needs_labels: bool = False


FEATURE_LOSSES: Registry[FeatureSpec | Callable[..., Tensor]] = Registry('feature loss', 'composer_kd.feature_losses')


@dataclass(frozen=True)
class FeatureLoss:
    """A loss of features that is ready to be called; :func:`make_feature_loss` makes it."""

    name: str
    settings: dict[str, Any]
    takes: str
    projector: bool
    needs_labels: bool
    function: Callable[..., Tensor] = field(repr=False)

    def rows(self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Any = None) -> Tensor:
        """One value a row, ``(N,)`` or ``(N, L)``."""
        more = {'labels': labels} if self.needs_labels else {}
        return self.function(student, teacher.detach(), **self.settings, **more, mask=mask, reduction='none')


def make_feature_loss(spec: str | Mapping[str, Any], where: str = 'loss') -> FeatureLoss:
    """A loss of features from what the user wrote."""
    name, given = split_named(spec, where)
    entry = FEATURE_LOSSES.get(name, where)
    entry = entry if isinstance(entry, FeatureSpec) else FeatureSpec(entry)
    parameters = dict(inspect.signature(entry.function).parameters)
    filled_in = (*list(parameters)[:2], 'mask', 'reduction', 'labels')
    check_settings(entry.function, given, f"{where} '{name}'", given=filled_in)
    for key, value in given.items():
        if key in entry.checks:
            entry.checks[key](value)
    defaults = {key: p.default for key, p in parameters.items() if key not in filled_in and p.default is not p.empty}
    return FeatureLoss(name, {**defaults, **given}, entry.takes, entry.projector, entry.needs_labels, entry.function)


def _hint(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: str = 'mean') -> Tensor:
    error = (student.float() - teacher.float()).square()
    rows = error.mean(-1) if error.dim() == 3 else error.flatten(1).mean(1)
    if mask is not None and rows.dim() == 2:
        rows = rows.masked_fill(mask == 0, 0.0)
    return rows if reduction == 'none' else rows.mean()


def _attention_mse(student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: str = 'mean') -> Tensor:
    error = (student.float() - teacher.float()).square().mean(dim=(1, 3))
    rows = error if mask is None else error.masked_fill(mask == 0, 0.0)
    return rows if reduction == 'none' else rows.mean()


def _attention_transfer(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, reduction: str = 'mean',
) -> Tensor:
    one, other = (f.float().square().mean(1).flatten(1) for f in (student, teacher))
    rows = (one / one.norm(dim=1, keepdim=True) - other / other.norm(dim=1, keepdim=True)).square().mean(1)
    return rows if reduction == 'none' else rows.mean()


FEATURE_LOSSES.register('hint')(FeatureSpec(_hint, 'any', projector=True))
FEATURE_LOSSES.register('hidden_mse')(FeatureSpec(_hint, 'hidden', projector=True))
FEATURE_LOSSES.register('attention_mse')(FeatureSpec(_attention_mse, 'attention'))
FEATURE_LOSSES.register('attention_transfer')(FeatureSpec(_attention_transfer, 'map'))
