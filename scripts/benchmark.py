"""How fast is it? Everything in one command: the algorithm's own cost, the peers, what is saved, and how cost grows.

    python scripts/benchmark.py all [--json FILE] [--markdown FILE] [--figure FILE.png]
    python scripts/benchmark.py algorithm|peers|overhead|growth [--device cpu|cuda] [--rounds 7] [--threads 2]

Models and data are random, since only time and memory are measured. Every variant (a way to train, or a part of a step)
runs in a process of its own, so that its peak memory is its own, and waits for its turn; the turns are given out round
by round, in another order each, so that other work on the machine meets all of them alike. Told are medians and
quartiles, and ratios as the median of the rounds' own ratios.

- ``algorithm``: Composer's step with ``Distillation`` over (Composer's bare step + the prepared teacher's forward + the
  loss alone).
- ``peers``: our step beside torchdistill's, NVIDIA ModelOpt's and timm's on the same models, batch and loss, a plain
  PyTorch loop, and Composer without KD; ``pip install '.[peers]'`` brings them, and one that is missing is told so.
  Masked language modelling: peers compute KD at all tokens; ours is measured there and at the masked ones alone.
- ``overhead``: what preparing, drawing one teacher, a window, an interval and stored answers take away of the cost of a
  plain always-on ensemble of five.
- ``growth``: teachers, classes, sequence length and microbatches; slopes on logarithmic axes, and whether there is a
  cliff.

A GPU gets real sizes (ResNet-50 at 176 and 224 pixels, BERT-base and BERT-mini at 128 tokens, amp_bf16, batches for
80 GB) and model FLOPs utilisation; a CPU gets small batches, for about an hour on two cores. Memory is what a training
takes beside the imported packages: on a GPU the peak of what was allocated, on a CPU (Linux) the peak of the process's
own pages.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import json
from dataclasses import dataclass

import click
import torch
import yaml
from benchmarking import against, algorithm, growing, machine, overhead, showing, sizes
from benchmarking.results import Section
from benchmarking.turns import LEAST_ROUNDS, Options
from rich.console import Console

from composer_kd.teachers.preparing import read_prepare

SECTIONS = ('algorithm', 'peers', 'overhead', 'growth')


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    gpu: bool
    small: bool
    rounds: int
    threads: int
    seconds: float
    prepares: list[Any]
    peak_tflops: float | None
    files: dict[str, Path | None]
    quiet: bool


def shared(command: Callable[..., None]) -> Callable[..., None]:
    """The options of every subcommand."""
    file = click.Path(dir_okay=False, path_type=Path)
    for option in reversed((
        click.option('--device', type=click.Choice(['auto', 'cpu', 'cuda']), default='auto', show_default=True),
        click.option('--small', is_flag=True, help='Tiny models: to see that it runs. The times mean nothing.'),
        click.option('--rounds', type=click.IntRange(1), default=7, show_default=True, help='Turns of each variant.'),
        click.option('--threads', type=click.IntRange(1), help='Of each process.  [default: all cores]'),
        click.option(
            '--seconds', type=click.FloatRange(0, min_open=True), default=240.0, show_default=True,
            help=f'No further round of a group of variants after so long, once it had {LEAST_ROUNDS}.',
        ),
        click.option(
            '--prepare', 'prepares', multiple=True, default=['auto'], show_default=True, metavar='YAML',
            help="Of ours in peers: Distillation's setting prepare, as in YAML. May be given more than once.",
        ),
        click.option(
            '--peak-tflops', type=click.FloatRange(0, min_open=True),
            help='Of the device in the precision it runs in, for the utilisation.  [default: known GPUs, bf16]',
        ),
        click.option('--json', 'as_json', type=file, help='Every figure, every round.'),
        click.option('--markdown', type=file, help='The tables, ready to be committed.'),
        click.option('--figure', type=file, help='The curves of growth, as PNG.'),
        click.option('--quiet', is_flag=True, help='Say nothing while measuring.'),
    )):
        command = option(command)
    return command


def read(
    device: str, small: bool, rounds: int, threads: int | None, seconds: float, prepares: tuple[str, ...],
    peak_tflops: float | None, as_json: Path | None, markdown: Path | None, figure: Path | None, quiet: bool,
) -> Asked:
    """Check what was asked for, before anything runs.

    Raises:
        click.UsageError: Naming the option.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise click.UsageError('--device: expected a GPU for cuda, and PyTorch finds none. Use --device cpu.')
    most = machine.cores()
    if threads is not None and threads > most:
        raise click.UsageError(f'--threads: expected {most} or fewer, the cores of this machine, got {threads}.')
    try:
        settings = [yaml.safe_load(text) for text in prepares]
        for setting in settings:
            read_prepare(setting, '--prepare')
    except yaml.YAMLError as error:
        raise click.UsageError(f'--prepare: expected YAML such as auto or {{compile: true}}: {error}') from None
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from None
    for option, path, ending in (('json', as_json, '.json'), ('markdown', markdown, '.md'), ('figure', figure, '.png')):
        if path is not None and path.suffix != ending:
            raise click.UsageError(f"--{option}: expected a file that ends in '{ending}', got '{path.name}'.")
    return Asked(
        device == 'cuda' or (device == 'auto' and torch.cuda.is_available()), small, rounds, threads or most, seconds,
        settings, peak_tflops, {'json': as_json, 'markdown': markdown, 'figure': figure}, quiet,
    )


