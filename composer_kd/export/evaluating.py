"""What algorithms put into a model for its training alone, taken out again where evaluation computes the same without.

A model that is plain afterwards is one that other libraries build.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from composer.algorithms.ghost_batchnorm.ghost_batchnorm import _GhostBatchNorm
from composer.models import ComposerModel
from torch import nn
from torch.nn.utils import parametrize
from torchvision.models.resnet import Bottleneck


def for_evaluation(model: ComposerModel) -> None:
    """Rewrite a model in place for evaluation alone; its outputs in eval mode stay as they are, but for rounding.

    GhostBatchNorm is BatchNorm in evaluation. Stochastic depth multiplies a block's residual by a constant there, which
    the block's last BatchNorm takes in. A weight that is standardised whenever it is used is standardised once.

    Args:
        model: In eval mode.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, _GhostBatchNorm):
                setattr(module, name, child.batchnorm)
        if isinstance(module, Bottleneck) and 'drop_rate' in vars(module) and 'forward' in vars(module):
            _without_drops(module)
        if parametrize.is_parametrized(module):
            for name in list(cast(nn.ModuleDict, module.parametrizations)):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)


def _without_drops(block: Any) -> None:
    with torch.no_grad():
        block.bn3.weight.mul_(1 - block.drop_rate)
        block.bn3.bias.mul_(1 - block.drop_rate)
    del block.forward, block.drop_rate
