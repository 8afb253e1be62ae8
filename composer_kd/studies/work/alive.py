"""Processes that end when the one that they work for has ended, however it was killed."""

from __future__ import annotations

import os

from composer_kd.runs.alive import ORPHANED, end_when
from composer_kd.studies.store.processes import is_gone

__all__ = ['ORPHANED', 'WORKER', 'end_with_worker']

WORKER = 'COMPOSER_KD_WORKER'
"""Environment variable: the worker that a run's processes belong to, as ``this_worker()`` names it."""


def end_with_worker(every: float = 0.5) -> None:
    """From now on, look whether worker and parent (which may be a launcher) still live; exit when one does not.

    A run that nobody watches would hold its GPUs and its run folder against the worker that takes it up again.
    """
    worker, parent = os.environ.get(WORKER), os.getppid()
    if worker is not None:
        end_when(lambda: os.getppid() != parent or is_gone(worker), every)
