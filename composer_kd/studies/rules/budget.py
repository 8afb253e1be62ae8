"""What the runs of a study have used of its budget."""

from __future__ import annotations

from collections.abc import Iterable

from composer_kd.studies.store.attempts import Attempt


def busy_seconds(attempts: Iterable[Attempt]) -> float:
    """Seconds in which at least one of the attempts was going; side by side they count once.

    Example:
        >>> a, b, c = (Attempt('r', 1, 'w', start, end, 1) for start, end in ((0, 10), (5, 12), (20, 21)))
        >>> busy_seconds([a, b, c])
        13.0
    """
    total, until = 0.0, float('-inf')
    for attempt in sorted(attempts, key=lambda attempt: attempt.started):
        total += max(0.0, attempt.beat - max(attempt.started, until))
        until = max(until, attempt.beat)
    return total


def gpu_seconds(attempts: Iterable[Attempt]) -> float:
    """Seconds of every attempt times the GPUs it held, what was lost to crashes included."""
    return sum(attempt.seconds * attempt.gpus for attempt in attempts)


def used_up(attempts: list[Attempt], hours: float | None, gpu_hours: float | None) -> bool:
    """Whether no new run may be begun."""
    return (hours is not None and busy_seconds(attempts) >= 3600 * hours) or (
        gpu_hours is not None and gpu_seconds(attempts) >= 3600 * gpu_hours
    )
