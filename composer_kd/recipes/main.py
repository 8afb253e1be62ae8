"""What ``scripts/train.py`` does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from composer.utils import dist

from composer_kd.recipes.build import train
from composer_kd.recipes.errors import told_to_user
from composer_kd.recipes.load import load_recipe
from composer_kd.runs import Record, RunFolder

USAGE = (
    'usage: composer -n RANKS scripts/train.py RECIPE.yaml [key=value ...]\n'
    'Trains as the recipe says; key=value replaces what it says (optimizer.lr=0.1), key=null takes it away.\n'
    "'composer-kd validate RECIPE.yaml [key=value ...]' checks a recipe without training."
)


def told(folder: RunFolder, record: Record) -> str:
    """Three or four lines on what a run reached and cost."""
    lines = [f'run folder  {folder.path} ({record.status}, epoch {record.epochs}, batch {record.batches})']
    latest = {label: metrics for evaluation in record.evaluations for label, metrics in evaluation.metrics.items()}
    if latest:
        lines.append('quality     ' + '; '.join(
            f"{label}: {', '.join(f'{name} {value:.4f}' for name, value in metrics.items())}"
            for label, metrics in latest.items()
        ))
    speed = record.samples / record.train_seconds if record.train_seconds else 0.0
    lines.append(f'training    {record.train_seconds:.1f} s without evaluation, {speed:,.0f} samples/s')
    if record.kd is not None:
        overhead = 'not measured' if record.kd.overhead is None else f'{100 * record.kd.overhead:.1f} %'
        lines.append(
            f'KD          {record.kd.kd_seconds:.1f} s on {record.kd.active_batches} batches, overhead {overhead}',
        )
    return '\n'.join(lines)


def train_main(arguments: Sequence[str]) -> int:
    """Train from the command line: ``RECIPE.yaml [key=value ...]``.

    An error in what the user gave is told in one paragraph, without a traceback; ``COMPOSER_KD_TRACEBACK=1`` in the
    environment shows it.

    Returns:
        The exit status: 0, or 1 after an error in what the user gave, or 2 without a recipe.
    """
    if not arguments or arguments[0] in ('-h', '--help'):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        folder = train(load_recipe(arguments[0], arguments[1:]))
    except Exception as error:
        message = told_to_user(error)
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        return 1
    if dist.get_global_rank() == 0:
        print(told(folder, folder.read_record()))
    return 0
