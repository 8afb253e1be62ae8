"""How long a training is and what happens how often in it, in whole numbers, by Composer's own rules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from composer.core import Time, TimeUnit

from composer_kd.schedule import Clock


@dataclass(frozen=True)
class Course:
    """The course of a training. What depends on data that is not known is ``None``.

    Attributes:
        duration: ``max_duration``, scaled.
        batch_size: Samples of a batch over all ranks.
        tokens: Of a sample; 0 where it has none.
        batches_per_epoch: Steps of an epoch.
    """

    duration: Time[Any]
    batch_size: int
    tokens: int = 0
    batches_per_epoch: int | None = None

    @property
    def steps(self) -> int | None:
        """Steps in all.

        Example:
            >>> Course(Time.from_timestring('1000sp'), batch_size=64).steps
            16
        """
        count = self._in_batches(self.duration)
        return None if count is None else math.ceil(count)

    def clock(self, batch: int) -> Clock:
        """The clock at the start of that batch, counted from 0."""
        samples = batch * self.batch_size
        epoch, in_epoch = (0, batch) if self.batches_per_epoch is None else divmod(batch, self.batches_per_epoch)
        return Clock(batch, epoch, samples, samples * self.tokens, batch_in_epoch=in_epoch)

    def in_batches(self, time: Time[Any] | str | int) -> Fraction | None:
        """A span of the training in batches (a bare number is epochs); ``None`` where that is not known.

        Example:
            >>> course = Course(Time.from_timestring('10ep'), batch_size=64, batches_per_epoch=20)
            >>> course.in_batches('0.25dur')
            Fraction(50, 1)
        """
        return self._in_batches(Time.from_input(time, TimeUnit.EPOCH))

    def _in_batches(self, time: Time[Any]) -> Fraction | None:
        if time.unit == TimeUnit.DURATION:
            whole = self._in_batches(self.duration)
            return None if whole is None else whole * Fraction(str(time.value))
        value = Fraction(int(time.value))
        if time.unit == TimeUnit.BATCH:
            return value
        if time.unit == TimeUnit.EPOCH and self.batches_per_epoch is not None:
            return value * self.batches_per_epoch
        if time.unit == TimeUnit.SAMPLE:
            return value / self.batch_size
        if time.unit == TimeUnit.TOKEN and self.tokens:
            return value / (self.batch_size * self.tokens)
        return None

    def moments(self, interval: str | int) -> int | None:
        """How often something happens that is done every ``interval`` and at the end, as evaluation and saving are.

        Args:
            interval: A time string, or a number of epochs; 0 for never.

        Returns:
            Moments; ``None`` where that is not known.

        Example:
            >>> course = Course(Time.from_timestring('10ep'), batch_size=64, batches_per_epoch=20)
            >>> course.moments('3ep'), course.moments('50ba'), course.moments(0)
            (4, 4, 0)
        """
        time, steps = Time.from_input(interval, TimeUnit.EPOCH), self.steps
        if time.value <= 0:
            return 0
        every = self._in_batches(time)
        if every is None or steps is None:
            return None
        if time.unit == TimeUnit.DURATION and self.duration.unit in (TimeUnit.EPOCH, TimeUnit.BATCH):
            every = Fraction(math.ceil(every))
        if every < 1:
            return steps
        last_is_one = math.floor(steps / every) != math.floor((steps - 1) / every)
        return math.floor(steps / every) + (not last_is_one)
