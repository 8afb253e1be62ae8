"""Convert data to MDS, the shards that mosaicml-streaming reads, with every sample read back at the end.

    python scripts/convert.py images data/imagenet data/imagenet-mds --split train
    python scripts/convert.py cifar data/cifar10 data/cifar10-mds
    python scripts/convert.py text --help

It may be stopped at any time: the same command goes on where it was. OUT is complete once it holds an index.json.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from composer_kd.recipes.tasks.mds import MdsIndex

FOLDER = click.Path(path_type=Path)


def shared(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all conversions have."""
    for option in (
        click.option('--quiet', is_flag=True, help='No progress bar.'),
        click.option('--workers', default=4, show_default=True, type=click.IntRange(1), help='Shards side by side.'),
        click.option('--shard-size', default='64mb', show_default=True, help='Of a shard, about.'),
    ):
        command = option(command)
    return command


def tell(out: Path, index: MdsIndex) -> None:
    """One line about what is there."""
    size = f'{index.bytes / 1e6:,.1f} MB'
    click.echo(f'{out}: {index.samples:,} samples in {index.shards} shards, {size}, read back and compared.')


@click.group(help=__doc__.split('\n\n')[0])
def main() -> None:
    """Convert data to MDS."""


@main.command()
@click.argument('folder', type=FOLDER)
@click.argument('out', type=FOLDER)
@click.option('--split', default='train', show_default=True, help='FOLDER/SPLIT becomes OUT/SPLIT.')
@click.option('--resize', type=click.IntRange(1), help='Make the shorter side so many pixels, as JPEG of quality 90; '
              'default: every file as it is.')
@shared
def images(
    folder: Path, out: Path, split: str, resize: int | None, shard_size: str, workers: int, quiet: bool,
) -> None:
    """Pictures in one folder a class (FOLDER/SPLIT/CLASS/*.JPEG)."""
    from composer_kd.convert import convert_images

    tell(out / split, convert_images(
        folder, out, split, resize=resize, size_limit=shard_size, workers=workers, progress=not quiet,
    ))


@main.command()
@click.argument('folder', type=FOLDER)
@click.argument('out', type=FOLDER)
@click.option('--classes', default='10', show_default=True, type=click.Choice(['10', '100']), help='CIFAR-10 or -100.')
@shared
def cifar(folder: Path, out: Path, classes: str, shard_size: str, workers: int, quiet: bool) -> None:
    """CIFAR's Python version, both splits (FOLDER/cifar-10-batches-py or cifar-100-python)."""
    from composer_kd.convert import convert_cifar

    written = convert_cifar(
        folder, out, int(classes), size_limit=shard_size, workers=workers, progress=not quiet,
    )
    for split, index in written.items():
        tell(out / split, index)


@main.command()
@click.argument('source')
@click.argument('out', type=FOLDER)
@click.option('--split', default='train', show_default=True, help='Becomes OUT/SPLIT.')
@click.option('--config', help="A data set's configuration, as 'en'.")
@click.option('--name', help="Of the folder below OUT; by default the split's.")
@click.option('--column', default='text', show_default=True, help='What holds the text.')
@click.option('--documents', default='line', show_default=True, type=click.Choice(['line', 'paragraph', 'file']),
              help='What is a document in a .txt file.')
@click.option('--tokenizer', help='Write tokens of this tokenizer (a folder or a name on the hub) instead of text.')
@click.option('--seq-len', default=128, show_default=True, type=click.IntRange(1), help='Tokens of a sample.')
@click.option('--concat', is_flag=True, help='Join documents to samples of exactly so many tokens.')
@click.option('--compression', help="As 'zstd'.")
@shared
def text(
    source: str, out: Path, split: str, name: str | None, shard_size: str, workers: int, quiet: bool, **settings: Any,
) -> None:
    """Text: a data set on the Hugging Face hub, a file (.txt, .jsonl, .parquet) or a folder of files."""
    from composer_kd.convert.text import convert_text

    tell(out / (name or split), convert_text(
        source, out, split, name=name, size_limit=shard_size, workers=workers, progress=not quiet, **settings,
    ))


if __name__ == '__main__':
    try:
        main(standalone_mode=True)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f'error: {error}')
