"""What Composer's algorithms do to a model at the start of a training, done without a training.

BlurPool, SqueezeExcite, Factorize and the like rewrite the model at ``Event.INIT``, so the weights of a run made with
them fit only a model that was rewritten in the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from composer.core import Event, State
from composer.devices import DeviceCPU
from composer.loggers import Logger
from composer.models import ComposerModel

from composer_kd.components import ALGORITHMS, build

# EMA and SWA hold copies of weights, SelectiveBackprop the loss function, Distillation its teachers: none rewrites.
_NO_SURGERY = frozenset({'distillation', 'ema', 'swa', 'selective_backprop', 'sam', 'no_op_model'})


def apply_surgery(model: ComposerModel, algorithms: Mapping[str, Mapping[str, Any] | None]) -> ComposerModel:
    """Rewrite ``model`` in place as the named algorithms do at the start of a training.

    Args:
        model: A freshly built model.
        algorithms: Composer's algorithms as a recipe lists them: snake-case name to settings, in their order.
            Those that rewrite no model are passed over.

    Returns:
        The model, rewritten.

    Raises:
        ValueError: For an unknown algorithm or setting.

    Example:
        >>> from composer_kd.models import build_model
        >>> model = build_model({'name': 'digits_resnet', 'width': 16})
        >>> any('blur' in name for name, _ in apply_surgery(model, {'blurpool': {}}).named_buffers())
        True
    """
    state = State(model=model, rank_zero_seed=0, run_name='surgery', device=DeviceCPU())
    logger = Logger(state=state)
    for name, settings in algorithms.items():
        if name in _NO_SURGERY:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # what they warn of concerns the training, which took place elsewhere
            algorithm = build(ALGORITHMS, name, settings, f'algorithms.{name}')
            if algorithm.match(Event.INIT, state):
                algorithm.apply(Event.INIT, state, logger)
    assert isinstance(state.model, ComposerModel)
    return state.model
