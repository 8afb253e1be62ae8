"""The residual networks for CIFAR of He et al. 2015, section 4.2."""

from __future__ import annotations

from composer.models import ComposerClassifier
from torch import Tensor, nn
from torch.nn import functional

from composer_kd.models.classification import check_classifier, classifier, initialise, start_at_prior
from composer_kd.models.registry import MODELS

_STAGES = 3


class _Block(nn.Module):
    # The shortcut has no weights (option A): where a stage begins, every second pixel and zeros for the new channels.
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        if self.stride > 1:
            x = x[:, :, ::self.stride, ::self.stride]
        if self.more:
            x = functional.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return functional.relu(y + x)


class _ResNetCIFAR(nn.Module):
    def __init__(self, blocks: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        layers, channels = [], width
        for stage in range(_STAGES):
            for block in range(blocks):
                layers.append(_Block(channels, width * 2**stage, 2 if stage and not block else 1))
                channels = width * 2**stage
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


@MODELS.register('resnet_cifar')
def cifar_resnet(
    depth: int = 56, num_classes: int = 10, width: int = 16, loss: str = 'cross_entropy',
) -> ComposerClassifier:
    """A residual network for 32x32 images (He et al. 2015, arXiv 1512.03385, section 4.2).

    A 3x3 stem, three stages of ``(depth - 2) / 6`` blocks each on 32x32, 16x16 and 8x8 pixels with ``width``, twice and
    four times ``width`` channels, and shortcuts without weights (option A). Weights are drawn as MosaicML's public
    recipes do: Kaiming-normal, BatchNorm uniform in 0 to 1. ResNet-56 has 0.85 million parameters, ResNet-110 1.7
    million. The validation metrics are ``MulticlassAccuracy`` and ``CrossEntropy``.

    Args:
        depth: Layers with weights, ``6n + 2``: 8 or more; the paper's are 20, 32, 44, 56 and 110.
        num_classes: Number of classes, 2 or more.
        width: Channels of the first stage, 1 or more; the paper's is 16.
        loss: ``'cross_entropy'``, or ``'binary_cross_entropy'``: one sigmoid per class (sum over classes, mean over
            samples), with the last bias starting at ``-log(num_classes)``.

    Returns:
        A classifier whose batches are ``(images (N, 3, H, W), labels (N,))`` and whose outputs are logits
        ``(N, num_classes)``.

    Raises:
        ValueError: For a value out of range or an unknown loss.

    Example:
        >>> import torch
        >>> model = cifar_resnet(depth=8, width=4)
        >>> model((torch.zeros(2, 3, 32, 32), None)).shape
        torch.Size([2, 10])
    """
    check_classifier(loss, [('depth', depth, 8), ('num_classes', num_classes, 2), ('width', width, 1)])
    if depth % 6 != 2:
        near = max(8, round((depth - 2) / 6) * 6 + 2)
        raise ValueError(f'depth: expected 6n + 2 layers (20, 32, 44, 56, 110), got {depth}; the nearest is {near}.')
    module = _ResNetCIFAR((depth - 2) // 6, width, num_classes)
    initialise(module)
    if loss == 'binary_cross_entropy':
        start_at_prior(module.head)
    return classifier(module, num_classes, loss)
