"""Processes told apart from every other one, on this machine or another, and whether they still live."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psutil


def _machine() -> str:
    # Containers share names and number their processes from 1: the kernel's boot and the namespace tell them apart.
    try:
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()[:8]
        return f"{platform.node()}/{boot}-{os.readlink('/proc/self/ns/pid').strip('pid:[]')}"
    except OSError:
        return platform.node()


def _started(pid: int) -> str:
    """When a process was started, as a number that no change of the clock moves.

    Raises:
        psutil.NoSuchProcess: If there is none, or it has ended and only waits for its parent to hear of it.
    """
    try:
        # After the name, which may hold anything: state, and as the twentieth the ticks since the boot.
        fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        state, ticks = fields[0], fields[19]
    except FileNotFoundError:
        process = psutil.Process(pid)
        state, ticks = process.status(), f'{process.create_time():.2f}'
    except OSError as error:
        raise psutil.NoSuchProcess(pid) from error
    if state in ('Z', 'X', psutil.STATUS_ZOMBIE):
        raise psutil.NoSuchProcess(pid)
    return ticks


def this_worker() -> str:
    """This process, told apart from every other one, on this machine or another: ``machine pid start``."""
    return f'{_machine()} {os.getpid()} {_started(os.getpid())}'


def is_gone(worker: str) -> bool | None:
    """Whether a worker's process has ended; ``None`` for one on another machine, of which nobody here knows.

    Example:
        >>> is_gone(this_worker()), is_gone('elsewhere 1 0.00')
        (False, None)
    """
    machine, pid, started = worker.rsplit(' ', 2)
    if machine != _machine():
        return None
    try:
        return _started(int(pid)) != started
    except psutil.NoSuchProcess:
        return True
