"""The console command ``composer-kd cache``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import click

_RECIPE = click.argument('recipe', metavar='RECIPE.yaml')
_OVERRIDES = click.argument('overrides', nargs=-1, metavar='[KEY=VALUE]...')
_TEACHER = click.option('--teacher', default=None, metavar='NAME', help=(
    "Which of the recipe's teachers, by its name, or another one as '{run: FOLDER}'. Default: the only one."
))
_FORMAT = click.option('--format', 'form', default=None, metavar='FORMAT', help=(
    "dense, top_k or sampled, or with settings: '{name: top_k, k: 10, dtype: float16, temperature: 1.0}'. Default: "
    "the teacher's cache.format in the recipe, or dense for up to 64 classes and top_k with k 8, at the loss's "
    'temperature, for more.'
))
_VIEWS = click.option('--views', type=click.IntRange(1), default=None, metavar='N', help=(
    'How many views of a sample, the first N. Default: train_data.views, or the epochs that are distilled.'
))
_ONLY = click.option('--only-asked', is_flag=True, help=(
    "Only what the recipe's own training, with its seed, asks for; other seeds ask for other samples."
))


class _Cache(click.Group):
    """A group whose own name writes: what is no command is the recipe of ``write``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ('-h', '--help'):
            meant = get_close_matches(args[0], self.commands, 1)
            if meant and not os.path.exists(args[0]):
                raise click.UsageError(f"No such command or recipe '{args[0]}'. Did you mean '{meant[0]}'?", ctx)
            args = ['write', *args]
        return super().parse_args(ctx, args)


_HELP = """Store a teacher's answers over a recipe's own data once, for every later run to read.

\b
composer-kd cache RECIPE.yaml --out PATH     writes what is not there yet
composer-kd cache estimate RECIPE.yaml       bytes, time, and when it pays
composer-kd cache verify RECIPE.yaml PATH    its files, a sample of its answers

\b
On several GPUs:
composer -n 8 -c composer-kd cache RECIPE.yaml --out PATH

\b
A run then reads them:
algorithms: {distillation: {teachers: [{cache: PATH}]}}
"""


@click.group(cls=_Cache, help=_HELP, context_settings={'help_option_names': ['-h', '--help']})
def cache() -> None:
    """Store a teacher's answers over a recipe's own data once, for every later run to read."""


@cache.command()
@_RECIPE
@_OVERRIDES
@click.option('--out', required=True, metavar='PATH_OR_URI', help='The store: a folder, or a URI such as s3://....')
@click.option('--local', default=None, metavar='DIR', help='For a URI: where the store is written before it is copied.')
@_TEACHER
@_FORMAT
@_VIEWS
@_ONLY
def write(
    recipe: str, overrides: tuple[str, ...], out: str, local: str | None, teacher: str | None, form: str | None,
    views: int | None, only_asked: bool,
) -> None:
    """Write the answers that a store lacks; killed, the same command goes on.

    Nothing is trained. KEY=VALUE replaces what the recipe says, as in training.
    """
    from composer_kd.runs.alive import end_with_launcher

    end_with_launcher()  # before Composer is imported, which takes seconds
    from composer.utils import dist

    from composer_kd.caching.write import check_place, write_store

    _told(lambda: check_place(out, local))
    asked = _told(lambda: _prepared(recipe, overrides, teacher, form, views))
    try:
        with _keys_pressed():
            done = _told(lambda: write_store(asked, out, only_asked, local))
    except KeyboardInterrupt:
        click.echo(f"stopped: what is answered lies in '{local or out}', and the same command goes on.", err=True)
        sys.exit(130)
    if dist.get_global_rank() == 0:
        each = done.bytes / max(done.samples, 1)
        click.echo(f'{done.samples:,} answers in {out} ({asked.form.describe()}), {done.fresh:,} of them new')
        click.echo(f'{size(done.bytes)}, {each:.0f} bytes a sample; {done.seconds:.1f} s')
        click.echo(f'teachers: [{{cache: {out}}}]')


