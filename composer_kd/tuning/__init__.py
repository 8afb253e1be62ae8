"""When to distil, with whom, live or stored: measured on this machine, predicted for the whole training.

Names are loaded when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.tuning.advice import Advice, advise
    from composer_kd.tuning.make import tune_recipe
    from composer_kd.tuning.measure import Measured, measure

__all__ = ['Advice', 'Measured', 'advise', 'measure', 'tune_recipe']

_HOMES = {'Advice': 'advice', 'advise': 'advice', 'tune_recipe': 'make', 'Measured': 'measure', 'measure': 'measure'}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f'composer_kd.tuning.{_HOMES[name]}'), name)
    raise AttributeError(f"module 'composer_kd.tuning' has no attribute '{name}'")
