"""The maths of distillation: pure functions on tensors."""

from composer_kd.functional.combine import combine_logits, combine_probabilities
from composer_kd.functional.decoupled import decoupled_kd, standardized_kl
from composer_kd.functional.divergences import (
    binary_kl_divergence,
    jensen_shannon,
    kl_divergence,
    reverse_kl,
)
from composer_kd.functional.labels import cross_entropy
from composer_kd.functional.reduction import masked_mean
from composer_kd.functional.relations import cosine, dist, total_variation
from composer_kd.functional.sparse import all_classes, draw, on_outcomes, top_k
from composer_kd.functional.targets import hard_label, mse, soft_cross_entropy

__all__ = [
    'all_classes',
    'binary_kl_divergence',
    'combine_logits',
    'combine_probabilities',
    'cosine',
    'cross_entropy',
    'decoupled_kd',
    'dist',
    'draw',
    'hard_label',
    'jensen_shannon',
    'kl_divergence',
    'masked_mean',
    'mse',
    'on_outcomes',
    'reverse_kl',
    'soft_cross_entropy',
    'standardized_kl',
    'top_k',
    'total_variation',
]
