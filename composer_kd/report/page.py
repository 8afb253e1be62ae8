"""A report as one HTML file: plots to look into, tables, and the answer first; it needs no network."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer_kd import __version__
from composer_kd.report.plain import PlainTable, text_of
from composer_kd.report.plots import Plot
from composer_kd.report.plots_page import figure, panels

if TYPE_CHECKING:
    from markupsafe import Markup

    from composer_kd.report.study_report import Report

_TEMPLATES = Path(__file__).parent / 'templates'
_VERDICTS = {
    'cannot be told apart from noise': 'noise', 'no common quality': 'noise', 'gained': 'gained', 'lost': 'lost',
}
# A verdict stands alone in a cell, and in a sentence behind a colon or in brackets; not in "3 gained, 1 lost".
_VERDICT = re.compile(
    rf"(?:(?<=: )|(?<=\()|^)({'|'.join(map(re.escape, _VERDICTS))})(?= ?[.;,()\n]|$)", re.MULTILINE,
)


@dataclass(frozen=True)
class _Place:
    """Where a plot goes in the page."""

    id: str
    label: str
    heading: str = ''
    height: int | None = None


@dataclass
class _Figure:
    title: str
    marks: str
    reading: str
    plots: list[_Place] = field(default_factory=list)


def write_page(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file.

    Args:
        report: What :func:`~composer_kd.report.study_report.gather` found.
        path: The file; its folder is made if it is missing.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(report), encoding='utf-8')
    return path


def page(report: Report) -> str:
    """A report as the text of an HTML page that loads nothing from elsewhere."""
    # Both are slow to import beside the rest of a report, and not needed without a page.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['verdicts'] = _verdicts
    drawn: list[dict[str, Any]] = []
    numbers = count(1)
    sections = [
        {
            'title': section.title,
            'figures': [_figure(plot, drawn) for plot in section.plots],
            'tables': [_table(table, next(numbers)) for table in section.tables],
        }
        for section in report.sections
    ]
    return environment.get_template('report.html').render(
        report=report, sections=sections, looks=report.looks, plots=_script_json(drawn), plotly=get_plotlyjs(),
        style=(_TEMPLATES / 'report.css').read_text(encoding='utf-8'),
        script=(_TEMPLATES / 'report.js').read_text(encoding='utf-8'), version=__version__,
    )


def _figure(plot: Plot, drawn: list[dict[str, Any]]) -> _Figure:
    found = _Figure(plot.title, plot.marks, plot.reading)
    parts = panels(plot)
    for index, (heading, part) in enumerate(parts):
        identity = plot.key if len(parts) == 1 else f'{plot.key}-{index}'
        drawn.append({'id': identity, **figure(part, small=bool(heading))})
        # Enough for a bar even where a narrow screen stacks the legend.
        height = 240 + 46 * len(plot.y.names) if plot.y.names else None
        found.plots.append(_Place(identity, f'{plot.title}. {heading or plot.marks}', heading, height))
    return found


def _table(table: PlainTable, number: int) -> dict[str, Any]:
    return {
        'title': table.title,
        'columns': [{'name': name, 'number': table.numeric(index)} for index, name in enumerate(table.columns)],
        'rows': [[text_of(cell) for cell in row] for row in table.rows],
        'id': f'table-{number}',
        'notes': table.notes,
    }


def _script_json(data: Any) -> str:
    """JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(data, allow_nan=False, separators=(',', ':'))
    return text.replace('<', '\\u003c').replace('>', '\\u003e').replace('&', '\\u0026')


def _verdicts(text: str) -> Markup:
    """Text with its verdicts marked, so that they can be told at a glance."""
    from markupsafe import Markup, escape

    parts = _VERDICT.split(str(text))
    marked = Markup('')
    for index, part in enumerate(parts):
        marked += Markup('<span class="{}">{}</span>').format(_VERDICTS[part], part) if index % 2 else escape(part)
    return marked
