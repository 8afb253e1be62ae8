"""GLUE from end to end: the table of scores, from run folders."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rich.table import Table

from composer_kd.report.collect import Row
from composer_kd.report.glue_jobs import TASKS, Job
from composer_kd.runs import RunFolder


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        method: ``'baseline'`` or ``'kd'``.
        task: The task's title.
        metric: The score's name.
        values: Of each run, by seed, times 100.
        published: Published for the baseline, times 100; ``None`` for other methods.
    """

    method: str
    task: str
    metric: str
    values: dict[int, float]
    published: float | None

    @property
    def mean(self) -> float:
        """Over the runs."""
        return mean(self.values.values())

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over the runs; ``None`` for one."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


def read_lines(folder: Path, jobs: Iterable[Job]) -> list[Line]:
    """The scores of those jobs that are finished, in the order of the table; baselines first.

    Raises:
        ValueError: If a run finished without a score that its task has.
    """
    found: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for job in jobs:
        try:
            row = Row.of(folder / job.name, RunFolder(folder / job.name).read_record())
        except (FileNotFoundError, ValueError):
            continue  # not made, or not whole; the table says how many runs it stands on
        if row.finished:
            found.setdefault((job.method, job.task), {})[job.seed] = row.quality
    lines = []
    for method, task in sorted(found, key=lambda key: (key[0] != 'baseline', list(TASKS).index(key[1]))):
        for score in TASKS[task].scores:
            runs = found[method, task]
            for seed, quality in runs.items():
                if score.key not in quality:
                    raise ValueError(
                        f"the run of {task} with seed {seed} ({method}) did not end with an evaluation of '{score.key}'"
                        f"; its last one has {', '.join(quality) or 'nothing'}. Leave the recipe's evaluators and "
                        'metrics as they are.',
                    )
            values = {seed: 100 * quality[score.key] for seed, quality in runs.items()}
            published = score.published if method == 'baseline' else None
            lines.append(Line(method, TASKS[task].title, score.name, values, published))
    return lines


def glue_mean(values: dict[tuple[str, str], float]) -> float | None:
    """The mean over the eight tasks of each task's score, which is the mean of its figures; ``None`` if one misses.

    MNLI's matched and mismatched accuracy are averaged, as are F1 and accuracy of MRPC and QQP.

    Args:
        values: By the task's title and the score's name.

    Example:
        >>> f"{glue_mean({(t.title, s.name): s.published for t in TASKS.values() for s in t.scores}):.2f}"
        '83.73'
    """
    wanted = [[(task.title, score.name) for score in task.scores] for task in TASKS.values()]
    if any(key not in values for keys in wanted for key in keys):
        return None
    return mean(mean(values[key] for key in keys) for keys in wanted)


def _means(lines: Sequence[Line]) -> list[tuple[str, float, float | None]]:
    said = {(task.title, score.name): score.published for task in TASKS.values() for score in task.scores}
    means = []
    for method in dict.fromkeys(line.method for line in lines):
        value = glue_mean({(line.task, line.metric): line.mean for line in lines if line.method == method})
        if value is not None:
            means.append((method, value, glue_mean(said) if method == 'baseline' else None))
    return means


def glue_table(lines: Sequence[Line]) -> Table:
    """The table for the terminal.

    Args:
        lines: Of :func:`read_lines`.
    """
    table = Table(
        title='GLUE dev sets, scores x 100, mean ± sd over seeds',
        caption='GLUE: mean over the eight tasks, of each the mean of its figures (MNLI matched and mismatched, F1 and '
                'accuracy of MRPC and QQP). Published: MosaicML, BERT-base pre-trained with 15 % masking.',
        caption_justify='left',
    )
    several = len({line.method for line in lines}) > 1
    for name in ('method', 'task', 'metric', 'seeds', 'mean ± sd', 'published')[0 if several else 1:]:
        table.add_column(name, justify='left' if name in ('method', 'task', 'metric') else 'right', no_wrap=True)
    rows = [
        (line.method, line.task, line.metric, str(len(line.values)),
         f'{line.mean:.2f}' if line.sd is None else f'{line.mean:.2f} ± {line.sd:.2f}', line.published)
        for line in lines
    ]
    rows += [(method, 'GLUE', 'mean', '', f'{value:.2f}', published) for method, value, published in _means(lines)]
    for *cells, published in rows:
        shown = '-' if published is None else f'{published:.2f}'
        table.add_row(*cells[0 if several else 1:], shown, end_section=cells[1] == 'STS-B')
    return table


def glue_csv(lines: Sequence[Line]) -> str:
    """The table as CSV, with every run's score.

    Args:
        lines: Of :func:`read_lines`.

    Example:
        >>> print(glue_csv([Line('baseline', 'RTE', 'accuracy', {19: 76.0, 717: 77.0}, 76.65)]), end='')
        method,task,metric,runs,mean,sd,published,by_seed
        baseline,RTE,accuracy,2,76.5000,0.7071,76.65,19:76.0000 717:77.0000
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['method', 'task', 'metric', 'runs', 'mean', 'sd', 'published', 'by_seed'])
    for line in lines:
        by_seed = ' '.join(f'{seed}:{value:.4f}' for seed, value in line.values.items())
        sd, published = '' if line.sd is None else f'{line.sd:.4f}', '' if line.published is None else line.published
        writer.writerow([
            line.method, line.task, line.metric, len(line.values), f'{line.mean:.4f}', sd, published, by_seed,
        ])
    for method, value, published_mean in _means(lines):
        shown = '' if published_mean is None else f'{published_mean:.2f}'
        writer.writerow([method, 'GLUE', 'mean', '', f'{value:.4f}', '', shown, ''])
    return text.getvalue()
