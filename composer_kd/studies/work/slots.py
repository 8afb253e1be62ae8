"""Where a worker trains: one run at a time in a process of its own, or under Composer's launcher."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO

from composer_kd.studies.store.processes import this_worker
from composer_kd.studies.work.alive import WORKER
from composer_kd.studies.work.jobs import STORAGE, Answer, answer_path

CHILD = 'composer_kd.studies.training.child'
TAIL = 12
_PATIENCE = 20.0
_OF_A_RANK = (
    'RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'LOCAL_WORLD_SIZE', 'NODE_RANK', 'BASE_RANK', 'MASTER_ADDR', 'MASTER_PORT',
)


class Slot(ABC):
    """Room for one run at a time.

    Args:
        environment: Variables for its processes, beside this process's own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # A worker may itself have been started as one rank of many.
        own = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        self.environment = {**own, 'PYTHONUNBUFFERED': '1', **environment, WORKER: this_worker()}

    @abstractmethod
    def start(self, job: Path, log: Path) -> None:
        """Begin a run; what it prints is appended to ``log``."""

    @abstractmethod
    def poll(self) -> Answer | None:
        """How the run ended; ``None`` while it goes on. Asked once after it ended, the slot is free."""

    @abstractmethod
    def stop(self) -> None:
        """End the run, if there is one, and everything it started."""


class LauncherSlot(Slot):
    """A run as ``composer -n RANKS`` starts it, on GPUs of its own.

    Args:
        environment: See :class:`Slot`.
        ranks: Processes of a run.
    """

    def __init__(self, environment: Mapping[str, str], ranks: int) -> None:
        super().__init__(environment)
        self.ranks = ranks
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self._answer = Path()

    def start(self, job: Path, log: Path) -> None:
        """Start the launcher in a session of its own: Ctrl-C is the worker's to handle."""
        self._log, self._answer = log, answer_path(job)
        self._answer.unlink(missing_ok=True)
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(self.ranks), '-m', CHILD, str(job)]
        with _opened(log) as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=self.environment,
                start_new_session=True,
            )

    def poll(self) -> Answer | None:
        """See the base class; the message is the end of the log."""
        if self._process is None or self._process.poll() is None:
            return None
        status = self._process.returncode
        # A launcher that was killed leaves its ranks behind, and the next run needs their GPUs.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None
        if self._answer.exists():
            return Answer.model_validate_json(self._answer.read_text(encoding='utf-8'))
        return Answer(status=status, message=_told(status) if status < 0 else tail(self._log) if status else '')

    def stop(self) -> None:
        """End launcher and ranks."""
        if self._process is not None:
            _end(self._process)
            self._process = None


class ProcessSlot(Slot):
    """Runs one after another in one process that is started when it is first needed, and anew when it died."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__(environment)
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[Answer | None] = queue.Queue()
        self._log = Path()

    def start(self, job: Path, log: Path) -> None:
        """Hand the job to the process."""
        self._ask('train', job, log)

    def check(self, jobs: Sequence[Path], log: Path) -> list[Answer]:
        """See whether runs could be made, one after the other, up to the first that could not.

        Returns:
            An answer for each job that was looked at.
        """
        answers = []
        for job in jobs:
            self._ask('check', job, log)
            while (answer := self.poll()) is None:
                time.sleep(0.05)
            answers.append(answer)
            if answer.status:
                break
        return answers

    def _ask(self, what: str, job: Path, log: Path) -> None:
        self._log = log
        with _opened(log) as file:
            if self._process is None or self._process.poll() is not None:
                self._begin(file)
        assert self._process is not None
        assert self._process.stdin is not None
        # A process that just died is found by poll().
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({'do': what, 'job': str(job), 'log': str(log)}) + '\n')
            self._process.stdin.flush()

    def _begin(self, log: IO[bytes]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            env=self.environment, start_new_session=True,
        )
        self._answers = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()

    def poll(self) -> Answer | None:
        """See the base class."""
        if self._process is None:
            return None
        try:
            answer = self._answers.get_nowait()
        except queue.Empty:
            return None
        if answer is not None:
            if answer.status == 1:
                self.stop()  # an error that nobody foresaw may have left anything behind
            return answer
        status = self._process.wait()
        self.stop()
        return Answer(status=status or 1, message=_told(status) if status < 0 else tail(self._log))

    def stop(self) -> None:
        """End the process and all that it started."""
        if self._process is not None:
            _end(self._process)
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
            self._process = None


def _read(pipe: IO[str] | None, answers: queue.Queue[Answer | None]) -> None:
    assert pipe is not None
    with contextlib.suppress(ValueError, OSError):  # of a pipe that was closed while it was read
        for line in pipe:
            answers.put(Answer.model_validate_json(line))
    answers.put(None)


def _opened(log: Path) -> IO[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = open(log, 'ab')  # noqa: SIM115
    file.write(f"--- {datetime.now().isoformat(' ', 'seconds')}, worker {this_worker()}\n".encode())
    file.flush()
    return file


def _end(process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Ask the process group to end, and make it end."""
    for number, seconds in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _PATIENCE)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    # The leader may be gone before the others.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _told(status: int) -> str:
    with contextlib.suppress(ValueError):
        return f'killed by {signal.Signals(-status).name}'
    return f'killed by signal {-status}'


def tail(log: Path, lines: int = TAIL) -> str:
    """The last lines of a log that say something."""
    try:
        text = log.read_text(encoding='utf-8', errors='replace')
    except OSError:
        return ''
    return '\n'.join([line for line in text.splitlines() if line.strip()][-lines:])


def slots(
    launcher: bool, workers: int, ranks: int, gpus: Sequence[str], threads: int, storage: str,
) -> list[Slot]:
    """Room for runs side by side.

    Args:
        launcher: Whether runs are started through Composer's launcher; otherwise they share a process each slot.
        workers: How many slots.
        ranks: GPUs, or on a CPU processes, of a run.
        gpus: Names of the GPUs here, as ``CUDA_VISIBLE_DEVICES`` has them; empty on a CPU.
        threads: Threads of a process on a CPU.
        storage: URL of the study's database.
    """
    found: list[Slot] = []
    for place in range(workers):
        environment = {STORAGE: storage}
        if gpus:
            environment['CUDA_VISIBLE_DEVICES'] = ','.join(gpus[place * ranks:(place + 1) * ranks])
        else:
            environment.update({'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': str(threads)})
        found.append(LauncherSlot(environment, ranks) if launcher else ProcessSlot(environment))
    return found
