"""A small residual network for scikit-learn's 8x8 digits."""

from __future__ import annotations

import torch
from composer.models import ComposerClassifier
from torch import Tensor, nn
from torch.nn import functional

from composer_kd.models.classification import check_classifier, classifier, start_at_prior
from composer_kd.models.registry import MODELS

_STAGES = 3


class _Block(nn.Module):
    # The shortcut has no weights (He et al. 2016, arXiv 1512.03385, option A; pooled rather than subsampled).
    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.shortcut = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class _DigitsResNet(nn.Module):
    def __init__(self, width: int, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        stages = [block * _STAGES // blocks for block in range(blocks)]
        strides = [
            2 if stage < _STAGES - 1 and stage not in stages[:block] else 1 for block, stage in enumerate(stages)
        ]
        self.blocks = nn.Sequential(*(_Block(width, stride) for stride in strides))
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


@MODELS.register('digits_resnet')
def digits_resnet(
    width: int = 16, blocks: int = 3, num_classes: int = 10, loss: str = 'cross_entropy',
) -> ComposerClassifier:
    """A residual network (He et al. 2015, arXiv 1512.03385) for 1x8x8 images, small enough to train on a laptop's CPU.

    A 3x3 stem at full resolution, then ``blocks`` residual blocks spread over three stages; the first two stages
    begin with a convolution of stride 2, which is what BlurPool replaces. The validation metrics are
    ``MulticlassAccuracy`` and ``CrossEntropy``.

    Args:
        width: Channels of every layer, 1 or more; BlurPool's default skips convolutions below 16.
        blocks: Residual blocks in all, 1 or more.
        num_classes: Number of classes, 2 or more.
        loss: ``'cross_entropy'``, or ``'binary_cross_entropy'``: one sigmoid per class (sum over classes, mean over
            samples), with the last bias starting at ``-log(num_classes)``.

    Returns:
        A classifier whose batches are ``(images (N, 1, 8, 8), labels (N,))`` and whose outputs are logits
        ``(N, num_classes)``.

    Raises:
        ValueError: For a value out of range or an unknown loss.

    Example:
        >>> model = digits_resnet(width=8)
        >>> model((torch.zeros(4, 1, 8, 8), None)).shape
        torch.Size([4, 10])
    """
    check_classifier(loss, [('width', width, 1), ('blocks', blocks, 1), ('num_classes', num_classes, 2)])
    # Convolutions in this memory format take two thirds of the time on a CPU and change no key and no shape.
    module = _DigitsResNet(width, blocks, num_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if loss == 'binary_cross_entropy':
        start_at_prior(module.head)
    return classifier(module, num_classes, loss)
