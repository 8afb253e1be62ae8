"""The maths of distillation from features: pure functions on tensors."""

from composer_kd.functional.features.attention import attention_kl, attention_mse, minilm
from composer_kd.functional.features.contrastive import contrastive
from composer_kd.functional.features.samples import rkd_angle, rkd_distance, similarity_preserving
from composer_kd.functional.features.values import attention_transfer, cosine_hidden, hidden_mse, hint

__all__ = [
    'attention_kl',
    'attention_mse',
    'attention_transfer',
    'contrastive',
    'cosine_hidden',
    'hidden_mse',
    'hint',
    'minilm',
    'rkd_angle',
    'rkd_distance',
    'similarity_preserving',
]
