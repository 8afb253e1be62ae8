"""The losses there are: our own, and what other packages add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import Tensor

from composer_kd import functional
from composer_kd.functional.checks import check_beta, check_choice, check_flag, check_weight
from composer_kd.functional.targets import CLASS_REDUCTIONS
from composer_kd.names import Registry

Space = Literal['softmax', 'sigmoid', 'logits']


@dataclass(frozen=True)
class LossSpec:
    """What :data:`LOSSES` holds: a function and what cannot be read from its signature.

    Args:
        function: ``function(student_logits, teacher_logits, *, <settings>, reduction)``. It takes logits of shape
            ``(..., C)`` in any floating-point dtype and, called with ``reduction='none'``, returns one value per row,
            shape ``(...)``. One with a keyword ``mask`` is told which rows count, or ``None``; to any other, those that
            do not come as zeros, in a copy of the logits. What it returns for them is ignored. One with a keyword
            ``labels`` is handed class numbers of the shape of the rows, where those of rows that do not count may be
            any number; where a batch has none, the loss is refused. Its other keyword parameters are the settings
            users may give. One named ``temperature`` may follow a schedule.
        space: What the loss turns logits into, which says how several teachers' probabilities are to be averaged for
            it: ``'softmax'``, ``'sigmoid'``, or ``'logits'`` where it compares the logits themselves; ``None`` if none
            of these fits.
        checks: By setting, a function that raises ``TypeError`` or ``ValueError`` for a value out of range, so that
            it is refused before the training starts. ``temperature`` is checked without one.
        all_classes: Whether it compares every class where it stands, so that stored answers that hold some classes of a
            row are refused. True of every function with ``labels``.

    Example:
        >>> import torch
        >>> from composer_kd.losses import make_loss
        >>> def half_gap(student_logits, teacher_logits, *, temperature=1.0, reduction='mean'):
        ...     student, teacher = student_logits.float() / temperature, teacher_logits.float() / temperature
        ...     rows = (student.softmax(-1) - teacher.softmax(-1)).abs().sum(-1) / 2
        ...     return rows if reduction == 'none' else rows.mean()
        >>> spec = LOSSES.register('half_gap')(LossSpec(half_gap, space='softmax'))
        >>> loss = make_loss({'name': 'half_gap', 'temperature': 2.0})
        >>> loss(torch.tensor([[0.0, 0.0]]), torch.tensor([[4.0, 0.0]]))
        tensor(0.3808)
    """

    function: Callable[..., Tensor]
    space: Space | None = None
    checks: Mapping[str, Callable[[Any], None]] = field(default_factory=dict)
    all_classes: bool = False


def check_values(checks: Mapping[str, Callable[[Any], None]], settings: Mapping[str, Any], where: str) -> None:
    """Let each setting's check look at its value.

    Raises:
        TypeError: For a value of a wrong type.
        ValueError: For a value out of range; both say where.

    Example:
        >>> check_values({'beta': check_beta}, {'beta': 2}, "loss 'jensen_shannon'")
        Traceback (most recent call last):
        ValueError: loss 'jensen_shannon': beta: expected a number between 0 and 1, both excluded, got 2; use ...
    """
    for key, value in settings.items():
        if key not in checks:
            continue
        try:
            checks[key](value)
        except OverflowError:
            raise ValueError(f'{where}: {key}: expected a number that a float can hold, got {value!r}.') from None
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f'{where}: {error}') from error


LOSSES: Registry[LossSpec | Callable[..., Tensor]] = Registry('loss', 'composer_kd.losses')
"""Losses by name: our own, and third parties', added with ``LOSSES.register(name)`` or under the entry-point group
``composer_kd.losses``, as a :class:`LossSpec` or as the bare function.
"""

_check_class_reduction = partial(check_choice, 'class_reduction', choices=CLASS_REDUCTIONS)
_forward_kl = LossSpec(functional.kl_divergence, 'softmax')
LOSSES.register('kl_divergence')(_forward_kl)
LOSSES.register('forward_kl')(_forward_kl)
LOSSES.register('reverse_kl')(LossSpec(functional.reverse_kl, 'softmax'))
LOSSES.register('jensen_shannon')(LossSpec(functional.jensen_shannon, 'softmax', {'beta': check_beta}))
LOSSES.register('soft_cross_entropy')(LossSpec(functional.soft_cross_entropy, 'softmax'))
LOSSES.register('hard_label')(LossSpec(functional.hard_label, 'softmax'))
LOSSES.register('mse')(LossSpec(functional.mse, 'logits', {'class_reduction': _check_class_reduction}))
LOSSES.register('binary_kl_divergence')(LossSpec(functional.binary_kl_divergence, 'sigmoid'))

_of_weights = {key: partial(check_weight, key) for key in ('alpha', 'beta', 'gamma')}
LOSSES.register('decoupled_kd')(LossSpec(functional.decoupled_kd, 'softmax', {
    'alpha': _of_weights['alpha'], 'beta': _of_weights['beta'], 'standardize': partial(check_flag, 'standardize'),
}))
LOSSES.register('dist')(LossSpec(
    functional.dist, 'softmax', {'beta': _of_weights['beta'], 'gamma': _of_weights['gamma']}, all_classes=True,
))
LOSSES.register('standardized_kl')(LossSpec(functional.standardized_kl, all_classes=True))
LOSSES.register('cosine')(LossSpec(functional.cosine, 'logits'))
LOSSES.register('total_variation')(LossSpec(functional.total_variation, 'softmax'))
