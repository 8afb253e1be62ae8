"""Variants take turns, one at a time and in another order each round: a noisy machine then meets all of them alike."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from benchmarking import process
from benchmarking.process import Failed, Ready, Turn, Variant

LEAST_ROUNDS = 3
SPARE = 1 << 30

AT_ONCE = 4
"""How many processes start beside each other on a GPU's machine, where each imports everything anew."""


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        gpu: Whether steps run on a GPU.
        threads: Of each process, one of which runs at a time.
        rounds: How often each variant has its turn.
        seconds: A group is not begun another round after so many, once it had three.
        turn: Seconds that a turn takes at least: of steps shorter than that, a turn runs several.
        say: Told in words what goes on.
    """

    gpu: bool
    threads: int
    rounds: int
    seconds: float
    turn: float = 1.0
    say: Callable[[str], None] = lambda text: None


@dataclass
class Measured:
    """What a group of variants took.

    Attributes:
        seconds: By variant and round, of one step.
        memory: By variant, peak bytes.
        facts: By variant, what it told beside.
        failed: By variant, why it has no seconds.
        reference: The variant that was there in every round, where memory did not allow all at once.
    """

    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    reference: str = ''


class Seat:
    """A variant's process."""

    def __init__(self, context: Any, variant: Variant, options: Options) -> None:
        self.variant = variant
        self._pipe: Connection
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=process.main, args=(theirs, variant, options.gpu, options.threads), daemon=False,
        )
        self._process.start()
        theirs.close()
        # what has waited has lost its place in the machine's caches and, where memory is scarce, its pages
        self.steps = (1, 1)
        self.resident = 0

    def heard(self) -> Ready | Turn | Failed:
        """The next thing it says."""
        try:
            told: Ready | Turn | Failed = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return Failed(f'its process ended with exit code {self._process.exitcode}; was there memory enough?')
        return told

    def turn(self, untimed: int, timed: int) -> Turn | Failed:
        """Let it run so many steps."""
        try:
            self._pipe.send((untimed, timed))
        except (BrokenPipeError, ConnectionResetError):
            return Failed('its process is gone')
        told = self.heard()
        assert not isinstance(told, Ready)
        if isinstance(told, Turn):
            self.resident = told.resident
        return told

    def close(self) -> None:
        """End it; what does not end by itself is killed."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def context_of(gpu: bool) -> Any:
    """How processes are started: from one that has imported everything, where there is no GPU to start afresh for."""
    scripts = str(Path(__file__).parent.parent)
    paths = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    if scripts not in paths:
        os.environ['PYTHONPATH'] = os.pathsep.join(path for path in (*paths, scripts) if path)
    if gpu:
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['benchmarking.preload'])
    return context


def take_turns(variants: Sequence[Variant], reference: str, options: Options) -> Measured:
    """Measure a group.

    All are started and warmed up, as long as there is memory for another one. Those for which there is none come
    later, beside the reference, so that every one shares rounds with it.

    Args:
        variants: Of different names.
        reference: The name of one of them.
        options: How to measure.
    """
    context = context_of(options.gpu)
    measured = Measured(reference=reference)
    waiting = sorted(variants, key=lambda variant: variant.name != reference)
    begun = 0
    while waiting:
        with _seated(context, waiting, measured, options) as (seats, waiting):
            if seats:
                begun = _rounds(seats, measured, options, begun)
        if not any(seat.variant.name == reference for seat in seats):
            reference = ''  # it has failed: the others go on without
        if waiting and reference:
            waiting = [next(v for v in variants if v.name == reference), *waiting]
    return measured


@contextlib.contextmanager
def _seated(
    context: Any, waiting: Sequence[Variant], measured: Measured, options: Options,
) -> Iterator[tuple[list[Seat], list[Variant]]]:
    """As many of them as there is memory for, warm, and those that are left."""
    seats: list[Seat] = []
    left, coming = list(waiting), list[Seat]()
    try:
        while True:
            while left and len(coming) < (AT_ONCE if options.gpu else 1) and _room(seats, len(coming)):
                options.say(f'{left[0].name}: starting')
                coming.append(Seat(context, left.pop(0), options))
            if not coming:
                break
            seat = coming.pop(0)
            variant = seat.variant
            seats.append(seat)
            told: Ready | Turn | Failed = seat.heard()
            if isinstance(told, Ready):
                for _ in range(2):  # the first pays for what is done once
                    told = seat.turn(*seat.steps)
                    if isinstance(told, Failed):
                        break
            if isinstance(told, Turn):
                measured.facts[variant.name] = told.facts
                steps = max(1, round(options.turn / max(told.seconds, 1e-6)))
                seat.steps = (1, steps)
            elif isinstance(told, Failed):
                measured.failed[variant.name] = told.reason
                options.say(f'{variant.name}: {told.reason}')
                seats.pop().close()
        yield seats, left
    finally:
        for seat in (*seats, *coming):
            seat.close()


def _room(seats: Sequence[Seat], coming: int) -> bool:
    """Whether one more process, as large as the largest so far, fits in the machine's memory; two always do."""
    if len(seats) + coming < 2:
        return True
    free: int = psutil.virtual_memory().available
    return free > (coming + 1) * max((seat.resident for seat in seats), default=0) + SPARE


def _rounds(seats: list[Seat], measured: Measured, options: Options, first: int) -> int:
    """Let them take turns; the number of the round after the last."""
    order, started = random.Random(17), time.monotonic()
    here = list(seats)
    for number in range(first, first + options.rounds):
        if number - first >= LEAST_ROUNDS and time.monotonic() - started > options.seconds:
            options.say(f'time is up after {number - first} rounds')
            return number
        options.say(f'round {number - first + 1} of {options.rounds}')
        for seat in order.sample(here, len(here)):
            told, name = seat.turn(*seat.steps), seat.variant.name
            if isinstance(told, Failed):
                here.remove(seat)
                measured.failed[name] = told.reason
                measured.seconds.pop(name, None)
            else:
                measured.seconds.setdefault(name, {})[number] = told.seconds
                measured.memory[name] = max(told.memory, measured.memory.get(name, 0))
    return first + options.rounds
