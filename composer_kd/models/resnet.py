"""ResNets for ImageNet: torchvision's architectures, initialised as MosaicML's public recipes do."""

from __future__ import annotations

from composer.models import ComposerClassifier
from torchvision.models import get_model

from composer_kd.models.classification import check_classifier, classifier, initialise, start_at_prior
from composer_kd.models.published import classes_of, load_published, published_weights
from composer_kd.models.registry import MODELS
from composer_kd.names import nearest

ARCHITECTURES = ('resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152')


@MODELS.register('resnet')
def torchvision_resnet(
    architecture: str = 'resnet50', num_classes: int = 1000, loss: str = 'cross_entropy', weights: str | None = None,
) -> ComposerClassifier:
    """A residual network (He et al. 2015, arXiv 1512.03385) as torchvision builds it.

    Convolutions and the last layer start Kaiming-normal, BatchNorm weights uniform in 0 to 1. The validation metrics
    are ``MulticlassAccuracy`` and ``CrossEntropy``.

    Args:
        architecture: ``'resnet18'``, ``'resnet34'``, ``'resnet50'``, ``'resnet101'`` or ``'resnet152'``.
        num_classes: Number of classes, 2 or more.
        loss: ``'cross_entropy'``, or ``'binary_cross_entropy'``: one sigmoid per class (sum over classes, mean over
            samples), with the last bias starting at ``-log(num_classes)``.
        weights: Start from torchvision's published weights of that name (``'IMAGENET1K_V1'``, ``'DEFAULT'``) in place
            of fresh ones; they are downloaded if they are not on this machine. ``None`` for fresh ones.

    Returns:
        A classifier whose batches are ``(images (N, 3, H, W), labels (N,))`` and whose outputs are logits
        ``(N, num_classes)``.

    Raises:
        ValueError: For a value out of range, an unknown name, or weights for another number of classes.
        FileNotFoundError: For weights that are not on this machine and cannot be downloaded.

    Example:
        >>> import torch
        >>> model = torchvision_resnet('resnet18', num_classes=10)
        >>> model((torch.zeros(2, 3, 32, 32), None)).shape
        torch.Size([2, 10])
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(
            f"architecture: expected one of {', '.join(map(repr, ARCHITECTURES))}, got {architecture!r}."
            f'{nearest(architecture, ARCHITECTURES)}',
        )
    check_classifier(loss, [('num_classes', num_classes, 2)])
    if weights is not None:
        try:
            entry = published_weights(architecture, weights)
        except ValueError as error:
            raise ValueError(f'weights: {error}') from None
        if classes_of(entry) != num_classes:
            raise ValueError(
                f'weights: {entry.name} of {architecture} tells {classes_of(entry)} classes apart, and num_classes is '
                f'{num_classes}. Leave weights out to start from fresh ones, or num_classes.',
            )
        return classifier(load_published(architecture, entry, 'weights'), num_classes, loss)
    module = get_model(architecture, weights=None, num_classes=num_classes)
    initialise(module)
    if loss == 'binary_cross_entropy':
        start_at_prior(module.fc)
    return classifier(module, num_classes, loss)
