"""The console command ``composer-kd tune``."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command()
@click.argument('recipe', metavar='RECIPE.yaml')
@click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
@click.option('--teacher', 'teachers', multiple=True, metavar='YAML', help=(
    "A teacher as '{run: FOLDER}', in place of the recipe's own; may be given several times."
))
@click.option('--budget', type=click.FloatRange(0), default=0.1, show_default=True, metavar='SHARE',
              help='The overhead of distillation that you are willing to pay, of the time without it.')
@click.option('--runs', type=click.IntRange(1), default=1, show_default=True,
              help='How many trainings will use these teachers, which share the cost of a store.')
@click.option('--gpus', type=click.IntRange(1), default=1, show_default=True,
              help='Over how many a batch is shared in the training; one share of it is measured.')
@click.option('--seconds', type=click.FloatRange(0, min_open=True), default=60.0, show_default=True,
              help='How long to measure, about.')
@click.option('--compile', 'compiled', is_flag=True, help='Measure compiled teachers, too.')
@click.option('--json', 'as_json', is_flag=True, help='Print it as JSON.')
def tune(
    recipe: str, overrides: tuple[str, ...], teachers: tuple[str, ...], budget: float, runs: int, gpus: int,
    seconds: float, compiled: bool, as_json: bool,
) -> None:
    """Measure a recipe's distillation on this machine and recommend when to distil, with whom, live or stored.

    Steps of the recipe's own training are timed with and without its teachers in turn; its run folder is not touched
    and nothing is left behind. Prints what was measured, what each way to distil will cost, which is recommended and
    why, and the YAML to paste. KEY=VALUE replaces what the recipe says, as in training.
    """
    from composer_kd.caching.command import _told

    advice = _told(lambda: _advice(recipe, overrides, teachers, budget, runs, gpus, seconds, compiled))
    if as_json:
        from composer_kd.tuning.show import as_json as plain

        click.echo(json.dumps(plain(advice), indent=2))
        return
    from composer_kd.tuning.show import show

    show(advice)


def _advice(
    recipe: str, overrides: tuple[str, ...], teachers: tuple[str, ...], budget: float, runs: int, gpus: int,
    seconds: float, compiled: bool,
) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from composer_kd.recipes import load_recipe
    from composer_kd.tuning import tune_recipe

    console = Console(stderr=True)
    console.quiet = not console.is_terminal
    with Progress(
        TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task('getting ready', total=1.0)

        def tell(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)
        return tune_recipe(load_recipe(recipe, overrides), teachers, budget, runs, gpus, seconds, compiled, tell)
