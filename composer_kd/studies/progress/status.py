"""Where a study stands, for the terminal: a table of its runs and lines of totals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from pathlib import PurePath
from statistics import median

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.progress.state import RunState

_LONG = 30
_LAST, _NEXT, _FAILED = 5, 5, 10
_STYLES = {'running': 'bold cyan', 'finished': 'green', 'pruned': 'yellow', 'failed': 'bold red', 'died': 'red',
           'waiting': 'dim'}


def clock(seconds: float | None) -> str:
    """Seconds as hours, minutes and seconds; a dash for ``None``.

    Example:
        >>> clock(3725.4), clock(None)
        ('1:02:05', '-')
    """
    if seconds is None:
        return '-'
    whole = round(max(0.0, seconds))
    return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'


def expected_seconds(states: Iterable[RunState]) -> Callable[[RunState], float | None]:
    """How long runs hold their worker, told from those that are finished.

    Args:
        states: Of the study's runs.

    Returns:
        A function of a run: the median wall time (s) of the finished runs of its method and duration, or else of its
        method, or else of all of its duration; ``None`` where there is none of these.
    """
    known: dict[tuple[str | None, object], list[float]] = {}
    for state in states:
        if state.state == 'finished' and state.wall_seconds > 0:
            method, what = state.planned.method, _length(state)
            for kind in ((method, what), (method, None), (None, what)):
                known.setdefault(kind, []).append(state.wall_seconds)

    def expected(state: RunState) -> float | None:
        method, what = state.planned.method, _length(state)
        # Runs of another duration say nothing about one whose duration is known.
        kinds = [(method, what), (None, what)] if what is not None else [(method, None), (None, None)]
        return next((median(known[kind]) for kind in kinds if kind in known), None)

    return expected


def time_left(state: RunState, expected: float | None) -> float | None:
    """Seconds until a run is over, if its worker goes on with it; ``None`` where nothing tells.

    Args:
        state: The run.
        expected: How long it is expected to hold its worker in all, s.
    """
    if state.is_over:
        return 0.0
    if state.share and state.wall_seconds > 0:
        return state.wall_seconds * (1 - state.share) / state.share
    return None if expected is None else max(0.0, expected - state.wall_seconds)


def status_table(spec: StudySpec, states: Sequence[RunState], now: float, all_runs: bool = False) -> Table:
    """A row for each run; of a long study those that are going or failed, the latest that are over and the next.

    Args:
        spec: The study.
        states: Of its runs, in planned order.
        now: Seconds since the epoch.
        all_runs: Whether to show every run of a long study too.
    """
    shown = list(states) if all_runs or len(states) <= _LONG else _few(states)
    table = Table(title=f'{escape(spec.name)}: {escape(spec.metric)}, {time_of_day(now)}', box=SIMPLE_HEAD,
                  padding=(0, 1, 0, 0), pad_edge=False)
    # The name of the method is part of a run's own, and a narrow terminal has no room for it twice.
    for column in ('run', 'state'):
        table.add_column(column, no_wrap=True)
    for column in ('quality', 'training', 'done', 'tries', 'left'):
        table.add_column(column, justify='right', no_wrap=True)
    table.add_column('teachers', overflow='fold')
    if spec.kind == 'search':
        # Cut off where there is no room: the report has them whole.
        table.add_column('settings', overflow='ellipsis', no_wrap=True, max_width=24)
    expected = expected_seconds(states)
    for state in shown:
        left = time_left(state, expected(state))
        cells = [
            escape(state.planned.key),
            f'[{_STYLES.get(state.state, "")}]{state.state}[/]',
            '-' if state.quality is None else f'{state.quality:.4f}',
            clock(state.train_seconds) if state.attempts else '-',
            _progress(state), str(state.attempts or '-'), '-' if state.is_over else clock(left),
            escape(_several(state)),
        ]
        if spec.kind == 'search':
            cells.append(escape(_settings(state)))
        table.add_row(*cells)
    if len(shown) < len(states):
        table.caption = f'{len(states) - len(shown)} further runs are not shown; --all shows all.'
    return table


def status_lines(spec: StudySpec, states: Sequence[RunState], now: float) -> list[Text]:
    """Totals in words: how many runs are over, time spent and left, the budget, why runs failed.

    Args:
        spec: The study.
        states: Of its runs, in planned order.
        now: Seconds since the epoch.

    Returns:
        Lines; nothing in them is read as markup.
    """
    counts = {name: sum(state.state == name for state in states) for name in _STYLES}
    open_ended = spec.search is not None and spec.search.runs is None
    of = 'finished' if open_ended else f'of {len(states)} finished'
    others = [f'{counts[name]} {name}' for name in ('running', 'pruned', 'failed', 'died', 'waiting') if counts[name]]
    if open_ended:
        others = [text for text in others if not text.endswith('waiting')]
    lines = [', '.join([f"{counts['finished']} {of}", *others]) + '.']
    spent = sum(state.wall_seconds for state in states)
    training = sum(state.train_seconds for state in states)
    lines.append(f'Time of workers {clock(spent)}, of it training {clock(training)}.{_left(spec, states)}')
    if spec.search is not None:
        lines += _budget(spec, states, now)
    for state in states:
        if state.state == 'died':
            lines.append(f'{state.planned.key} died at try {state.attempts}, and will be started again.')
    failed = [state for state in states if state.state == 'failed']
    for state in failed[-_FAILED:]:
        tries = 'try' if state.attempts == 1 else 'tries'
        reason = state.reason.strip() or 'no reason was written down'
        lines.append(f'{state.planned.key} failed after {state.attempts} {tries}: {reason}')
    if len(failed) > _FAILED:
        lines.append(f'{len(failed) - _FAILED} more failed before these.')
    return [Text(line) for line in lines]


def time_of_day(now: float) -> str:
    """Local time in words."""
    return datetime.fromtimestamp(now).strftime('%Y-%m-%d %H:%M:%S')


def _few(states: Sequence[RunState]) -> list[RunState]:
    over = sorted((state for state in states if state.state in ('finished', 'pruned')), key=lambda s: s.ended or 0.0)
    waiting = [state for state in states if state.state == 'waiting']
    going = [state for state in states if state.state in ('running', 'died')]
    failed = sorted((state for state in states if state.state == 'failed'), key=lambda s: s.ended or 0.0)
    keys = {state.planned.key for state in (*over[-_LAST:], *waiting[:_NEXT], *going, *failed[-_FAILED:])}
    return [state for state in states if state.planned.key in keys]


def _left(spec: StudySpec, states: Sequence[RunState]) -> str:
    expected = expected_seconds(states)
    todo = [state for state in states if not state.is_over]
    if not todo or (spec.search is not None and spec.search.runs is None):
        return ''
    left = [time_left(state, expected(state)) for state in todo]
    known = [seconds for seconds in left if seconds is not None]
    if not known:
        return ' How much is left shows when the first runs are finished.'
    workers = max(1, spec.where.workers or 0, sum(state.state == 'running' for state in states))
    # No worker can take half of a run: the longest one is the least that is left.
    seconds = max(sum(known) / min(workers, len(todo)), *known)
    unknown = len(left) - len(known)
    more = f', and {unknown} runs of which nothing is known yet' if unknown else ''
    return f" About {clock(seconds)} left with {workers} worker{'s' if workers > 1 else ''}{more}."


def _budget(spec: StudySpec, states: Sequence[RunState], now: float) -> list[str]:
    assert spec.search is not None
    chains: dict[str, list[RunState]] = {}
    for state in states:
        if state.attempts:
            chains.setdefault(state.planned.chain, []).append(state)
    search, lines = spec.search, []
    for chain, mine in chains.items():
        held = sum(state.wall_seconds for state in mine)
        used = []
        if search.runs is not None:
            used.append(f'{len(mine)} of {search.runs} runs')
        if search.hours is not None:
            used.append(f'{min(held, _busy(mine, now)) / 3600:.2f} of {search.hours:g} hours')
        if search.gpu_hours is not None:
            used.append(f'{held * spec.where.gpus_per_run / 3600:.2f} of {search.gpu_hours:g} GPU-hours')
        lines.append(f"{chain}: begun or used {', '.join(used)}.")
    return lines


def _busy(states: Iterable[RunState], now: float) -> float:
    total, until = 0.0, float('-inf')
    for state in sorted(states, key=lambda state: state.started or 0.0):
        start, end = state.started or 0.0, now if state.ended is None else state.ended
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _length(state: RunState) -> object:
    """What tells how long a run is: its duration in a comparison, its step in a sequence; ``None`` in a search."""
    return state.planned.params.get('max_duration', state.planned.params.get('step'))


def _progress(state: RunState) -> str:
    if state.share is not None:
        return f'{100 * state.share:.0f} %'
    return f'{state.batches} ba' if state.batches else '-'


def _several(state: RunState) -> str:
    # Of its own chain a run has teachers that begin as it does itself.
    chain = state.planned.chain
    names = [PurePath(name).name for name in state.teachers]
    short = [name.removeprefix(f'{chain}-') if chain else name for name in names]
    return ', '.join(short) if len(short) <= 3 else f'{short[0]}, {short[1]} and {len(short) - 2} more'


def _settings(state: RunState) -> str:
    last = [key.rpartition('.')[2] for key in state.params]
    shown = []
    for key, short in zip(state.params, last, strict=True):
        value = state.params[key]
        name = short if last.count(short) == 1 else key
        shown.append(f'{name}={value:.4g}' if isinstance(value, float) else f'{name}={value}')
    return ', '.join(shown)
