"""Who is making which run: a table of attempts beside Optuna's own, in the same database.

A run is claimed by inserting the row of its next attempt. The primary key lets one worker alone insert it, on every
database, and nothing is ever deleted, so what was lost to crashes can be read later.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError, OperationalError

from composer_kd.studies.store.processes import is_gone, this_worker

Outcome = Literal['finished', 'pruned', 'failed', 'died', 'lost', 'released']
"""How an attempt ended.

``finished``, ``pruned`` and ``failed`` end the run. ``died``: its process ended by itself, which counts as a retry.
``lost``: its worker died. ``released``: its worker was asked to stop.
"""

OVER = ('finished', 'pruned', 'failed')
"""Outcomes after which a run is not tried again."""

PATIENCE, FIRST_PATIENCE = 300.0, 10.0
"""Seconds to go on asking a database that does not answer any more, and one that never did."""

T = TypeVar('T')

_IDENTITY = '/'  # no key of a run

_TABLE = sa.Table(
    'composer_kd_attempts', sa.MetaData(),
    sa.Column('study', sa.String(200), primary_key=True),
    sa.Column('run', sa.String(200), primary_key=True),
    sa.Column('attempt', sa.Integer, primary_key=True, autoincrement=False),
    sa.Column('worker', sa.String(200), nullable=False),
    sa.Column('started', sa.Float(53), nullable=False),
    sa.Column('beat', sa.Float(53), nullable=False),
    sa.Column('gpus', sa.Integer, nullable=False),
    sa.Column('outcome', sa.String(20)),
    sa.Column('reason', sa.Text),
)

_COLUMNS = [column.name for column in _TABLE.columns if column.name != 'study']


@dataclass(frozen=True)
class Attempt:
    """One try at a run.

    Attributes:
        run: Key of the run.
        attempt: Its number, from 1.
        worker: Who made it: machine, process id and the process's start, see :func:`this_worker`.
        started: When, in seconds since the epoch, on the worker's clock.
        beat: When the worker last said that it lives, or ended the attempt.
        gpus: GPUs it was given; 0 on a CPU.
        outcome: How it ended; ``None`` while it goes on.
        reason: Why it ended, where that is worth saying.
    """

    run: str
    attempt: int
    worker: str
    started: float
    beat: float
    gpus: int
    outcome: Outcome | None = None
    reason: str = ''

    @property
    def seconds(self) -> float:
        """How long it held its worker, as far as is known."""
        return max(0.0, self.beat - self.started)


def patiently(call: Callable[[], T], patience: float | None = None) -> T:
    """Call; where the database does not answer, go on trying for a while: a training is not lost to a restart of it.

    Args:
        call: What to do; it may be done twice where the answer to the first got lost.
        patience: How long, in seconds; by default ``PATIENCE``.
    """
    deadline, pause = time.monotonic() + (PATIENCE if patience is None else patience), 0.5
    while True:
        try:
            return call()
        except Exception as error:
            # Optuna wraps what the database says in an error of its own.
            cause = error if isinstance(error, OperationalError) else error.__cause__
            if not isinstance(cause, OperationalError) or time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 10.0)


def engine_arguments(url: str) -> dict[str, Any]:
    """Settings of the connection: SQLite waits for other writers, servers are asked whether they are still there."""
    if url.startswith('sqlite'):
        return {'connect_args': {'timeout': 60}}
    return {'pool_pre_ping': True}


class Attempts:
    """The attempts of one study.

    Args:
        url: SQLAlchemy URL of the database.
        study: The study's name.
        grace: Seconds without a sign of life after which a worker on another machine counts as dead.
    """

    def __init__(self, url: str, study: str, grace: float = 90.0) -> None:
        self.study, self.grace = study, grace
        self.worker = this_worker()
        self._engine = sa.create_engine(url, **engine_arguments(url))
        self._seen: dict[tuple[str, int], tuple[float, float]] = {}
        self._read = time.monotonic()
        patiently(self._make_table, FIRST_PATIENCE)

    def _make_table(self) -> None:
        try:
            _TABLE.create(self._engine, checkfirst=True)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, IntegrityError):
            if not sa.inspect(self._engine).has_table(_TABLE.name):  # two workers may begin at once
                raise

    def belong_to(self, identity: str) -> None:
        """See that the database's study of this name is the one of this folder.

        Raises:
            ValueError: If it was begun in another folder.
        """
        mark = Attempt(_IDENTITY, 0, identity, time.time(), time.time(), 0)

        def ask() -> str:
            with contextlib.suppress(IntegrityError), self._engine.begin() as connection:
                connection.execute(sa.insert(_TABLE).values(study=self.study, **self._values(mark)))
            with self._engine.connect() as connection:
                return str(connection.execute(sa.select(_TABLE.c.worker).where(self._row(mark))).scalar_one())

        if patiently(ask) != identity:
            raise ValueError(
                f"name: the database has a study '{self.study}' that was begun in another folder, or in this one "
                'before it was removed. Give this one another name; the workers of a study need one folder that all of '
                'them see.',
            )

    @staticmethod
    def _values(attempt: Attempt) -> dict[str, Any]:
        return {name: getattr(attempt, name) for name in _COLUMNS}

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def all(self) -> dict[str, list[Attempt]]:
        """Every attempt by run, in order."""
        def read() -> dict[str, list[Attempt]]:
            columns = [_TABLE.c[name] for name in _COLUMNS]
            query = sa.select(*columns).where(_TABLE.c.study == self.study, _TABLE.c.run != _IDENTITY)
            found: dict[str, list[Attempt]] = {}
            with self._engine.connect() as connection:
                for row in connection.execute(query.order_by(_TABLE.c.run, _TABLE.c.attempt)):
                    found.setdefault(row.run, []).append(Attempt(**{**row._mapping, 'reason': row.reason or ''}))
            # While nobody could reach the database, nobody could give a sign of life either.
            if time.monotonic() - self._read > self.grace / 2:
                self._seen.clear()
            self._read = time.monotonic()
            return found

        return patiently(read)

    def claim(self, run: str, before: Attempt | None, gpus: int) -> Attempt | None:
        """Begin the next attempt at a run.

        Args:
            run: Its key.
            before: The attempt before this one, as it was read; one still open is closed as lost.
            gpus: GPUs given to it.

        Returns:
            The attempt, or ``None`` if another worker was faster.
        """
        now = time.time()
        mine = Attempt(run, before.attempt + 1 if before else 1, self.worker, now, now, gpus)

        def insert() -> Attempt | None:
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.insert(_TABLE).values(study=self.study, **self._values(mine)))
                    if before is not None and before.outcome is None:
                        connection.execute(self._open(before).values(outcome='lost'))
            except IntegrityError:
                return mine if self._is_mine(mine) else None  # ours, where the answer to an earlier try got lost
            return mine

        return patiently(insert)

    def _is_mine(self, attempt: Attempt) -> bool:
        query = sa.select(_TABLE.c.worker, _TABLE.c.started).where(self._row(attempt))
        with self._engine.connect() as connection:
            found = connection.execute(query).one()
        return bool(found.worker == attempt.worker and found.started == attempt.started)

    def beat(self, attempt: Attempt) -> bool:
        """Say that this worker lives; ``False`` if the run was given to another one meanwhile: stop it then."""
        return self._update(attempt, beat=time.time())

    def end(self, attempt: Attempt, outcome: Outcome, reason: str = '') -> bool:
        """Close an attempt; ``False`` if it was not open any more."""
        # A log that was torn by a power cut may hold zeros, which PostgreSQL refuses.
        return self._update(attempt, beat=time.time(), outcome=outcome, reason=reason.replace('\0', ''))

    def _update(self, attempt: Attempt, **values: Any) -> bool:
        def update() -> bool:
            with self._engine.begin() as connection:
                return connection.execute(self._open(attempt).values(**values)).rowcount == 1

        return patiently(update)

    def _row(self, attempt: Attempt) -> Any:
        table = _TABLE.c
        return sa.and_(table.study == self.study, table.run == attempt.run, table.attempt == attempt.attempt)

    def _open(self, attempt: Attempt) -> Any:
        return sa.update(_TABLE).where(self._row(attempt), _TABLE.c.outcome.is_(None))

    def is_dead(self, attempt: Attempt) -> bool:
        """Whether an attempt is open and its worker gone.

        A worker on this machine is looked for. One on another machine is dead once its sign of life has not changed
        for ``grace`` seconds of this machine's clock: clocks need not agree.
        """
        if attempt.outcome is not None:
            return False
        gone = is_gone(attempt.worker)
        if gone is not None:
            return gone
        now, key = time.monotonic(), (attempt.run, attempt.attempt)
        beat, since = self._seen.get(key, (None, now))
        if beat != attempt.beat:
            since = now
        self._seen[key] = (attempt.beat, since)
        return now - since > self.grace

