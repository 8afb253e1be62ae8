"""Many runs in sequence, each with the earlier ones as its teachers. Names are loaded when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.studies.file.schema import StudySpec, load_study
    from composer_kd.studies.work.worker import Event, Worker

__all__ = ['Event', 'StudySpec', 'Worker', 'load_study']

_HOMES = {
    'StudySpec': 'composer_kd.studies.file.schema', 'load_study': 'composer_kd.studies.file.schema',
    'Event': 'composer_kd.studies.work.worker', 'Worker': 'composer_kd.studies.work.worker',
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'composer_kd.studies' has no attribute '{name}'")
