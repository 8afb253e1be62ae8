"""Write small real data in every format that the recipes read, from what comes with the dependencies.

    python scripts/make_sample_data.py data/sample

Handwritten digits (scikit-learn) as an ImageNet-style folder, as MDS and in CIFAR's files; English reference prose
(Python's standard library) as C4-style MDS with a tokenizer of 2,000 words; sentences and pairs made of that prose in
GLUE's files for all eight tasks. Nothing is downloaded. The labels of the GLUE files follow from how the pairs were
made; scores on them say nothing about GLUE.
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from sample_data import glue, images, text

PARTS = {
    'images': (images.write, 'imagenet, imagenet-mds, cifar10, cifar100, cifar10-mds'),
    'text': (text.write, 'tokenizer, c4'),
    'glue': (glue.write, 'glue'),
}


@click.command(context_settings={'help_option_names': ['-h', '--help']})
@click.argument('out', type=click.Path(file_okay=False, path_type=Path))
@click.option('--part', 'parts', type=click.Choice(list(PARTS)), multiple=True, help='Only this part; may be repeated.')
def main(out: Path, parts: tuple[str, ...]) -> None:
    """Write the sample data to the folder OUT; what is there under the same names is replaced."""
    console = Console(stderr=True)
    chosen = parts or tuple(PARTS)
    for name in track(chosen, description='Writing', console=console):
        PARTS[name][0](out)
    for name in chosen:
        click.echo(f'{name:<8}{out}/{{{PARTS[name][1].replace(" ", "")}}}')


if __name__ == '__main__':
    main()
