from composer_kd.convert.cifar import CifarSource, convert_cifar
from composer_kd.convert.images import ImageSource, convert_images
from composer_kd.convert.writer import Source, write_mds

__all__ = ['CifarSource', 'ImageSource', 'Source', 'convert_cifar', 'convert_images', 'write_mds']
