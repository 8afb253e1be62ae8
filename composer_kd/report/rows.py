"""Run folders read into rows: what a report needs of each run."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from composer_kd.runs import Record, RunFolder

State = Literal['finished', 'pruned', 'failed', 'unfinished']

_ENDED: dict[str, State] = {'pruned': 'pruned', 'failed': 'failed'}

EARLIER = 'earlier run'
"""The method of runs that were made to teach others; they are no curve of their own."""

_ORIGIN = re.compile(r'(?!run:)[A-Za-z_]\w*:')
"""What a teacher's origin begins with that is no run: its kind, which may be anybody's."""

_SAID_OF_ALL = frozenset({'name', 'weight', 'digest', 'cache', 'logits_key', 'prepare', 'normalize', 'resolution',
                          'classes', 'vocabulary'})
"""Settings of a teacher's entry that name no kind."""

# So many last parts of two paths are the same if one is a copy of the other: STUDY/runs/KEY.
_SAME = 3

# Written in C where PyYAML was built with it: ten times as fast.
_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


@dataclass(frozen=True)
class Row:
    """One run, as a report needs it.

    Attributes:
        folder: The run folder, as it was given.
        run_name: Its name.
        method: The tag ``method``; without one ``distillation`` or ``baseline``, after what the run did.
        duration: ``max_duration`` that it was started with.
        seed: Its seed; -1 without one.
        finished: Whether it reached that duration.
        quality: Values at the end of training by ``label/metric``; empty if the end was not evaluated.
        costs: Cost by name, see ``report.costs.COSTS``; NaN where the run did not record it. Training time holds what
            it took to open and finish stores of answers, before the first batch and after the last.
        kd_seconds: Seconds spent on distillation; 0 without it.
        active_share: Share of the batches on which distillation was on; 0 without it.
        step_overhead: Time spent on KD / time of the same steps without it, as the algorithm measured it.
        teacher_seconds: Of ``kd_seconds``, those in the teachers.
        loss_seconds: Of ``kd_seconds``, those in the KD loss.
        data_seconds: Seconds waiting for data; NaN where the run did not record it.
        world_size: Number of ranks.
        gpu_count: Accelerators that trained; 0 on a CPU.
        replicate: The tag ``replicate`` (of a study); without one the seed.
        index: The tag ``index``: place in a search or a sequence, from 0; ``None`` without one.
        role: The tag ``role``: ``run``, or ``earlier`` for one that was made to teach others.
        kind: The tag ``kind``: of the study.
        step: The tag ``step``: of a sequence.
        state: ``pruned`` or ``failed`` where the tag ``ended`` of a study says so, else after ``finished``.
        teachers: Run folders of the teachers it was given.
        other_teachers: Teachers that are no runs: ``torchvision:resnet50``, ``checkpoint:s3://...``.
        asked: Samples of which its teachers were asked.
        stored: Samples whose answers were read from a store instead.
        store_seconds: Seconds spent storing answers, and opening and finishing stores.
        stores: Bytes of its teachers' stores by path; ``None`` where not known.
        params: The tag ``params`` (JSON): the values that a search tried, by dotted key.

    Example:
        >>> row = Row(Path('runs/a'), 'a', 'baseline', '1ep', 17, True, {'test/Accuracy': 0.9}, {}, 0.0, 0.0, 0.0)
        >>> row.distilled
        False
    """

    folder: Path
    run_name: str
    method: str
    duration: str
    seed: int
    finished: bool
    quality: dict[str, float]
    costs: dict[str, float]
    kd_seconds: float
    active_share: float
    step_overhead: float | None
    teacher_seconds: float = 0.0
    loss_seconds: float = 0.0
    data_seconds: float = math.nan
    world_size: int = 1
    gpu_count: int = 0
    replicate: int = -1
    index: int | None = None
    role: str = 'run'
    kind: str = ''
    step: str = ''
    state: State = 'unfinished'
    teachers: tuple[Path, ...] = ()
    other_teachers: tuple[str, ...] = ()
    asked: int = 0
    stored: int = 0
    store_seconds: float = 0.0
    stores: dict[str, int | None] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def overhead(self) -> float:
        """Seconds spent on distillation / the other seconds of the training; NaN before the first step."""
        other = self.costs['train_seconds'] - self.kd_seconds
        return self.kd_seconds / other if other > 0 else math.nan

    @property
    def is_earlier(self) -> bool:
        """Whether it was made to teach others; it is counted as a teacher's cost, never as a result."""
        return self.role == 'earlier' or self.method == EARLIER

    @property
    def distilled(self) -> bool:
        """Whether it had a teacher."""
        return bool(self.teachers or self.other_teachers or self.active_share > 0)

    @classmethod
    def of(cls, folder: Path, record: Record) -> Row:
        """The row of a record."""
        kd, tags = record.kd, record.tags
        last = record.evaluations[-1] if record.evaluations else None
        quality = {}
        if last is not None and last.batch == record.batches:
            quality = {f'{label}/{name}': v for label, values in last.metrics.items() for name, v in values.items()}
        seed = record.seed if record.seed is not None else -1
        index, replicate = _whole(tags.get('index')), _whole(tags.get('replicate'))
        finished = record.status == 'finished'
        # Records of version 1 have none.
        waited = getattr(record, 'data_seconds', None)
        teachers, others = _teachers(folder, record)
        outside = kd.store_outside_seconds if kd else 0.0
        seconds, stored = record.train_seconds + outside, sum(teacher.stored for teacher in record.teachers)
        return cls(
            folder=folder,
            run_name=record.run_name,
            method=tags.get('method', 'distillation' if kd is not None else 'baseline'),
            duration=record.max_duration,
            seed=seed,
            finished=finished,
            quality=quality,
            costs={
                'train_seconds': seconds,
                'wall_seconds': record.wall_seconds,
                'gpu_hours': seconds / 3600 * max(record.hardware.gpu_count, 1),
                'flops': math.nan if record.flops.total is None else record.flops.total,
                'samples': float(record.samples),
                'batches': float(record.batches),
            },
            kd_seconds=kd.kd_seconds if kd else 0.0,
            active_share=kd.active_batches / record.batches if kd and record.batches else 0.0,
            step_overhead=kd.overhead if kd else None,
            teacher_seconds=kd.teacher_seconds if kd else 0.0,
            loss_seconds=kd.loss_seconds if kd else 0.0,
            data_seconds=math.nan if waited is None else float(waited),
            world_size=record.world_size,
            gpu_count=record.hardware.gpu_count,
            replicate=seed if replicate is None else replicate,
            index=index,
            role=tags.get('role', 'run'),
            kind=tags.get('kind', ''),
            step=tags.get('step', ''),
            state=_ENDED.get(tags.get('ended', ''), 'finished' if finished else 'unfinished'),
            teachers=teachers,
            other_teachers=others,
            asked=max(0, sum(teacher.samples for teacher in record.teachers) - stored),
            stored=stored,
            store_seconds=(kd.store_seconds if kd else 0.0) + outside,
            stores={teacher.store: teacher.store_bytes for teacher in record.teachers if teacher.store is not None},
            params=_params(tags.get('params')),
        )


