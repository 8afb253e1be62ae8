"""Stores of teachers' answers: written beforehand over a recipe's own data, estimated, verified.

Names are loaded when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.caching.asking import Asked, prepare
    from composer_kd.caching.estimate import Estimate, estimate_size, estimate_store
    from composer_kd.caching.verify import Verified, verify_store
    from composer_kd.caching.write import Written, write_store

__all__ = [
    'Asked', 'Estimate', 'Verified', 'Written', 'estimate_size', 'estimate_store', 'prepare', 'verify_store',
    'write_store',
]

_HOMES = {
    'Asked': 'asking', 'prepare': 'asking', 'Estimate': 'estimate', 'estimate_size': 'estimate',
    'estimate_store': 'estimate', 'Verified': 'verify', 'verify_store': 'verify', 'Written': 'write',
    'write_store': 'write',
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f'composer_kd.caching.{_HOMES[name]}'), name)
    raise AttributeError(f"module 'composer_kd.caching' has no attribute '{name}'")
