"""The losses and the logits that all tests of losses go through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from composer_kd import functional

from . import reference


class Case(NamedTuple):
    name: str
    settings: dict[str, Any]

    @property
    def function(self) -> Callable[..., Tensor]:
        return getattr(functional, self.name)

    def rows(self, student: Tensor, teacher: Tensor, **more: Any) -> Tensor:
        return self.function(student, teacher, reduction='none', **self.settings, **more)

    def mean(self, student: Tensor, teacher: Tensor, **more: Any) -> Tensor:
        return self.function(student, teacher, **self.settings, **more)

    def expected(self, student: Tensor, teacher: Tensor) -> np.ndarray:
        s, t = (x.detach().to(torch.float64).numpy() for x in (student, teacher))
        return getattr(reference, self.name)(s, t, **self.settings)

    def __str__(self) -> str:
        return '-'.join([self.name, *(f'{k}={v}' for k, v in self.settings.items())])


SOFT = ('kl_divergence', 'reverse_kl', 'jensen_shannon', 'soft_cross_entropy', 'binary_kl_divergence')
CASES = [
    *(Case(name, settings) for name in SOFT for settings in ({}, {'temperature': 4.0}, {'temperature': 0.5})),
    Case('jensen_shannon', {'beta': 0.1, 'temperature': 2.0}),
    Case('jensen_shannon', {'beta': 0.93}),
    Case('hard_label', {}),
    Case('mse', {}),
    Case('mse', {'class_reduction': 'mean'}),
]
"""Every loss, with several settings."""

PLAIN = [Case(name, {}) for name in (*SOFT, 'hard_label', 'mse')]
"""Every loss once."""


def logits(*shape: int, seed: int = 0, scale: float = 3.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(2, *shape, generator=generator, dtype=torch.float64) * scale
    return both[0].to(dtype), both[1].to(dtype)


def forbid(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both with some classes at -inf, the same in both; never all of a row."""
    student, teacher = student.clone(), teacher.clone()
    for x in (student, teacher):
        x[..., 1] = -torch.inf
        x[0, ..., 3] = -torch.inf
    return student, teacher


def gradient(loss: Callable[..., Tensor], student: Tensor, *rest: Tensor, **more: Any) -> Tensor:
    student = student.detach().clone().requires_grad_()
    loss(student, *rest, **more).sum().backward()
    assert student.grad is not None
    return student.grad
