"""Models that other libraries download into caches of their own, once a machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from composer.utils import dist

from composer_kd.models.outside import on_first_ranks, retried
from composer_kd.teachers.safe import why_refused

_DEPTH = 10

T = TypeVar('T')


def refused_in(error: BaseException) -> str | None:
    """What a file holds that it may not, as an error of another library's says that has ours behind it.

    Example:
        >>> refused_in(OSError('no such file')) is None
        True
    """
    seen: BaseException | None = error
    for _ in range(_DEPTH):
        if seen is None:
            return None
        found = why_refused(seen)
        if found is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def first_then_all(load: Callable[[], T], source: str, downloads: bool = True) -> T:
    """Load on the first rank of every node, which fills the library's cache, and then on the others out of it.

    Args:
        load: What loads; called again after a while where it fails in a way that may pass.
        source: What is loaded, for the log.
        downloads: Whether anything may have to be downloaded; otherwise every rank just loads.

    Returns:
        What was loaded on this rank.

    Example:
        >>> first_then_all(lambda: 3, 'three')
        3
    """
    if not downloads:
        return load()
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return retried(load, source)
    kept: list[T] = []

    def keep() -> None:
        kept.append(retried(load, source))

    on_first_ranks(keep)
    return kept[0] if kept else load()
