from composer_kd.models.digits import digits_resnet
from composer_kd.models.registry import MODELS, build_model
from composer_kd.models.surgery import apply_surgery

__all__ = ['MODELS', 'apply_surgery', 'build_model', 'digits_resnet']
