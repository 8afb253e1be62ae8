"""Models that other libraries download into caches of their own, once a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from composer.utils import dist

from composer_kd.models.outside import on_first_ranks

T = TypeVar('T')


def first_then_all(load: Callable[[], T], downloads: bool = True) -> T:
    """Load on the first rank of every node, which fills the library's cache, and then on the others out of it.

    Args:
        load: What loads.
        downloads: Whether anything may have to be downloaded; otherwise every rank just loads.

    Returns:
        What was loaded on this rank.

    Example:
        >>> first_then_all(lambda: 3)
        3
    """
    if not downloads or not dist.is_initialized() or dist.get_world_size() == 1:
        return load()
    kept: list[T] = []

    def keep() -> None:
        kept.append(load())

    on_first_ranks(keep)
    return kept[0] if kept else load()
