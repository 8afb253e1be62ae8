"""Finished runs as possible teachers, read from their run folders."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from composer_kd.runs import Record, RunFolder
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned
from composer_kd.studies.rules.policy import Candidate, choose
from composer_kd.studies.store.attempts import Attempt

log = logging.getLogger(__name__)


class Pool:
    """The finished runs of a study, and earlier ones from elsewhere.

    Args:
        spec: The study.
    """

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec
        self._known: dict[str, Candidate] = {}

    def candidate(self, key: str) -> Candidate | None:
        """A finished run of this study as a possible teacher; ``None`` if its folder is gone or cannot be read."""
        if key not in self._known:
            try:
                self._known[key] = candidate_of(self.spec.runs_folder / key, key)
            except (FileNotFoundError, ValueError) as gone:
                log.warning('%s cannot teach: %s', key, gone)
                return None
        return self._known[key]

    def teachers(self, planned: Planned, known: Mapping[str, Sequence[Attempt]]) -> list[str]:
        """Folders of the runs that teach a run by its policy, among those that have a checkpoint.

        Args:
            planned: The run.
            known: All attempts by run.

        Raises:
            ValueError: If an earlier run from elsewhere cannot be read.
        """
        policy = planned.teachers
        assert policy is not None
        candidates = [elsewhere(folder) for folder in policy.runs]
        for key in planned.pool:
            found = self.candidate(key) if key in known and known[key][-1].outcome == 'finished' else None
            if found is not None and has_checkpoint(Path(found.folder)):
                candidates.append(found)
        draw = f'{self.spec.name}/{planned.key}'
        chosen = choose(policy, candidates, draw, self.spec.metric, self.spec.is_higher_better)
        return [candidate.folder for candidate in chosen]


def elsewhere(folder: str) -> Candidate:
    """A run that is not of this study as a possible teacher.

    Raises:
        ValueError: If there is no run, or it has no checkpoint.
    """
    try:
        RunFolder(folder).latest_checkpoint()
        return candidate_of(Path(folder), Path(folder).name)
    except FileNotFoundError as error:
        raise ValueError(f'teachers.runs: {error}') from error


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder has a checkpoint: it may have been removed by hand."""
    try:
        return RunFolder(folder).latest_checkpoint().exists()
    except (FileNotFoundError, ValueError):
        log.warning("'%s' has no checkpoint any more and cannot teach.", folder)
        return False


def read_record(folder: Path) -> Record | None:
    """The record of a run folder; ``None`` where there is none to be read."""
    try:
        return RunFolder(folder).read_record()
    except (FileNotFoundError, ValueError):
        return None


def final_quality(record: Record, metric: str) -> float | None:
    """The metric at the end of training; ``None`` if the end was not evaluated."""
    return _qualities(record).get(metric)


def candidate_of(folder: Path, name: str) -> Candidate:
    """A run as a possible teacher, with what it reached at its end.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If its record cannot be read.
    """
    return Candidate(name, str(folder), _qualities(RunFolder(folder).read_record()))


def _qualities(record: Record) -> dict[str, float]:
    last = record.evaluations[-1] if record.evaluations else None
    if last is None or last.batch != record.batches:
        return {}
    return {f'{label}/{name}': value for label, values in last.metrics.items() for name, value in values.items()}
