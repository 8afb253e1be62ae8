"""One worker of a study: takes runs, has them trained, books what became of them, until there is nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from sqlalchemy.exc import SQLAlchemyError

from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.progress.overview import run_states
from composer_kd.studies.progress.state import RunState
from composer_kd.studies.store.attempts import Attempt
from composer_kd.studies.work.claims import Claim, Claims, Ended
from composer_kd.studies.work.cleaning import Cleaner
from composer_kd.studies.work.folder import check_folder, take_folder
from composer_kd.studies.work.rehearsal import rehearse
from composer_kd.studies.work.slots import ProcessSlot, Slot, slots

BEAT = 5.0
"""Seconds between signs of life."""

_TICK, _ASK, _ASK_AT_MOST = 0.1, 0.5, 5.0


@dataclass(frozen=True)
class Event:
    """Something that a person would like to hear of.

    Attributes:
        what: ``began``, ``lost`` (its worker was taken for dead), or an outcome.
        key: Of the run.
        text: The rest, in words.
    """

    what: str
    key: str
    text: str = ''


@dataclass
class Worker:
    """Makes the runs of a study, side by side with other workers if there are any.

    Args:
        spec: The study.
        told: Called with what happens.
        drawn: Called every now and then, for a live display.
        gpus: GPUs that this worker may use, as ``CUDA_VISIBLE_DEVICES`` names them; ``None`` for all it sees.
        retry_failed: Whether runs that failed are made again.

    Example:
        >>> from composer_kd.studies import load_study
        >>> worker = Worker(load_study('yamls/studies/quickstart.yaml', ['seeds=1']), told=print)
        >>> worker.spec.kind, worker.stopping
        ('comparison', False)
    """

    spec: StudySpec
    told: Callable[[Event], None] = lambda event: None
    drawn: Callable[[Worker], None] = lambda worker: None
    gpus: list[str] | None = None
    retry_failed: bool = False
    claims: Claims = field(init=False)
    busy: dict[int, Claim] = field(init=False, default_factory=dict)
    stopping: bool = field(init=False, default=False)

    def run(self) -> list[RunState]:
        """Work until every run is over, the budget is used up, or the process is asked to stop.

        Returns:
            How far every run is.

        Raises:
            ValueError: If a run of the study could not be made as the study says, before any is.
        """
        check_folder(self.spec)
        places, ranks = self._places()
        identity = take_folder(self.spec)
        self.claims = Claims(self.spec, ranks if self.gpus else 0)
        try:
            self.claims.attempts.belong_to(identity)
            if self.retry_failed:
                self.claims.try_again()
            threading.Thread(target=self._beat, name='signs-of-life', daemon=True).start()
            with self._asked_to_stop():
                self._work(places, Cleaner(self.spec, self.claims))
            self._let_go(places)
            return run_states(self.claims)
        finally:
            self._let_go(places)
            self._done.set()
            self.claims.shut()

    def _work(self, places: list[Slot], cleaner: Cleaner) -> None:
        while not self.stopping:
            self._look(places, cleaner)
            idle = self._fill(places)
            if idle and not self.busy and self.claims.pending() == 0:
                cleaner.clean(at_end=True)
                return
            self.drawn(self)
            time.sleep(_TICK)

    def _let_go(self, places: list[Slot]) -> None:
        """Stop what is going; another worker, or this one later, goes on with it."""
        for slot in places:
            slot.stop()
        for claim in self.busy.values():
            self.claims.attempts.end(claim.attempt, 'released', 'its worker was stopped')
        self.busy.clear()

    def _places(self) -> tuple[list[Slot], int]:
        """Look whether the runs can be made, and make room for them."""
        where = self.spec.where
        if self.gpus is not None and len(set(self.gpus)) < len(self.gpus):
            raise ValueError(f"--gpus: a GPU is there twice in {','.join(self.gpus)}.")
        if self.gpus and where.launcher == 'in_process':
            raise ValueError("--gpus: the runs of this study are made 'in_process'; set where.launcher=composer.")
        if self.gpus is None:
            self.gpus = gpus_here()
        launcher = where.launcher == 'composer' if where.launcher is not None else bool(self.gpus)
        if not launcher:
            self.gpus = []
        ranks = where.gpus_per_run
        if not self.gpus and self.spec.search is not None and self.spec.search.gpu_hours is not None:
            raise ValueError('search.gpu_hours: there is no GPU here, so this would never end; give hours or runs.')
        if self.gpus and len(self.gpus) < ranks:
            raise ValueError(
                f'where.gpus_per_run: {ranks} GPUs a run, and this machine has {len(self.gpus)}; give as many as there '
                'are.',
            )
        workers = where.workers or (len(self.gpus) // ranks if self.gpus else 1)
        if self.gpus and workers * ranks > len(self.gpus):
            raise ValueError(
                f'where.workers: {workers} runs side by side with {ranks} GPUs each take {workers * ranks} GPUs, and '
                f'this machine has {len(self.gpus)}.',
            )
        threads = where.threads or max(1, _cores() // (workers * (ranks if launcher else 1)))
        places = slots(launcher, workers, ranks, self.gpus, threads, self.spec.storage_url)
        # A process that has looked at the runs can make them: its imports take as long as a small run.
        looks = places[0] if isinstance(places[0], ProcessSlot) else ProcessSlot({'CUDA_VISIBLE_DEVICES': ''})
        try:
            rehearse(self.spec, looks)
        except BaseException:
            looks.stop()
            raise
        if looks is not places[0]:
            looks.stop()
        return places, ranks

    def _look(self, places: list[Slot], cleaner: Cleaner) -> None:
        for place, claim in list(self.busy.items()):
            if claim.attempt in self._lost:
                places[place].stop()
                del self.busy[place]
                self.told(Event('lost', claim.planned.key, 'another worker took it, as this one gave no sign of life'))
                continue
            answer = places[place].poll()
            if answer is None:
                continue
            del self.busy[place]
            self._idle_until = self._pause = 0.0
            self._tell(self.claims.close(claim, answer))
            cleaner.clean()

    def _fill(self, places: list[Slot]) -> bool:
        """Give a run to every free place; whether it asked for one and there was none."""
        if time.monotonic() < self._idle_until:
            return False
        for place, slot in enumerate(places):
            if place in self.busy or self.stopping:
                continue
            taken = self.claims.take()
            if taken is None:
                # What it waits for is made by others, who may be many: they all ask one database.
                self._pause = min(self._pause + _ASK, _ASK_AT_MOST)
                self._idle_until = time.monotonic() + self._pause
                return True
            if isinstance(taken, Ended):
                self._tell(taken)
                continue
            self.busy[place] = taken
            slot.start(taken.job, taken.log)
            again = f', attempt {taken.attempt.attempt}' if taken.attempt.attempt > 1 else ''
            teachers = ', '.join(os.path.basename(folder) for folder in taken.given.teachers)
            self.told(Event('began', taken.planned.key, f'taught by {teachers}{again}' if teachers else again[2:]))
        return False

    def _tell(self, ended: Ended) -> None:
        quality = '' if ended.quality is None else f'{self.spec.metric} {ended.quality:.4f}'
        text = '. '.join(part for part in (quality, ended.reason) if part)
        self.told(Event(ended.outcome, ended.planned.key, text))

    def _beat(self) -> None:
        """Give signs of life from a thread of its own: what holds the worker up must not make it look dead."""
        while not self._done.wait(BEAT):
            for claim in list(self.busy.values()):
                try:
                    if not self.claims.attempts.beat(claim.attempt) and claim in self.busy.values():
                        self._lost.add(claim.attempt)
                except SQLAlchemyError:
                    break  # the worker itself meets it, and says so

    _done: threading.Event = field(init=False, default_factory=threading.Event)
    _lost: set[Attempt] = field(init=False, default_factory=set)
    _idle_until: float = field(init=False, default=0.0)
    _pause: float = field(init=False, default=0.0)

    @contextmanager
    def _asked_to_stop(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt  # asked twice, it does not wait for anything
            self.stopping = True

        # Python hears of signals in its first thread alone.
        first = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if first else ()
        kept = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in kept.items():
                signal.signal(number, handler)


def gpus_here() -> list[str]:
    """GPUs as ``CUDA_VISIBLE_DEVICES`` names them, or else as the driver counts them: torch takes seconds to ask."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if visible is not None:
        return [name.strip() for name in visible.split(',') if name.strip() not in ('', '-1')]
    try:
        listed = subprocess.run(['nvidia-smi', '-L'], capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(number) for number in range(sum(line.startswith('GPU ') for line in listed.splitlines()))]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
