"""The books of distillation: how often it was on, who answered, what it cost, and what is logged of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.decision import Decision
from composer_kd.guard import Guard
from composer_kd.meter import Meter


class Ledger:
    """Counts, seconds and losses. A batch counts once, however often it was tried.

    Args:
        names: The teachers' names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.meter = Meter()
        self.load_seconds = 0.0
        self.active = self.skipped_rows = 0
        self.batches = dict.fromkeys(names, 0)
        self.samples = dict.fromkeys(names, 0)
        self._names = list(names)
        self._losses: list[Tensor] = []
        self._size = 0

    def open_batch(self) -> None:
        """Forget what an earlier try at the batch left behind."""
        self._losses, self._size = [], 0

    def answered(self, now: Decision, samples: int) -> None:
        """Count the samples of a microbatch that teachers answered for; again, where they answered again."""
        for i, ranks in now.askers.items():
            self.samples[self._names[i]] += samples * ranks

    def losses(self, kd: Tensor, base: Tensor, size: int) -> None:
        """Keep a microbatch's losses, weighed as Composer weighs the microbatch; nothing waits for the device."""
        self._losses.append(torch.stack([kd.detach().float(), base]) * size)
        self._size += size

    def close_batch(self, now: Decision, state: State, guard: Guard) -> dict[str, float]:
        """Book a finished batch. Call at ``BATCH_END``, when Composer has read its loss and the device is done with it.

        Returns:
            What is logged of the batch.

        Raises:
            RuntimeError: As :meth:`composer_kd.guard.Guard.close_batch`.
        """
        seconds = self.meter.close_batch(now.on, state.timestamp.batch_wct.total_seconds())
        self.active += now.on
        for i in now.askers:
            self.batches[self._names[i]] += 1
        metrics = {**now.metrics(self._names), 'kd/teacher_seconds': seconds['teacher']}
        if now.on and self.meter.overhead is not None:
            metrics['kd/overhead'] = self.meter.overhead
        if self._losses:
            means = torch.stack(self._losses).sum(dim=0) / max(self._size, 1)
            both = torch.cat([means, guard.counts(means)])
            ranks = dist.get_world_size()
            if ranks > 1:
                dist.all_reduce(both)
            kd, base, *found = both.tolist()
            metrics['loss/train/kd'], metrics['loss/train/base'] = kd / ranks, base / ranks
            self.open_batch()
            skipped = guard.close_batch(found, base / ranks, state, self.skipped_rows)
            self.skipped_rows += skipped
            if guard.skips:
                metrics['kd/skipped'] = float(skipped)
        return metrics

    def summary(self) -> dict[str, Any]:
        """Counts and seconds so far."""
        meter = self.meter
        return {
            'active_batches': self.active, 'kd_seconds': meter.seconds, 'teacher_seconds': meter.total['teacher'],
            'loss_seconds': meter.seconds - meter.total['teacher'], 'load_seconds': self.load_seconds,
            'overhead': meter.overhead, 'skipped_rows': self.skipped_rows,
        }

    def state_dict(self) -> dict[str, Any]:
        """In plain types."""
        return {
            'active_batches': self.active, 'skipped_rows': self.skipped_rows,
            'batches': dict(self.batches), 'samples': dict(self.samples),
            'seconds': self.meter.state_dict(), 'load_seconds': self.load_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up earlier books; teachers that are not here any more are left out."""
        self.active, self.skipped_rows = state.get('active_batches', 0), state.get('skipped_rows', 0)
        for own, kept in ((self.batches, state.get('batches', {})), (self.samples, state.get('samples', {}))):
            own.update({name: count for name, count in kept.items() if name in own})
        self.meter.load_state_dict(state.get('seconds', {}))
        self.load_seconds += state.get('load_seconds', 0.0)
