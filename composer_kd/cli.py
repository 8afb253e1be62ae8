"""The console command ``composer-kd``. Composer takes seconds to import, so every command imports what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, TypeVar

import click

T = TypeVar('T')


class _Late(click.Group):
    """A group with commands that are imported when they are asked for: name to ``module:attribute``."""

    def __init__(self, *args: Any, late: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._late = late

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self._late])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._late:
            return super().get_command(ctx, cmd_name)
        module, _, name = self._late[cmd_name].partition(':')
        command: click.Command = getattr(import_module(module), name)
        return command


@click.group(
    cls=_Late, late={
        'cache': 'composer_kd.caching.command:cache', 'inspect': 'composer_kd.inspecting.command:inspect',
        'report': 'composer_kd.report.command:report', 'tune': 'composer_kd.tuning.command:tune',
    },
    context_settings={'help_option_names': ['-h', '--help']},
)
@click.version_option(package_name='composer_kd')
def main() -> None:
    """Knowledge distillation from earlier training runs, for MosaicML Composer."""


@main.group(cls=_Late, late={
    'run': 'composer_kd.studies.command:run', 'status': 'composer_kd.studies.command:status',
})
def study() -> None:
    """Make many related runs in sequence, each with earlier ones as its teachers, and see what that saved."""


@study.command('report', add_help_option=False, context_settings={'ignore_unknown_options': True})
@click.argument('arguments', nargs=-1, type=click.UNPROCESSED, metavar='STUDY.yaml... [OPTIONS]')
def study_report(arguments: tuple[str, ...]) -> None:
    """Say what the runs of a study cost and reached; the options are those of 'composer-kd report'."""
    from pathlib import Path

    from composer_kd.report.command import report
    from composer_kd.studies.file.schema import load_study

    def folder(argument: str) -> str:
        return str(load_study(argument).folder) if Path(argument).is_file() else argument

    report.main([_or_told(partial(folder, argument)) for argument in arguments], 'composer-kd study report')


def _or_told(run: Callable[[], T]) -> T:
    """What a call returns; an error in what the user gave is told in one paragraph, with exit status 1."""
    from composer_kd.recipes.errors import told_to_user

    try:
        return run()
    except Exception as error:
        message = told_to_user(error)
        if message is None:
            raise
        click.echo(f'error: {message}', err=True)
        sys.exit(1)


@main.command()
@click.argument('recipe', metavar='RECIPE.yaml')
@click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
def validate(recipe: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe without data, accelerator or training.

    Every name and setting is checked by building what can be built: model, optimizer, schedulers, algorithms,
    callbacks. Teachers on this machine are loaded and held against the student. KEY=VALUE replaces what the recipe
    says, as in training. Prints what would be trained and 'valid', or one paragraph on what is wrong, with exit
    status 1.
    """
    click.echo(_or_told(lambda: _summary(recipe, overrides)))
    click.echo('valid')


@main.command()
@click.argument('recipe', metavar='RECIPE.yaml')
@click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
@click.option('--gpus', type=click.IntRange(1), default=8, show_default=True, help='GPUs of a node.')
@click.option('--nodes', type=click.IntRange(1), default=1, show_default=True, help='Nodes.')
@click.option('--memory', type=click.FloatRange(0, min_open=True), default=80.0, show_default=True, metavar='GIB',
              help='Memory of a GPU in GiB.')
@click.option('--json', 'as_json', is_flag=True, help='Print the plan as JSON.')
def plan(recipe: str, overrides: tuple[str, ...], gpus: int, nodes: int, memory: float, as_json: bool) -> None:
    """Say what a recipe would do and cost, on any machine, without data, accelerator or training.

    Steps, samples, checkpoints and their bytes; parameters and FLOPs of student and teachers; what distillation adds;
    the memory of a rank; and every problem that can be foreseen. Nothing is written. The exit status is 1 if one of the
    problems would stop the training; what is only missing on this machine is a warning.
    """
    from pathlib import Path

    from composer_kd.plan import plan_recipe, show
    from composer_kd.recipes import load_recipe

    beside = Path(recipe).parent
    planned = _or_told(lambda: plan_recipe(load_recipe(recipe, overrides), gpus * nodes, memory, nodes, beside))
    if as_json:
        click.echo(planned.model_dump_json(indent=2))
    else:
        show(planned)
    sys.exit(int(planned.stops))


