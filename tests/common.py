"""Small real models, data and trainers that the tests share."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from composer import Trainer
from composer.core import Algorithm, Event
from composer.models import ComposerClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 5


def network(classes: int = CLASSES, width: int = 16, seed: int = 0) -> nn.Module:
    """A convolutional network with BatchNorm and a strided convolution for BlurPool to replace."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
        )


def classifier(seed: int = 0, classes: int = CLASSES, **kwargs: Any) -> ComposerClassifier:
    return ComposerClassifier(network(classes, seed=seed), num_classes=classes, **kwargs)


def images(samples: int = 48, seed: int = 1, classes: int = CLASSES) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    pixels = torch.randn(samples, 1, 8, 8, generator=generator) + labels[:, None, None, None] / 2
    return TensorDataset(pixels, labels)


def loader(samples: int = 48, batch_size: int = 8, shuffle: bool = False, **kwargs: Any) -> DataLoader[Any]:
    return DataLoader(images(samples, **kwargs), batch_size=batch_size, shuffle=shuffle)


def trainer(
    algorithms: list[Algorithm] | Algorithm = (), model: Any = None, data: Any = None, lr: float = 0.1, **kwargs: Any,
) -> Trainer:
    model = classifier() if model is None else model
    settings = {
        'max_duration': '2ep', 'progress_bar': False, 'seed': 17, 'save_overwrite': True,
        'optimizers': torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9), **kwargs,
    }
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Composer's own, of SAM and of interpolated losses
        return Trainer(
            model=model, train_dataloader=loader() if data is None else data, algorithms=algorithms, **settings,
        )


def weights(of: Trainer | nn.Module) -> dict[str, torch.Tensor]:
    module = of.state.model if isinstance(of, Trainer) else of
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Watch(Algorithm):
    """Looks at the state at one event and keeps what a function makes of it."""

    def __init__(self, event: Event, look: Any) -> None:
        self.event, self.look, self.seen = event, look, []

    def match(self, event: Event, state: Any) -> bool:
        return event == self.event

    def apply(self, event: Event, state: Any, logger: Any) -> None:
        self.seen.append(self.look(state))


class Counting(nn.Module):
    """A module that counts its forwards, by a hook: a module with hooks is not prepared unless it is asked for."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.calls = 0
        self.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)
