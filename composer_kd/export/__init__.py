"""Models out of run folders, for libraries that know nothing of this one. Names are loaded when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.export.run import Exported, export_run

__all__ = ['Exported', 'export_run']


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module('composer_kd.export.run'), name)
    raise AttributeError(f"module 'composer_kd.export' has no attribute '{name}'")
