"""Stores of teachers' answers: written beforehand over a recipe's own data, estimated, verified."""

from composer_kd.caching.asking import Asked, prepare
from composer_kd.caching.estimate import Estimate, estimate_size, estimate_store
from composer_kd.caching.verify import Verified, verify_store
from composer_kd.caching.write import Written, write_store

__all__ = [
    'Asked', 'Estimate', 'Verified', 'Written', 'estimate_size', 'estimate_store', 'prepare', 'verify_store',
    'write_store',
]