@main.command()
@click.argument('run', metavar='RUN')
@click.option('--to', required=True, metavar='DIR', help='The folder to make; missing or empty.')
@click.option('--checkpoint', default=None, metavar='PATH', help='Another checkpoint of the run than its latest.')
@click.option('--overwrite', is_flag=True, help='Replace what an earlier export wrote to DIR.')
def export(run: str, to: str, checkpoint: str | None, overwrite: bool) -> None:
    """Write the model of a run so that torchvision, timm or Hugging Face load it, with no trace of composer_kd.

    What no library builds is written as a torch.export program, which torch runs without the model's code. RUN is a
    run folder. What was written is loaded again and compared with the run's model first; DIR/README.md says how.
    """
    from composer_kd.export import export_run

    made = _or_told(lambda: export_run(run, to, checkpoint=checkpoint, overwrite=overwrite))
    not_tried = [library for library in made.libraries if library not in made.tried]
    click.echo(f'{made.title}, from {made.checkpoint} (run {made.status})')
    click.echo(f"loaded with {' and '.join(made.tried)}: the outputs of the run's model")
    if not_tried:
        click.echo(f"not tried, as it is not installed or too old: {', '.join(not_tried)}")
    for path in sorted(made.path.iterdir()):
        click.echo(f'  {path.stat().st_size:>14,}  {path}')


def _summary(path: str, overrides: tuple[str, ...]) -> str:
    from composer_kd.distillation import Distillation
    from composer_kd.models import apply_surgery
    from composer_kd.recipes import check_recipe, load_recipe, recipe_digest
    from composer_kd.recipes.build import look_at_data

    recipe = load_recipe(path, overrides)
    parts = check_recipe(recipe)
    look_at_data(recipe)
    teachers = [
        (f'teacher {name}', told)
        for algorithm in parts.algorithms if isinstance(algorithm, Distillation)
        for name, told in algorithm.check_teachers(apply_surgery(parts.model, recipe.algorithms)).items()
    ]
    parameters = sum(parameter.numel() for parameter in parts.model.parameters())
    evaluators = [
        f'{label}: {_component(spec.data)}' for label, spec in recipe.evaluators.items()
    ]
    rows: list[tuple[str, str]] = [
        ('run', f'{recipe.run_name} in {recipe.run_folder}'),
        ('model', f'{_component(recipe.model)}, {parameters:,} parameters'),
        ('train_data', _component(recipe.train_data)),
        ('evaluators', '; '.join(evaluators) or 'none'),
        ('optimizer', _component(recipe.optimizer)),
        ('scheduler', '; '.join(map(_component, recipe.schedulers)) or 'none'),
        *(
            (f'algorithms.{name}', _settings(settings) or 'default settings')
            for name, settings in recipe.algorithms.items()
        ),
        *teachers,
        ('max_duration', str(recipe.max_duration)),
        ('seed', str(recipe.seed)),
        ('digest', recipe_digest(recipe.plain())[:16]),
    ]
    width = max(len(name) for name, _ in rows)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows)


def _component(component: dict[str, Any]) -> str:
    settings = _settings({key: value for key, value in component.items() if key != 'name'})
    return f"{component['name']} ({settings})" if settings else str(component['name'])


def _settings(settings: dict[str, Any]) -> str:
    return ', '.join(f'{key} {value}' for key, value in settings.items())


if __name__ == '__main__':
    main()
