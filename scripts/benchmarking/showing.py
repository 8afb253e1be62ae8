"""Tables on the terminal and in Markdown, and the figure of growth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.table import Table as RichTable

from benchmarking.machine import Machine
from benchmarking.results import Section, Table

_COLOURS = ('#1f77b4', '#7f7f7f', '#2ca02c', '#d62728', '#9467bd', '#8c564b')


def show(section: Section, console: Console) -> None:
    """Print a section's tables."""
    for table in section.tables:
        drawn = RichTable(title=table.title, title_justify='left', caption='\n'.join(table.notes) or None,
                          caption_justify='left')
        for index, column in enumerate(table.columns):
            drawn.add_column(column, justify='right' if index else 'left')
        for row in table.rows:
            drawn.add_row(*row)
        console.print(drawn, markup=False)
        console.print()


def markdown(sections: Sequence[Section], machine: Machine, how: str) -> str:
    """All tables, the machine named above them.

    Args:
        sections: What was found.
        machine: What measured.
        how: The command line, without paths.
    """
    lines = [f'Measured on {machine.describe()}, with `{how}`.', '']
    for section in sections:
        for table in section.tables:
            lines += [f'**{table.title}**', '', *_markdown(table), '']
            lines += [line for note in table.notes for line in (note, '')]
    return '\n'.join(lines).rstrip() + '\n'


def _markdown(table: Table) -> list[str]:
    def row(cells: Sequence[str]) -> str:
        return '| ' + ' | '.join(cell.replace('|', '\\|') for cell in cells) + ' |'

    rule = '|' + '|'.join('---' if index == 0 else '---:' for index in range(len(table.columns))) + '|'
    return [row(table.columns), rule, *map(row, table.rows)]


def draw(section: Section, machine: Machine, path: Path) -> None:
    """The curves of growth, both axes logarithmic, as a PNG file.

    Args:
        section: What ``growth`` found.
        machine: Named below the curves.
        path: The file; its folder is made if it is missing.
    """
    curves = section.figures
    figure = Figure(figsize=(3.2 * len(curves), 3.4), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    lines = dict.fromkeys(line for curve in curves for line in curve['seconds'])
    colours = dict(zip(lines, _COLOURS, strict=False))
    for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
        for line, points in curve['seconds'].items():
            _draw_line(axes, line, points, curve['growth'][line], colours[line])
        axes.set(xscale='log', yscale='log', xlabel=curve['curve'], title=f"growth with {curve['curve']}")
        axes.set_xticks(curve['points'], [_short(point) for point in curve['points']])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6)
    figure.axes[0].set_ylabel('seconds of a step (median, quartiles)')
    figure.supxlabel(machine.describe(), fontsize=5)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _draw_line(axes: Any, line: str, points: dict[int, dict[str, float]], growth: dict[str, Any], colour: str) -> None:
    there = {x: at for x, at in points.items() if at['median'] > 0}
    if not there:
        return
    slope = '' if growth['slope'] is None else f", slope {growth['slope']:.2f}"
    middle = [at['median'] for at in there.values()]
    axes.plot(list(there), middle, 'o-', color=colour, markersize=3, label=f'{line}{slope}')
    low = [max(at['low'], 1e-9) for at in there.values()]
    axes.fill_between(list(there), low, [at['high'] for at in there.values()], color=colour, alpha=0.2)


def _short(number: int) -> str:
    return f'{number // 1000}k' if number >= 1000 and number % 1000 == 0 else str(number)
