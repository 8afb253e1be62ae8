"""Models for the tests of prepared teachers: with statistics that are not those of a fresh model, and some traps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from composer_kd.teachers import Teacher
from composer_kd.teachers.preparing import read_prepare
from tests.common import network

CPU = torch.device('cpu')


def lived_in(model: nn.Module, seed: int = 3) -> nn.Module:
    """The model with BatchNorms that do something, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            if part.weight is not None:
                part.weight.data.uniform_(0.5, 1.5, generator=generator)
                part.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def small(seed: int = 9) -> nn.Module:
    return lived_in(network(seed=seed))


def pixels(samples: int = 12, channels: int = 1, side: int = 8, seed: int = 1) -> torch.Tensor:
    return torch.randn(samples, channels, side, side, generator=torch.Generator().manual_seed(seed))


def prepared(model: nn.Module, prepare: Any = 'auto', device: torch.device = CPU, precision: str = 'fp32', **more: Any) -> Teacher:
    from composer.core import Precision

    teacher = Teacher(model, 'a', prepare=read_prepare(prepare), **more)
    teacher.make_ready(device, Precision(precision))
    return teacher


def norms(model: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())


class ReadTwice(nn.Module):
    """A convolution whose output goes to a BatchNorm and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return self.head((self.norm(y) + y).mean((2, 3)))


class CalledTwice(nn.Module):
    """A convolution that is called twice, the first time with its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.norm(self.conv(x)).relu()).flatten(1))


class SharedNorm(nn.Module):
    """A BatchNorm behind two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.norm = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.norm(self.one(x)) * self.norm(self.other(x)).relu()).mean((2, 3)))


class NormFirst(nn.Module):
    """BatchNorm, ReLU, convolution: the order of pre-activation networks."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv, self.head = nn.BatchNorm2d(1), nn.Conv2d(1, 8, 3), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(self.norm(x).relu()).mean((2, 3)))


class WeightsRead(nn.Module):
    """A convolution whose weights are read beside its call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)) + self.conv.weight.sum((1, 2, 3)))


class TokensAsChannels(nn.Module):
    """A linear layer over three dimensions: BatchNorm1d then normalises the second, not the last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.linear(x.flatten(1, 2))).relu().mean(1))


class ByValue(nn.Module):
    """What it computes depends on its input's values."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.conv(x)) if x.sum() > -1e9 else self.conv(x)
        return self.head(y.relu().mean((2, 3)))


class PartlyByValue(nn.Module):
    """A part of it can be followed, the other cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rest = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1)), ByValue()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.stem(x).relu())


class Stateful(nn.Module):
    """Another model in its second call: what the code of the first shows is not what runs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)
        self.plain = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x) if self.plain and type(x) is torch.Tensor else self.norm(self.conv(x))
        return self.head(y.relu().mean((2, 3)))
