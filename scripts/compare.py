"""What does an earlier run save the next one? The same model with and without it, at several durations.

    python scripts/compare.py --earlier 2000ba --durations 250ba,500ba,1000ba --seeds 3 \
        --metric prose/LanguageCrossEntropy --folder runs/prose-curves \
        baseline=yamls/bert/prose.yaml 'always on=yamls/bert/prose_kd.yaml'

METHOD=RECIPE... are what is compared; the first is the baseline, and the earlier run is made with its recipe. Every
duration is a training of its own with a full learning-rate schedule. Prints quality, cost and speed-up at equal
quality, and draws the curves. Finished runs are kept and not made again.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
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

EARLIER_SEED = 1000


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        methods: Name to recipe file; the first is the baseline.
        folder: Where runs and plot go.
        earlier: Duration of the earlier run.
        durations: Of the others, shortest first.
        seeds: Runs of each kind.
        metric: The quality, ``evaluator/metric``.
        label: The quality in words, for the plot.
        title: What the runs are, for the plot.
        workers: Runs side by side, one core each.
        same: ``key=value`` for all runs, the earlier one too.
    """

    methods: Mapping[str, Path]
    folder: Path
    earlier: str
    durations: Sequence[str]
    seeds: int
    metric: str
    label: str
    title: str
    workers: int
    same: Sequence[str] = ()

    @property
    def baseline(self) -> str:
        """The first method."""
        return next(iter(self.methods))


def make_run(recipe: Path, overrides: Sequence[str]) -> str:
    """Make one run, or keep it if it is there and finished; runs in a worker process."""
    from composer_kd.recipes import load_recipe, train
    from composer_kd.recipes.folder import recipe_digest
    from composer_kd.runs import RunFolder

    asked = load_recipe(recipe, ['eval_interval=1dur', 'save_interval=1dur', *overrides])
    folder = RunFolder(asked.run_folder)
    try:
        done = folder.read_record()
        if done.status == 'finished' and done.recipe_digest == recipe_digest(asked.plain()):
            return asked.run_name
    except (FileNotFoundError, ValueError):
        pass  # not made yet, or not whole
    train(asked)
    return asked.run_name


def start_worker(recipe: Path, same: Sequence[str]) -> None:
    """One thread, and a first run that nobody counts: it pays for what only the first run in a process pays."""
    os.environ['OMP_NUM_THREADS'] = '1'
    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_run(recipe, ['run_name=warm-up', f'run_folder={folder}/run', 'max_duration=20ba', *same])


def wait(progress: Progress, futures: Sequence[Future[str]], what: str) -> None:
    """Show how far the runs are, and stop at the first that fails."""
    task = progress.add_task(what, total=len(futures))
    for future in as_completed(futures):
        future.result()
        progress.advance(task)


def make_runs(this: Comparison, console: Console) -> None:
    """Make the earlier run, then all others, the methods of one seed and duration next to each other in time."""
    teacher = this.folder / 'earlier-run'
    columns = (TextColumn('{task.description:>12}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn('left'), TimeRemainingColumn())
    base = this.methods[this.baseline]
    pool = ProcessPoolExecutor(this.workers, get_context('spawn'), start_worker, (base, this.same))
    try:
        with pool, Progress(*columns, console=console) as progress:
            first = pool.submit(make_run, base, [
                'run_name=earlier-run', f'run_folder={teacher}', f'max_duration={this.earlier}',
                f'seed={EARLIER_SEED}', 'tags.method=earlier run', *this.same,
            ])
            wait(progress, [first], 'earlier run')
            wait(progress, [
                pool.submit(make_run, recipe, [
                    f'run_name={recipe.stem}-{duration}-seed{seed}',
                    f'run_folder={this.folder}/runs/{recipe.stem}-{duration}-seed{seed}',
                    f'max_duration={duration}', f'seed={seed}', f'tags.method={method}', *this.same,
                    *([] if method == this.baseline else [f'algorithms.distillation.teachers=[{{run: {teacher}}}]']),
                ])
                for seed in range(this.seeds) for duration in this.durations for method, recipe in this.methods.items()
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


def compare(this: Comparison) -> None:
    """Make the runs and tell what they show."""
    started, console = time.perf_counter(), Console(width=max(Console().width, 110))
    count = len(this.methods) * len(this.durations) * this.seeds
    console.print(
        f'One earlier run of {this.earlier}, then {count} runs: {len(this.methods)} methods x {len(this.durations)} '
        f'durations x {this.seeds} seeds, {this.workers} side by side.\n',
    )
    make_runs(this, console)
    runs = this.folder / 'runs'
    rows = read_rows([runs])
    found = curves(at_median_price(rows), this.metric)
    base = found.curves[this.baseline]
    results = [speedup(base, curve) for name, curve in found.curves.items() if name != this.baseline]
    plot = plot_quality_over_cost(
        found.curves, this.folder / 'quality_over_cost.png', metric=this.label, title=this.title,
        baseline=this.baseline,
    )
    console.print()
    console.print(headline(results), style='bold', highlight=False)
    console.print()
    tables = (quality_table(found.curves, this.metric, 3), cost_table(rows, this.baseline), speedup_table(results, 3))
    for table in tables:
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


def told(run: Callable[[], None]) -> None:
    """Call, and end with one line where the user can do something about what went wrong."""
    try:
        run()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')


def _methods(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Path]:
    methods = {}
    for value in values:
        name, separator, recipe = value.partition('=')
        if not separator or not Path(recipe).is_file():
            raise click.BadParameter(f"expected METHOD=RECIPE.yaml with a recipe that is there, got '{value}'.")
        methods[name] = Path(recipe)
    if len(methods) < 2:
        raise click.BadParameter(f'expected at least two methods with names of their own, got {len(methods)}.')
    return methods


SEEDS = click.option('--seeds', default=5, show_default=True, type=click.IntRange(1), help='Runs of each kind.')
WORKERS = click.option('--workers', default=min(os.cpu_count() or 1, 4), show_default=True, type=click.IntRange(1),
                       help='Runs side by side, one core each.')


@click.command(help=(__doc__ or '').split('\n\n')[0])
@click.argument('methods', nargs=-1, required=True, callback=_methods, metavar='METHOD=RECIPE.yaml...')
@click.option('--metric', required=True, help='EVALUATOR/METRIC, as in test/MulticlassAccuracy.')
@click.option('--durations', required=True, help='Shortest first, with commas: 250ba,500ba,1000ba.')
@click.option('--earlier', required=True, help='Duration of the earlier run.')
@click.option('--folder', required=True, type=click.Path(path_type=Path), help='Where runs and plot go.')
@click.option('--label', default=None, help="The quality in words, for the plot; by default the metric's name.")
@click.option('--title', default='The same model with and without an earlier run as its teacher', help="The plot's.")
@click.option('--set', 'same', multiple=True, metavar='KEY=VALUE', help='For all recipes; may be repeated.')
@SEEDS
@WORKERS
def main(
    methods: dict[str, Path], metric: str, durations: str, earlier: str, folder: Path, label: str | None, title: str,
    same: tuple[str, ...], seeds: int, workers: int,
) -> None:
    """Read the command line."""
    told(lambda: compare(Comparison(
        methods, folder, earlier, durations.split(','), seeds, metric, label or metric, title, workers, same,
    )))


if __name__ == '__main__':
    main()
