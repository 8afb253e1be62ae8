"""What do stored answers save? The overhead of a live teacher and of a stored one, in one training; and reading alone.

    python scripts/benchmark_stored.py overhead [--model resnet50] [--model bert] [--rounds 6] [--batch-size 8]
    python scripts/benchmark_stored.py read [--rounds 7]

``overhead`` trains a ResNet-50 on pictures of 224 pixels and a BERT-base on 128 tokens (random weights and data: only
time is measured), each from a teacher of its own size that was asked once and stored. The batches take turns: live
teacher, none, stored answers, none; the answers are read by a worker process, as the data is (what that takes is what
``read`` tells). What is told is the training process's own time on its core, median of each kind, so that other work on
the machine counts for little and meets all of them. Beside it stands what the algorithm itself measures: the seconds of
teacher and loss (without the loss's share of the backward pass), a small figure that is not a difference of large ones.

``read`` asks two stores, one as of ImageNet (top_k, k 10) and one as of BERT (k 8 at 19 positions), for samples in
random order, checks included, in one process.
"""

from __future__ import annotations

import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from composer import Callback, Trainer
from composer.core import DataSpec, State
from composer.loggers import Logger
from composer.models import ComposerModel
from rich.console import Console
from rich.table import Table

from composer_kd import Distillation
from composer_kd.answers import Format, Identity, Manifest, Source, Store
from composer_kd.answers.keys import fingerprints, key_of, keys_of
from composer_kd.answers.parts import PartWriter
from composer_kd.models import build_model
from composer_kd.recipes.tasks.images.transforms import IMAGENET_STATISTICS, Normalise, collate
from composer_kd.recipes.tasks.images.transforms import split_batch as split_images
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, make_loader
from composer_kd.recipes.tasks.text.collate import count_samples, count_tokens, split_batch

CLASSES, WORDS, SIDE, LENGTH = 1000, 30_522, 224, 128
FORMATS = {'resnet50': {'name': 'top_k', 'k': 10}, 'bert': {'name': 'top_k', 'k': 8}}
PUBLISHED = {'resnet50': 'ImageNet, 16 views', 'bert': 'C4, first 20 % of 286.72M'}


class Pictures(EpochDataset[Any]):
    """Random pictures, the same each time."""

    def __init__(self, count: int) -> None:
        self._count, self.num_classes = count, CLASSES

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, int]:
        random = np.random.default_rng(key)
        return torch.from_numpy(random.integers(0, 256, (3, SIDE, SIDE), np.uint8)), int(random.integers(CLASSES))


class Texts(EpochDataset[Any]):
    """Random words, of which 15 % are to be predicted."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: Key) -> dict[str, torch.Tensor]:
        random = np.random.default_rng(key)
        words = torch.from_numpy(random.integers(1000, WORDS, LENGTH))
        labels = torch.full_like(words, -100)
        hidden = torch.from_numpy(random.permutation(LENGTH)[:19])
        labels[hidden] = words[hidden]
        return {'input_ids': words, 'attention_mask': torch.ones_like(words), 'labels': labels}


def data_of(kind: str, samples: int, batch_size: int) -> DataSpec:
    """The training data of a model."""
    data: Any = Pictures(samples) if kind == 'resnet50' else Texts(samples)
    loader = make_loader(
        data, batch_size, 17, True, 1, collate if kind == 'resnet50' else None, views=1,
        identity=Identity({'name': kind, 'samples': samples}, {}),
    )
    if kind == 'resnet50':
        return DataSpec(loader, split_batch=split_images, microbatch_transforms=Normalise(*IMAGENET_STATISTICS))
    return DataSpec(
        loader, split_batch=split_batch, get_num_samples_in_batch=count_samples, get_num_tokens_in_batch=count_tokens,
    )


def model_of(kind: str, seed: int) -> ComposerModel:
    """A model with random weights."""
    torch.manual_seed(seed)
    if kind == 'resnet50':
        return build_model({'name': 'resnet', 'architecture': 'resnet50', 'num_classes': CLASSES})
    return build_model({'name': 'bert_masked_lm', 'vocab_size': WORDS})


class Clock(Callback):
    """This process's time of each batch, from one's end to the next's: the step, and what algorithms do."""

    def __init__(self, kd: Distillation) -> None:
        self.seconds: list[float] = []
        self.in_kd: list[float] = []
        self._kd, self._before = kd, 0.0

    def fit_start(self, state: State, logger: Logger) -> None:
        """Begin."""
        self._before = time.process_time()

    def batch_end(self, state: State, logger: Logger) -> None:
        """Note the time."""
        now = time.process_time()
        self.seconds.append(now - self._before)
        self.in_kd.append(self._kd.summary()['kd_seconds'] - sum(self.in_kd))
        self._before = now


