"""GLUE's own files: tab-separated, quotes meaning nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

from composer_kd.recipes.tasks.glue.tasks import LARGEST_SCORE, Task

log = logging.getLogger(__name__)

Samples = tuple[list[tuple[str, ...]], list[float]]
"""The sentences of each sample, and the labels: numbers of classes, or scores."""


def find_file(path: Path, task: Task, split: str) -> Path:
    """The file of a split.

    Args:
        path: The folder of the GLUE download, or the task's own folder in it.
        task: The task.
        split: One of its splits.

    Raises:
        FileNotFoundError: Naming the folder or the file that is missing.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"path: there is no folder '{path}'. Give the folder of the GLUE download (it holds {task.folder}), a "
            "folder that datasets.save_to_disk wrote, or null for Hugging Face's hub.",
        )
    names = [f"{split.replace('validation', 'dev')}.tsv"]
    if task.folder == 'MRPC':
        names.append('msr_paraphrase_train.txt')  # Microsoft's own; dev_ids.tsv says what of it is GLUE's dev set
    looked = [folder / name for folder in (path / task.folder, path) for name in names]
    for file in looked:
        if file.is_file():
            return file
    raise FileNotFoundError(
        f"path: '{looked[0]}' is missing, the file of {task.folder}'s split {split!r}. Copy it there, or give the "
        'folder that holds it.',
    )


def read_file(file: Path, task: Task, split: str) -> Samples:
    """The samples of one of GLUE's files.

    A line needs at least the columns of the header. QQP's published file has some two dozen that are cut short by a
    line break in a question; those are passed over, as Hugging Face does.

    Args:
        file: The file.
        task: Whose it is.
        split: Which split of it is asked for; it tells train and dev apart in Microsoft's MRPC file.

    Returns:
        Sentences and labels.

    Raises:
        ValueError: For an empty file, a column that is missing, a malformed line, or a label that the task does not
            have, with file and line.
    """
    sentences, labels, broken, lines = [], [], [], 0
    wanted = _members(file, split)
    rows = _rows(file)
    header = list(task.header) or next(rows, (0, []))[1]
    missing = [name for name in (*task.texts, task.label) if name not in header]
    if header and missing:
        raise ValueError(
            f"path: '{file}' has no column {missing[0]!r} in its first line, so it is no file of {task.folder}. It "
            f"has: {', '.join(header)[:200]}.",
        )
    for number, row in rows:
        lines += 1
        if len(row) < len(header):
            broken.append(number)
            if not task.broken:
                raise ValueError(
                    f"path: '{file}', line {number} has {len(row)} columns and {len(header)} are expected "
                    f"({', '.join(header)}). Copy the file anew, or mend the line.",
                )
            continue
        named = dict(zip(header, row, strict=False))
        if wanted is not None and not wanted(named):
            continue
        labels.append(_label(named[task.label], task, f"path: '{file}', line {number}"))
        sentences.append(tuple(named[name] for name in task.texts))
    if not sentences:
        raise ValueError(f"path: '{file}' holds no samples. Copy the file anew.")
    if len(broken) > task.broken * lines:
        raise ValueError(
            f"path: '{file}', line {broken[0]} has fewer than {len(header)} columns, and {len(broken)} of {lines} "
            f'lines are like it, more than the published file has ({task.broken:.1%} at most). Copy the file anew.',
        )
    if broken:
        log.info('%s: passed over %d broken lines of %d, the first being line %d.', file, len(broken), lines, broken[0])
    return sentences, labels


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open(file, encoding='utf-8-sig') as text:
            for number, line in enumerate(text, 1):
                if line.strip('\n'):
                    yield number, line.rstrip('\n').split('\t')
    except UnicodeDecodeError as error:
        raise ValueError(f"path: '{file}' is no text in UTF-8 ({error.reason}). Copy the file anew.") from error


def _label(written: str, task: Task, where: str) -> float:
    if task.classes:
        if written not in task.classes:
            raise ValueError(f"{where}: the label is {written!r}; {task.folder} has {', '.join(task.classes)}.")
        return task.classes.index(written)
    try:
        score = float(written)
    except ValueError:
        score = math.nan
    if not 0 <= score <= LARGEST_SCORE:
        raise ValueError(f'{where}: the score is {written!r}; {task.folder} has numbers from 0 to {LARGEST_SCORE:g}.')
    return score


def _members(file: Path, split: str) -> Callable[[dict[str, str]], bool] | None:
    """Which rows belong to the split, where the file does not say it by its name."""
    if file.name != 'msr_paraphrase_train.txt':
        return None
    found = [file.with_name(name) for name in ('dev_ids.tsv', 'mrpc_dev_ids.tsv') if file.with_name(name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"path: '{file.with_name('dev_ids.tsv')}' is missing, which tells GLUE's dev set apart in '{file.name}'. "
            'Copy it there, or train.tsv and dev.tsv.',
        )
    dev = {tuple(row[:2]) for _, row in _rows(found[0])}
    return lambda row: ((row['#1 ID'], row['#2 ID']) in dev) == (split != 'train')
