"""Checkpoints that no later run can need, removed."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.keep import removable
from composer_kd.studies.rules.planned import Planned, planned_runs
from composer_kd.studies.store.attempts import OVER
from composer_kd.studies.work.claims import Claims


class Cleaner:
    """Removes what ``keep`` allows.

    Another worker may be about to give a run a teacher that has just been outdone. So checkpoints are removed only once
    they have been of no use for a while, or at the end of the study.

    Args:
        spec: The study.
        claims: Of this worker.
        pause: Seconds for which a checkpoint has to be of no use.
    """

    def __init__(self, spec: StudySpec, claims: Claims, pause: float = 60.0) -> None:
        self.spec, self.claims, self.pause = spec, claims, pause
        self._useless_since: dict[str, float] = {}

    def clean(self, at_end: bool = False) -> list[str]:
        """Remove what can be removed.

        Args:
            at_end: Whether nothing is going on any more, so that there is nothing to wait for.

        Returns:
            Keys of the runs whose checkpoints were removed.
        """
        if self.spec.keep == 'all':
            return []
        known = self.claims.attempts.all()
        state = {key: tries[-1].outcome for key, tries in known.items()}
        coming: list[Planned] = []
        next_of: set[str] = set()
        finished = []
        for planned in planned_runs(self.spec):
            if planned.key not in state:
                # Of an endless search the next run of each chain stands for all that follow.
                if planned.chain and planned.chain in next_of:
                    if self.spec.search is not None and len(next_of) == self._chains():
                        break
                    continue
                next_of.add(planned.chain)
                coming.append(planned)
            elif state[planned.key] not in OVER:
                coming.append(planned)
            elif state[planned.key] == 'finished':
                candidate = self.claims.pool.candidate(planned.key)
                finished += [candidate] if candidate is not None else []
        given = {
            key: [Path(folder).name for folder in trial.user_attrs['teachers']]
            for key, trial in self.claims.trials.everything().items() if state.get(key) not in OVER
        }
        now, removed = time.monotonic(), []
        useless = removable(self.spec, coming, finished, given)
        self._useless_since = {key: self._useless_since.get(key, now) for key in useless}
        for key, since in self._useless_since.items():
            checkpoints = self.claims.folder(key) / 'checkpoints'
            if (at_end or now - since >= self.pause) and checkpoints.is_dir():
                shutil.rmtree(checkpoints, ignore_errors=True)
                removed.append(key)
        return removed

    def _chains(self) -> int:
        return len(self.spec.methods) * len(self.spec.seeds)
