"""Processes that end when the one that they work for has ended, however it was killed."""

from __future__ import annotations

import os
import threading
import time

from composer_kd.studies.store.processes import is_gone

WORKER = 'COMPOSER_KD_WORKER'
"""Environment variable: the worker that a run's processes belong to, as ``this_worker()`` names it."""

ORPHANED = 75
"""Exit status of a process whose worker is gone."""


def end_with_worker(every: float = 0.5) -> None:
    """From now on, look whether worker and parent (which may be a launcher) still live; exit when one does not.

    A run that nobody watches would hold its GPUs and its run folder against the worker that takes it up again. It exits
    without clean-up: what a run needs to go on is on disk after every checkpoint.
    """
    worker, parent = os.environ.get(WORKER), os.getppid()
    if worker is None:
        return

    def watch() -> None:
        while os.getppid() == parent and not is_gone(worker):
            time.sleep(every)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name='end-with-worker', daemon=True).start()
