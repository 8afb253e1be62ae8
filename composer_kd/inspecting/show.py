"""What was found, as tables."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from composer_kd.caching.command import size
from composer_kd.caching.show import duration
from composer_kd.inspecting.result import Inspected, Layer
from composer_kd.tuning.spread import Spread

_WIDTH = 160
_MOST = 60


def show(found: Inspected, plot: str | None = None) -> None:
    """Print the tables and the verdict; what is no terminal gets lines of 160 characters.

    Args:
        found: What was found.
        plot: Where a diagram was drawn; ``None`` for nowhere.
    """
    if sys.stdout.isatty():
        _show(found, plot, Console(highlight=False))
        return
    plain = Console(file=io.StringIO(), highlight=False, width=_WIDTH)
    with plain.capture() as capture:
        _show(found, plot, plain)
    print('\n'.join(line.rstrip() for line in capture.get().splitlines()))


def _show(found: Inspected, plot: str | None, console: Console) -> None:
    console.print(f'[bold]teacher[/] {escape(found.identity.origin)}')
    console.print(_pairs(_identity(found)))
    console.print(f'\n[bold]layers[/], {len(found.layers)} of {found.layers_of} that can be tapped')
    if found.no_layers:
        console.print(f'  {escape(found.no_layers)}')
    if found.layers:
        console.print(_layers(found.layers))
    if len(found.layers) > _MOST:
        console.print(f'  and {len(found.layers) - _MOST} more: --layers PATTERN, or --json')
    rows = f', {found.rows:,} labels' if found.rows not in (0, found.samples) else ''
    console.print(f'\n[bold]quality[/] on {found.samples:,} samples{rows} of {escape(found.data)} ({found.recipe})')
    console.print(_quality(found))
    if found.beside is None:
        console.print(f'  no student beside it: {escape(found.no_student)}', soft_wrap=True)
    if found.calibration is not None:
        console.print('\n[bold]calibration[/], by the softmax')
        console.print(_pairs(_calibration(found)))
    if plot is not None:
        console.print(f'  drawn in {escape(plot)}', soft_wrap=True)
    console.print(f'\n[bold]price[/] on this {found.device}, {found.precision}')
    console.print(_pairs(_price(found)))
    for note in found.notes:
        console.print(f'  {escape(note)}', soft_wrap=True)
    console.print(f"\n[bold]{'worth trying' if found.verdict.good else 'not as it is'}[/]")
    for sentence in found.verdict.sentences:
        console.print(f'  {escape(sentence)}', soft_wrap=True)


def _pairs(rows: list[tuple[str, str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 1), show_header=False)
    for name, value in rows:
        table.add_row(f' {escape(name)}', escape(value))
    return table


def _identity(found: Inspected) -> list[tuple[str, str]]:
    one = found.identity
    rows = [
        ('architecture', one.kind), ('digest', one.digest[:16]),
        ('parameters', ', '.join([f'{one.parameters:,}', *one.dtypes]) if one.parameters else 'none that can be seen'),
    ]
    return [*rows, ('prepared', '; '.join(one.prepared))] if one.prepared else rows


def _layers(layers: Sequence[Layer]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 1))
    for name in (' name', 'kind', 'output', 'module'):
        table.add_column(name)
    for layer in layers[:_MOST]:
        sizes = [*(['N'] if layer.by_sample else []), *map(str, layer.shape)]
        table.add_row(f' {escape(layer.name)}', layer.kind, f"({', '.join(sizes)})", layer.module)
    return table


def _quality(found: Inspected) -> Table:
    table, beside = Table(box=None, padding=(0, 2, 0, 1)), found.beside
    table.add_column('')
    table.add_column('teacher', justify='right')
    if beside is not None:
        state = '' if beside.status == 'finished' else f', {beside.status}'
        table.add_column(f'student ({escape(beside.run)}{state})', justify='right')

    def row(name: str, own: float | None, other: float | None) -> None:
        if own is not None:
            theirs = [] if beside is None else ['' if other is None else f'{other:.4f}']
            table.add_row(f' {escape(name)}', f'{own:.4f}', *theirs)
    for name, value in found.quality.items():
        row(name, value, None if beside is None else beside.quality.get(name))
    if 'MulticlassAccuracy' not in found.quality:
        row('right', found.accuracy, None if beside is None else beside.accuracy)
    if found.calibration is not None:
        row('negative log-likelihood', found.calibration.nll, None if beside is None else beside.nll)
    if beside is not None and beside.agreement is not None:
        table.add_row(' same first choice', f'{beside.agreement:.4f}', '')
        table.add_row(' right where the other is wrong', f'{beside.only_teacher:.4f}', f'{beside.only_student:.4f}')
        table.add_row(' KL(teacher || student)', f'{beside.kl:.4f}', '')
    return table


def _calibration(found: Inspected) -> list[tuple[str, str]]:
    one = found.calibration
    assert one is not None
    part = '' if one.sought_on == found.rows else f', of {one.sought_on:,} labels drawn at random'
    return [
        ('confidence', f'{one.confidence:.4f}'),
        ('expected calibration error', f'{one.error:.4f} in {len(one.bins.counts)} bins'),
        ('best temperature', f'{one.temperature:.3g}: negative log-likelihood {one.nll_then:.4f}, error '
         f'{one.error_then:.4f}{part}'),
        (f'entropy at temperature {one.kd_temperature:.3g}', f'{one.entropy:.4f}, {100 * one.entropy_share:.1f} % of '
         'the largest'),
    ]


def _price(found: Inspected) -> list[tuple[str, str]]:
    memory, timing = found.memory, found.timing
    rows = [] if memory is None else [
        ('weights', size(memory.weights)),
        (f'peak of a forward of {memory.samples:,}', f'{size(memory.peak)} ({memory.how})'),
    ]
    if timing is None:
        return [*rows, ('time', 'left out')]

    def spread(one: Spread) -> str:
        return f'{duration(one.seconds)} [{_signed(one.low)}, {_signed(one.high)}], of {one.count:,}'
    rows += [
        (f'step of {timing.samples:,} without distillation', spread(timing.step)),
        ('forward of the teacher on it', f'{spread(timing.teacher)}; {duration(timing.per_sample)} a sample'),
    ]
    if timing.rest is not None:
        rows.append(('loss, forward and backward, and all around', spread(timing.rest)))
    return [*rows, ('overhead of a step', f'{100 * timing.overhead:.1f} %')]


def _signed(seconds: float) -> str:
    # a difference of noisy times may lie below zero
    return f"{'-' if seconds < 0 else ''}{duration(abs(seconds))}"
