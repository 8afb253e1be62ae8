from composer_kd.recipes.tasks.digits import digits
from composer_kd.recipes.tasks.glue import glue
from composer_kd.recipes.tasks.images import cifar, imagenet
from composer_kd.recipes.tasks.registry import DATA, SHAPES, DataShape
from composer_kd.recipes.tasks.sampling import EpochDataset, make_loader
from composer_kd.recipes.tasks.text import causal_text, masked_text

__all__ = [
    'DATA', 'SHAPES', 'DataShape', 'EpochDataset', 'causal_text', 'cifar', 'digits', 'glue', 'imagenet', 'make_loader',
    'masked_text',
]
