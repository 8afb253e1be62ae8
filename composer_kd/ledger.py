"""The books of distillation: how often it was on, who answered, what it cost, and what is logged of that."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.decision import Decision
from composer_kd.guard import Guard
from composer_kd.meter import Meter
from composer_kd.teachers import AnyTeacher


class Ledger:
    """Counts, seconds and losses. A batch counts once, however often it was tried.

    Args:
        names: The teachers' names.
        kept: Those of them with a store.
        labels: What the losses are called, where there may be several.
    """

    def __init__(self, names: Sequence[str], kept: Sequence[str] = (), labels: Sequence[str] = ()) -> None:
        self.meter = Meter()
        self.load_seconds = 0.0
        self.active = self.skipped_rows = 0
        self.batches = dict.fromkeys(names, 0)
        self.samples = dict.fromkeys(names, 0)
        self.stored = dict.fromkeys(kept, 0)
        self.store_seconds = self.store_outside_seconds = 0.0
        self._names, self._labels = list(names), list(labels)
        self._parts: tuple[int, ...] = ()
        self._read = dict.fromkeys(kept, 0)
        self._losses: list[Tensor] = []
        self._size = 0

    def open_batch(self) -> None:
        """Forget what an earlier try at the batch left behind."""
        self._losses, self._size = [], 0

    def answered(self, now: Decision, samples: int, read: Mapping[int, int]) -> None:
        """Count the samples of a microbatch that teachers answered for; again, where they answered again.

        Args:
            now: Who was asked.
            samples: Of the microbatch.
            read: How many of them were read from a store on this rank, by the teacher's index.
        """
        for i, ranks in now.askers.items():
            self.samples[self._names[i]] += samples * ranks
        for i in now.teachers:
            if i in read:
                self._read[self._names[i]] += read[i]

    @contextmanager
    def storing(self, outside: bool = False) -> Iterator[None]:
        """Count the time of what happens inside as spent on stores, on the clock of the training or ``outside``."""
        started = time.perf_counter()
        yield
        spent = time.perf_counter() - started if self.stored else 0.0
        self.store_seconds += 0.0 if outside else spent
        self.store_outside_seconds += spent if outside else 0.0

    def losses(self, kd: Tensor, base: Tensor, size: int, parts: Mapping[int, Tensor] | None = None) -> None:
        """Keep a microbatch's losses, weighed as Composer weighs the microbatch; nothing waits for the device.

        Args:
            kd: The KD term.
            base: The model's own loss.
            size: The microbatch's weight.
            parts: Of several losses, each before it was weighed, by its index: the same in all of a batch.
        """
        parts = parts if parts and self._labels else {}
        self._parts = tuple(parts)
        each = [part.detach().float() for part in parts.values()]
        self._losses.append(torch.stack([kd.detach().float(), base, *each]) * size)
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
        metrics = {**now.metrics(self._names, self._labels), 'kd/teacher_seconds': seconds['teacher']}
        if now.on and self.meter.overhead is not None:
            metrics['kd/overhead'] = self.meter.overhead
        if self._losses:
            means = torch.stack(self._losses).sum(dim=0) / max(self._size, 1)
            read = [means.new_tensor([float(count) for count in self._read.values()])] if self._read else []
            both = torch.cat([means, *read, guard.counts(means)])
            ranks = dist.get_world_size()
            if ranks > 1:
                dist.all_reduce(both)
            kd, base, *found = both.tolist()
            metrics['loss/train/kd'], metrics['loss/train/base'] = kd / ranks, base / ranks
            for index, value in zip(self._parts, found, strict=False):
                metrics[f'loss/train/kd/{self._labels[index]}'] = value / ranks
            found = found[len(self._parts):]
            self.open_batch()
            for name, count in zip(self._read, found, strict=False):
                self.stored[name] += round(count)
                self._read[name] = 0
            skipped = guard.close_batch(found[len(self._read):], base / ranks, state, self.skipped_rows)
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
            'overhead': meter.overhead, 'skipped_rows': self.skipped_rows, 'store_seconds': self.store_seconds,
            'store_outside_seconds': self.store_outside_seconds,
        }

    def of(self, teacher: AnyTeacher) -> dict[str, Any]:
        """A teacher and what it was asked so far."""
        name, keeper = teacher.name, teacher.keeper
        return {
            'name': name, 'origin': teacher.origin, 'digest': teacher.digest, 'weight': teacher.weight,
            'batches': self.batches[name], 'samples': self.samples[name], 'stored': self.stored.get(name, 0),
            'store': None if keeper is None else keeper.path, 'store_bytes': None if keeper is None else keeper.bytes,
            **teacher.told_of_preparation,
        }

    def state_dict(self) -> dict[str, Any]:
        """In plain types."""
        return {
            'active_batches': self.active, 'skipped_rows': self.skipped_rows,
            'batches': dict(self.batches), 'samples': dict(self.samples), 'stored': dict(self.stored),
            'seconds': self.meter.state_dict(), 'load_seconds': self.load_seconds,
            'store_seconds': self.store_seconds, 'store_outside_seconds': self.store_outside_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up earlier books; teachers that are not here any more are left out."""
        self.active, self.skipped_rows = state.get('active_batches', 0), state.get('skipped_rows', 0)
        for own, book in ((self.batches, 'batches'), (self.samples, 'samples'), (self.stored, 'stored')):
            own.update({name: count for name, count in state.get(book, {}).items() if name in own})
        self.meter.load_state_dict(state.get('seconds', {}))
        self.load_seconds += state.get('load_seconds', 0.0)
        self.store_seconds += state.get('store_seconds', 0.0)
        self.store_outside_seconds += state.get('store_outside_seconds', 0.0)
