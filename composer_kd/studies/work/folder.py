"""A study's folder: what it was begun with, and whether it may be gone on with."""

from __future__ import annotations

import contextlib
import os
import uuid
from pathlib import Path
from typing import Any

import yaml

from composer_kd.runs import write_atomically
from composer_kd.runs.files import is_leftover
from composer_kd.runs.study import write_note
from composer_kd.studies.file.changes import changed
from composer_kd.studies.file.schema import StudySpec

BEGUN = 'study.yaml'
IDENTITY = 'study.id'


def check_folder(spec: StudySpec) -> None:
    """See that the folder is free, or this study's, and the study the one it was begun as. Nothing is written.

    Raises:
        ValueError: If it is another study's, this one has changed in what its runs depend on, or the folder holds
            anything else.
    """
    folder, path = spec.folder, spec.folder / BEGUN
    if path.exists():
        there = _plain(yaml.safe_load(path.read_text(encoding='utf-8')))
        difference = changed(there, _plain(spec.digest_parts()))
        runs = spec.runs_folder
        if difference is not None and (there.get('name') != spec.name or (runs.is_dir() and any(runs.iterdir()))):
            raise ValueError(
                f"'{folder}' holds a study that was begun otherwise: {difference}. Its runs would not be comparable: "
                'give this one another name or folder, or take the change back.',
            )
    elif folder.exists() and not all(entry.name == IDENTITY or is_leftover(entry) for entry in folder.iterdir()):
        raise ValueError(
            f"folder: '{folder}' is not empty and holds no {BEGUN}, so it is no study's. Choose another folder; "
            'nothing there was touched.',
        )


def take_folder(spec: StudySpec) -> str:
    """Make the folder this study's own, and write down what it is.

    Returns:
        The study's identity: drawn once, and the same for all that work in this folder.

    Raises:
        ValueError: As :func:`check_folder`.
    """
    check_folder(spec)
    spec.folder.mkdir(parents=True, exist_ok=True)
    # Of workers that begin at once, one makes the file.
    with contextlib.suppress(FileExistsError):
        whole = spec.folder / f'.{uuid.uuid4().hex}.tmp'
        whole.write_text(uuid.uuid4().hex, encoding='utf-8')
        try:
            os.link(whole, spec.folder / IDENTITY)
        finally:
            whole.unlink()
    begun = yaml.safe_dump(_plain(spec.digest_parts()), sort_keys=False, allow_unicode=True)
    write_atomically(spec.folder / BEGUN, begun)
    write_note(spec.folder, spec.note())
    return identity(spec.folder)


def identity(folder: Path) -> str:
    """The identity of the study in a folder."""
    return (folder / IDENTITY).read_text(encoding='utf-8').strip()


def is_begun(folder: Path) -> bool:
    """Whether there is a study in the folder."""
    return (folder / BEGUN).is_file() and (folder / IDENTITY).is_file()


def _plain(value: Any) -> Any:
    """As it is after a turn through YAML, so that tuples and lists are the same."""
    return yaml.safe_load(yaml.safe_dump(value, sort_keys=False))
