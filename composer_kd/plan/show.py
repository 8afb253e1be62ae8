"""A plan on a terminal, or plain where there is none."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable
from typing import IO

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from composer_kd.plan.memory import GIB
from composer_kd.plan.result import Plan

_COLOURS = {'error': 'red', 'warning': 'yellow', 'note': 'cyan'}
_PLAIN_WIDTH = 160
_PREFIXES = ('', 'k', 'M', 'G', 'T', 'P', 'E')


def short(number: float | None, unit: str = '') -> str:
    """A number in three digits and a prefix.

    Example:
        >>> short(25_557_032), short(8.18e9, 'FLOP'), short(None)
        ('25.6 M', '8.18 GFLOP', 'unknown')
    """
    if number is None:
        return 'unknown'
    power = 0
    while abs(number) >= 999.5 and power < len(_PREFIXES) - 1:
        number, power = number / 1000, power + 1
    prefix = _PREFIXES[power]
    digits = f'{number:.3g}' if prefix or number != int(number) else f'{int(number)}'
    return f'{digits} {prefix}{unit}'.rstrip()


def _whole(number: int | None) -> str:
    return 'unknown' if number is None else f'{number:,}'


def _percent(share: float | None) -> str:
    return 'unknown' if share is None else f'{100 * share:.1f} %'


def _gib(size: int | None) -> str:
    if size is None:
        return 'unknown'
    power = 0 if size == 0 else min(3, int(math.log2(size) / 10))
    return f"{size / 1024**power:.{2 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def show(plan: Plan, file: IO[str] | None = None) -> None:
    """Print a plan.

    Args:
        plan: The plan.
        file: Where to; ``None`` for standard output. What is no terminal gets lines of 160 characters, uncoloured.
    """
    if (file or sys.stdout).isatty():
        _show(plan, Console(file=file, highlight=False))
        return
    plain = Console(file=io.StringIO(), highlight=False, width=_PLAIN_WIDTH)
    with plain.capture() as capture:
        _show(plan, plain)
    print('\n'.join(line.rstrip() for line in capture.get().splitlines()), file=file)


def _show(plan: Plan, console: Console) -> None:
    nodes = f' on {plan.nodes} nodes' if plan.nodes > 1 else ''
    gpus = f'{plan.ranks} GPU' if plan.ranks == 1 else f'{plan.ranks} GPUs'
    console.print(f'[bold]{escape(plan.run_name)}[/] on {gpus}{nodes}, {plan.precision}')
    _table(console, 'recipe', plan.recipe.items())
    _table(console, 'training', _training(plan))
    _models(console, plan)
    _table(console, 'FLOPs', _flops(plan))
    _table(console, 'memory of a rank (estimate)', _memory(plan))
    console.print('\n[bold]problems[/]')
    for problem in plan.problems:
        colour = _COLOURS[problem.level]
        console.print(f'  [{colour}]{problem.level}[/] {escape(problem.where)}: {escape(problem.told)}', soft_wrap=True)
    if not plan.problems:
        console.print('  none')


def _table(console: Console, title: str, rows: Iterable[tuple[str, str]]) -> None:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 1))
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for name, value in rows:
        table.add_row(f' {escape(name)}', escape(value))
    console.print(f'\n[bold]{title}[/]')
    console.print(table)


def _training(plan: Plan) -> list[tuple[str, str]]:
    length, checkpoints = plan.length, plan.checkpoints
    tokens = f', {short(length.tokens)} tokens' if length.tokens else ''
    epochs = '' if length.epochs is None else f', {length.epochs:.4g} epochs'
    note = f' ({plan.data.note})' if plan.data.note else ''
    rows = [
        ('batch', f'{length.batch_size:,} samples, {length.batch_per_rank:,} a rank'),
        ('epoch', f'{_whole(plan.data.samples)} samples{note}, {_whole(length.batches_per_epoch)} steps'),
        ('in all', f'{length.max_duration}: {_whole(length.steps)} steps{epochs}, '
                   f'{_whole(length.samples)} samples{tokens}'),
    ]
    for label, spec in plan.evaluators.items():
        rows.append((f'evaluation of {label}', f'{_whole(spec.rounds)} times {_whole(spec.samples)} samples'))
    rows.append((
        'checkpoints', f'{_whole(checkpoints.saved)} saved, {_whole(checkpoints.kept)} kept, '
                       f'{_bytes(checkpoints.bytes_each)} each: {_bytes(checkpoints.bytes_kept)} in {plan.run_folder}',
    ))
    rows.append(('data on disk', _bytes(plan.data_bytes)))
    return rows


def _bytes(size: int | None) -> str:
    return 'unknown' if size is None else short(size, 'B')


def _models(console: Console, plan: Plan) -> None:
    table = Table(box=None, padding=(0, 1, 0, 1))
    for name in (' model', 'parameters', 'outputs', 'forward of a sample', ''):
        table.add_column(name, justify='left' if name in (' model', '') else 'right', overflow='fold')
    for model in (plan.student, *plan.teachers):
        same = model.model == plan.student.model
        known = ('' if model is plan.student else "the student's architecture") if same else model.model
        stored = None if model.stored_bytes is None else f'{_bytes(model.stored_bytes)} on disk'
        told = '; '.join(filter(None, (model.origin, known, stored, model.note)))
        table.add_row(
            f' {escape(model.name)}', _whole(model.parameters), _whole(model.outputs),
            short(model.forward_flops_per_sample, 'FLOP'), escape(told),
        )
    console.print()
    console.print(table)


def _flops(plan: Plan) -> list[tuple[str, str]]:
    flops, distilling = plan.flops, plan.distilling
    rows = [('step' if distilling is None else 'step without KD', short(flops.step, 'FLOP'))]
    if distilling is not None:
        share = distilling.active_steps / plan.length.steps if plan.length.steps else 0.0
        first, last = distilling.first_step, distilling.last_step
        span = '' if first is None else f', from step {first:,} to {last:,}'
        asked = ', '.join(f'{name} {batches:,}' for name, batches in distilling.batches.items())
        rows += [
            ('step with KD', short(flops.step_with_kd, 'FLOP')),
            ('KD is on', f'{distilling.active_steps:,} steps, {_percent(share)}{span}'),
            ('teachers asked', asked),
            ('KD overhead', f'{_percent(distilling.overhead_on)} while on, '
                            f'{_percent(distilling.overhead)} of the training'),
            ('training without KD', short(flops.without_kd, 'FLOP')),
        ]
    rows.append(('training', short(flops.training, 'FLOP')))
    if flops.sam:
        rows.append(('of it for SAM', short(flops.sam, 'FLOP')))
    rows.append(('evaluation, beside that', short(flops.evaluation, 'FLOP')))
    rows += [('' if index else 'not counted', text) for index, text in enumerate(flops.left_out)]
    return rows


def _memory(plan: Plan) -> list[tuple[str, str]]:
    memory = plan.memory
    names = ('parameters', 'gradients', 'optimizer', 'averages', 'teachers', 'casts', 'reserve')
    rows = [(name, _gib(getattr(memory, name))) for name in names if getattr(memory, name)]
    rows.append(('activations', f'{_gib(memory.activations_per_sample)} a sample'))
    if memory.kd_per_sample:
        rows.append(('logits for KD', f'{_gib(memory.kd_per_sample)} a sample'))
    rows.append((
        'in all', f'{_gib(memory.total)} of {memory.limit / GIB:g} GiB at a microbatch of {_whole(memory.microbatch)}'
                  f"{' of ' + format(plan.length.batch_per_rank, ',') if memory.microbatch else ''}",
    ))
    return rows
