"""What one model says of the validation data: its metrics, its answers row by row, and a part of them kept."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from composer.devices import Device
from composer.models import ComposerModel
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from composer_kd.batches import POSITIONS
from composer_kd.teachers import Teacher

_PIECE = 2**24


@dataclass
class Seen:
    """What one model said, row by row.

    Attributes:
        quality: Its metrics, by name.
        first: Its likeliest class, ``(n,)``.
        confidence: Its probability, ``(n,)``.
        nll: Negative log-likelihood of the label in nats, ``(n,)``.
        entropy: Of its answer at the recipe's temperature in nats, ``(n,)``.
    """

    quality: dict[str, float] = field(default_factory=dict)
    first: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    confidence: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    nll: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    entropy: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))


class Sample:
    """Rows that are kept: all while they fit, then a random part in which each is as likely as any other.

    Args:
        numbers: How many logits fit.

    Example:
        >>> sample = Sample(6)
        >>> sample.add(torch.zeros(2, 3), torch.tensor([0, 2]))
        >>> sample.taken()[1].tolist()
        [0, 2]
    """

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._draws: list[Tensor] = []
        self._below = 1.0
        self._generator = torch.Generator().manual_seed(0)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Offer rows, logits ``(n, C)`` and labels ``(n,)`` on any device."""
        draws = torch.rand(len(labels), generator=self._generator)
        mine = (draws < self._below).nonzero().squeeze(1)
        there = mine.to(logits.device)
        self._logits.append(logits.index_select(0, there).float().cpu())
        self._labels.append(labels.index_select(0, there).cpu())
        self._draws.append(draws[mine])
        most = max(1, self._numbers // logits.shape[-1])
        if sum(map(len, self._labels)) > 2 * most:
            self._shrink(most)

    def _shrink(self, most: int) -> None:
        logits, labels, draws = self._all()
        if len(draws) > most:
            keep = draws.topk(most, largest=False).indices.sort().values
            logits, labels, draws = logits[keep], labels[keep], draws[keep]
            self._below = float(draws.max())
        self._logits, self._labels, self._draws = [logits], [labels], [draws]

    def _all(self) -> tuple[Tensor, Tensor, Tensor]:
        return torch.cat(self._logits), torch.cat(self._labels), torch.cat(self._draws)

    def taken(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Those that are kept, ``(m, C)`` and ``(m,)``, in their order."""
        if not self._logits:
            return np.empty((0, 0), np.float32), np.empty(0, np.int64)
        self._shrink(max(1, self._numbers // self._logits[0].shape[-1]))
        logits, labels, _ = self._all()
        return logits.numpy(), labels.numpy()


class Judged:
    """One model, its metrics, and what it said so far.

    Args:
        model: The model, on the device.
        judge: The model whose metrics are the task's; it is not run.
        names: Patterns of metrics; ``None`` for all.
        device: Where all runs.

    Attributes:
        model: The model.
        left_out: Metrics that cannot be computed.
    """

    def __init__(self, model: Teacher, judge: ComposerModel, names: list[str] | None, device: Device) -> None:
        self.model, self._judge = model, judge
        self._metrics: dict[str, Metric] = {
            name: device.module_to_device(copy.deepcopy(metric))
            for name, metric in judge.get_metrics(is_train=False).items()
            if names is None or any(re.match(pattern, name) for pattern in names)
        }
        self.left_out: set[str] = set()
        self._found: dict[str, list[Tensor]] = {'first': [], 'confidence': [], 'nll': [], 'entropy': []}

    def ask(self, part: Any, positions: Tensor | None) -> Tensor:
        """Its logits.

        Raises:
            ValueError: If they are not finite.
        """
        logits = self.model.outputs(part, positions)
        if bool((logits.isnan() | logits.isposinf()).any()):
            raise ValueError(
                f"The {self.model.name} ({self.model.origin}) gives answers that are not finite: "
                f'{int((~logits.isfinite()).sum()):,} of {logits.numel():,} numbers of a batch. Its training '
                'diverged, or its weights are damaged; give an earlier checkpoint.',
            )
        return logits

    def measure(self, part: Any, logits: Tensor, positions: Tensor | None, row_labels: Tensor | None) -> None:
        """Update the metrics."""
        if positions is not None:
            for name, metric in self._metrics.items():
                if getattr(metric, 'needs_batch', False):
                    self.left_out.add(name)
                    continue
                metric.update(logits.float(), row_labels)
            return
        given = _copied(part)
        outputs: Any = {'logits': logits} if isinstance(part, Mapping) else logits
        said = self._judge.eval_forward(given, outputs)
        for metric in self._metrics.values():
            self._judge.update_metric(given, said, metric)

    def look(self, logits: Tensor, labels: Tensor, temperature: float) -> None:
        """Note what it says of each row, logits ``(n, C)``."""
        for piece in pieces(logits):
            log_probable = logits[piece].float().log_softmax(-1)
            top, first = log_probable.max(-1)
            softer = log_probable if temperature == 1 else (logits[piece].float() / temperature).log_softmax(-1)
            # nothing times -inf is NaN
            parts = (softer.exp() * softer).masked_fill_(softer == -torch.inf, 0)
            for name, values in (
                ('first', first), ('confidence', top.exp()), ('entropy', -parts.sum(-1)),
                ('nll', -log_probable.gather(-1, labels[piece].unsqueeze(-1)).squeeze(-1)),
            ):
                self._found[name].append(values.cpu())

    def seen(self) -> Seen:
        """All of it."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of metrics with nothing to compute from
            values = {
                name: metric.compute() for name, metric in self._metrics.items() if name not in self.left_out
            }
        quality = {}
        for name, value in values.items():
            if isinstance(value, Tensor) and value.numel() == 1:
                quality[name] = float(value)
            else:
                self.left_out.add(name)
        if not self._found['first']:
            return Seen(quality)
        return Seen(quality, **{name: torch.cat(parts).numpy() for name, parts in self._found.items()})


def _copied(part: Any) -> Any:
    # evaluation takes labels out of a batch, and shifts them in place
    if isinstance(part, Mapping):
        return {key: value.clone() if isinstance(value, Tensor) and key != POSITIONS else value
                for key, value in part.items()}
    return part


def pieces(logits: Tensor) -> list[slice]:
    """Rows that are calculated with at once, so that what that takes is bounded, logits ``(n, C)``."""
    size = max(1, _PIECE // max(1, logits.shape[-1]))
    return [slice(first, first + size) for first in range(0, len(logits), size)]
