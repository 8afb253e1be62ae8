"""``composer-kd study run`` and ``composer-kd study status``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING

import click
from rich.console import Console, Group
from rich.live import Live

from composer_kd.recipes.errors import told_to_user

if TYPE_CHECKING:
    from composer_kd.runs import Record
    from composer_kd.studies.file.schema import StudySpec
    from composer_kd.studies.progress.state import RunState
    from composer_kd.studies.work.worker import Event, Worker

STUDY = click.argument('study', metavar='STUDY.yaml')
OVERRIDES = click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
_REDRAW = 3.0
_WORDS = {
    'began': 'begins', 'died': 'died, will be tried again', 'failed': 'FAILED', 'lost': 'was taken by another worker',
}


@click.command()
@STUDY
@OVERRIDES
@click.option('--gpus', default=None, metavar='0,1,...', help='GPUs of this worker; by default all that it sees.')
@click.option('--retry-failed', is_flag=True, help='Make runs that failed again, as they were.')
@click.option('--plain', is_flag=True, help='Print a line for every event instead of a live table.')
def run(study: str, overrides: tuple[str, ...], gpus: str | None, retry_failed: bool, plain: bool) -> None:
    """Make the runs of a study that are not there yet.

    Stop it at any moment (Ctrl-C, a kill, a power cut) and give the same command again: finished runs are kept, and
    half-finished ones go on at their latest checkpoint. Give it on further machines to make runs side by side; they
    need the same folder and, for more than one machine, a database server as the study's storage.
    """
    named = [name.strip() for name in gpus.split(',')] if gpus else None
    sys.exit(_or_told(lambda: _run(study, overrides, named, retry_failed, plain)))


def _run(
    path: str, overrides: tuple[str, ...], gpus: list[str] | None, retry_failed: bool, plain: bool,
) -> int:
    from composer_kd.studies.file.schema import load_study
    from composer_kd.studies.progress.overview import run_states
    from composer_kd.studies.progress.status import status_lines, status_table
    from composer_kd.studies.work.worker import Worker

    spec, console = load_study(path, overrides), _console()
    live = Live(console=console, refresh_per_second=4) if console.is_terminal and not plain else None
    records: dict[str, tuple[float, Record]] = {}
    drawn_at = 0.0

    def told(event: Event) -> None:
        if live is None or event.what in ('died', 'failed', 'lost'):
            words = _WORDS.get(event.what, event.what)
            text = f': {event.text}' if event.text else ''
            console.print(f'{datetime.now():%H:%M:%S}  {event.key}  {words}{text}', highlight=False, markup=False)

    def drawn(worker: Worker) -> None:
        nonlocal drawn_at
        if live is not None and time.monotonic() - drawn_at > _REDRAW:
            states = run_states(worker.claims, records)
            live.update(Group(status_table(spec, states, time.time()), *status_lines(spec, states, time.time())))
            drawn_at = time.monotonic()

    console.print(f"Study '{spec.name}' in {spec.folder}: looking at its runs ...", highlight=False, markup=False)
    worker = Worker(spec, told, drawn, gpus, retry_failed)
    with live if live is not None else nullcontext():
        states = worker.run()
    show(console, spec, states)
    if worker.stopping:
        console.print('Stopped. The same command goes on from here.', highlight=False)
        return 130
    console.print(f'What it shows: composer-kd study report {path}', highlight=False, markup=False)
    return 1 if any(state.state == 'failed' for state in states) else 0


@click.command()
@STUDY
@OVERRIDES
@click.option('--all', 'all_runs', is_flag=True, help='Show every run of a long study.')
@click.option('--watch', is_flag=True, help='Go on showing until every run is over.')
def status(study: str, overrides: tuple[str, ...], all_runs: bool, watch: bool) -> None:
    """Show every run of a study: state, quality, cost, teachers, time left. Nothing is changed."""
    sys.exit(_or_told(lambda: _status(study, overrides, all_runs, watch)))


def _status(path: str, overrides: tuple[str, ...], all_runs: bool, watch: bool) -> int:
    from composer_kd.studies.file.schema import load_study
    from composer_kd.studies.progress.overview import run_states
    from composer_kd.studies.work.claims import Claims
    from composer_kd.studies.work.folder import is_begun

    spec, console = load_study(path, overrides), _console()
    if not is_begun(spec.folder):
        raise ValueError(f"'{spec.folder}': the study was not begun yet. Begin it with composer-kd study run {path}.")
    claims = Claims(spec, 0)
    try:
        while True:
            states = run_states(claims)
            if watch:
                console.clear()
            show(console, spec, states, all_runs)
            if not watch or claims.pending() == 0:
                return 0
            time.sleep(_REDRAW)
    finally:
        claims.shut()


def _console() -> Console:
    """Wide enough for a table where nobody says how wide the output is."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 140))


def show(console: Console, spec: StudySpec, states: Sequence[RunState], all_runs: bool = False) -> None:
    """Print table and totals."""
    from composer_kd.studies.progress.status import status_lines, status_table

    console.print(status_table(spec, states, time.time(), all_runs))
    for line in status_lines(spec, states, time.time()):
        console.print(line, highlight=False, markup=False)


def _or_told(call: Callable[[], int]) -> int:
    """What a call returns; an error in what the user gave is told in one paragraph, with status 1."""
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError

    try:
        return call()
    except Exception as error:
        message = told_to_user(error)
        cause = error if isinstance(error, OperationalError) else error.__cause__
        if message is None and isinstance(cause, OperationalError):
            # What SQLAlchemy says goes on about its documentation; the URL may hold a password and is not told.
            message = f"storage: the database does not answer: {' '.join(str(cause.orig).split())}"
        elif message is None and isinstance(error, (ArgumentError, NoSuchModuleError)):
            message = (
                'storage: expected a URL such as postgresql+psycopg://USER@HOST/NAME: there is no such kind of '
                'database, or the URL cannot be read.'
            )
        elif message is None and isinstance(error, ImportError) and 'DB access' in str(error):
            message = (
                f"storage: the database's driver is missing ({error.__cause__}). Install it: "
                "pip install 'composer_kd[postgresql]' or 'composer_kd[mysql]'."
            )
        if message is None:
            raise
        click.echo(f'error: {message}', err=True)
        return 1
