"""How many images a second does a core read? Our pipeline from a folder and from MDS shards, beside the plain PIL one.

Makes JPEGs of ImageNet's typical size (500x375 pixels, about 110 kB) from scikit-learn's two photographs by crops,
flips and changes of colour; then reads them for training, in one thread, in rounds that take the pipelines in turn. The
plain one is torchvision's: ImageFolder, RandomResizedCrop, RandomHorizontalFlip, PILToTensor. Without workers the time
is this process's on its core, so that other work on the machine counts for little; with workers it is the clock's.

    python scripts/benchmark_images.py [--images 400] [--rounds 7] [--crop-size 176] [--crop-size 224] [--workers 0]
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image, ImageEnhance
from rich.console import Console
from rich.progress import track
from rich.table import Table

WIDTH, HEIGHT, QUALITY, CLASSES = 500, 375, 98, 10


def write_jpegs(folder: Path, count: int) -> float:
    """Write ``folder/train`` with ten class folders; the mean size in bytes."""
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    random, size = np.random.default_rng(0), 0
    for index in range(count):
        picture = photographs[index % len(photographs)]
        # Parts no smaller than what is made of them: enlarged ones would be smoother than photographs are.
        wide = int(random.integers(WIDTH, picture.width + 1))
        high = min(picture.height, wide * HEIGHT // WIDTH)
        left, top = int(random.integers(picture.width - wide + 1)), int(random.integers(picture.height - high + 1))
        picture = picture.crop((left, top, left + wide, top + high)).resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
        if random.random() < 0.5:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for change in (ImageEnhance.Color, ImageEnhance.Brightness, ImageEnhance.Contrast):
            picture = change(picture).enhance(float(random.uniform(0.8, 1.2)))
        path = folder / 'train' / f'class{index % CLASSES}' / f'{index}.JPEG'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=QUALITY)
        size += path.stat().st_size
    return size / count


def plain(folder: Path, crop_size: int, workers: int, batch_size: int) -> Iterable[Any]:
    """Torchvision's ImageFolder on PIL."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, PILToTensor, RandomHorizontalFlip, RandomResizedCrop

    transform = Compose([RandomResizedCrop(crop_size), RandomHorizontalFlip(), PILToTensor()])
    data = ImageFolder(str(folder / 'train'), transform)
    return DataLoader(
        data, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0,
    )


def ours(folder: Path, crop_size: int, workers: int, batch_size: int, decoder: str = 'fast') -> Iterable[Any]:
    """The data 'imagenet' of a recipe."""
    from composer_kd.recipes.tasks.images import imagenet

    loader: Iterable[Any] = imagenet(
        batch_size, 17, True, path=str(folder), crop_size=crop_size, num_classes=CLASSES, num_workers=workers,
        decoder='pil' if decoder == 'pil' else 'fast',
    ).dataloader
    return loader


def epoch(loader: Iterable[Any], clock: Callable[[], float]) -> float:
    """Images a second, from the first batch on: workers and readers have started by then."""
    batches = iter(loader)
    next(batches)
    started, count = clock(), 0
    for _, labels in batches:
        count += len(labels)
    return count / (clock() - started)


@click.command(help=__doc__.split('\n\n')[0])
@click.option('--images', default=400, show_default=True, type=click.IntRange(100), help='JPEGs to make.')
@click.option('--rounds', default=7, show_default=True, type=click.IntRange(1), help='Each reads all images once.')
@click.option('--crop-size', 'crop_sizes', default=(224, 176), show_default=True, multiple=True,
              type=click.IntRange(1), help='May be given several times.')
@click.option('--workers', default=0, show_default=True, type=click.IntRange(0),
              help='Worker processes; 0 reads in this one, which is what a core gives.')
@click.option('--folder', type=click.Path(path_type=Path), help='Where the JPEGs are made; default: a temporary one.')
def main(images: int, rounds: int, crop_sizes: tuple[int, ...], workers: int, folder: Path | None) -> None:
    """Make the pictures, read them, print a table."""
    from composer_kd.convert import convert_images

    torch.set_num_threads(1)
    console = Console(width=max(Console().width, 100))
    with tempfile.TemporaryDirectory() as temporary:
        root = folder or Path(temporary)
        mean = write_jpegs(root / 'folder', images)
        index = convert_images(root / 'folder', root / 'mds', progress=False)
        console.print(
            f'{index.samples} JPEGs of {WIDTH}x{HEIGHT} pixels, {mean / 1000:.0f} kB each on average; '
            f'{workers or "no"} workers, one thread each.', highlight=False,
        )
        batch = min(50, images // 5)
        pipelines: dict[str, Callable[[int], Iterable[Any]]] = {
            'plain ImageFolder, PIL': lambda size: plain(root / 'folder', size, workers, batch),
            "folder, decoder 'pil'": lambda size: ours(root / 'folder', size, workers, batch, 'pil'),
            "folder, decoder 'fast'": lambda size: ours(root / 'folder', size, workers, batch),
            "MDS, decoder 'fast'": lambda size: ours(root / 'mds', size, workers, batch),
        }
        cores = f'{workers} workers' if workers else 'one core'
        table = Table(title=f'Images/s of {cores}, median of {rounds} rounds')
        for column in ('crop', 'pipeline', 'images/s', 'lowest to highest', 'times plain'):
            table.add_column(column, justify='left' if column == 'pipeline' else 'right')
        for size in crop_sizes:
            loaders = {name: make(size) for name, make in pipelines.items()}
            speeds: dict[str, list[float]] = {name: [] for name in loaders}
            for _ in track(range(rounds), f'crop {size}', console=Console(stderr=True), transient=True):
                for name, loader in loaders.items():
                    speeds[name].append(epoch(loader, time.perf_counter if workers else time.process_time))
            base = speeds['plain ImageFolder, PIL']
            for name, found in speeds.items():
                # Of each round by itself: what slows the machine slows both.
                ratio = statistics.median(one / other for one, other in zip(found, base, strict=True))
                table.add_row(
                    str(size), name, f'{statistics.median(found):.0f}', f'{min(found):.0f} to {max(found):.0f}',
                    f'{ratio:.2f}',
                )
            table.add_section()
        console.print(table)


if __name__ == '__main__':
    main()
