"""Holds what ``composer-kd tune`` predicts against real trainings: ``python scripts/check_tune.py RECIPE.yaml``.

The recipe is shortened to so many batches and tuned. Then some of the ways to distil are trained as they would be
pasted, and the recipe without distillation, in turn, round after round. Of each batch the median over the rounds is
taken, so that what interrupts one round does not count, and the first batch, which warms up, is left out of both
figures. Beside the overhead that these trainings had stands the one that was predicted for the same batches.

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import copy
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from composer_kd.recipes import Recipe, load_recipe
from composer_kd.recipes.errors import told_to_user
from composer_kd.tuning import tune_recipe
from composer_kd.tuning.paste import to_paste
from composer_kd.tuning.predict import Prediction
from composer_kd.tuning.steps import alone, time_steps
from composer_kd.tuning.subject import Subject


def pasted(subject: Subject, prediction: Prediction, folder: Path) -> Recipe:
    """The recipe with a way to distil pasted in, and its stores in a folder for temporary files."""
    part = copy.deepcopy(to_paste(subject, prediction.choice))
    kd = part['algorithms']['distillation']
    for index, item in enumerate(kd['teachers']):
        if prediction.choice.stored and prediction.writing and item['cache'].get('fill'):
            item['cache']['path'] = str(folder / prediction.choice.name / str(index))
    recipe = subject.recipe.model_copy(update={
        'train_data': {**subject.recipe.train_data, **part.get('train_data', {})},
    })
    return alone(recipe, kd).model_copy(update={'max_duration': subject.recipe.max_duration})


def train(recipe: Recipe) -> list[float]:
    """Seconds of each batch of a training."""
    return [step.whole for step in time_steps(recipe, lambda count, passed: False)]


def expected(prediction: Prediction) -> float:
    """The overhead predicted for all batches but the first."""
    on = (prediction.active - (prediction.first == 0)) / prediction.active if prediction.active else 0.0
    return prediction.kd * on / (prediction.base * (prediction.steps - 1) / prediction.steps)


def overhead(with_kd: list[list[float]], without: list[list[float]]) -> float:
    """Time on top of the same batches without distillation, each batch's median over the rounds."""
    def seconds(rounds: list[list[float]]) -> float:
        return float(sum(statistics.median(batch) for batch in list(zip(*rounds, strict=True))[1:]))
    return float(seconds(with_kd) / seconds(without) - 1)


def check(recipe: Recipe, names: tuple[str, ...], rounds: int, seconds: float, budget: float) -> list[dict[str, Any]]:
    """Predicted and measured overhead of some ways to distil.

    Raises:
        click.UsageError: For a way that there is not.
    """
    advice = tune_recipe(recipe, seconds=seconds, budget=budget)
    known = {one.choice.name: one for one in advice.predictions}
    if unknown := [name for name in names if name not in known]:
        raise click.UsageError(f"--choice: there is no '{unknown[0]}' for this recipe, but {', '.join(known)}.")
    chosen = [known[name] for name in names] or list(known.values())
    subject = advice.subject
    bare = alone(subject.recipe, None).model_copy(update={'max_duration': subject.recipe.max_duration})
    found: list[list[list[float]]] = [[] for _ in range(len(chosen) + 1)]
    with tempfile.TemporaryDirectory(prefix='composer_kd-check-') as folder:
        recipes = [bare, *(pasted(subject, one, Path(folder)) for one in chosen)]
        for one, mine in zip(chosen, recipes[1:], strict=True):
            if one.choice.stored and one.writing:
                train(mine)  # writes the store
        for turn in range(rounds):
            for place in range(len(recipes)):  # begun by another one each round
                index = (place + turn) % len(recipes)
                found[index].append(train(recipes[index]))
    rows = []
    for one, seen in zip(chosen, found[1:], strict=True):
        each = sorted(sum(a[1:]) / sum(b[1:]) - 1 for a, b in zip(seen, found[0], strict=True))
        rows.append({
            'choice': one.choice.name, 'steps': one.steps, 'active': one.active, 'predicted': expected(one),
            'measured': overhead(seen, found[0]), 'rounds': each,
        })
    return rows


@click.command()
@click.argument('recipe')
@click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
@click.option('--choice', 'names', multiple=True, metavar='NAME', help="As 'composer-kd tune' calls it; default: all.")
@click.option('--batches', type=click.IntRange(4), default=40, show_default=True, help='Of each training.')
@click.option('--rounds', type=click.IntRange(1), default=5, show_default=True)
@click.option('--seconds', type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help="As of 'composer-kd tune'.")
@click.option('--json', 'as_json', is_flag=True)
def main(
    recipe: str, overrides: tuple[str, ...], names: tuple[str, ...], batches: int, rounds: int, seconds: float,
    as_json: bool,
) -> None:
    """Predicted and measured overhead of ways to distil, side by side."""
    try:
        short = load_recipe(recipe, overrides).model_copy(update={'max_duration': f'{batches}ba'})
        rows = check(short, names, rounds, seconds, 0.1)
    except Exception as error:
        told = told_to_user(error)
        if told is None:
            raise
        raise click.ClickException(told) from error
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    title = f'overhead of {batches} batches, predicted and measured over {rounds} rounds'
    table = Table(title=title, title_justify='left')
    for column in ('choice', 'steps with KD', 'predicted', 'measured', 'by round'):
        table.add_column(column, justify='left' if column == 'choice' else 'right')
    for row in rows:
        table.add_row(
            row['choice'], str(row['active']), f"{100 * row['predicted']:.1f} %", f"{100 * row['measured']:.1f} %",
            f"{100 * row['rounds'][0]:.1f} to {100 * row['rounds'][-1]:.1f} %",
        )
    Console(width=140).print(table)


if __name__ == '__main__':
    main()
