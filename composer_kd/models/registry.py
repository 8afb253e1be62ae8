"""Models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from composer.models import ComposerModel

from composer_kd.components import build
from composer_kd.names import Registry, split_named

MODELS: Registry[Callable[..., ComposerModel]] = Registry('model', 'composer_kd.models')


def build_model(spec: str | Mapping[str, Any], where: str = 'model') -> ComposerModel:
    """Build a model by its name and settings, with freshly initialised weights from the global generator.

    Args:
        spec: A name of :data:`MODELS`, or a mapping with ``name`` and the settings of that model.
        where: What the model is for, for messages.

    Returns:
        The model, on the CPU.

    Raises:
        TypeError: If ``spec`` is neither a name nor a mapping.
        ValueError: For an unknown name or setting (with the nearest valid one), a value the model refuses, or a
            registered function that returns no ComposerModel.

    Example:
        >>> build_model({'name': 'digits_resnet', 'width': 8}).num_classes
        10
    """
    name, settings = split_named(spec, where)
    model = build(MODELS, name, settings, where)
    if not isinstance(model, ComposerModel):
        raise ValueError(
            f'{where}: the function registered as {name!r} has to return a ComposerModel, it returned '
            f'{type(model).__name__}; wrap a classifier in composer.models.ComposerClassifier.',
        )
    return model
