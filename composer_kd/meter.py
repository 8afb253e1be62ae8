"""What distillation costs while it runs, measured without holding the device up."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

PARTS = ('teacher', 'all')


class Meter:
    """Seconds spent on distillation, and the part of the teachers in them.

    On a GPU, CUDA events mark the parts and are read at the end of the batch, when Composer itself has waited for the
    device; elsewhere the wall clock is read. The KD loss's share of the backward pass is not told apart from the rest
    of it, so the figures leave it out.
    """

    def __init__(self) -> None:
        self.total: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.batch: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self.on_kd = self.on_wall = 0.0
        self._events: list[tuple[str, Any, Any]] = []

    @contextmanager
    def part(self, name: str, on_gpu: bool) -> Iterator[None]:
        """Count what happens inside as ``'teacher'``, or as ``'all'`` around it."""
        if on_gpu:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
        else:
            started = time.perf_counter()
            yield
            self.batch[name] += time.perf_counter() - started

    def close_batch(self, on: bool, wall: float) -> dict[str, float]:
        """Add the batch to the totals and return its seconds by part. Call once the device has finished the batch.

        Args:
            on: Whether distillation was on.
            wall: How long the whole batch took, in seconds.
        """
        for name, begin, end in self._events:
            end.synchronize()  # has passed already where Composer read the loss
            self.batch[name] += begin.elapsed_time(end) / 1000
        self._events.clear()
        closed = self.batch
        for name, seconds in closed.items():
            self.total[name] += seconds
        if on:
            self.on_kd += closed['all']
            self.on_wall += wall
        self.batch = dict.fromkeys(PARTS, 0.0)
        return closed

    @property
    def seconds(self) -> float:
        """All seconds so far."""
        return self.total['all']

    @property
    def overhead(self) -> float | None:
        """Time spent on distillation / time of the same batches without it, over the batches with it so far."""
        rest = self.on_wall - self.on_kd
        return self.on_kd / rest if rest > 0 else None

    def state_dict(self) -> dict[str, float]:
        """In plain types."""
        return {**self.total, 'on_kd': self.on_kd, 'on_wall': self.on_wall}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Take up earlier seconds."""
        self.total.update({name: state.get(name, 0.0) for name in PARTS})
        self.on_kd, self.on_wall = state.get('on_kd', 0.0), state.get('on_wall', 0.0)
