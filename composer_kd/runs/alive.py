"""Processes that end when the one that started them, or the one they work for, has ended, however it was killed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import psutil

ORPHANED = 75
"""Exit status of a process that ended because nobody watches it any more."""


def end_when(gone: Callable[[], object], every: float = 0.5) -> None:
    """From now on, look whether something is gone, and exit when it is.

    It exits without clean-up, as if it were killed: what a run needs to go on is on disk after every checkpoint.

    Args:
        gone: Whether it is.
        every: Seconds between two looks, above 0.
    """

    def watch() -> None:
        while not gone():
            time.sleep(every)
        os._exit(ORPHANED)

    threading.Thread(target=watch, name='end-when-gone', daemon=True).start()


def end_with_launcher(every: float = 0.5) -> bool:
    """End this process when the launcher that started it as one rank of several has ended.

    Composer's launcher ends its ranks when one of them crashes, and leaves them behind when it is killed itself: they
    would train on, holding GPUs and run folder. Call it before anything that takes time to import: a launcher that is
    gone by then is not missed.

    Args:
        every: Seconds between two looks, above 0.

    Returns:
        Whether there is a launcher to watch: a rank's variables are set, and the parent runs the same Python.

    Example:
        >>> 'LOCAL_RANK' in os.environ or end_with_launcher()
        False
    """
    parent = os.getppid()
    if 'LOCAL_RANK' not in os.environ or not _same_python(parent):
        return False  # started by hand, it must outlive the shell
    end_when(lambda: os.getppid() != parent, every)
    return True


def _same_python(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).exe() == psutil.Process().exe())
    except (psutil.Error, OSError):
        return False
