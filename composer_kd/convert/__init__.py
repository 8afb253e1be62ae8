from composer_kd.convert.cifar import CifarSource, convert_cifar
from composer_kd.convert.images import ImageSource, convert_images
from composer_kd.convert.text import convert_text
from composer_kd.convert.writer import Source, write_mds

__all__ = ['CifarSource', 'ImageSource', 'Source', 'convert_cifar', 'convert_images', 'convert_text', 'write_mds']
