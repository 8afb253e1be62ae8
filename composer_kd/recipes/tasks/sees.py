"""What the recipes' own data shows a model, told from its settings: how images are normalised, and names of classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from composer_kd.models.traits import Traits, class_names
from composer_kd.names import split_named
from composer_kd.recipes.tasks.glue.tasks import TASKS
from composer_kd.recipes.tasks.images.folder import class_folders
from composer_kd.recipes.tasks.images.transforms import CIFAR_STATISTICS, IMAGENET_STATISTICS

CIFAR_CLASSES = {
    10: 'airplane automobile bird cat deer dog frog horse ship truck',
    100: (
        'apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can '
        'castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin '
        'elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster '
        'man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck '
        'pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk '
        'skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger '
        'tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm'
    ),
}
"""The names of CIFAR's classes in the order of their numbers, by how many they are."""

SEES: dict[str, Callable[..., Traits]] = {}
"""By the name of the data: functions ``sees(**settings)``. Other data says it itself: ``dataset.traits``."""


def _register(name: str) -> Callable[[Callable[..., Traits]], Callable[..., Traits]]:
    def register(function: Callable[..., Traits]) -> Callable[..., Traits]:
        SEES[name] = function
        return function

    return register


@_register('cifar')
def _cifar(classes: Any = 10, **_: Any) -> Traits:
    if classes not in CIFAR_STATISTICS:
        return Traits()
    return Traits(*CIFAR_STATISTICS[classes], 32, tuple(CIFAR_CLASSES[classes].split()))


@_register('imagenet')
def _imagenet(path: Any = '', split: Any = None, crop_size: Any = 224, **_: Any) -> Traits:
    folder = Path(str(path), str(split or 'train'))
    names = class_folders(folder) if folder.is_dir() else []
    return Traits(*IMAGENET_STATISTICS, crop_size if isinstance(crop_size, int) else None, class_names(names))


@_register('digits')
def _digits(**_: Any) -> Traits:
    return Traits((0.0,), (1.0,), 8)


@_register('glue')
def _glue(task: Any = '', **_: Any) -> Traits:
    return Traits(classes=class_names(TASKS[task].classes) if task in TASKS else None)


def traits_of_data(spec: Mapping[str, Any]) -> Traits:
    """What data shows a model, as far as its settings tell; nothing is read but the names of folders.

    Args:
        spec: The recipe's ``train_data``.

    Example:
        >>> traits_of_data({'name': 'cifar', 'classes': 10}).classes[3]
        'cat'
    """
    name, settings = split_named(spec, 'train_data')
    return SEES[name](**settings) if name in SEES else Traits()
