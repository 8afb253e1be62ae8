"""Where a study stands: its runs' states, from its tables and run folders. Imports no torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from composer_kd.runs import Record
from composer_kd.studies.progress.state import RunState, State
from composer_kd.studies.rules.planned import planned_runs
from composer_kd.studies.store.attempts import OVER, Attempt
from composer_kd.studies.work.claims import Claims
from composer_kd.studies.work.pool import read_record

_AHEAD = 20


def run_states(claims: Claims, records: dict[str, tuple[float, Record]] | None = None) -> list[RunState]:
    """The state of every run, in planned order; of a search without a number of runs, up to the next few.

    Args:
        claims: Of the study.
        records: Filled with the records that were read and when they were written, to read each version once.
    """
    known, trials = claims.attempts.all(), claims.trials.everything()
    states, idle = [], 0
    for planned in planned_runs(claims.spec):
        tries = known.get(planned.key, [])
        idle = 0 if tries else idle + 1
        if claims.spec.search is not None and claims.spec.search.runs is None and idle > _AHEAD:
            break
        record = _record(claims.folder(planned.key), planned.key, records) if tries else None
        trial = trials.get(planned.key)
        attributes: Mapping[str, object] = trial.user_attrs if trial is not None else {}
        teachers = attributes.get('teachers') or []
        assert isinstance(teachers, list)
        states.append(RunState(
            planned=planned,
            state=_state(claims, tries),
            quality=_latest(record, claims.spec.metric),
            train_seconds=record.train_seconds if record else 0.0,
            wall_seconds=sum(t.seconds for t in tries),
            batches=record.batches if record else 0,
            share=_share(record),
            teachers=[Path(folder).name for folder in teachers],
            attempts=len(tries),
            worker=tries[-1].worker if tries else '',
            reason=tries[-1].reason if tries else '',
            params=dict(trial.params) if trial is not None else {},
            started=tries[0].started if tries else None,
            ended=tries[-1].beat if tries and tries[-1].outcome in OVER else None,
        ))
    return states


def _record(folder: Path, key: str, records: dict[str, tuple[float, Record]] | None) -> Record | None:
    try:
        written = (folder / 'record.json').stat().st_mtime
    except OSError:
        return None
    if records is not None and key in records and records[key][0] == written:
        return records[key][1]
    record = read_record(folder)
    if records is not None and record is not None and time.time() - written > 1:
        records[key] = (written, record)
    return record


def _state(claims: Claims, tries: list[Attempt]) -> State:
    if not tries:
        return 'waiting'
    outcome = tries[-1].outcome
    if outcome == 'finished' or outcome == 'pruned' or outcome == 'failed':
        return outcome
    if outcome is None and not claims.attempts.is_dead(tries[-1]):
        return 'running'
    return 'waiting' if outcome == 'released' else 'died'


def _latest(record: Record | None, metric: str) -> float | None:
    label, _, name = metric.partition('/')
    for evaluation in reversed(record.evaluations if record else []):
        if name in evaluation.metrics.get(label, {}):
            return evaluation.metrics[label][name]
    return None


def _share(record: Record | None) -> float | None:
    """How much of its duration a run has behind it."""
    if record is None:
        return None
    for unit, done in (('ep', record.epochs), ('ba', record.batches), ('sp', record.samples), ('tok', record.tokens)):
        if record.max_duration.endswith(unit):
            # Epochs are whole only once they end; a share of one is not told.
            return min(1.0, done / max(1, int(record.max_duration.removesuffix(unit))))
    return None
