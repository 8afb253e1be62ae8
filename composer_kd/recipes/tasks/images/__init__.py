from composer_kd.recipes.tasks.images.cifar import cifar
from composer_kd.recipes.tasks.images.imagenet import imagenet

__all__ = ['cifar', 'imagenet']