def read_rows(
    paths: Iterable[str | os.PathLike[str]], broken: MutableMapping[Path, str] | None = None,
) -> list[Row]:
    """Rows of run folders.

    Args:
        paths: Run folders, and folders that hold run folders at any depth.
        broken: Takes why a run was not read, by run folder, for runs found within one of ``paths``; a run folder that
            is itself one of ``paths`` is refused all the same. ``None``: all are refused.

    Returns:
        One row for each run, sorted by path within each of ``paths``; a run met twice is read once.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is no run in a path or below it, or a record cannot be read.

    Example:
        >>> import tempfile
        >>> from composer_kd.runs import Record
        >>> with tempfile.TemporaryDirectory() as place:
        ...     RunFolder(f'{place}/a').write_record(Record(
        ...         run_name='a', started_at='2024-01-01T00:00:00Z', updated_at='2024-01-01T00:00:00Z'))
        ...     [(row.run_name, row.method, row.finished) for row in read_rows([place])]
        [('a', 'baseline', False)]
    """
    rows: dict[Path, Row] = {}
    for given in paths:
        path = Path(given)
        for folder in run_folders(path):
            if folder.resolve() in rows:
                continue
            try:
                rows[folder.resolve()] = Row.of(folder, RunFolder(folder).read_record())
            except (OSError, ValueError) as error:
                if broken is None or folder == path:
                    raise
                broken[folder] = str(error).removeprefix(f"Cannot read the record of run folder '{folder}': ")
    return list(rows.values())


def run_folders(path: Path) -> list[Path]:
    """The run folder itself, or those within a folder at any depth, sorted.

    Raises:
        ValueError: If there is none.
    """
    if (path / 'record.json').exists() or not path.is_dir():
        return [path]  # of what is no folder, the reader says what is wrong with it
    found = sorted(record.parent for record in path.rglob('record.json'))
    if not found:
        raise ValueError(
            f"There is no run in '{path}' or below it: no folder there has a record.json. Give a folder that a "
            'training or a study wrote; if a training stopped before its first step, run it again.',
        )
    return found


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _params(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _teachers(folder: Path, record: Record) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Run folders of the teachers, and the teachers that are no runs; from the record, else from the recipe."""
    if record.kd is None and not record.teachers:
        return (), ()
    origins = [teacher.origin or f'module:{teacher.name}' for teacher in record.teachers] or _from_recipe(folder)
    others = [origin for origin in origins if _ORIGIN.match(origin)]
    runs = [_found(Path(origin.removeprefix('run:')), folder) for origin in origins if not _ORIGIN.match(origin)]
    return tuple(dict.fromkeys(runs)), tuple(dict.fromkeys(others))


def _from_recipe(folder: Path) -> list[str]:
    """The teachers as the recipe has them; the record has none before the algorithm's first word to it."""
    try:
        recipe = yaml.load((folder / 'recipe.yaml').read_text(encoding='utf-8'), Loader=_LOADER)
        given = recipe['algorithms']['distillation']['teachers']
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return []
    items = [item for item in (given if isinstance(given, list) else [given]) if isinstance(item, dict)]
    return [f'{kind}:{item[kind]}' for item in items if (kind := _kind(item))]


def _kind(item: dict[str, Any]) -> str | None:
    """The kind of a teacher's entry; what it cannot be taken for is left out."""
    known = ('run', 'checkpoint', 'torchvision', 'timm', 'hf', 'onnx', 'exported')
    others = (key for key in item if key not in _SAID_OF_ALL and isinstance(key, str))
    found = next((kind for kind in known if kind in item), None) or next(others, None)
    # a teacher with a store beside it is no less a run
    return found or ('cache' if 'cache' in item else None)


def _found(teacher: Path, folder: Path) -> Path:
    """A teacher's folder, which a recipe names from where it was started.

    A study that was copied or moved has it beside the run: there the ends of both paths (STUDY/runs/KEY) are the same.
    A mere namesake is another run.
    """
    near = folder.parent / teacher.name
    ends = [Path(os.path.abspath(near)).parts[-_SAME:], Path(os.path.normpath(teacher)).parts[-_SAME:]]
    copied = teacher.name != folder.name and len(ends[1]) == _SAME and ends[0] == ends[1]
    return near if copied and (near / 'record.json').is_file() else teacher
