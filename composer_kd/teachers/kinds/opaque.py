"""Programs as teachers: they answer, and nothing of them can be looked at or changed."""

from __future__ import annotations

from typing import Any

from torch import nn


class OpaqueModel(nn.Module):
    """A model that is a program: always as in evaluation, and without layers that could be tapped.

    Attributes:
        opaque: True.
    """

    opaque = True

    def train(self, mode: bool = True) -> Any:
        """Nothing: a program has no training mode."""
        self.training = False
        return self


def is_opaque(module: nn.Module) -> bool:
    """Whether no layer of a model can be looked at, as it is a program.

    Example:
        >>> is_opaque(nn.Linear(2, 2))
        False
    """
    return bool(getattr(module, 'opaque', False))
