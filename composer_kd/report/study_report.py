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
from composer_kd.report.rows import Row, read_rows, run_folders
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
        """Number of runs that were found, those that were not read too."""
        return len({row.folder for row in self.rows} | self.left_out.keys())

    @property
    def tables(self) -> list[PlainTable]:
        """Of all sections, in order."""
        return [table for section in self.sections for table in section.tables]

    @property
    def plots(self) -> list[Plot]:
        """Of all sections, in order."""
        return [plot for section in self.sections for plot in section.plots]


class _Source(NamedTuple):
    """A study, or what holds runs without one."""

    folder: Path
    note: StudyNote | None

    @property
    def runs(self) -> Path:
        """Where its runs are."""
        return self.folder if self.note is None else self.folder / self.note.runs


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
        paths: Folders of studies, study files, run folders, or folders that hold some of these at any depth. Several
            studies are reported together if they ask the same question.
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
        ValueError: If there is nothing to report, a name is unknown, or several studies do not ask the same question.
    """
    left_out: dict[Path, str] = {}
    found_in: dict[Path, _Source] = {}
    for path in paths:
        for source in _sources(Path(path), left_out):
            found_in.setdefault(source.folder.resolve(), source)
    sources = list(found_in.values())
    if not sources:
        raise ValueError('Nothing to report: expected folders of studies or runs, got none.')
    note = _common_note(sources, metric, baseline, steady, higher_is_better)
    rows = read_rows([source.runs for source in sources], left_out)
    if not rows:
        folder, why = next(iter(left_out.items()))
        raise ValueError(f"Nothing to report: no run can be read. The first of them, '{folder}': {why}")
    read = {row.folder.resolve() for row in rows}
    left_out = {folder: why for folder, why in left_out.items() if folder.resolve() not in read}
    asked = ask(
        rows, note, metric=metric, cost=cost, price=price, teachers=teachers, baseline=baseline, reference=reference,
        steady=steady, higher_is_better=higher_is_better,
    )
    priced = price_rows(rows, asked)
    found = find(priced, asked)
    made_on = machines(rows)
    studies = {source.folder: source.note for source in sources if source.note is not None}
    titles = [study.title or study.name for study in studies.values()] or [one.folder.name for one in sources[:3]]
    return Report(
        title=', '.join(dict.fromkeys(titles)),
        description=' '.join(dict.fromkeys(study.description for study in studies.values() if study.description)),
        headline=found.headline,
        facts=facts(rows, found.left_out, asked, made_on),
        warnings=warnings(rows, asked, made_on),
        sections=found.sections,
        notes=found.notes,
        left_out=found.left_out | left_out,
        rows=priced.rows,
        asked=asked,
        folder=next(iter(studies)) / 'report' if len(studies) == 1 else Path('report'),
    )


def _sources(path: Path, left_out: dict[Path, str]) -> list[_Source]:
    """The study of a path, or the studies below it, or the path itself; runs beside studies are left out."""
    if path.is_file() and path.suffix in ('.yaml', '.yml'):
        path = _folder_of(path)
    if path.name == NOTE_NAME:
        path = path.parent
    note = read_note(path)
    if note is not None:
        own = _Source(path, note)
        if not _has_runs(own):
            raise ValueError(
                f"Study '{note.name}' in '{path}' has no run yet: run it first, with composer-kd study run.",
            )
        return [own]
    whole = _Source(path, None)
    if (path / 'record.json').exists():
        return [whole]
    below = [_Source(file.parent, read_note(file.parent)) for file in sorted(path.rglob(NOTE_NAME))]
    below = [source for source in below if _has_runs(source)]
    if not below:
        return [whole]
    for run in run_folders(path):
        if not any(run.is_relative_to(source.folder) for source in below):
            left_out[run] = f"it belongs to none of the studies below '{path}': report it by itself"
    return below


def _has_runs(source: _Source) -> bool:
    return next(source.runs.rglob('record.json'), None) is not None


def _common_note(
    sources: list[_Source], metric: str | None, baseline: str | None, steady: bool | None, higher: bool | None,
) -> StudyNote | None:
    """What the studies say of themselves, which stands for all of them; ``None`` without a study.

    Raises:
        ValueError: If they differ in what decides what a report says, and the caller did not say it instead.
    """
    studies = {source.folder: source.note for source in sources if source.note is not None}
    notes = list(studies.values())
    # Of another metric than that asked for, nobody asks which direction is better.
    of_metric = [note for note in notes if metric in (None, note.metric)]
    said: dict[str, tuple[object, list[object]]] = {
        'kind': (None, [note.kind for note in notes]),
        'metric': (metric, [note.metric for note in notes]),
        'higher_is_better': (higher, [note.higher_is_better for note in of_metric]),
        'baseline': (baseline, [note.baseline for note in notes]),
        'methods': (None, [sorted(note.methods) for note in notes]),
        # A search takes no notice of it.
        'steady_price': (steady, [note.steady_price and note.kind != 'search' for note in notes]),
    }
    differ = [name for name, (given, values) in said.items() if given is None and any(v != values[0] for v in values)]
    if differ:
        names = ', '.join(f"'{note.name}' ({folder})" for folder, note in studies.items())
        raise ValueError(
            f"These studies differ in {', '.join(differ)}, so that no sentence can be about all of them: {names}. "
            'Give one at a time.',
        )
    return next(iter([*of_metric, *notes]), None)


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
