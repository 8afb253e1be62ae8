"""``study.json``: what a report needs to know of the study that its runs belong to. Imports no torch."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from composer_kd.runs.files import write_atomically

NOTE_VERSION = 1
"""Version of the note that this package writes; it reads this one and older ones."""

NOTE_NAME = 'study.json'
"""Name of the note's file in a study's folder."""

COST_NAMES = ('train_seconds', 'wall_seconds', 'gpu_hours', 'flops', 'samples', 'batches')
"""What a study may name as its cost, as a report spells it. Not money: its rate is given to the report."""

_LOWER = ('loss', 'entropy', 'perplexity', 'error', 'mse', 'mae')


def lower_is_better(metric: str) -> bool:
    """Whether a metric is one to be low, told from its name (losses, errors, perplexity).

    Example:
        >>> lower_is_better('eval/LanguageCrossEntropy'), lower_is_better('eval/MulticlassAccuracy')
        (True, False)
    """
    name = metric.rpartition('/')[2].lower()
    return any(word in name for word in _LOWER)


class StudyNote(BaseModel):
    """What a study is, as its worker writes it beside the runs.

    Attributes:
        version: Of this schema.
        name: Of the study.
        kind: What was made: runs of several durations, a hyperparameter search, or steps one after another.
        description: One line.
        metric: The quality, ``evaluator/metric``.
        higher_is_better: Whether a high value of it is a good one.
        baseline: The method that the others are compared with; null if all learn from earlier runs.
        reference: The method whose overhead of distillation the others' is compared with; null for none.
        cost: What stands for cost.
        steady_price: Whether a batch of a method is charged at its median time in all runs of the method.
        title: Of plots and page.
        label: The quality in words.
        methods: Names of the methods, in the order of the study file.
        runs: Name of the folder with the run folders, below the study's own.

    Example:
        >>> note = StudyNote(name='digits', kind='comparison', metric='test/Accuracy', higher_is_better=True,
        ...                  methods=['baseline', 'always on'], baseline='baseline')
        >>> note.cost, note.runs
        ('train_seconds', 'runs')
    """

    model_config = ConfigDict(extra='forbid', frozen=True)

    version: int = NOTE_VERSION
    name: str
    kind: Literal['comparison', 'search', 'sequence']
    description: str = ''
    metric: str
    higher_is_better: bool
    baseline: str | None = None
    reference: str | None = None
    cost: str = 'train_seconds'
    steady_price: bool = False
    title: str = ''
    label: str = ''
    methods: list[str] = Field(default_factory=list)
    runs: str = 'runs'


def write_note(folder: str | os.PathLike[str], note: StudyNote) -> None:
    """Replace the note of a study's folder atomically; the folder is made if it is missing.

    Args:
        folder: The study's folder.
        note: What to write.

    Raises:
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> note = StudyNote(name='digits', kind='sequence', metric='test/Accuracy', higher_is_better=True)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_note(folder, note)
        ...     read_note(folder) == note
        True
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder) / NOTE_NAME, note.model_dump_json(indent=2) + '\n')


def read_note(folder: str | os.PathLike[str]) -> StudyNote | None:
    """The note of a study's folder; ``None`` if the folder has none.

    Args:
        folder: The study's folder.

    Raises:
        ValueError: If the note is damaged, or a newer composer_kd wrote it.
    """
    path = Path(folder) / NOTE_NAME
    try:
        data = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ValueError(_unreadable(path, ' '.join(str(error).split()))) from None
    version = data.get('version') if isinstance(data, dict) else None
    if isinstance(version, int) and version > NOTE_VERSION:
        raise ValueError(
            f"Cannot read '{path}': its version is {version} and this composer_kd reads versions up to {NOTE_VERSION}. "
            'Upgrade composer_kd to the version that made the study, or newer.',
        )
    try:
        return StudyNote.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = '.'.join(map(str, first['loc']))
        raise ValueError(_unreadable(path, f'{where}: {first["msg"]}' if where else first['msg'])) from None


def _unreadable(path: Path, problem: str) -> str:
    return (
        f"Cannot read '{path}': it is damaged or was not written by composer_kd ({problem}). Run the study again: its "
        'finished runs are kept, and this file is written anew.'
    )
