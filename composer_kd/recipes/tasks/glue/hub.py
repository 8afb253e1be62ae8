"""GLUE as the ``datasets`` library has it: from the hub, its cache, or a folder that it saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer_kd.recipes.tasks.glue.files import Samples
from composer_kd.recipes.tasks.glue.tasks import LARGEST_SCORE, Task

HUB = 'nyu-mll/glue'


def saved_in(path: Path, name: str) -> Path | None:
    """The folder in ``path`` that ``datasets.save_to_disk`` wrote for the task of that name, if there is one."""
    marks = ('dataset_dict.json', 'state.json')
    return next((folder for folder in (path / name, path) if any((folder / mark).is_file() for mark in marks)), None)


def read_hub(name: str, task: Task, split: str, saved: Path | None) -> Samples:
    """The samples of a split.

    Args:
        name: The task's name on the hub.
        task: The task.
        split: The split.
        saved: A folder that ``save_to_disk`` wrote; ``None`` for the hub or, without a network, its cache.

    Raises:
        RuntimeError: If ``datasets`` is not installed.
        FileNotFoundError: If the hub cannot be reached and nothing is cached.
        ValueError: For a folder without the split or its columns, or a label that the task does not have.
    """
    try:
        import datasets
    except ImportError as error:
        raise RuntimeError("GLUE from Hugging Face needs the library datasets: run 'pip install datasets'.") from error
    if saved is None:
        source = HUB
        try:
            data: Any = datasets.load_dataset(HUB, name, split=split)
        except (OSError, ValueError, RuntimeError) as error:
            told = ' '.join(str(error).split())
            raise FileNotFoundError(
                f"path: is null, so {task.folder} comes from Hugging Face's {HUB}, which can neither be reached nor is "
                f'in the cache ({type(error).__name__}: {told}). Fetch it on a machine that has a network '
                f"(datasets.load_dataset('{HUB}', '{name}').save_to_disk(FOLDER)) and give that folder, or that of the "
                'GLUE download, as path.',
            ) from error
    else:
        source = str(saved)
        data = datasets.load_from_disk(source)
        if isinstance(data, datasets.DatasetDict):
            if split not in data:
                raise ValueError(f"path: '{saved}' has no split {split!r}; it has {', '.join(map(str, data))}.")
            data = data[split]
    missing = [column for column in (*task.hub_texts, 'label') if column not in data.column_names]
    if missing:
        raise ValueError(
            f"path: '{source}' has no column {missing[0]!r}, so it is no {task.folder}; it has "
            f"{', '.join(data.column_names)}.",
        )
    labels = [float(label) for label in data['label']]
    largest = len(task.classes) - 1 if task.classes else LARGEST_SCORE
    for index, label in enumerate(labels):
        if not 0 <= label <= largest:
            raise ValueError(
                f"path: '{source}', split {split!r}, sample {index}: the label is {label:g}; {task.folder} has 0 to "
                f'{largest:g}.',
            )
    return list(zip(*(list(data[column]) for column in task.hub_texts), strict=True)), labels
