"""What Composer needs on several machines that share a file system."""

from __future__ import annotations

import functools
import random

from composer.utils import dist


def name_signal_files_by_node() -> None:
    """Let every machine have signal files of its own.

    The ranks of a machine wait for their first one by a file in the run folder. In Composer 0.32.1 all machines give
    that file the name that rank zero drew, so on a shared file system the machine that is done first removes it under
    the others, which then fail.
    """
    given = dist.get_node_signal_file_name
    if getattr(given, 'by_node', False):
        return

    @functools.wraps(given)
    def by_node(rng: random.Random | None = None) -> str:
        return f'{given(rng)}_{dist.get_node_rank()}'

    by_node.by_node = True  # type: ignore[attr-defined]
    dist.get_node_signal_file_name = by_node
