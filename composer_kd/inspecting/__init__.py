"""Is a model any good as a teacher, and for what price: measured on a recipe's validation data and on this machine.

Names are loaded when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.inspecting.calibration import Reliability, best_temperature, reliability, scaled_confidence
    from composer_kd.inspecting.make import inspect_teacher
    from composer_kd.inspecting.result import Inspected

__all__ = ['Inspected', 'Reliability', 'best_temperature', 'inspect_teacher', 'reliability', 'scaled_confidence']

_HOMES = {
    'Inspected': 'result', 'Reliability': 'calibration', 'best_temperature': 'calibration', 'inspect_teacher': 'make',
    'reliability': 'calibration', 'scaled_confidence': 'calibration',
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f'composer_kd.inspecting.{_HOMES[name]}'), name)
    raise AttributeError(f"module 'composer_kd.inspecting' has no attribute '{name}'")
