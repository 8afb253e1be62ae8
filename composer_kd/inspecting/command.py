"""The console command ``composer-kd inspect``."""

from __future__ import annotations

import json
from typing import Any

import click


@click.command('inspect')
@click.argument('teacher', metavar='TEACHER')
@click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
@click.option('--recipe', required=True, metavar='RECIPE.yaml', help='The recipe that it would teach.')
@click.option('--student', default=None, metavar='RUN', help=(
    "A run to compare it with; by default the recipe's own run folder, if a finished run is there."
))
@click.option('--evaluator', default=None, metavar='LABEL',
              help="Which of the recipe's evaluators to take; by default the first.")
@click.option('--batches', type=click.IntRange(1), default=None,
              help='Look at the first so many batches of validation data; by default at all.')
@click.option('--layers', default='top', show_default=True, metavar='top|all|PATTERN',
              help="Which layers to list; a pattern as in '*.layer.*'.")
@click.option('--bins', type=click.IntRange(1), default=15, show_default=True, help='Of confidence.')
@click.option('--device', type=click.Choice(['cpu', 'gpu', 'mps']), default=None,
              help="By default the recipe's, or a GPU where there is one.")
@click.option('--seconds', type=click.FloatRange(0), default=10.0, show_default=True,
              help='How long to time training steps, about; 0 leaves that out.')
@click.option('--plot', default=None, metavar='PATH.png', help='Draw a reliability diagram there.')
@click.option('--json', 'as_json', is_flag=True, help='Print it as JSON.')
def inspect(
    teacher: str, overrides: tuple[str, ...], recipe: str, student: str | None, evaluator: str | None,
    batches: int | None, layers: str, bins: int, device: str | None, seconds: float, plot: str | None, as_json: bool,
) -> None:
    """Say whether a model is any good as a teacher, and for what price.

    TEACHER is a run folder, a checkpoint, or in YAML what stands under teachers: '{torchvision: resnet18}'. It is asked
    about the recipe's validation data: how good it is, how sure of itself, where it agrees with the last student. Its
    layers are listed, and steps of the recipe's training are timed with and without it. KEY=VALUE replaces what the
    recipe says, as in training.
    """
    from composer_kd.caching.command import _told

    found = _told(lambda: _inspected(
        teacher, overrides, recipe, student, evaluator, batches, layers, bins, device, seconds, plot,
    ))
    if as_json:
        click.echo(json.dumps(found.plain(), indent=2))
        return
    from composer_kd.inspecting.show import show

    show(found, plot)


def _inspected(
    teacher: str, overrides: tuple[str, ...], recipe: str, student: str | None, evaluator: str | None,
    batches: int | None, layers: str, bins: int, device: str | None, seconds: float, plot: str | None,
) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from composer_kd.inspecting.make import inspect_teacher
    from composer_kd.inspecting.plot import check_plot, save_plot
    from composer_kd.recipes import load_recipe

    if plot is not None:
        check_plot(plot)
    console = Console(stderr=True)
    console.quiet = not console.is_terminal
    with Progress(
        TextColumn('{task.description}'), BarColumn(), TimeElapsedColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task('getting ready', total=1.0)

        def tell(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)
        found = inspect_teacher(
            teacher, load_recipe(recipe, overrides), student=student, evaluator=evaluator, batches=batches,
            layers=layers, bins=bins, device=device, seconds=seconds, tell=tell,
        )
    if plot is not None:
        save_plot(found, plot)
    return found
