"""What every rank found of its prepared teachers, made one."""

from __future__ import annotations

from collections.abc import Mapping

from composer.utils import dist

from composer_kd.teachers.preparing.prepared import Prepared


def settle(found: Mapping[int, Prepared | None]) -> set[int]:
    """Agree on the steps of teachers, at the end of a batch on which some were asked; every rank calls this.

    A step that one rank has left out is left out by all, and what one rank refuses all do.

    Args:
        found: By the teacher's index: of one that this rank has and that was not asked yet, its preparation; ``None``
            where this rank has none to speak of. The same indices on every rank.

    Returns:
        The indices of those that are agreed upon.

    Raises:
        ValueError: On every rank, for a step that was asked for by name and fails.
    """
    mine: dict[int, tuple[list[str], str | None] | None] = {
        index: None if one.error is None else (one.left_out, one.failed)
        for index, one in found.items() if one is not None
    }
    done = set()
    everywhere: list[dict[int, tuple[list[str], str | None] | None]] = dist.all_gather_object(mine)
    for index, one in found.items():
        told = [said for rank in everywhere if (said := rank.get(index)) is not None]
        for _, failed in told:
            if failed is not None:
                raise ValueError(failed)
        waiting = any(index in rank and rank[index] is None for rank in everywhere)
        if one is not None:
            one.leave_out([name for names, _ in told for name in names])
        if not waiting:
            done.add(index)
    return done
