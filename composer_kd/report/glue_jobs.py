"""GLUE from end to end: the runs that its table takes, and their order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from composer_kd.names import nearest

SEEDS = (19, 8364, 717, 10536, 90166)
"""The pool; a task takes as many of them as it says, from the first on."""


@dataclass(frozen=True)
class Score:
    """One figure of a task.

    Attributes:
        name: What it is.
        key: Where a run's record has it, as ``evaluator/metric``.
        published: MosaicML's figure for BERT-base pre-trained with 15 % masking, times 100.
    """

    name: str
    key: str
    published: float


@dataclass(frozen=True)
class GlueTask:
    """One task as the recipes fine-tune it.

    Attributes:
        title: As GLUE writes it.
        seeds: Number of runs.
        cost: Samples trained on, in thousands; longer runs go first.
        scores: What is reported; their mean is the task's score.
        from_mnli: Whether it starts from the MNLI run, not from the pre-training.
    """

    title: str
    seeds: int
    cost: int
    scores: tuple[Score, ...]
    from_mnli: bool = False


def _accuracy(published: float, evaluator: str = 'validation') -> Score:
    name = 'accuracy' if evaluator == 'validation' else f'accuracy, {evaluator}'
    return Score(name, f'{evaluator}/MulticlassAccuracy', published)


def _f1(published: float) -> Score:
    return Score('F1', 'validation/BinaryF1Score', published)


TASKS = {
    'mnli': GlueTask('MNLI', 1, 1178, (_accuracy(84.30, 'matched'), _accuracy(84.71, 'mismatched'))),
    'qqp': GlueTask('QQP', 1, 1819, (_f1(88.31), _accuracy(91.31))),
    'qnli': GlueTask('QNLI', 1, 1047, (_accuracy(90.38),)),
    'sst2': GlueTask('SST-2', 3, 202, (_accuracy(92.91),)),
    'cola': GlueTask('CoLA', 4, 86, (Score('Matthews', 'validation/MulticlassMatthewsCorrCoef', 55.89),)),
    'rte': GlueTask('RTE', 5, 7, (_accuracy(76.65),), from_mnli=True),
    'mrpc': GlueTask('MRPC', 5, 37, (_f1(91.94), _accuracy(88.69)), from_mnli=True),
    'stsb': GlueTask('STS-B', 5, 57, (Score('Spearman', 'validation/SpearmanCorrCoef', 89.38),), from_mnli=True),
}
"""By name, in the order of the table."""


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        name: Its name, and that of its folder.
        task: Name of its task.
        method: ``'baseline'`` or ``'kd'``.
        seed: Its seed.
        recipe: File name of its recipe.
        needs: Names of the runs that have to be finished before it starts.
        overrides: ``key=value`` of where it starts from, who teaches it and where it is written.
        cost: How long it and what waits for it take, in no unit; the dearest go first.
    """

    name: str
    task: str
    method: str
    seed: int
    recipe: str
    needs: tuple[str, ...]
    overrides: tuple[str, ...]
    cost: int


def plan_jobs(
    folder: Path,
    start: Sequence[str],
    tasks: Iterable[str] = TASKS,
    seeds: int | None = None,
    taught: Collection[str] = (),
) -> list[Job]:
    """The runs of a GLUE table, the dearest first, and each after those that it needs.

    Args:
        folder: Where their run folders are.
        start: Overrides that say where the tasks start that do not start from MNLI.
        tasks: Names of tasks.
        seeds: Runs of each task; default: as many as each says.
        taught: Names of the tasks that have a KD recipe; they are run with it as well, taught by their first plain run.

    Raises:
        ValueError: For an unknown task, or more seeds than the pool has.

    Example:
        >>> [job.name for job in plan_jobs(Path('runs/glue'), ['start_from.run=runs/bert'], ['rte', 'mnli'], seeds=1)]
        ['mnli-seed19', 'rte-seed19']
    """
    chosen = list(dict.fromkeys(tasks))
    for task in chosen:
        if task not in TASKS:
            raise ValueError(f"tasks: expected names among {', '.join(TASKS)}, got {task!r}.{nearest(task, TASKS)}")
    if seeds is not None and not 1 <= seeds <= len(SEEDS):
        raise ValueError(f'seeds: expected 1 to {len(SEEDS)} runs of each task, got {seeds}.')
    mnli = f'mnli-seed{SEEDS[0]}'
    waiting = sum(TASKS[task].cost for task in chosen if TASKS[task].from_mnli)
    jobs = []
    for task in chosen:
        said = TASKS[task]
        begin = [f'start_from.run={folder / mnli}'] if said.from_mnli else list(start)
        for method in ('baseline', 'kd') if task in taught else ('baseline',):
            kd = method == 'kd'
            teacher = f'{task}-seed{SEEDS[0]}'
            count = seeds or said.seeds
            # The teacher is a run of the first seed: a student of that seed would see its batches in the same order.
            for seed in (SEEDS[1:count + 1] if kd else SEEDS[:count]) or SEEDS[:1]:
                name = f"{task}{'-kd' if kd else ''}-seed{seed}"
                needs = [*([mnli] if said.from_mnli else []), *([teacher] if kd else [])]
                jobs.append(Job(
                    name, task, method, seed, f"{task}{'_kd' if kd else ''}.yaml", tuple(needs),
                    (
                        f'seed={seed}', f'run_folder={folder / name}', *begin,
                        *([f'algorithms.distillation.teachers[0].run={folder / teacher}'] if kd else []),
                    ),
                    said.cost + (waiting if name == mnli else said.cost if task in taught and name == teacher else 0),
                ))
    return sorted(jobs, key=lambda job: -job.cost)


def next_job(waiting: Sequence[Job], finished: Collection[str]) -> Job | None:
    """The first of the waiting jobs whose needs are met; ``None`` if all have to wait."""
    return next((job for job in waiting if set(job.needs) <= set(finished)), None)


def unmet(jobs: Sequence[Job], finished: Callable[[str], bool]) -> dict[str, str]:
    """Jobs that can never start, and the run that each misses: neither finished nor among the jobs."""
    names = {job.name for job in jobs}
    return {
        job.name: need for job in jobs for need in job.needs if need not in names and not finished(need)
    }
