"""Everything a report says, gathered from run folders: the answer, tables, plots and what was left out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import yaml

from composer_kd.report.asked import Asked, TeachersCharged, ask
from composer_kd.report.facts import facts, machines, warnings
from composer_kd.report.plain import PlainTable
from composer_kd.report.plots import Plot, Style
from composer_kd.report.rows import Row, read_rows
from composer_kd.report.sections import Section, find
from composer_kd.report.sections import price as price_rows
from composer_kd.runs.study import NOTE_NAME, StudyNote, read_note


@dataclass(frozen=True)
class Report:
    """A report, whatever shows it.

    Attributes:
        title: Of the study, or what was read.
        description: The study's, if it has one.
        headline: The answer, the first line first.
        facts: Name and value of what the answer rests on.
        warnings: What may make the answer wrong.
        sections: Plots and tables.
        notes: How to read them.
        left_out: Why a run was left out, by run folder.
        rows: All runs that were read, the earlier ones too.
        asked: What was reported.
        folder: Where files go unless somebody says otherwise.
    """

    title: str
    description: str
    headline: list[str]
    facts: list[tuple[str, str]]
    warnings: list[str]
    sections: list[Section]
    notes: list[str]
    left_out: dict[Path, str]
    rows: list[Row]
    asked: Asked
    folder: Path

    @property
    def looks(self) -> dict[str, Style]:
        """Style by method."""
        return self.asked.looks

    @property
    def runs(self) -> int:
        """Number of runs that were read."""
        return len(self.rows)

    @property
    def tables(self) -> list[PlainTable]:
        """Of all sections, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def plots(self) -> list[Plot]:
        """Of all sections, in order."""
        return [plot for section in self.sections for plot in section.plots]


class _Source(NamedTuple):
    folder: Path
    note: StudyNote | None


def gather(
    paths: Iterable[str | os.PathLike[str]],
    metric: str | None = None,
    cost: str | None = None,
    price: float | None = None,
    teachers: TeachersCharged = 'sunk',
    baseline: str | None = None,
    reference: str | None = None,
    steady: bool | None = None,
    higher_is_better: bool | None = None,
) -> Report:
    """Read runs and work out everything that a report of them says.

    Args:
        paths: Folders of studies, study files, run folders, or folders that hold run folders at any depth.
        metric: The quality, ``evaluator/metric``; ``None``: the study's, or the only one that the runs have.
        cost: A name in ``report.costs.COSTS``; ``None``: the study's, or ``train_seconds``; money if there is a price.
        price: Of a GPU-hour (on a CPU: of a machine-hour), for money; above 0.
        teachers: ``sunk``: teachers were there; ``charged``: a run's cost holds their training.
        baseline: The method to compare with; ``None``: the study's, or the first without distillation.
        reference: The method whose overhead the others' is compared with; ``None``: the study's.
        steady: Whether training time is taken at each method's median time of a batch; ``None``: as the study says.
        higher_is_better: ``None``: as the study says, or told from the name of the metric.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If there is nothing to report, or a name is unknown.
    """
    sources = [_source(Path(path)) for path in paths]
    if not sources:
        raise ValueError('Nothing to report: expected folders of studies or runs, got none.')
    note = next((source.note for source in sources if source.note is not None), None)
    rows = read_rows([
        source.folder / source.note.runs if source.note is not None else source.folder for source in sources
    ])
    asked = ask(
        rows, note, metric=metric, cost=cost, price=price, teachers=teachers, baseline=baseline, reference=reference,
        steady=steady, higher_is_better=higher_is_better,
    )
    priced = price_rows(rows, asked)
    found = find(priced, asked)
    made_on = machines(rows)
    return Report(
        title=(note.title or note.name) if note is not None else ', '.join(one.folder.name for one in sources[:3]),
        description=note.description if note is not None else '',
        headline=found.headline,
        facts=facts(rows, found.left_out, asked, made_on),
        warnings=warnings(rows, asked, made_on),
        sections=found.sections,
        notes=found.notes,
        left_out=found.left_out,
        rows=priced.rows,
        asked=asked,
        folder=sources[0].folder / 'report' if sources[0].note is not None else Path('report'),
    )


def _source(path: Path) -> _Source:
    """A study's folder with its note, or a folder of runs without one."""
    if path.is_file() and path.suffix in ('.yaml', '.yml'):
        path = _folder_of(path)
    if path.name == NOTE_NAME:
        path = path.parent
    note = read_note(path)
    if note is not None and not (path / note.runs).exists():
        raise ValueError(f"Study '{note.name}' in '{path}' has no run yet: run it first, with composer-kd study run.")
    return _Source(path, note)


def _folder_of(study: Path) -> Path:
    """Where the runs of a study file are: as it says itself, for a file that is no layer over another one."""
    try:
        said = yaml.safe_load(study.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"Cannot read study file '{study}': {' '.join(str(error).split())}") from None
    said = said if isinstance(said, dict) else {}
    folder = said.get('folder') or (f"runs/{said['name']}" if 'name' in said else None)
    if folder is None or not Path(str(folder)).exists():
        raise FileNotFoundError(
            f"Study file '{study}' has no runs: expected them in '{folder or 'the folder it names'}', from the current "
            f'folder. Run the study first, or give the folder of its runs.',
        )
    return Path(str(folder))
