"""Fine-tune all eight tasks of GLUE over the GPUs at hand, one task a GPU, and print the GLUE table.

Every run is 'composer -n 1 scripts/train.py yamls/glue/TASK.yaml', in a process of its own; the longest start first,
and RTE, MRPC and STS-B after the MNLI run that they start from. Finished runs are kept, so the same command goes on
where it was stopped. KEY=VALUE changes every recipe.

    python scripts/glue.py --from runs/bert-base [--path FOLDER_OF_THE_GLUE_DOWNLOAD] [KEY=VALUE ...]
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from composer_kd.report import Job, glue_csv, glue_table, next_job, plan_jobs, read_lines, unmet
from composer_kd.report.glue_jobs import TASKS
from composer_kd.runs import Record, RunFolder, write_atomically

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / 'yamls' / 'glue'
TAIL = 12


@dataclass
class Running:
    """A run in its own process."""

    job: Job
    device: str
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    bar: TaskID


def record_of(folder: Path) -> Record | None:
    """The record of a run folder, or ``None`` where there is none that can be read."""
    try:
        return RunFolder(folder).read_record()
    except (FileNotFoundError, ValueError):
        return None


def is_finished(folder: Path, digest: str | None = None) -> bool:
    """Whether a run is there and finished, and of that recipe."""
    record = record_of(folder)
    return record is not None and record.status == 'finished' and digest in (None, record.recipe_digest)


def start(job: Job, device: str, folder: Path, overrides: Sequence[str], workers: int, progress: Progress) -> Running:
    """Start a run; what it prints goes to ``FOLDER/logs``."""
    environment = dict(os.environ)
    if device == 'CPU':
        environment['CUDA_VISIBLE_DEVICES'] = ''
        environment.setdefault('OMP_NUM_THREADS', str(max(1, (os.cpu_count() or 1) // workers)))
    else:
        environment['CUDA_VISIBLE_DEVICES'] = device
    path = folder / 'logs' / f'{job.name}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    log = open(path, 'wb')  # noqa: SIM115
    command = [
        sys.executable, '-m', 'composer.cli.launcher', '-n', '1', str(ROOT / 'scripts' / 'train.py'),
        str(RECIPES / job.recipe), *job.overrides, *overrides,
    ]
    # A session of its own: an interrupt comes to the runs through us, once.
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    bar = progress.add_task(f'{job.name} on {device}', total=None, state='starting')
    return Running(job, device, process, log, bar)


def stop(running: Sequence[Running]) -> None:
    """Stop runs; they go on from their last checkpoint when they are started again."""
    for one in running:
        os.killpg(one.process.pid, signal.SIGINT)
    for one in running:
        try:
            one.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(one.process.pid, signal.SIGKILL)
        one.log.close()


def run_all(
    jobs: Sequence[Job], done: set[str], devices: Sequence[str], begin: Callable[[Job, str], Running],
    folder: Path, progress: Progress, whole: TaskID,
) -> dict[str, str]:
    """Run what is not done, each job on the first device that is free; ``done`` grows.

    Returns:
        Why a run failed, by its name: the end of what it printed, or the run that it waited for in vain.
    """
    waiting, failed = [job for job in jobs if job.name not in done], {}
    free, running = list(devices), list[Running]()
    try:
        while waiting or running:
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                one.log.close()
                free.append(one.device)
                progress.remove_task(one.bar)
                if one.process.returncode == 0 and is_finished(folder / one.job.name):
                    done.add(one.job.name)
                    progress.advance(whole)
                else:
                    failed[one.job.name] = tail_of(folder / 'logs' / f'{one.job.name}.txt')
                    progress.console.print(f'{one.job.name} failed:\n{failed[one.job.name]}', style='red', markup=False)
            for vain in [job for job in waiting if set(job.needs) & set(failed)]:
                waiting.remove(vain)
                failed[vain.name] = f'not started: it needs {next(need for need in vain.needs if need in failed)}'
            while free and (job := next_job(waiting, done)) is not None:
                waiting.remove(job)
                running.append(begin(job, free.pop(0)))
            for one in running:
                record = record_of(folder / one.job.name)
                if record is not None:
                    progress.update(one.bar, state=f'epoch {record.epochs + 1}, batch {record.batches:,}')
            time.sleep(0.5)
    except BaseException:
        stop(running)
        raise
    return failed


def tail_of(path: Path) -> str:
    """The last lines of a log."""
    lines = [line for line in path.read_text(errors='replace').splitlines() if line.strip()]
    return '\n'.join([*lines[-TAIL:], f'(all of it: {path})'])


def devices_of(gpus: str | None, workers: int) -> list[str]:
    """The GPUs that runs may use, by what ``CUDA_VISIBLE_DEVICES`` calls them, or ``CPU`` as often as asked for."""
    import torch

    if gpus is not None:
        return [gpu.strip() for gpu in gpus.split(',') if gpu.strip()] or ['CPU'] * workers
    seen = os.environ.get('CUDA_VISIBLE_DEVICES')
    count = torch.cuda.device_count()
    named = [gpu for gpu in seen.split(',') if gpu] if seen else [str(index) for index in range(count)]
    return named[:count] or ['CPU'] * workers


def start_from(source: str) -> list[str]:
    """The overrides that start a recipe from a run folder or a checkpoint.

    Raises:
        FileNotFoundError: If there is neither on this machine.
    """
    if (Path(source) / 'recipe.yaml').is_file():
        return [f'start_from.run={source}']
    if '://' not in source and not Path(source).exists():
        raise FileNotFoundError(
            f"--from: there is no run folder and no checkpoint '{source}'. Give that of a pre-training, such as the "
            'run of yamls/bert/base.yaml.',
        )
    return ['start_from.run=null', f'start_from.checkpoint={source}']


def check_beginning(run: Path, start: Sequence[str]) -> None:
    """Refuse a finished MNLI run that others would start from and that itself started elsewhere than is asked for.

    Raises:
        ValueError: Naming both places.
    """
    asked = start[-1].partition('=')[2]
    said = RunFolder(run).read_recipe().get('start_from') or {}
    found = said.get('run') or said.get('checkpoint')
    if found != asked:
        raise ValueError(
            f"--from: '{run}', from which tasks would start, itself started from {found!r}, and {asked!r} is asked "
            'for. Give that one, or add mnli to --tasks and take another --folder.',
        )


def interrupt(*_: Any) -> None:
    """What a signal does: the runs are stopped on the way out."""
    raise KeyboardInterrupt


@click.command(help=__doc__.split('\n\n')[0], context_settings={'help_option_names': ['-h', '--help']})
@click.option('--from', 'source', default='runs/bert-base', show_default=True,
              help='The pre-training: a run folder, or a checkpoint (a path or URI).')
@click.option('--path', default=None, help="Folder of the GLUE download; by default Hugging Face's hub, or its cache.")
@click.option('--folder', default='runs/glue', show_default=True, type=click.Path(path_type=Path),
              help='Where run folders, logs and glue.csv are written.')
@click.option('--tasks', default=','.join(TASKS), show_default=True, help='Which tasks.')
@click.option('--seeds', default=None, type=int, help='Runs of each task; by default as published, 1 to 5.')
@click.option('--kd', is_flag=True, help='Run tasks that have a *_kd.yaml with it as well, taught by their first run.')
@click.option('--gpus', default=None, help='GPUs by number, as in 0,1,5; by default all. Empty for none.')
@click.option('--workers', default=1, show_default=True, type=click.IntRange(1), help='Runs side by side on a CPU.')
@click.argument('overrides', nargs=-1)
def main(
    source: str, path: str | None, folder: Path, tasks: str, seeds: int | None, kd: bool, gpus: str | None,
    workers: int, overrides: tuple[str, ...],
) -> None:
    """Make the runs and print the table."""
    from composer_kd.recipes import load_recipe, recipe_digest
    from composer_kd.recipes.build import check_data

    console, started = Console(), time.perf_counter()
    devices = devices_of(gpus, workers)
    taught = {file.stem.removesuffix('_kd') for file in RECIPES.glob('*_kd.yaml')} if kd else set[str]()
    jobs = plan_jobs(folder, start_from(source), [task for task in tasks.split(',') if task], seeds, taught)
    lost = unmet(jobs, lambda name: is_finished(folder / name))
    if lost:
        raise ValueError(
            f"--tasks: {', '.join(sorted(lost))} start from {', '.join(sorted(set(lost.values())))}, and there is no "
            f"such finished run in '{folder}'. Add mnli to --tasks.",
        )
    if path is not None and not Path(path).is_dir():
        raise FileNotFoundError(f"--path: there is no folder '{path}'. Give that of the GLUE download.")
    # A CPU trains in single precision, and has no memory to feel for.
    on_cpu = ['precision=null', 'device_train_microbatch_size=null'] if devices[0] == 'CPU' else []
    same = [*on_cpu, *([] if path is None else [f'train_data.path={path}']), 'progress_bar=false', *overrides]
    recipes = {job.name: load_recipe(RECIPES / job.recipe, [*job.overrides, *same]) for job in jobs}
    for name, recipe in recipes.items():
        try:
            check_data(recipe)
        except (ValueError, TypeError) as error:
            raise ValueError(f'{name}: {error}') from error
    done = {name for name, recipe in recipes.items() if is_finished(folder / name, recipe_digest(recipe.plain()))}
    for need in {need for job in jobs for need in job.needs if need not in recipes}:
        check_beginning(folder / need, start_from(source))
        done.add(need)
    kept = len(done & recipes.keys())
    console.print(f"{len(jobs)} runs, {kept} of them finished already, on {', '.join(devices)}.", highlight=False)

    columns = (TextColumn('{task.description}'), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn('{task.fields[state]}'))
    signal.signal(signal.SIGTERM, interrupt)
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task('all runs', total=len(jobs), completed=kept, state='')
        failed = run_all(
            jobs, done, devices, lambda job, device: start(job, device, folder, same, workers, progress), folder,
            progress, whole,
        )
    # Only what was made as asked for: a folder may hold a run of another pre-training under the same name.
    lines = read_lines(folder, [job for job in jobs if job.name in done])
    if lines:
        write_atomically(folder / 'glue.csv', glue_csv(lines))
        console.print(glue_table(lines))
        console.print(f"Table: {folder / 'glue.csv'}   Took {time.perf_counter() - started:.0f} s.", highlight=False)
    for name, why in failed.items():
        console.print(f'Failed: {name}: {why.splitlines()[0]}', style='red', markup=False, highlight=False)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    try:
        main(standalone_mode=True)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f'error: {error}')
