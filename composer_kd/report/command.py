"""The command ``composer-kd report``: what runs saved, on the terminal, as CSV, as plots and as a page."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from composer_kd.report.study_report import Report

# Of the output where it is no terminal: a log or a pipe has no width of its own.
_WIDTH = 110


@click.command()
@click.argument('paths', nargs=-1, required=True, metavar='RUNS_OR_STUDY...')
@click.option('--metric', default=None, metavar='EVALUATOR/METRIC',
              help="The quality; by default the study's, or the only one that the runs have.")
@click.option('--cost', default=None, metavar='NAME',
              help='train_seconds, wall_seconds, gpu_hours, money, flops, samples or batches; by default the '
                   "study's, or train_seconds.")
@click.option('--price', default=None, type=float, metavar='MONEY',
              help='Of a GPU-hour (on a CPU: a machine-hour); the cost is money then.')
@click.option('--teachers', default='sunk', show_default=True, type=click.Choice(['sunk', 'charged']),
              help="Whether a run's cost holds the training of its teachers.")
@click.option('--baseline', default=None, metavar='METHOD', help='The method that the others are compared with.')
@click.option('--reference', default=None, metavar='METHOD',
              help="The method whose overhead of distillation the others' is compared with.")
@click.option('--steady/--no-steady', default=None,
              help="Training time at each method's median time of a batch, as on a machine that others use too; by "
                   'default as the study says.')
@click.option('--higher-is-better/--lower-is-better', default=None,
              help="By default as the study says, or told from the metric's name.")
@click.option('--out', default=None, type=click.Path(path_type=Path, file_okay=False), metavar='FOLDER',
              help="Where files go; by default 'report' in the study's folder, or here.")
@click.option('--no-page', is_flag=True, help='No HTML page.')
@click.option('--no-files', is_flag=True, help='Nothing but the tables on the terminal.')
def report(paths: tuple[str, ...], out: Path | None, no_page: bool, no_files: bool, **settings: Any) -> None:
    """Say what runs reached, what they cost, and what learning from earlier ones saved.

    RUNS_OR_STUDY are folders of studies, study files, run folders, or folders that hold run folders at any depth.
    Prints the answer and its tables, and writes tables as CSV, plots as PNG, and one page, report.html, that holds
    everything and needs no network.
    """
    from composer_kd.report.study_report import gather

    try:
        found = gather(paths, **settings)
        show(found)
        if not no_files:
            _write(found, out or found.folder, no_page)
    except BrokenPipeError:
        raise  # whoever read the output has closed it; click knows what to do
    except (ValueError, TypeError, OSError) as error:
        if os.environ.get('COMPOSER_KD_TRACEBACK', '') not in ('', '0'):
            raise
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        sys.exit(1)


def show(found: Report) -> None:
    """Print the answer and its tables."""
    from rich.console import Console
    from rich.text import Text

    from composer_kd.report.plots_words import of_many

    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    console.print(Text(found.headline[0]), style='bold')
    for line in found.headline[1:]:
        console.print(Text(line))
    console.print()
    for name, value in found.facts:
        console.print(Text(f'{name}: {value}'))
    for warning in found.warnings:
        console.print(Text(f'Caution: {warning}'), style='yellow')
    for table in found.tables:
        console.print()
        console.print(table)
    console.print()
    for note in found.notes:
        console.print(Text(note))
    if found.left_out:
        console.print(Text(f'\nLeft out, {len(found.left_out)} of {of_many(found.runs, "run")}:'))
        shown = list(found.left_out.items())[:10]
        for folder, reason in shown:
            console.print(Text(f'  {folder}: {reason}'))
        if len(shown) < len(found.left_out):
            console.print(Text(f'  and {len(found.left_out) - len(shown)} more'))


def _write(found: Report, out: Path, no_page: bool) -> None:
    from composer_kd.report.csv_files import write_csv
    from composer_kd.report.plots_png import save_png

    tables = write_csv(found.tables, found.rows, out)
    plots = [save_png(plot, out / f'{plot.key}.png', found.title) for plot in found.plots]
    click.echo(f"\nTables: {out}{os.sep}{{{','.join(path.stem for path in tables)}}}.csv")
    if plots:
        click.echo(f"Plots: {out}{os.sep}{{{','.join(path.stem for path in plots)}}}.png")
    if not no_page:
        from composer_kd.report.page import write_page

        click.echo(f"Page: {write_page(found, out / 'report.html')}")
