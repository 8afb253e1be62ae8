"""What the image classifiers share: losses, and the initialisation of MosaicML's public recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from composer.loss import binary_cross_entropy_with_logits, soft_cross_entropy
from composer.models import ComposerClassifier
from torch import Tensor, nn

LOSSES: dict[str, Callable[..., Tensor]] = {
    'cross_entropy': soft_cross_entropy,
    'binary_cross_entropy': binary_cross_entropy_with_logits,
}
"""Losses by name: over the classes' softmax, or one sigmoid per class (sum over classes, mean over samples)."""


def check_classifier(loss: str, sizes: Iterable[tuple[str, int, int]]) -> None:
    """Refuse what no classifier can be built of.

    Args:
        loss: A name of :data:`LOSSES`.
        sizes: Settings that are whole numbers: name, value, least value.

    Raises:
        ValueError: For a value out of range or an unknown loss.
    """
    for name, value, least in sizes:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{name}: expected a whole number of {least} or more, got {value!r}.')
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(map(repr, LOSSES))}, got {loss!r}.")


def start_at_prior(head: nn.Linear) -> None:
    """Set the bias of a last layer that learns by binary cross-entropy to ``-log(C)``, in place.

    Each of the ``C`` sigmoids then starts near ``1 / C``, the share of samples that are of its class; from 1/2 the
    first steps would go into unlearning that.

    Args:
        head: The last layer, with ``C`` outputs.
    """
    nn.init.constant_(head.bias, -math.log(head.out_features))


def initialise(module: nn.Module) -> None:
    """Draw a network's weights as MosaicML's public ResNet recipes do, in place, from the global generator.

    Convolutions and linear layers: Kaiming-normal over the fan-in (He et al. 2015, arXiv 1502.01852). BatchNorm:
    weights uniform in 0 to 1, biases 0. Biases of linear layers stay as they are.

    Args:
        module: The network.

    Example:
        >>> norm = nn.BatchNorm2d(4)
        >>> initialise(norm)
        >>> bool((norm.weight < 1).all()), norm.bias.tolist()
        (True, [0.0, 0.0, 0.0, 0.0])
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def classifier(module: nn.Module, num_classes: int, loss: str) -> ComposerClassifier:
    """A network as a classifier whose validation metrics are ``MulticlassAccuracy`` and ``CrossEntropy``.

    Args:
        module: From images ``(N, ...)`` to logits ``(N, num_classes)``.
        num_classes: Number of classes.
        loss: A name of :data:`LOSSES`.

    Returns:
        The model; its batches are ``(images, labels)``, labels ``(N,)`` or ``(N, num_classes)``.
    """
    return ComposerClassifier(module, num_classes=num_classes, loss_fn=LOSSES[loss])
