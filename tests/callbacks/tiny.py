"""A training that takes a moment, and a stand-in of the algorithm."""

from __future__ import annotations

import time
from typing import Any

import torch
from composer import Callback, Trainer
from composer.core import Algorithm, Event
from composer.models import ComposerClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.callbacks import RunRecorder
from composer_kd.runs import Record, RunFolder

CLASSES, WIDTH, BATCH, BATCHES = 3, 6, 8, 4


def data(seed: int, samples: int = BATCH * BATCHES) -> DataLoader:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, WIDTH, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, :CLASSES] * 2).argmax(-1)), batch_size=BATCH)


class Slow(TensorDataset):
    """Takes its time over every batch."""

    def __init__(self, seconds: float, batches: int = BATCHES) -> None:
        super().__init__(*data(0, BATCH * batches).dataset.tensors)
        self.seconds = seconds

    def __getitems__(self, indices: list[int]) -> list[Any]:
        time.sleep(self.seconds)
        return [self[index] for index in indices]


def classifier(seed: int = 0) -> ComposerClassifier:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(WIDTH, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, CLASSES))
    return ComposerClassifier(net, num_classes=CLASSES)


def trainer(folder: Any = None, recorder: RunRecorder | None = None, **settings: Any) -> Trainer:
    callbacks = settings.pop('callbacks', [])
    if folder is not None and recorder is None:
        recorder = RunRecorder(folder)
    model = settings.pop('model', None) or classifier()
    settings = {
        'max_duration': '2ep', 'eval_dataloader': data(1), 'seed': 5, 'device': 'cpu', 'progress_bar': False,
        'optimizers': torch.optim.SGD(model.parameters(), lr=0.1), 'train_dataloader': data(0), **settings,
    }
    return Trainer(model=model, callbacks=[*([recorder] if recorder else []), *callbacks], **settings)


def fit(*args: Any, **settings: Any) -> Trainer:
    made = trainer(*args, **settings)
    made.fit()
    made.close()
    return made


class FakeDistillation(Algorithm):
    """Answers what the recorder asks of the algorithm."""

    def __init__(self, flops: Any = 10.0) -> None:
        self.flops = flops
        self.batches = 0
        self.asked: list[Any] = []
        self.settings = {'loss': 'kl_divergence'}

    def match(self, event: Event, state: Any) -> bool:
        return event == Event.AFTER_TRAIN_BATCH

    def apply(self, event: Event, state: Any, logger: Any) -> None:
        self.batches += 1

    def summary(self) -> dict[str, Any]:
        teacher = {
            'name': 'last', 'origin': 'run: runs/last', 'digest': 'ab' * 32, 'weight': 1.0,
            'batches': self.batches, 'samples': self.batches * BATCH,
        }
        return {
            'active_batches': self.batches, 'kd_seconds': self.batches * 0.5, 'teacher_seconds': self.batches * 0.4,
            'loss_seconds': self.batches * 0.1, 'load_seconds': 2.0, 'overhead': 0.25, 'skipped_rows': 0, 'teachers': [teacher],
        }

    def teacher_flops(self, batch: Any) -> dict[str, float]:
        torch.rand(3)
        self.asked.append(batch)
        if isinstance(self.flops, Exception):
            raise self.flops
        return {'last': self.flops}


class Spy(Callback):
    """Reads the record from disk at chosen moments."""

    def __init__(self, folder: RunFolder, event: Event) -> None:
        self.folder, self.event = folder, event
        self.seen: list[Record] = []

    def run_event(self, event: Event, state: Any, logger: Any) -> None:
        if event == self.event:
            self.seen.append(self.folder.read_record())


class Stop(Callback):
    def __init__(self, batch: int, how: str) -> None:
        self.batch, self.how = batch, how

    def batch_end(self, state: Any, logger: Any) -> None:
        if int(state.timestamp.batch) == self.batch:
            if self.how == 'raise':
                raise KeyboardInterrupt
            state.stop_training()