@contextmanager
def _keys_pressed() -> Iterator[None]:
    """Take the signal that ends jobs on clusters for Ctrl-C, so that what is answered is kept.

    Composer makes an exit status of both, and tells nothing.
    """
    own = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != own:  # a worker of the loader, which inherited this
            os._exit(128 + number)
        raise KeyboardInterrupt

    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@cache.command()
@_RECIPE
@_OVERRIDES
@_TEACHER
@_FORMAT
@_VIEWS
@_ONLY
@click.option('--seconds', type=click.FloatRange(0, min_open=True), default=15.0, show_default=True,
              help='How long to measure, about.')
def estimate(
    recipe: str, overrides: tuple[str, ...], teacher: str | None, form: str | None, views: int | None,
    only_asked: bool, seconds: float,
) -> None:
    """Say what a store would take and when it has paid; nothing is written.

    Without teacher or data on this machine: the size alone.
    """
    from composer_kd.caching.estimate import estimate_size, estimate_store
    from composer_kd.caching.show import show_estimate
    from composer_kd.recipes import load_recipe

    def estimated() -> Any:
        try:
            return estimate_store(_prepared(recipe, overrides, teacher, form, views), only_asked, seconds)
        except FileNotFoundError as error:
            why = ' '.join(str(error).split())
            return estimate_size(load_recipe(recipe, overrides), _plain(form), views, only_asked, why)

    show_estimate(_told(estimated))


@cache.command()
@_RECIPE
@click.argument('path', metavar='PATH')
@_OVERRIDES
@_TEACHER
@click.option('--samples', type=click.IntRange(1), default=1000, show_default=True, help='Answers to ask for again.')
def verify(recipe: str, path: str, overrides: tuple[str, ...], teacher: str | None, samples: int) -> None:
    """Compare a store's files with their digests, and a sample of its answers with the teacher's of today.

    The exit status is 1 if anything is not as it should be.
    """
    from composer_kd.answers import Store
    from composer_kd.caching import verify_store
    from composer_kd.caching.show import show_verified
    from composer_kd.teachers.fetch import is_remote

    def verified() -> Any:
        if is_remote(path):
            raise ValueError(
                f"verify: looks at files on this machine, and '{path}' is elsewhere. Give the folder it was copied "
                'from, or fetch it; whoever reads it from there compares every file with its digest.',
            )
        form = Store.open(path, 'verify').format.plain()
        form.pop('classes')
        keep = {'dense': ('name', 'dtype'), 'top_k': ('name', 'k', 'dtype', 'temperature'),
                'sampled': ('name', 'k', 'temperature')}[form['name']]
        asked = _prepared(recipe, overrides, teacher, {key: form[key] for key in keep}, None)
        return verify_store(asked, path, samples)

    found = _told(verified)
    show_verified(found)
    sys.exit(0 if found.fine else 1)


def _prepared(
    recipe: str, overrides: tuple[str, ...], teacher: str | None, form: Any, views: int | None,
) -> Any:
    from composer_kd.caching import prepare
    from composer_kd.recipes import load_recipe

    return prepare(load_recipe(recipe, overrides), teacher, _plain(form), views)


def _plain(form: Any) -> Any:
    from composer_kd.caching.who import read_yaml

    return read_yaml(form, '--format') if isinstance(form, str) else form


def _told(call: Any) -> Any:
    from composer_kd.recipes.errors import told_to_user
    from composer_kd.recipes.main import give_way

    try:
        return call()
    except Exception as error:
        give_way(error)
        message = told_to_user(error)
        if message is None:
            raise
        click.echo(f'error: {message}', err=True)
        sys.exit(1)


def size(count: float) -> str:
    """Bytes in three digits.

    Example:
        >>> size(1_234_567), size(12)
        ('1.23 MB', '12 B')
    """
    for unit in ('B', 'kB', 'MB', 'GB', 'TB'):
        if count < 999.5 or unit == 'TB':
            break
        count /= 1000
    return f'{count:.3g} {unit}'
