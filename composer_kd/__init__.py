"""Knowledge distillation from earlier training runs for MosaicML Composer.

Names are loaded when they are first used, so that what needs no torch (the run folders, the report) starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.distillation import Distillation

__version__ = '0.1.0'
__all__ = ['Distillation', '__version__']

_HOMES = {'Distillation': 'composer_kd.distillation'}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'composer_kd' has no attribute '{name}'")
