"""A loss with its settings, looked up by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from composer_kd.catalogue import LOSSES, LossSpec, Space, check_values
from composer_kd.functional.checks import check_class_labels, check_temperature
from composer_kd.functional.inputs import at_least_float32, check_inputs
from composer_kd.functional.reduction import blank, masked_mean, reduce_rows
from composer_kd.names import check_settings, split_named

__all__ = ['LOSSES', 'Loss', 'LossSpec', 'Space', 'make_loss']


@dataclass(frozen=True)
class Loss:
    """A loss that is ready to be called; :func:`make_loss` makes it.

    Args:
        name: Its name in :data:`LOSSES`, or that of the user's function.
        settings: All its settings, defaults filled in.
        space: As in :class:`LossSpec`; ``None`` for a user's function.
        has_temperature: Whether it takes one.
        takes_mask: Whether it leaves out by itself the rows that do not count.
        function: What calculates it.
        needs_labels: Whether it must be given the labels.
        all_classes: Whether it compares every class where it stands, so that answers that hold a few will not do.

    Example:
        >>> loss = make_loss({'name': 'kl_divergence', 'temperature': 4.0})
        >>> loss.name, loss.settings, loss.space, loss.has_temperature
        ('kl_divergence', {'temperature': 4.0}, 'softmax', True)
        >>> student, teacher = torch.zeros(3, 2), torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
        >>> loss.rows(student, teacher)
        tensor([0.4848, 0.0000, 0.4848])
        >>> loss(student, teacher, mask=torch.tensor([True, True, False]))
        tensor(0.2424)
    """

    name: str
    settings: dict[str, Any]
    space: Space | None
    has_temperature: bool
    takes_mask: bool
    function: Callable[..., Tensor] = field(repr=False)
    needs_labels: bool = False
    all_classes: bool = False

    def rows(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        temperature: float | None = None,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """One value per row, so that the caller can average over more than one microbatch.

        Args:
            student_logits: Shape ``(..., C)``, any floating-point dtype. The gradient goes here.
            teacher_logits: Same shape; gets no gradient.
            temperature: Stands in for the one in the settings; required where that follows a schedule.
            mask: Shape ``(...)``: rows of weight zero are left out, whatever they hold. ``None``: all count.
            labels: Class numbers, shape ``(...)``; those of rows that are left out may be any. Asked for where
                ``needs_labels`` says so, and ignored elsewhere.

        Returns:
            Shape ``(...)``, float32 or float64; unweighted, and zero for rows that are left out.

        Raises:
            TypeError: If an argument is of a wrong type.
            ValueError: If shapes do not match, labels are missing, or a temperature is missing, out of place or out of
                range.
        """
        settings = self._settings(temperature)
        check_inputs(student_logits, teacher_logits, mask)
        if self.needs_labels:
            check_class_labels(labels, student_logits.shape[:-1], f"loss '{self.name}'")
            settings = {**settings, 'labels': labels}
        logits = student_logits, teacher_logits.detach()
        if self.takes_mask:
            rows = self.function(*logits, **settings, mask=mask, reduction='none')
        else:
            rows = self.function(*(blank(each, mask) for each in logits), **settings, reduction='none')
        if not isinstance(rows, Tensor) or rows.shape != student_logits.shape[:-1]:
            raise ValueError(
                f"loss '{self.name}': expected reduction='none' to give a tensor of shape "
                f'{tuple(student_logits.shape[:-1])}, one value per row, got {_describe(rows)}; sum over classes only.',
            )
        return reduce_rows(rows.to(at_least_float32(rows)), mask, 'none')

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        mask: Tensor | None = None,
        temperature: float | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """The weighted mean of :meth:`rows` over the rows that count, 0-d; zero with a graph if none does.

        Args:
            student_logits: As in :meth:`rows`.
            teacher_logits: As in :meth:`rows`.
            mask: Weight of each row, shape ``(...)``: bool, or numbers of zero or more. ``None``: all count the same.
            temperature: As in :meth:`rows`.
            labels: As in :meth:`rows`.
        """
        return masked_mean(self.rows(student_logits, teacher_logits, temperature, mask, labels), mask)

    def _settings(self, temperature: float | None) -> dict[str, Any]:
        if temperature is None:
            if _scheduled(self.settings.get('temperature')):
                raise ValueError(
                    f"loss '{self.name}': its temperature follows a schedule, so it must be given at every call, got "
                    'none; pass temperature=.',
                )
            return self.settings
        if not self.has_temperature:
            raise ValueError(f"loss '{self.name}': it has no temperature, got {temperature!r}; leave it out.")
        check_temperature(temperature)
        return {**self.settings, 'temperature': temperature}


class _CallableLoss(Loss):
    """A user's function of (student_logits, teacher_logits), which knows nothing of masks."""

    def rows(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        temperature: float | None = None,
        mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        self._settings(temperature)
        # A mean over the rows cannot be undone, so the function must only see the rows that count.
        check_inputs(student_logits, teacher_logits, mask)
        dtype = at_least_float32(student_logits, teacher_logits)
        student, teacher = student_logits.to(dtype), teacher_logits.detach().to(dtype)
        keep: Tensor | None = None
        if mask is not None:
            keep = mask.ne(0)
            student, teacher = student[keep], teacher[keep]
        shape = student.shape[:-1]
        if shape.numel() == 0:
            rows = student.sum(-1)
        else:
            rows = self.function(student, teacher)
            if not isinstance(rows, Tensor) or rows.shape not in (shape, torch.Size([])):
                raise ValueError(
                    f"loss '{self.name}': expected the function to return a 0-d tensor (its mean over the rows) or one "
                    f'value per row, shape {tuple(shape)}, got {_describe(rows)}; reduce over the classes.',
                )
            rows = rows.to(at_least_float32(rows)).expand(shape)
        if keep is None:
            return rows
        return rows.new_zeros(keep.shape).masked_scatter(keep, rows)


def make_loss(
    spec: str | Mapping[str, Any] | Callable[[Tensor, Tensor], Tensor] | Loss, where: str = 'loss',
) -> Loss:
    """A loss from what the user wrote; names and values are checked here, before anything runs.

    Args:
        spec: A name in :data:`LOSSES`; a mapping of ``name`` and settings, in which ``temperature`` may also be a
            schedule (a mapping or a callable, to be resolved by the caller); a function ``(student_logits,
            teacher_logits)`` of float32 (or float64) logits that returns its mean over the rows or one value per row;
            or a :class:`Loss`, which is returned as it is. With a mask, a function sees only the rows that count, as
            shape ``(rows, C)``; picking them makes a GPU wait for the CPU, which a registered loss does not.
        where: What the loss is for, for messages.

    Raises:
        TypeError: If ``spec`` or a value in it is of a wrong type.
        ValueError: For an unknown name or setting (with the nearest valid one), or a value out of range.

    Example:
        >>> make_loss('mse').settings
        {'class_reduction': 'sum'}
        >>> make_loss(lambda student, teacher: (student - teacher).abs().sum(-1))(torch.zeros(2, 3), torch.ones(2, 3))
        tensor(3.)
        >>> make_loss({'name': 'kl_divergence', 'temprature': 4.0})
        Traceback (most recent call last):
        ValueError: loss 'kl_divergence': unknown key 'temprature'. Did you mean 'temperature'? Valid keys: temperature.
    """
    if isinstance(spec, Loss):
        return spec
    if not isinstance(spec, (str, Mapping)):
        if isinstance(spec, (type, LossSpec)) or not callable(spec):
            raise TypeError(
                f'{where}: expected a name, a mapping with a name, or a function (student_logits, teacher_logits), got '
                f'{_describe(spec)}; known names: {", ".join(LOSSES.names())}.',
            )
        name = getattr(spec, '__name__', type(spec).__name__)
        return _CallableLoss(name=name, settings={}, space=None, has_temperature=False, takes_mask=False, function=spec)
    name, given = split_named(spec, where)
    entry = LOSSES.get(name, where)
    where = f"{where} '{name}'"
    entry = entry if isinstance(entry, LossSpec) else LossSpec(entry)
    parameters = _parameters(entry, where)
    filled_in = (*list(parameters)[:2], 'mask', 'labels', 'reduction')
    check_settings(entry.function, given, where, given=filled_in)
    plain = {key: value for key, value in given.items() if key != 'temperature' or not _scheduled(value)}
    check_values({'temperature': check_temperature, **entry.checks}, plain, where)
    defaults = {key: p.default for key, p in parameters.items() if key not in filled_in and p.default is not p.empty}
    return Loss(
        name=name, settings={**defaults, **given}, space=entry.space, has_temperature='temperature' in parameters,
        takes_mask='mask' in parameters, function=entry.function, needs_labels='labels' in parameters,
        all_classes=entry.all_classes or 'labels' in parameters,
    )


def _parameters(entry: LossSpec, where: str) -> dict[str, inspect.Parameter]:
    """The parameters of a registered function, which must be of the agreed form."""
    if isinstance(entry.function, type) or not callable(entry.function):
        raise TypeError(f'{where}: expected a LossSpec or a function in the registry, got {_describe(entry.function)}.')
    parameters = dict(inspect.signature(entry.function).parameters)
    if len(parameters) < 3 or 'reduction' not in list(parameters)[2:]:
        raise ValueError(
            f"{where}: expected a function (student_logits, teacher_logits, *, ..., reduction), got parameters "
            f"({', '.join(parameters)}); give it a keyword 'reduction' that returns one value per row for 'none'.",
        )
    return parameters


def _scheduled(temperature: Any) -> bool:
    """Whether it is a scheduler or the mapping that names one, for the caller to resolve."""
    return callable(temperature) or isinstance(temperature, Mapping)


def _describe(value: Any) -> str:
    """What came, for messages."""
    if isinstance(value, Tensor):
        return f'a tensor of shape {tuple(value.shape)}'
    return f'the class {value.__name__}' if isinstance(value, type) else f'{type(value).__name__}: {value!r}'
