"""One variant in a process of its own: it is told over a pipe when to run its steps, and says what they took."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Variant:
    """Something whose steps are measured.

    Attributes:
        name: Of its kind in its group, in tables.
        serve: What runs it, as ``'module:function'``: called with a :class:`Clock` and :attr:`settings`.
        settings: Keyword arguments for that.
    """

    name: str
    serve: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """What a variant says after the steps it was told to run.

    Attributes:
        seconds: Of one step, on average.
        memory: Peak bytes so far since before the models were built; on a GPU, of what was allocated there.
        resident: Bytes of this process in the machine's memory at most.
        facts: What it told beside times so far.
    """

    seconds: float
    memory: int
    resident: int
    facts: dict[str, Any]


@dataclass(frozen=True)
class Ready:
    """A variant waits for its first turn."""


@dataclass(frozen=True)
class Failed:
    """A variant cannot go on, and why."""

    reason: str


class Clock:
    """A variant asks it before every step whether to go on; it waits for the turns and measures them.

    Args:
        pipe: To the process that gives out turns. It sends how many steps to run, first untimed and then timed, and
            ``None`` for the end.
        gpu: Whether steps run on a GPU.
    """

    def __init__(self, pipe: Connection, gpu: bool) -> None:
        self._pipe, self.gpu = pipe, gpu
        self._facts: dict[str, Any] = {}
        self._steps: list[int] = []
        self._timed, self._begun, self._ready = 0, 0.0, False
        self._base = _anonymous(_status())

    def imported(self) -> None:
        """All that is needed has been imported: what is in memory by now counts for nothing."""
        self._base = _anonymous(_status())

    def tell(self, **facts: Any) -> None:
        """Let the other side know of something beside times."""
        self._facts.update(facts)

    def next(self) -> bool:
        """Whether to run another step; returns when it is time to."""
        if self._steps and self._steps[0] > 0:
            self._steps[0] -= 1
            return True
        if len(self._steps) == 2:  # those that were not timed are done
            self._steps.pop(0)
            return self._begin()
        if self._steps:
            self._end()
        elif not self._ready:
            self._ready = True
            self._forget_peak()
            self._pipe.send(Ready())
        told = self._pipe.recv()
        if told is None:
            return False
        self._steps = list(told)
        self._timed = self._steps[1]
        if self._steps[0] == 0:
            self._steps.pop(0)
            return self._begin()
        self._steps[0] -= 1
        return True

    def _begin(self) -> bool:
        self._wait()
        self._begun = time.perf_counter()
        self._steps[0] -= 1
        return True

    def _end(self) -> None:
        self._wait()
        seconds = (time.perf_counter() - self._begun) / self._timed
        status = _status()
        memory = torch.cuda.max_memory_allocated() if self.gpu else (
            status.get('VmHWM', 0) - status.get('RssFile', 0) - status.get('RssShmem', 0) - self._base
        )
        self._steps = []
        if self.gpu:
            torch.cuda.empty_cache()  # the others share the device
        self._pipe.send(Turn(seconds, memory, status.get('VmHWM', 0), dict(self._facts)))

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def _forget_peak(self) -> None:
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):
            Path('/proc/self/clear_refs').write_text('5')  # the kernel's highest mark starts anew


def _status() -> dict[str, int]:
    """Bytes of this process, as the kernel counts them; empty where it does not say."""
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
    except OSError:
        return {}
    return {line.split(':')[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(('Vm', 'Rss'))}


def _anonymous(status: dict[str, int]) -> int:
    return status.get('RssAnon', 0)


def loop(clock: Clock, step: Callable[[], torch.Tensor | None]) -> None:
    """Run a step whenever it is time to; what the first returns is told as its loss."""
    first = True
    while clock.next():
        loss = step()
        if first and loss is not None:  # the first steps warm up: nothing waits for this later
            clock.tell(loss=float(loss))
        first = False


def main(pipe: Connection, variant: Variant, gpu: bool, threads: int) -> None:
    """What the process does. Whatever goes wrong is told to the other side."""
    try:
        os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
        warnings.simplefilter('ignore')
        logging.getLogger('composer').setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        module, _, function = variant.serve.partition(':')
        getattr(importlib.import_module(module), function)(Clock(pipe, gpu), **variant.settings)
    except EOFError:  # the other side is gone
        pass
    except BaseException as error:
        if os.environ.get('BENCHMARK_TRACE'):
            traceback.print_exc()
        told = (str(error).strip() or 'no message').splitlines()[0]
        with contextlib.suppress(OSError):
            pipe.send(Failed(f'{type(error).__name__}: {told}'))
    finally:
        pipe.close()
