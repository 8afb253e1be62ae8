"""What ``scripts/train.py`` does."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from composer.utils import dist

from composer_kd.recipes.build import train
from composer_kd.recipes.errors import is_lost_rank, told_to_user, wants_traceback
from composer_kd.recipes.load import load_recipe
from composer_kd.runs import Record, RunFolder

USAGE = (
    'usage: composer -n RANKS scripts/train.py RECIPE.yaml [key=value ...]\n'
    'Trains as the recipe says; key=value replaces what it says (optimizer.lr=0.1), key=null takes it away.\n'
    "'composer-kd validate RECIPE.yaml [key=value ...]' checks a recipe without training."
)


_LOST = (
    'another rank of this training has ended or does not answer ({}). If no other rank says why, it was killed, '
    'as by a machine that ran out of memory. The same command goes on from the latest checkpoint.'
)
_FIRST_WORD, _LAST_WORD = 10.0, 20.0


def give_way(error: BaseException) -> None:
    """Wait to be ended by the launcher, where another rank tells what went wrong.

    The launcher ends all ranks when one has ended with an error, and shows what those wrote that ended by themselves:
    one error on eight ranks would be told eight times. Rank zero speaks first, a rank that only lost another one last.
    """
    if dist.get_world_size() == 1 or wants_traceback():
        return
    seconds = _LAST_WORD if is_lost_rank(error) else _FIRST_WORD if dist.get_global_rank() else 0.0
    if seconds:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(seconds)


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

    Example:
        >>> train_main(['--help']) == 0
        usage: composer -n RANKS scripts/train.py RECIPE.yaml [key=value ...]
        Trains as the recipe says; key=value replaces what it says (optimizer.lr=0.1), key=null takes it away.
        'composer-kd validate RECIPE.yaml [key=value ...]' checks a recipe without training.
        True
    """
    if not arguments or arguments[0] in ('-h', '--help'):
        print(USAGE, file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    try:
        folder = train(load_recipe(arguments[0], arguments[1:]))
    except SystemExit as ended:
        # Composer turns the signal into an exit status, and the launcher takes that for a crash of this rank's own.
        if ended.code == 128 + signal.SIGTERM and dist.get_world_size() > 1:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise
    except Exception as error:
        give_way(error)
        message = told_to_user(error)
        if message is None and is_lost_rank(error) and not wants_traceback():
            message = _LOST.format(' '.join(str(error).split()))
        if message is None:
            raise
        print(f'error: {message}', file=sys.stderr)
        return 1
    if dist.get_global_rank() == 0:
        print(told(folder, folder.read_record()))
    return 0
