"""What does an earlier run save the next one? Measured, on real data, in about three minutes.

Trains an earlier run on scikit-learn's handwritten digits, then the same model at several durations with and without
the earlier run as its teacher, several seeds each, a full learning-rate schedule per duration. Prints quality, cost and
speed-up at equal quality, and draws the curves. Finished runs are kept and not made again.

    python scripts/quickstart.py [--seeds 5] [--durations 2ep,4ep,8ep,12ep] [--earlier 24ep]
                                 [--noise 0.4] [--folder runs/quickstart]
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from composer_kd.report import (
    SpeedUp,
    at_median_price,
    cost_table,
    curves,
    plot_quality_over_cost,
    quality_table,
    read_rows,
    speedup,
    speedup_table,
)

RECIPES = Path(__file__).resolve().parent.parent / 'yamls' / 'digits'
METHODS = {
    'baseline': 'baseline.yaml', 'always on': 'kd.yaml', 'first 30 %': 'kd_early.yaml',
    'every 4th batch': 'kd_every_4.yaml',
}
METRIC = 'test/MulticlassAccuracy'


def make_run(recipe: str, overrides: Sequence[str]) -> str:
    """Make one run, or keep it if it is there and finished; runs in a worker process."""
    from composer_kd.recipes import load_recipe, train
    from composer_kd.recipes.folder import recipe_digest
    from composer_kd.runs import RunFolder
    asked = load_recipe(RECIPES / recipe, ['eval_interval=1dur', 'save_interval=1dur', *overrides])
    folder = RunFolder(asked.run_folder)
    try:
        done = folder.read_record()
        if done.status == 'finished' and done.recipe_digest == recipe_digest(asked.plain()):
            return asked.run_name
    except (FileNotFoundError, ValueError):
        pass  # not made yet, or not whole
    train(asked)
    return asked.run_name


def start_worker() -> None:
    """One thread, and a first run that nobody counts: it pays for what only the first run in a process pays."""
    os.environ['OMP_NUM_THREADS'] = '1'
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    import torch
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_run('baseline.yaml', ['run_name=warm-up', f'run_folder={folder}/run', 'max_duration=1ep'])


def wait(progress: Progress, futures: Sequence[Future[str]], what: str) -> None:
    """Show how far the runs are, and stop at the first that fails."""
    task = progress.add_task(what, total=len(futures))
    for future in as_completed(futures):
        future.result()
        progress.advance(task)


def make_runs(
    folder: Path, earlier: str, durations: Sequence[str], seeds: int, workers: int, console: Console,
    same: Sequence[str] = (),
) -> None:
    """Make the earlier run, then all others, the methods of one seed and duration next to each other in time."""
    teacher = folder / 'earlier-run'
    columns = (TextColumn('{task.description:>12}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn('left'), TimeRemainingColumn())
    pool = ProcessPoolExecutor(workers, get_context('spawn'), start_worker)
    try:
        with pool, Progress(*columns, console=console) as progress:
            first = pool.submit(make_run, 'baseline.yaml', [
                'run_name=earlier-run', f'run_folder={teacher}', f'max_duration={earlier}', 'seed=1000',
                'tags={task: digits, method: earlier run}', *same,
            ])
            wait(progress, [first], 'earlier run')
            wait(progress, [
                pool.submit(make_run, recipe, [
                    f'run_name={recipe.removesuffix(".yaml")}-{duration}-seed{seed}',
                    f'run_folder={folder}/runs/{recipe.removesuffix(".yaml")}-{duration}-seed{seed}',
                    f'max_duration={duration}', f'seed={seed}', f'tags.method={method}', *same,
                    *([] if method == 'baseline' else [f'algorithms.distillation.teachers=[{{run: {teacher}}}]']),
                ])
                for seed in range(seeds) for duration in durations for method, recipe in METHODS.items()
            ], 'runs')
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def headline(results: Sequence[SpeedUp]) -> str:
    """The answer in a sentence or two."""
    words = {'gained': 'cheaper', 'lost': 'dearer'}
    parts = []
    for result in results:
        median = result.median
        if median.value is None:
            parts.append(f"'{result.method}' and '{result.baseline}' reach no quality in common")
        else:
            spread = '' if median.low is None else f' [{median.low:.2f}, {median.high:.2f}]'
            verdict = words.get(median.verdict, median.verdict)
            parts.append(f"'{result.method}' is {median.value:.2f}{spread} times as fast to equal quality: {verdict}")
    return 'Learning from the earlier run: ' + '; '.join(parts) + '.'


@click.command(help=__doc__.split('\n\n')[0])
@click.option('--seeds', default=5, show_default=True, type=click.IntRange(1), help='Runs of each kind.')
@click.option('--durations', default='2ep,4ep,8ep,12ep', show_default=True, help='Shortest first.')
@click.option('--earlier', default='24ep', show_default=True, help='Duration of the earlier run.')
@click.option('--noise', default=None, type=click.FloatRange(0),
              help="Pixel noise: how hard the task is; by default the recipe's, 0.4.")
@click.option('--folder', default='runs/quickstart', show_default=True, type=click.Path(path_type=Path))
@click.option('--workers', default=min(os.cpu_count() or 1, 4), show_default=True, type=click.IntRange(1),
              help='Runs side by side, one core each.')
def main(seeds: int, durations: str, earlier: str, noise: float | None, folder: Path, workers: int) -> None:
    """Make the runs and tell what they show."""
    started, console = time.perf_counter(), Console(width=max(Console().width, 110))
    lengths = durations.split(',')
    count = len(METHODS) * len(lengths) * seeds
    console.print(
        f'One earlier run of {earlier}, then {count} runs: {len(METHODS)} methods x {len(lengths)} durations x '
        f'{seeds} seeds, {workers} side by side.\n',
    )
    make_runs(folder, earlier, lengths, seeds, workers, console, [] if noise is None else [f'train_data.noise={noise}'])

    runs = folder / 'runs'
    rows = read_rows([runs])
    found = curves(at_median_price(rows), METRIC)
    results = [speedup(found.curves['baseline'], curve) for name, curve in found.curves.items() if name != 'baseline']
    plot = plot_quality_over_cost(
        found.curves, folder / 'quality_over_cost.png', metric='Test accuracy',
        title='Noisy handwritten digits: the same model with and without an earlier run as its teacher',
    )
    console.print()
    console.print(headline(results), style='bold', highlight=False)
    console.print()
    for table in (quality_table(found.curves, METRIC, 3), cost_table(rows), speedup_table(results, 3)):
        console.print(table)
        console.print()
    console.print(
        'Cost is training time without evaluation, teachers and KD loss included, at the median time of a batch of\n'
        'each method, as other work on the machine makes single runs slow. The earlier run itself is not charged: it\n'
        'was there. Speed-up is read between full-schedule runs, never beyond them; intervals come from resampling\n'
        'seeds.',
        highlight=False,
    )
    console.print(f'Plot: {plot}   Runs: {runs}   Took {time.perf_counter() - started:.0f} s.', highlight=False)
    for path, reason in found.left_out.items():
        console.print(f'Left out: {path}: {reason}', style='yellow')


if __name__ == '__main__':
    try:
        main(standalone_mode=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