def fit(kind: str, data: DataSpec, kd: Distillation, batches: int) -> Clock:
    """Train so many batches; the seconds of each."""
    clock, model = Clock(kd), model_of(kind, 1)
    Trainer(
        model=model, train_dataloader=data, algorithms=[kd], callbacks=[clock], max_duration=f'{batches}ba', seed=17,
        optimizers=torch.optim.SGD(model.parameters(), lr=1e-4), progress_bar=False, log_to_console=False, loggers=[],
    ).fit()
    return clock


def measure(kind: str, rounds: int, batch_size: int) -> dict[str, Any]:
    """Median seconds of a batch without KD, with a live teacher, and with stored answers."""
    batches = 4 * (rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        store = f'{folder}/store'
        written = fit(kind, data_of(kind, batches * batch_size, batch_size), Distillation(
            [{'module': model_of(kind, 2), 'cache': {'path': store, 'fill': True, 'format': FORMATS[kind]}}],
            check_batches=0,
        ), batches)
        teachers: list[Any] = [{'module': model_of(kind, 2), 'name': 'live'}, {'cache': store, 'name': 'stored'}]
        clock = fit(kind, data_of(kind, batches * batch_size, batch_size), Distillation(
            teachers, teachers_per_batch=1, sampling='round_robin', interval=2, check_batches=0,
        ), batches)
    seconds, in_kd = clock.seconds[4:], clock.in_kd[4:]
    live, off, stored = seconds[0::4], [*seconds[1::4], *seconds[3::4]], seconds[2::4]
    medians = {name: statistics.median(found) for name, found in (('none', off), ('live', live), ('stored', stored))}
    overhead = {name: medians[name] / medians['none'] - 1 for name in ('live', 'stored')}
    gone = sorted(1 - (s - n) / (a - n) for a, s, n in zip(live, stored, seconds[1::4], strict=True))
    return {
        'model': kind, 'batch_size': batch_size, **medians, 'overhead_live': overhead['live'],
        'overhead_stored': overhead['stored'], 'gone': 1 - overhead['stored'] / overhead['live'],
        'gone_by_round': [gone[len(gone) // 4], gone[-(len(gone) // 4) - 1]],
        'kd_live': statistics.median(in_kd[0::4]), 'kd_stored': statistics.median(in_kd[2::4]),
        'kd_gone': 1 - statistics.median(s / a for a, s in zip(in_kd[0::4], in_kd[2::4], strict=True)),
        'filling': statistics.median(written.seconds[4:]) / medians['live'],
    }


@click.group()
def main() -> None:
    """Measure what stored answers save."""


@main.command()
@click.option('--model', 'models', type=click.Choice(list(FORMATS)), multiple=True, default=list(FORMATS))
@click.option('--rounds', default=6, show_default=True, help='Of four batches each, after one that is not counted.')
@click.option('--batch-size', default=8, show_default=True)
@click.option('--json', 'as_json', is_flag=True)
def overhead(models: tuple[str, ...], rounds: int, batch_size: int, as_json: bool) -> None:
    """Batches with a live teacher, with stored answers, and without, in turn in one training."""
    table = Table(title=f'seconds of a batch of {batch_size}, median of {rounds} rounds')
    columns = ('model', 'no KD', 'live', 'stored', 'overhead live', 'stored', 'gone', 'by round', 'KD live',
               'KD stored', 'KD gone', 'writing/live')
    for column in columns:
        table.add_column(column, justify='right')
    for kind in models:
        found = measure(kind, rounds, batch_size)
        if as_json:
            print(json.dumps(found))
        low, high = found['gone_by_round']
        table.add_row(
            kind, *(f'{found[name]:.3f}' for name in ('none', 'live', 'stored')),
            *(f'{100 * found[name]:.1f} %' for name in ('overhead_live', 'overhead_stored', 'gone')),
            f'{100 * low:.0f} to {100 * high:.0f} %', f"{found['kd_live']:.3f}", f"{found['kd_stored']:.4f}",
            f"{100 * found['kd_gone']:.1f} %", f"{found['filling']:.3f}",
        )
    if not as_json:
        Console(width=160).print(table)


def made(folder: Path, form: Format, batch: Any, rows: int, samples: int) -> Store:
    """A store of random answers, all to the samples of one batch over and over."""
    Manifest({}, {}, {}, {}, form, 'fp32').write(folder)
    prints, part = fingerprints(batch).tolist(), PartWriter(folder)
    raw = form.pack(torch.randn(rows, form.classes)).numpy().tobytes()
    for index in range(samples):
        part.write(key_of(0, index), prints[index % len(prints)], raw)
    part.close()
    return Store.open(folder)


@main.command()
@click.option('--rounds', default=7, show_default=True)
def read(rounds: int) -> None:
    """Samples a second of one process, in random order, every check included."""
    size, random = 256, np.random.default_rng(0)
    images = torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8), torch.arange(size)
    words = {name: torch.ones(size, LENGTH, dtype=torch.int64) for name in ('input_ids', 'attention_mask', 'labels')}
    table = Table(title=f'reading stored answers, one process, median of {rounds} rounds [fastest, slowest]')
    for column in ('store', 'bytes a sample', 'samples/s', 'with fingerprints', 'MB/s', 's for a GB'):
        table.add_column(column, justify='right')
    cases = (
        ('ImageNet, k 10', Format('top_k', CLASSES, k=10), images, 1, 400_000),
        ('BERT, k 8, 19 rows', Format('top_k', WORDS, k=8), words, 19, 100_000),
    )
    for name, form, batch, rows, samples in cases:
        with tempfile.TemporaryDirectory() as folder:
            store = made(Path(folder), form, batch, rows, samples)
            source, prints = Source({0: store}), fingerprints(batch)
            bare, whole = [], []
            for _ in range(rounds):
                # any samples that look like the batch's
                indices = random.integers(0, samples // size, (20, size)) * size + np.arange(size)
                begun = time.perf_counter()
                for some in indices:
                    keys = keys_of(0, some)
                    for i, row in enumerate(store.locate(keys).tolist()):
                        store.payload(row, int(keys[i]), int(prints[i]))
                bare.append(indices.size / (time.perf_counter() - begun))
                begun = time.perf_counter()
                for some in indices:
                    assert not source(keys_of(0, some), batch)['error'][0]
                whole.append(indices.size / (time.perf_counter() - begun))
            each = store.bytes / samples
            rate = statistics.median(bare)
            table.add_row(
                name, f'{each:.1f}', f'{rate:,.0f} [{max(bare):,.0f}, {min(bare):,.0f}]',
                f'{statistics.median(whole):,.0f}', f'{rate * each / 1e6:.1f}', f'{1e9 / (rate * each):.0f}',
            )
    Console(width=130).print(table)


if __name__ == '__main__':
    main()
