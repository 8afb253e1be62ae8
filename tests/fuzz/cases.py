"""How many cases are tried, and with which seed."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

MORE = 'COMPOSER_KD_FUZZ'
"""The environment variable that says how many times as many cases are tried; with it, other ones every time."""


def cases(count: int) -> settings:
    """The settings of a test: the same cases every time, or many more of them, drawn anew."""
    factor = os.environ.get(MORE)
    return settings(
        max_examples=max(1, round(count * float(factor or 1))), derandomize=not factor, database=None, deadline=None,
        print_blob=bool(factor), suppress_health_check=list(HealthCheck),
    )
