"""A run folder is trained in by one process group at a time: a lock that the system lets go when its holder dies."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
import sys
import time
from pathlib import Path

if sys.platform != 'win32':
    import fcntl

log = logging.getLogger(__name__)

LOCK_NAME = '.lock'
"""The file in the run folder; while a training goes on it says which process has it."""

WAIT_SECONDS = 30.0
"""How long a training waits for one before it that is coming to its end."""

_POLL_SECONDS = 0.2
_HELD: dict[Path, FolderLock] = {}


class FolderBusy(ValueError):
    """Another process is training in the folder."""


class FolderLock:
    """The lock on a run folder, held from its making until :meth:`release` or the end of this process.

    It is the system's lock on an open file, so that a process that is killed leaves none behind; the file that stays
    then is taken over by the next training. A process that takes a folder which it has already takes it over from
    itself: a training that was given up, as in a notebook, does not stand in the way of the next. Where the system or
    the file system knows no such locks, nothing is held and nothing is refused.

    Args:
        folder: The run folder; it must exist.
        wait: Seconds to wait for another process that holds it; never more than ``WAIT_SECONDS``.

    Raises:
        FolderBusy: If another process holds it for longer.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock = FolderLock(folder)
        >>> str(os.getpid()) in (folder / LOCK_NAME).read_text()
        True
        >>> lock.release()
        >>> list(folder.iterdir())
        []
    """

    def __init__(self, folder: str | os.PathLike[str], wait: float = math.inf) -> None:
        self.path = Path(folder).resolve() / LOCK_NAME
        own = _HELD.get(self.path)
        self._file: int | None = None
        if own is not None and own._file is not None and _is_file(own._file, self.path):
            self._file, own._file = own._file, None
        else:
            self._file = _take(self.path, min(wait, WAIT_SECONDS))
        _HELD[self.path] = self

    def release(self) -> None:
        """Let the folder go; once is enough, and more does no harm."""
        file, self._file = self._file, None
        if file is None:
            return
        if _HELD.get(self.path) is self:
            del _HELD[self.path]
        # Removed while it is held: who waits for it sees that it is no longer the folder's, and makes a new one.
        with contextlib.suppress(OSError):
            if _is_file(file, self.path):
                self.path.unlink()
        os.close(file)


def _take(path: Path, wait: float) -> int | None:
    if sys.platform == 'win32':
        return None
    until, told = time.monotonic() + wait, False
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(file, path):
                os.ftruncate(file, 0)
                os.write(file, f'process {os.getpid()} on {socket.gethostname()}\n'.encode())
                return file
        except BlockingIOError:
            holder = os.read(file, 1000).decode(errors='replace').strip() or 'another process'
            if time.monotonic() >= until:
                os.close(file)
                raise FolderBusy(
                    f"run_folder: '{path.parent}' is being trained in by {holder}. Wait for it or stop it, or choose "
                    'another run_name.',
                ) from None
            if not told:
                log.warning("'%s' is being trained in by %s; waiting for it to end.", path.parent, holder)
                told = True
        except OSError as error:
            os.close(file)
            log.warning("'%s' cannot be locked (%s): nothing keeps a second training out.", path.parent, error)
            return None
        os.close(file)
        time.sleep(_POLL_SECONDS if told else 0)


def _is_file(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _drop_in_child() -> None:
    # A forked worker that outlives its parent for some seconds would otherwise hold the folder as long.
    for lock in _HELD.values():
        if lock._file is not None:
            with contextlib.suppress(OSError):
                os.close(lock._file)
            lock._file = None
    _HELD.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_drop_in_child)
