"""What a section hands on: figures for JSON, and tables for people."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarking.sums import Growth, Spread

NOTHING = '-'


@dataclass(frozen=True)
class Table:
    """A table in text.

    Attributes:
        title: Above it.
        columns: Names; the first column is to the left, the others to the right.
        rows: Text.
        notes: Lines below it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """What a section found.

    Attributes:
        name: Of its subcommand.
        figures: For JSON: one mapping for each case or curve.
        tables: The same for people.
    """

    name: str
    figures: list[dict[str, Any]]
    tables: list[Table]


def short_seconds(found: Spread | None) -> str:
    """``1.23 s`` or ``4.5 ms``."""
    if found is None:
        return NOTHING
    return f'{found.median:.2f} s' if found.median >= 1 else f'{found.median * 1e3:.3g} ms'


def short_ratio(found: Spread | None, digits: int = 2) -> str:
    """Median and quartiles: ``0.75 [0.73, 0.78]``."""
    if found is None:
        return NOTHING
    return f'{found.median:.{digits}f} [{found.low:.{digits}f}, {found.high:.{digits}f}]'


def short_percent(found: Spread | None) -> str:
    """Median and quartiles: ``91 % [90, 92]``."""
    if found is None:
        return NOTHING
    return f'{100 * found.median:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]'


def short_bytes(found: int | None) -> str:
    """``1.23 GB``."""
    return NOTHING if not found else f'{found / 1e9:.2f} GB' if found >= 1e9 else f'{found / 1e6:.0f} MB'


def short_growth(found: Growth) -> str:
    """``linear, slope 0.98, no cliff``."""
    if found.slope is None:
        return found.kind
    cliffs = ', '.join(f'cliff from {low:g} to {high:g}' for low, high in found.cliffs) or 'no cliff'
    return f'{found.kind} at the end (slope {found.last:.2f}; {found.slope:.2f} overall), {cliffs}'


def failures(failed: dict[str, str]) -> list[str]:
    """A line for each variant that has no figures."""
    return [f'{name}: {reason}' for name, reason in failed.items()]
