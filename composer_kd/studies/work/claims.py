"""The next run, what it is given, and how it ended: a study's rules over its two tables."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from composer_kd.runs import Record, RunFolder
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.budget import used_up
from composer_kd.studies.rules.planned import Planned, planned_runs
from composer_kd.studies.rules.policy import Candidate, choose
from composer_kd.studies.store.attempts import OVER, Attempt, Attempts, Outcome
from composer_kd.studies.store.trials import Given, Trials
from composer_kd.studies.work.jobs import BUSY, PRUNED, REFUSED, Answer, Job, Pruned

log = logging.getLogger(__name__)

_OUTCOMES: dict[str, Outcome] = {'COMPLETE': 'finished', 'PRUNED': 'pruned', 'FAIL': 'failed'}


@dataclass(frozen=True)
class Claim:
    """A run that this worker is to make.

    Attributes:
        planned: The run.
        attempt: This try at it.
        given: What it is made with.
        job: The file for the process that trains.
        log: Where that prints.
    """

    planned: Planned
    attempt: Attempt
    given: Given
    job: Path
    log: Path


@dataclass(frozen=True)
class Ended:
    """A run that ended, or an attempt at it.

    Attributes:
        planned: The run.
        outcome: How.
        quality: At its end; ``None`` where it has none.
        reason: Why, where that is worth saying.
    """

    planned: Planned
    outcome: Outcome
    quality: float | None = None
    reason: str = ''


class Claims:
    """Picks runs and books how they ended. Nothing here is kept in memory alone: any worker can go on at any moment.

    Args:
        spec: The study.
        gpus: GPUs of a run; 0 on a CPU.
    """

    def __init__(self, spec: StudySpec, gpus: int) -> None:
        self.spec, self.gpus = spec, gpus
        self.trials = Trials(spec)  # makes the database, of which the attempts are a table
        self.attempts = Attempts(spec.storage_url, spec.name)
        self._exhausted: set[str] = set()
        self._candidates: dict[str, Candidate] = {}

    def folder(self, key: str) -> Path:
        """The folder of a run."""
        return self.spec.runs_folder / key

    def log_of(self, key: str) -> Path:
        """What the processes of a run printed."""
        return self.spec.folder / 'logs' / f'{key}.txt'

    def ready(self) -> Iterator[tuple[Planned, Attempt | None]]:
        """Runs that may be begun now or taken up again, in their order, each with the attempt before."""
        known = self.attempts.all()
        over = {key for key, tries in known.items() if tries[-1].outcome in OVER}
        spent = self._chains_out_of_budget(known)
        for planned in self._planned(known):
            last = known[planned.key][-1] if planned.key in known else None
            if planned.key in over or not over.issuperset(planned.waits):
                continue
            if last is None and (planned.chain in spent or planned.chain in self._exhausted):
                continue
            if last is None or last.outcome is not None or self.attempts.is_dead(last):
                yield planned, last

    def _planned(self, known: Mapping[str, object]) -> Iterator[Planned]:
        """The runs; of a search, which may have no end, those that are begun and one more of each chain."""
        begun = -1
        for planned in planned_runs(self.spec):
            if planned.key in known:
                begun = planned.index
            elif self.spec.search is not None and planned.index > begun + 1:
                return
            yield planned

    def pending(self) -> int:
        """How many runs are still to come, or being made by any worker; of an endless search at least so many."""
        known = self.attempts.all()
        spent = self._chains_out_of_budget(known)
        left = 0
        for planned in self._planned(known):
            tries = known.get(planned.key)
            if tries is None:
                left += planned.chain not in spent and planned.chain not in self._exhausted
            else:
                left += tries[-1].outcome not in OVER
        return left

    def _chains_out_of_budget(self, known: dict[str, list[Attempt]]) -> set[str]:
        search = self.spec.search
        if search is None or (search.hours is None and search.gpu_hours is None):
            return set()
        chains: dict[str, list[Attempt]] = {}
        for planned in self._planned(known):
            chains.setdefault(planned.chain, []).extend(known.get(planned.key, ()))
        return {chain for chain, tries in chains.items() if used_up(tries, search.hours, search.gpu_hours)}

    def take(self) -> Claim | Ended | None:
        """Claim the next run.

        Returns:
            The claim; a run that turned out to be over; or ``None`` if there is nothing to do at the moment.
        """
        for planned, before in self.ready():
            attempt = self.attempts.claim(planned.key, before, self.gpus)
            if attempt is None:
                continue
            closed = self.trials.finished(planned)
            if closed is not None:
                ended = Ended(planned, _OUTCOMES[closed.state.name], closed.value, 'found when it was taken up again')
                self.attempts.end(attempt, ended.outcome, ended.reason)
                return ended
            try:
                given = self.trials.given(planned) or self._give(planned)
            except LookupError as nothing_left:
                self._exhausted.add(planned.chain)
                log.info('%s: %s.', planned.key, nothing_left)
                self.attempts.end(attempt, 'released', str(nothing_left))
                continue
            except ValueError as refused:
                self.attempts.end(attempt, 'failed', str(refused))
                return Ended(planned, 'failed', None, str(refused))
            job = self._job(planned, given)
            path = job.write(self.spec.folder / 'jobs' / f'{planned.key}.json')
            return Claim(planned, attempt, given, path, self.log_of(planned.key))
        return None

    def _give(self, planned: Planned) -> Given:
        teachers = self._teachers(planned)
        if planned.needs_teacher and not teachers:
            raise ValueError(
                f"{planned.key}: none of the runs that were to teach it can: see 'composer-kd study status' for those "
                'that failed, and the floor of its teachers.',
            )
        trial, suggested = self.trials.open(planned)
        return self.trials.give(trial, {**planned.set, **suggested}, teachers)

    def _teachers(self, planned: Planned) -> list[str]:
        if planned.teachers is None:
            return []
        known = self.attempts.all()
        candidates = [candidate_of(Path(folder), Path(folder).name) for folder in planned.teachers.runs]
        for key in planned.pool:
            if key in known and known[key][-1].outcome == 'finished':
                try:
                    RunFolder(self.folder(key)).latest_checkpoint()
                    candidates.append(self.candidate(key))
                except (FileNotFoundError, ValueError) as gone:
                    log.warning('%s cannot teach %s: %s', key, planned.key, gone)
        chosen = choose(
            planned.teachers, candidates, f'{self.spec.name}/{planned.key}', self.spec.metric,
            self.spec.is_higher_better,
        )
        return [candidate.folder for candidate in chosen]

    def candidate(self, key: str) -> Candidate:
        """A finished run of this study as a possible teacher."""
        if key not in self._candidates:
            self._candidates[key] = candidate_of(self.folder(key), key)
        return self._candidates[key]

    def _job(self, planned: Planned, given: Given) -> Job:
        search = self.spec.search
        pruning = None
        if search is not None and search.pruner is not None:
            pruning = Pruned(
                study=self.trials.study_name(planned.chain), trial=self.trials.trial_id(planned, given.number),
                pruner=search.pruner,
            )
        tags = dict(planned.tags)
        if given.params:
            tags['params'] = json.dumps(given.params)
        return Job(
            recipe=planned.recipe, set=given.set, run_name=f'{self.spec.name}-{planned.key}',
            run_folder=str(self.folder(planned.key)), seed=planned.run_seed, tags=tags, metric=self.spec.metric,
            distillation=None if planned.teachers is None else planned.distillation, teachers=given.teachers,
            pruning=pruning,
        )

    def close(self, claim: Claim, answer: Answer) -> Ended:
        """Book how an attempt ended: first with Optuna, then in the attempts, so that a kill between is mended."""
        record = read_record(self.folder(claim.planned.key))
        quality = final_quality(record, self.spec.metric) if record is not None else None
        outcome: Outcome = 'failed'
        reason = answer.message
        if answer.status == 0 and record is not None and record.status == 'finished':
            if quality is not None and math.isfinite(quality):
                outcome, reason = 'finished', ''
            else:
                reason = f'it finished with {self.spec.metric} {quality}'
        elif answer.status == PRUNED:
            outcome = 'pruned'
        elif answer.status == BUSY:
            outcome = 'released'  # the processes of its last worker have not ended yet
        elif answer.status != REFUSED:
            died = [t for t in self.attempts.all()[claim.planned.key] if t.outcome == 'died']
            reason = reason or 'it ended before its training did'
            if len(died) < self.spec.retries:
                outcome = 'died'
        ended = Ended(claim.planned, outcome, quality, reason)
        if outcome in OVER:
            self._mark(claim.planned.key, record, outcome)
            self.trials.tell(claim.planned, claim.given.number, outcome, quality)
        self.attempts.end(claim.attempt, outcome, reason)
        return ended

    def _mark(self, key: str, record: Record | None, outcome: Outcome) -> None:
        """Say in the record of a run that did not finish that nobody will go on with it."""
        if record is not None and outcome in ('pruned', 'failed'):
            record.tags = {**record.tags, 'ended': outcome}
            RunFolder(self.folder(key)).write_record(record)

    def shut(self) -> None:
        """Let go of the databases."""
        self.attempts.close()
        self.trials.close()


def read_record(folder: Path) -> Record | None:
    """The record of a run folder; ``None`` where there is none to be read."""
    try:
        return RunFolder(folder).read_record()
    except (FileNotFoundError, ValueError):
        return None


def final_quality(record: Record, metric: str) -> float | None:
    """The metric at the end of training; ``None`` if the end was not evaluated."""
    label, _, name = metric.partition('/')
    last = record.evaluations[-1] if record.evaluations else None
    return last.metrics.get(label, {}).get(name) if last is not None and last.batch == record.batches else None


def candidate_of(folder: Path, name: str) -> Candidate:
    """A finished run as a possible teacher.

    Raises:
        ValueError: If it cannot be read.
    """
    record = RunFolder(folder).read_record()
    last = record.evaluations[-1] if record.evaluations else None
    quality = {} if last is None or last.batch != record.batches else {
        f'{label}/{metric}': value for label, values in last.metrics.items() for metric, value in values.items()
    }
    return Candidate(name, str(folder), quality)
