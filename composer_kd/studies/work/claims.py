"""The next run, what it is given, and how it ended: a study's rules over its two tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from composer_kd.runs import Record, RunFolder
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.budget import used_up
from composer_kd.studies.rules.planned import Planned, planned_runs
from composer_kd.studies.store.attempts import OVER, Attempt, Attempts, Outcome
from composer_kd.studies.store.trials import Given, Trials
from composer_kd.studies.work.alive import ORPHANED
from composer_kd.studies.work.jobs import BUSY, PRUNED, Answer, Job, Pruned, answers_of
from composer_kd.studies.work.pool import Pool, final_quality, read_record

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
        self.pool = Pool(spec)

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
            if last is None and planned.chain in spent:
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
                left += planned.chain not in spent
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
            over = self._over_already(planned, attempt)
            if over is not None:
                return over
            try:
                given = self.trials.given(planned) or self._give(planned)
            except ValueError as refused:
                self.attempts.end(attempt, 'failed', str(refused))
                return Ended(planned, 'failed', None, str(refused))
            job = self._job(planned, given)
            path = job.write(self.spec.folder / 'jobs' / f'{planned.key}.json')
            return Claim(planned, attempt, given, path, self.log_of(planned.key))
        return None

    def _over_already(self, planned: Planned, attempt: Attempt) -> Ended | None:
        """Book a run that was over when its worker died, and nobody had said so."""
        closed = self.trials.finished(planned)
        if closed is not None:
            ended = Ended(planned, _OUTCOMES[closed.state.name], closed.value, 'found when it was taken up again')
            self.attempts.end(attempt, ended.outcome, ended.reason)
            return ended
        given = self.trials.given(planned)
        stopped = self.trials.was_pruned(planned)
        if given is None or stopped is None:
            return None
        return self._book(planned, attempt, given, 'pruned', stopped)

    def try_again(self) -> list[str]:
        """Let the runs that failed be made again, with the settings and teachers that they had.

        Returns:
            Their keys.
        """
        found = []
        for key, tries in self.attempts.all().items():
            if tries[-1].outcome != 'failed':
                continue
            planned = next((run for run in planned_runs(self.spec) if run.key == key), None)
            attempt = self.attempts.claim(key, tries[-1], 0) if planned is not None else None
            if planned is not None and attempt is not None:
                self.trials.again(planned)
                self.attempts.end(attempt, 'released', 'to be tried again')
                found.append(key)
        return found

    def _give(self, planned: Planned) -> Given:
        teachers = self.pool.teachers(planned, self.attempts.all()) if planned.teachers is not None else []
        if planned.needs_teacher and not teachers:
            raise ValueError(
                f"{planned.key}: none of the runs that were to teach it can: see 'composer-kd study status' for those "
                'that failed, and the floor of its teachers.',
            )
        trial, suggested = self.trials.open(planned)
        return self.trials.give(trial, {**planned.set, **suggested}, teachers)

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
            answers=answers_of(self.spec, planned), pruning=pruning,
        )

    def close(self, claim: Claim, answer: Answer) -> Ended:
        """Book how an attempt ended: first with Optuna, then in the attempts, so that a kill between is mended."""
        if not self.attempts.beat(claim.attempt):
            return Ended(claim.planned, 'lost', None, 'another worker took it, as this one gave no sign of life')
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
        elif answer.status in (BUSY, ORPHANED):
            outcome = 'released'  # the processes of its last worker have not ended yet
        else:
            reason = reason or 'it ended before its training did'
            if self._deaths(claim.planned.key) < self.spec.retries:
                outcome = 'died'
        return self._book(claim.planned, claim.attempt, claim.given, outcome, reason, quality)

    def _deaths(self, key: str) -> int:
        """How often a run died, since it was last given up."""
        deaths = 0
        for attempt in self.attempts.all()[key]:
            deaths = 0 if attempt.outcome == 'failed' else deaths + (attempt.outcome == 'died')
        return deaths

    def _book(
        self, planned: Planned, attempt: Attempt, given: Given, outcome: Outcome, reason: str,
        quality: float | None = None,
    ) -> Ended:
        if outcome in OVER:
            self._mark(planned.key, read_record(self.folder(planned.key)), outcome)
            self.trials.tell(planned, given.number, outcome, quality)
        self.attempts.end(attempt, outcome, reason)
        return Ended(planned, outcome, quality, reason)

    def _mark(self, key: str, record: Record | None, outcome: Outcome) -> None:
        """Say in the record of a run that did not finish that nobody will go on with it."""
        if record is not None and outcome in ('pruned', 'failed'):
            record.tags = {**record.tags, 'ended': outcome}
            RunFolder(self.folder(key)).write_record(record)

    def shut(self) -> None:
        """Let go of the databases."""
        self.attempts.close()
        self.trials.close()
