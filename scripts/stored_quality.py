"""What is lost when less than all of a teacher's answer is stored? The loss, its gradient, and the quality in the end.

    python scripts/make_sample_data.py data/sample
    python scripts/stored_quality.py digits [--seeds 5] [--epochs 8] [--longer 5]
    python scripts/stored_quality.py prose [--seeds 3] [--batches 300] [--longer 5]

For each form of answers: a row is compared between a student half way through its training and its teacher, on training
data: the KD loss over that of all logits, and the gradient at the student's logits, how far it is from the one that all
logits give (the length of the difference over the length of that). Then whole trainings, the same but for what they
learn from: the quality after the last batch, mean and standard deviation over seeds of order and weights. All read
the same views; the teacher is a run of the same recipe that was five times as long.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import contextlib
import io
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from composer_kd.answers import Format, Sparse, on_the_same
from composer_kd.batches import find_logits
from composer_kd.caching import prepare, write_store
from composer_kd.functional import kl_divergence
from composer_kd.recipes import load_recipe, train
from composer_kd.teachers import model_of_run

YAMLS = Path(__file__).parent.parent / 'yamls'
FORMS: dict[str, list[Any]] = {
    'digits': [
        {'name': 'dense', 'dtype': 'float32'}, {'name': 'dense', 'dtype': 'float16'},
        *({'name': 'top_k', 'k': k} for k in (1, 2, 4, 8)), *({'name': 'sampled', 'k': k} for k in (4, 16)),
    ],
    'prose': [
        {'name': 'dense', 'dtype': 'float16'}, *({'name': 'top_k', 'k': k} for k in (1, 8, 32)),
        {'name': 'sampled', 'k': 50},
    ],
}


def quiet(recipe: str, overrides: list[str]) -> float:
    """Train, without a word; the accuracy of the last evaluation, or its first metric."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        folder = train(load_recipe(YAMLS / recipe, overrides))
    metrics = next(iter(folder.read_record().evaluations[-1].metrics.values()))
    return metrics.get('MulticlassAccuracy', next(iter(metrics.values())))


def compared(form: Format, student: Tensor, teacher: Tensor, temperature: float) -> tuple[float, float]:
    """The loss over that of all logits, and the relative error of the gradient."""
    found = []
    uniform = torch.rand(len(teacher), form.k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for answer in (teacher, form.unpack(form.pack(teacher, uniform))):
        own = student.clone().requires_grad_()
        seen, (target,) = on_the_same(own, [answer])
        loss = kl_divergence(seen, target, temperature=temperature)
        found.append((float(loss), torch.autograd.grad(loss, own)[0], isinstance(answer, Sparse)))
    (whole, exact, _), (part, other, _) = found
    return part / whole, float((other - exact).norm() / exact.norm())


def logits_of(run: str, asked: Any) -> Tensor:
    """The logits of a run's model for some of the data, all rows that count."""
    model, rows = model_of_run(run), []
    keys = [(asked.views[0], int(index)) for index in list(asked.loader.chosen)[:256]]
    batch, _ = asked.loader.samples(keys)
    for part in asked.data.split_batch(batch, 32):
        with torch.no_grad():
            rows.append(find_logits(model(asked.data.microbatch_transforms(part)), None, 'model'))
    return torch.cat(rows)


def measure(
    kind: str, base: str, kd: str, common: list[str], half: list[str], longer: list[str], seeds: int,
) -> Table:
    """All forms of answers on one task."""
    quality: dict[str, list[float]] = {}
    runs = [f'run_folder={name}' for name in ('runs/teacher', 'runs/half')]
    quiet(base, [*common, *longer, runs[0], 'seed=101'])
    quiet(base, [*common, *half, runs[1], 'seed=102'])
    live = '{run: runs/teacher}'
    teachers = 'algorithms.distillation.teachers='
    asked = prepare(load_recipe(YAMLS / kd, [*common, f'{teachers}[{live}]']))
    student, teacher = logits_of('runs/half', asked), logits_of('runs/teacher', asked)
    temperature = asked.settings.fixed_temperature or 1.0 if asked.settings is not None else 1.0
    what = 'accuracy' if kind == 'digits' else 'cross-entropy'
    table = Table(title=f'{kind}: what a form of answers loses, quality in {what}, {seeds} seeds')
    for column in ('answers', 'bytes a row', 'loss', 'gradient error', 'quality', 'deviation'):
        table.add_column(column, justify='right')
    trainings: list[tuple[str, str, list[str], Any]] = [
        ('none', base, [], None), ('live', kd, [f'{teachers}[{live}]'], None),
    ]
    for spec in FORMS[kind]:
        form = Format.read(spec, asked.form.classes, temperature)
        name = form.describe().split(', temperature')[0]
        asked.form = form
        store = f"stores/{name.replace(', ', '-').replace(' ', '')}"
        with contextlib.redirect_stderr(io.StringIO()):
            write_store(asked, store)
        trainings.append((name, kd, [f'{teachers}[{{cache: {store}}}]'], form))
    for name, recipe, said, form in trainings:
        for seed in range(seeds):
            quality.setdefault(name, []).append(
                quiet(recipe, [*common, *said, f'seed={seed}', 'run_folder=runs/one', 'overwrite=true']),
            )
        loss, error = ('', '') if form is None else (
            f'{value:.4f}' for value in compared(form, student, teacher, temperature)
        )
        found = quality[name]
        table.add_row(
            name, '' if form is None else str(form.row_bytes), loss, error, f'{statistics.mean(found):.4f}',
            f'{statistics.stdev(found):.4f}' if seeds > 1 else '',
        )
    return table


@click.command()
@click.argument('kind', type=click.Choice(list(FORMS)))
@click.option('--seeds', default=None, type=int, help='Default: 5 of digits, 3 of prose.')
@click.option('--epochs', default=8, show_default=True, help='Of digits.')
@click.option('--batches', default=300, show_default=True, help='Of prose.')
@click.option('--longer', default=5, show_default=True, help='How many times as long the teacher trains.')
@click.option('--data', default='data/sample', show_default=True, help='What make_sample_data.py wrote.')
def main(kind: str, seeds: int | None, epochs: int, batches: int, longer: int, data: str) -> None:
    """Measure what is lost when less than all of a teacher's answer is stored."""
    data = str(Path(data).resolve())
    common = ['train_data.views=4', 'train_data.view_seed=0', 'save_num_checkpoints_to_keep=1', 'progress_bar=false']
    if kind == 'digits':
        recipes = ('digits/baseline.yaml', 'digits/kd.yaml')
        common += [f'max_duration={epochs}ep', f'eval_interval={epochs}ep', f'save_interval={epochs}ep']
        half = [f'max_duration={max(1, epochs // 2)}ep', 'eval_interval=1ep', 'save_interval=1ep']
        taught = [f'max_duration={longer * epochs}ep']
    else:
        recipes = ('bert/prose.yaml', 'bert/prose_kd.yaml')
        common += [
            f'train_data.path={data}/c4', f'train_data.tokenizer={data}/tokenizer', f'max_duration={batches}ba',
            f'eval_interval={batches}ba', f'save_interval={batches}ba', 'callbacks={}',
        ]
        half = [f'max_duration={batches // 2}ba', f'eval_interval={batches // 2}ba', f'save_interval={batches // 2}ba']
        taught = [f'max_duration={longer * batches}ba']
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        table = measure(kind, *recipes, common, half, taught, seeds or (5 if kind == 'digits' else 3))
    Console(width=130).print(table)


if __name__ == '__main__':
    main()
