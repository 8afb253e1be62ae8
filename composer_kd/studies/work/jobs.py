"""What a worker hands to the process that trains: one run, or the question whether it could be made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from composer_kd.runs import write_atomically
from composer_kd.studies.file.schema import StudySpec
from composer_kd.studies.rules.planned import Planned

STORAGE = 'COMPOSER_KD_STORAGE'
"""Environment variable with the URL of the study's database; it may hold a password, so no file has it."""

REFUSED, PRUNED, BUSY = 64, 65, 66
"""Exit status of a run whose recipe was refused, that the pruner stopped, whose folder another process trains in."""


class Pruned(BaseModel):
    """Where a run asks whether it should go on.

    Attributes:
        study: Name of the Optuna study.
        trial: Optuna's id of the run's trial.
        pruner: Name, or mapping of name and settings.
    """

    model_config = ConfigDict(extra='forbid')

    study: str
    trial: int
    pruner: Any


class Answers(BaseModel):
    """Where the answers of a run's teachers are stored.

    Attributes:
        folder: Of the stores, one for each teacher by the name of its run.
        format: How they are written; ``None`` for the default.
    """

    model_config = ConfigDict(extra='forbid')

    folder: str
    format: Any = None


class Job(BaseModel):
    """One run.

    Attributes:
        recipe: Path of the recipe.
        set: Dotted key to value, laid over it in that order.
        run_name: Its name.
        run_folder: Its folder.
        seed: Its seed.
        tags: Labels for its record, over those of the recipe.
        metric: The quality, ``evaluator/metric``.
        distillation: Settings of Distillation over those of the recipe; ``None``: the recipe's own, if it has any.
        teachers: Folders of the runs that teach it. Without any, distillation is left out.
        answers: Where their answers are stored and read; ``None``: nowhere.
        pruning: Where to ask for pruning; ``None``: it goes on to its end.
    """

    model_config = ConfigDict(extra='forbid')

    recipe: str
    set: dict[str, Any]
    run_name: str
    run_folder: str
    seed: int
    tags: dict[str, str]
    metric: str
    distillation: dict[str, Any] | None = None
    teachers: list[str] = []
    answers: Answers | None = None
    pruning: Pruned | None = None

    def write(self, path: Path) -> Path:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self.model_dump_json(indent=2))
        return path

    @classmethod
    def read(cls, path: str | Path) -> Job:
        """Read it back."""
        return cls.model_validate_json(Path(path).read_text(encoding='utf-8'))


class Answer(BaseModel):
    """How a job ended, as one line of JSON.

    Attributes:
        status: 0, ``REFUSED``, ``PRUNED``, ``BUSY``, or 1 for any other error.
        message: What was wrong.
    """

    status: int
    message: str = ''


def answer_path(job: Path) -> Path:
    """Where a run under the launcher leaves its answer, if it has one to give."""
    return job.with_suffix('.answer.json')


def answers_of(spec: StudySpec, planned: Planned) -> Answers | None:
    """Where the answers of a run's teachers are stored; ``None`` if they are not."""
    if planned.cache is None:
        return None
    return Answers(folder=str(spec.answers_folder(planned.method)), format=planned.cache.format)
