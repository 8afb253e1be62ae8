"""A loss of features with its settings, looked up by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from composer_kd.catalogue import check_values
from composer_kd.functional import features
from composer_kd.functional.checks import check_class_labels, check_temperature, is_class_labels
from composer_kd.functional.features.attention import check_heads
from composer_kd.functional.features.shapes import blanked
from composer_kd.functional.inputs import at_least_float32
from composer_kd.functional.reduction import reduce_rows
from composer_kd.names import Registry, check_settings, split_named

Takes = Literal['hidden', 'map', 'attention', 'any']


@dataclass(frozen=True)
class FeatureSpec:
    """What :data:`FEATURE_LOSSES` holds: a function and what cannot be read from its signature.

    Args:
        function: ``function(student, teacher, *, <settings>, reduction)``. It takes features in any floating-point
            dtype and, called with ``reduction='none'``, returns one value a sample, ``(N,)``, or one a token,
            ``(N, L)``. One with a keyword ``mask`` is told which tokens, ``(N, L)``, or samples, ``(N,)``, count, or
            ``None``; to any other, those that do not come as zeros, in a copy. One with a keyword ``labels`` is handed
            class numbers of the samples, ``(N,)``. Its other keyword parameters are the settings users may give.
        takes: ``'hidden'`` for ``(N, L, D)`` or ``(N, D)``, ``'map'`` for ``(N, C, H, W)``, ``'attention'`` for
            ``(N, heads, L, L)``, or ``'any'``.
        projector: Whether the student's features are brought to the teacher's width by default.
        checks: By setting, a function that raises ``TypeError`` or ``ValueError`` for a value out of range.

    Example:
        >>> import torch
        >>> def mean_gap(student, teacher, *, power=1.0, reduction='mean'):
        ...     rows = (student.float() - teacher.float()).abs().pow(power).flatten(1).mean(1)
        ...     return rows if reduction == 'none' else rows.mean()
        >>> spec = FEATURE_LOSSES.register('mean_gap')(FeatureSpec(mean_gap, 'any', projector=True))
        >>> make_feature_loss({'name': 'mean_gap', 'power': 2.0}).rows(torch.zeros(2, 3), torch.full((2, 3), 2.0))
        tensor([4., 4.])
    """

    function: Callable[..., Tensor]
    takes: Takes = 'any'
    projector: bool = False
    checks: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)


FEATURE_LOSSES: Registry[FeatureSpec | Callable[..., Tensor]] = Registry('feature loss', 'composer_kd.feature_losses')
"""Losses of features by name: our own, and third parties', added with ``FEATURE_LOSSES.register(name)`` or under the
entry-point group ``composer_kd.feature_losses``, as a :class:`FeatureSpec` or as the bare function.
"""

for _name, _spec in {
    'hint': FeatureSpec(features.hint, 'any', projector=True),
    'attention_transfer': FeatureSpec(features.attention_transfer, 'map'),
    'rkd_distance': FeatureSpec(features.rkd_distance, 'any'),
    'rkd_angle': FeatureSpec(features.rkd_angle, 'any'),
    'similarity_preserving': FeatureSpec(features.similarity_preserving, 'any'),
    'contrastive': FeatureSpec(features.contrastive, 'any', projector=True, checks={'temperature': check_temperature}),
    'hidden_mse': FeatureSpec(features.hidden_mse, 'hidden', projector=True),
    'cosine_hidden': FeatureSpec(features.cosine_hidden, 'hidden', projector=True),
    'attention_mse': FeatureSpec(features.attention_mse, 'attention'),
    'attention_kl': FeatureSpec(features.attention_kl, 'attention'),
    'minilm': FeatureSpec(features.minilm, 'hidden', checks={'relation_heads': check_heads}),
}.items():
    FEATURE_LOSSES.register(_name)(_spec)


@dataclass(frozen=True)
class FeatureLoss:
    """A loss of features that is ready to be called; :func:`make_feature_loss` makes it.

    Args:
        name: Its name in :data:`FEATURE_LOSSES`.
        settings: All its settings, defaults filled in.
        takes: As in :class:`FeatureSpec`.
        projector: As in :class:`FeatureSpec`.
        needs_labels: Whether it must be given the labels.
        takes_labels: Whether it uses labels where there are some.
        takes_mask: Whether it leaves out by itself what does not count.
        function: What calculates it.

    Example:
        >>> import torch
        >>> loss = make_feature_loss('hidden_mse')
        >>> loss.name, loss.settings, loss.takes, loss.projector
        ('hidden_mse', {}, 'hidden', True)
        >>> loss.rows(torch.zeros(1, 2, 3), torch.ones(1, 2, 3), mask=torch.tensor([[True, False]]))
        tensor([[1., 0.]])
    """

    name: str
    settings: dict[str, Any]
    takes: Takes
    projector: bool
    needs_labels: bool
    takes_labels: bool
    takes_mask: bool
    function: Callable[..., Tensor] = field(repr=False)

    def rows(
        self, student: Tensor, teacher: Tensor, mask: Tensor | None = None, labels: Tensor | None = None,
    ) -> Tensor:
        """One value a sample or a token, so that the caller can average over more than one microbatch.

        Args:
            student: Features; the gradient goes here.
            teacher: Features of the same samples; get no gradient.
            mask: Which tokens, ``(N, L)``, or samples, ``(N,)``, count; ``None`` for all.
            labels: Class numbers ``(N,)``, where ``needs_labels`` or ``takes_labels`` says so; ignored elsewhere.

        Returns:
            Shape ``(N,)`` or ``(N, L)``, float32 or float64; zero for what does not count.

        Raises:
            TypeError: If an argument is of a wrong type.
            ValueError: If shapes do not match, or labels are missing.
        """
        more: dict[str, Any] = dict(self.settings)
        where = f"loss '{self.name}'"
        if self.needs_labels:
            check_class_labels(labels, student.shape[:1], where)
            more['labels'] = labels
        elif self.takes_labels:
            more['labels'] = labels if is_class_labels(labels, student.shape[:1]) else None
        teacher = teacher.detach()
        if self.takes_mask:
            more['mask'] = mask
        else:
            student, teacher = blanked(student, mask), blanked(teacher, mask)
        try:
            with torch.autocast(student.device.type, enabled=False):  # it would multiply matrices in 16 bits
                rows = self.function(student, teacher, **more, reduction='none')
        except (TypeError, ValueError) as error:
            raise type(error)(f'{where}: {error}') from error
        shapes = [student.shape[:1], student.shape[:2], (len(student), student.shape[-1])]
        if not isinstance(rows, Tensor) or tuple(rows.shape) not in map(tuple, shapes):
            got = f'shape {tuple(rows.shape)}' if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(
                f"{where}: expected reduction='none' to give one value a sample, ({len(student)},), or a token, got "
                f'{got}; take the mean over all else.',
            )
        rows = rows.to(at_least_float32(rows))
        return reduce_rows(rows, mask, 'none') if mask is not None and mask.shape == rows.shape else rows


def make_feature_loss(spec: str | Mapping[str, Any] | FeatureLoss, where: str = 'loss') -> FeatureLoss:
    """A loss of features from what the user wrote; names and values are checked here, before anything runs.

    Args:
        spec: A name in :data:`FEATURE_LOSSES`; a mapping of ``name`` and settings; or a :class:`FeatureLoss`, which is
            returned as it is.
        where: What the loss is for, for messages.

    Raises:
        TypeError: If ``spec`` or a value in it is of a wrong type.
        ValueError: For an unknown name or setting (with the nearest valid one), or a value out of range.

    Example:
        >>> make_feature_loss({'name': 'minilm', 'relation_heads': 12}).settings
        {'relation_heads': 12}
        >>> make_feature_loss({'name': 'minilm', 'heads': 12})
        Traceback (most recent call last):
        ValueError: loss 'minilm': unknown key 'heads'. Valid keys: relation_heads.
    """
    if isinstance(spec, FeatureLoss):
        return spec
    name, given = split_named(spec, where)
    entry = FEATURE_LOSSES.get(name, where)
    entry = entry if isinstance(entry, FeatureSpec) else FeatureSpec(entry)
    where = f"{where} '{name}'"
    if isinstance(entry.function, type) or not callable(entry.function):
        raise TypeError(f'{where}: expected a FeatureSpec or a function in the registry, got {entry.function!r}.')
    parameters = dict(inspect.signature(entry.function).parameters)
    if len(parameters) < 3 or 'reduction' not in list(parameters)[2:]:
        raise ValueError(
            f"{where}: expected a function (student, teacher, *, ..., reduction), got parameters "
            f"({', '.join(parameters)}); give it a keyword 'reduction' that returns one value a sample for 'none'.",
        )
    filled_in = (*list(parameters)[:2], 'mask', 'labels', 'reduction')
    check_settings(entry.function, given, where, given=filled_in)
    check_values(entry.checks, given, where)
    defaults = {key: p.default for key, p in parameters.items() if key not in filled_in and p.default is not p.empty}
    return FeatureLoss(
        name=name, settings={**defaults, **given}, takes=entry.takes, projector=entry.projector,
        needs_labels='labels' in parameters and parameters['labels'].default is inspect.Parameter.empty,
        takes_labels='labels' in parameters, takes_mask='mask' in parameters, function=entry.function,
    )
