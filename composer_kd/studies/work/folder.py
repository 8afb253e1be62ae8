"""A study's folder: what it was begun with, and whether it may be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from composer_kd.runs import write_atomically
from composer_kd.runs.study import write_note
from composer_kd.studies.file.changes import changed
from composer_kd.studies.file.schema import StudySpec

BEGUN = 'study.yaml'


def take_folder(spec: StudySpec) -> None:
    """Write down what the study is, or see that it is still the one it was begun as.

    Raises:
        ValueError: If the folder is another study's, this one has changed in what its finished runs depend on, or the
            folder holds anything else.
    """
    folder, here = spec.folder, _plain(spec.digest_parts())
    path = folder / BEGUN
    if path.exists():
        there = _plain(yaml.safe_load(path.read_text(encoding='utf-8')))
        difference = changed(there, here)
        if difference is not None:
            raise ValueError(
                f"'{folder}' holds a study that was begun otherwise: {difference}. Its runs would not be comparable: "
                "give this one another name or folder, or take the change back.",
            )
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"folder: '{folder}' is not empty and holds no {BEGUN}, so it is no study's. Choose another folder; "
            'nothing there was touched.',
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, yaml.safe_dump(here, sort_keys=False, allow_unicode=True))
    write_note(folder, spec.note())


def _plain(value: Any) -> Any:
    """As it is after a turn through YAML, so that tuples and lists are the same."""
    return yaml.safe_load(yaml.safe_dump(value, sort_keys=False))


def is_begun(folder: Path) -> bool:
    """Whether there is a study in the folder."""
    return (folder / BEGUN).is_file()
