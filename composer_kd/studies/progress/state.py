"""How far a run of a study is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from composer_kd.studies.rules.planned import Planned

State = Literal['waiting', 'running', 'finished', 'pruned', 'failed', 'died']

OVER: tuple[State, ...] = ('finished', 'pruned', 'failed')
"""States that a run does not leave."""


@dataclass
class RunState:
    """One run of a study and how far it is.

    Attributes:
        planned: The run.
        state: ``died``: its process or worker ended by itself, and it will be started again.
        quality: At its end, or at its latest evaluation; ``None`` before the first.
        train_seconds: Training time, without evaluation.
        wall_seconds: Time for which workers were held by it, over all attempts.
        batches: Batches trained.
        share: How much of its duration is done, 0 to 1; ``None`` if that cannot be told.
        teachers: Keys or folders of its teachers.
        attempts: How often it was started.
        worker: Host and process of its worker.
        reason: Why it failed: the last lines of its log.
        params: What the search suggested.
        started: When it was first started, seconds since the epoch; ``None`` if it was not.
        ended: When it was over; ``None`` if it is not.
    """

    planned: Planned
    state: State = 'waiting'
    quality: float | None = None
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    batches: int = 0
    share: float | None = None
    teachers: list[str] = field(default_factory=list)
    attempts: int = 0
    worker: str = ''
    reason: str = ''
    params: dict[str, Any] = field(default_factory=dict)
    started: float | None = None
    ended: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether it is finished, pruned or failed."""
        return self.state in OVER