def measure(names: tuple[str, ...], asked: Asked) -> None:
    """Run sections, show them, and write what was asked for after each, so that an interrupt loses one at most."""
    os.environ['OMP_NUM_THREADS'] = str(asked.threads)
    torch.set_num_threads(asked.threads)
    console = Console(width=170)
    say: Callable[[str], None] = (lambda text: None) if asked.quiet else (lambda text: click.echo(text, err=True))
    size = sizes.SMALL if asked.small else sizes.GPU if asked.gpu else sizes.CPU
    here = machine.machine_of(asked.gpu, asked.threads, asked.peak_tflops)
    turn = 0.02 if asked.small else 1.0
    options = Options(asked.gpu, asked.threads, asked.rounds, asked.seconds, turn, say)
    console.print(here.describe(), markup=False)
    found: list[Section] = []
    for name in names:
        runs: dict[str, Callable[[], Section]] = {
            'algorithm': lambda: algorithm.run(size, options),
            'peers': lambda: against.run(size, options, here, asked.prepares),
            'overhead': lambda: overhead.run(size, options),
            'growth': lambda: growing.run(size, options),
        }
        found.append(runs[name]())
        showing.show(found[-1], console)
        write(found, here, asked, names)


def write(found: list[Section], here: machine.Machine, asked: Asked, names: tuple[str, ...]) -> None:
    """The files that were asked for."""
    how = ' '.join([
        'scripts/benchmark.py', 'all' if len(names) > 1 else names[0], *(['--small'] if asked.small else []),
        '--device', 'cuda' if asked.gpu else 'cpu', '--rounds', str(asked.rounds), '--threads', str(asked.threads),
    ])
    texts = {
        'json': lambda: json.dumps({
            'machine': here.told(), 'command': how, 'sections': {section.name: section.figures for section in found},
        }, indent=1) + '\n',
        'markdown': lambda: showing.markdown(found, here, how),
    }
    for kind, text in texts.items():
        path = asked.files[kind]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text())
    grown = next((section for section in found if section.name == 'growth'), None)
    if asked.files['figure'] is not None and grown is not None:
        showing.draw(grown, here, asked.files['figure'])


@click.group()
def main() -> None:
    """Measure composer_kd on this machine."""


def add(name: str, names: tuple[str, ...], text: str) -> None:
    """A subcommand that runs some sections."""
    @main.command(name, help=text)
    @shared
    def command(**given: Any) -> None:
        asked = read(**given)
        if asked.files['figure'] is not None and 'growth' not in names:
            raise click.UsageError(f'--figure: the figure is of growth, and {name} does not measure it.')
        measure(names, asked)


add('all', SECTIONS, 'All of them, one after the other.')
add('algorithm', ('algorithm',), "The algorithm's own cost: a step with KD over its parts.")
add('peers', ('peers',), "Time and memory beside torchdistill's, ModelOpt's and timm's.")
add('overhead', ('overhead',), "What takes how much of an ensemble's cost away.")
add('growth', ('growth',), 'Teachers, classes, sequence length, microbatches.')

if __name__ == '__main__':
    main()
