"""Tables as plain data: one table for the terminal, for CSV and for the page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from composer_kd.report.interval import Estimate


@dataclass(frozen=True)
class Number:
    """A cell that holds a number.

    Attributes:
        value: The number; ``None`` where there is none.
        text: How it is shown, with its interval or spread.
        low: Lower end of its interval.
        high: Upper end.
        sd: Its sample standard deviation.
    """

    value: float | None
    text: str
    low: float | None = None
    high: float | None = None
    sd: float | None = None


Cell = str | Number

_SHORT = 14


def text_of(cell: Cell) -> str:
    """A cell as it is shown."""
    return cell if isinstance(cell, str) else cell.text


@dataclass(frozen=True)
class PlainTable:
    """A table of a report: printed, written as CSV, put on the page.

    Attributes:
        title: What it shows.
        columns: Headings; a line break is where a heading may be broken.
        rows: Cells, as many in each row as there are columns.
        notes: Sentences below it: what stands in the way of an answer, how to read it.
        name: Short, fit for the name of a file.

    Example:
        >>> table = PlainTable('Costs', ('method', 'hours'), (('a', Number(1.5, '1.5 h', 1.0, 2.0)),))
        >>> print(table.to_csv(), end='')
        method,hours,hours low,hours high
        a,1.5,1.0,2.0
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    name: str = 'table'

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"Table '{self.title}': expected {len(self.columns)} cells in each row, got {len(row)}: {row!r}.",
                )

    def numeric(self, column: int) -> bool:
        """Whether any cell of that column holds a number."""
        return any(isinstance(row[column], Number) for row in self.rows)

    def to_rich(self) -> Table:
        """For the terminal; ``console.print(table)`` of the table itself does the same."""
        several = any('\n' in text_of(cell) for row in self.rows for cell in row)
        # Text, not str: Rich would read words in brackets as style.
        table = Table(
            title=Text(self.title), caption=Text('\n'.join(self.notes)) if self.notes else None,
            caption_justify='left', show_lines=several,
        )
        for index, column in enumerate(self.columns):
            number = self.numeric(index)
            longest = max((len(line) for row in self.rows for line in text_of(row[index]).split('\n')), default=0)
            # Rich takes all room from the columns that may fold first; long intervals have places to fold at.
            table.add_column(
                Text(column), justify='right' if number else 'left', no_wrap=number and longest <= _SHORT,
                overflow='fold',
            )
        for row in self.rows:
            table.add_row(*(Text(text_of(cell)) for cell in row))
        return table

    def __rich__(self) -> Table:
        return self.to_rich()

    def to_csv(self) -> str:
        """Comma-separated values with a line of headings: bare numbers, ends of intervals in columns of their own."""
        header: list[str] = []
        columns: list[list[object]] = []
        for index, column in enumerate(self.columns):
            name, cells = ' '.join(column.split()), [row[index] for row in self.rows]
            header.append(name)
            columns.append([cell.value if isinstance(cell, Number) else cell for cell in cells])
            for part in ('low', 'high', 'sd'):
                found = [getattr(cell, part) if isinstance(cell, Number) else None for cell in cells]
                if any(number is not None for number in found):
                    header.append(f'{name} {part}')
                    columns.append(list(found))
        out = io.StringIO()
        writer = csv.writer(out, lineterminator='\n')
        writer.writerow(header)
        writer.writerows(zip(*columns, strict=True))
        return out.getvalue()


def to_text(table: PlainTable | Table, width: int = 120) -> str:
    """A table as plain text, as for a log or a file."""
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def remarks(said: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """One sentence for each thing said, with all it is said of; what is empty is left out.

    Example:
        >>> remarks([('a', 'no run'), ('b', ''), ('c, late', 'no run')])
        ("'a', 'c, late': no run.",)
    """
    found: dict[str, list[str]] = {}
    for who, what in said:
        if what:
            found.setdefault(what, []).append(f"'{who}'")
    return tuple(f"{', '.join(dict.fromkeys(who))}: {what}." for what, who in found.items())


def plain_number(value: float | None, digits: int = 4, percent: bool = False, signed: bool = False) -> Number:
    """A number with that many decimals; a dash where there is none.

    Example:
        >>> plain_number(0.5, 1, percent=True).text, plain_number(None).text
        ('50.0 %', '-')
    """
    if value is None or not math.isfinite(value):
        return Number(None, '-')
    return Number(float(value), _digits(value, digits, percent, signed) + (' %' if percent else ''))


def cost_number(value: float) -> Number:
    """A cost with four digits that count; NaN is unknown.

    Example:
        >>> cost_number(1234.56).text, cost_number(float('nan')).text
        ('1,235', 'unknown')
    """
    if not math.isfinite(value):
        return Number(None, 'unknown')
    value += 0.0  # -0.0 is 0.0
    return Number(float(value), f'{value:,.0f}' if 1000 <= abs(value) < 1e7 else f'{value:.4g}')


def mean_sd_number(values: Iterable[float], digits: int = 4, percent: bool = False) -> Number:
    """Mean ± sample standard deviation; the deviation of a single value is left out, and so are NaNs.

    Example:
        >>> mean_sd_number([1.0, 2.0, 3.0], 2).text
        '2.00 ± 1.00'
    """
    numbers = [value for value in values if math.isfinite(value)]
    if not numbers:
        return Number(None, '-')
    mean = float(np.mean(numbers))
    sd = float(np.std(numbers, ddof=1)) if len(numbers) > 1 else None
    spread = '' if sd is None else f' ± {_digits(sd, digits, percent, False)}'
    return Number(mean, _digits(mean, digits, percent, False) + spread + (' %' if percent else ''), sd=sd)


def estimate_number(
    estimate: Estimate, digits: int = 2, percent: bool = False, signed: bool = False, between: str = ' ',
) -> Number:
    """An estimate with its interval; a star where not every resample has an answer.

    Args:
        estimate: What to show.
        digits: Decimals.
        percent: Whether it is a share.
        signed: Whether a plus is shown.
        between: What stands between the value and the interval; a line break makes the column narrow.
    """
    if estimate.value is None:
        return Number(None, '-')
    unit = ' %' if percent else ''
    text = _digits(estimate.value, digits, percent, signed) + (unit if between == '\n' else '')
    if estimate.low is not None and estimate.high is not None:
        low, high = (_digits(end, digits, percent, signed) for end in (estimate.low, estimate.high))
        text += f'{between}[{low}, {high}]{unit}'
    elif between != '\n':
        text += unit
    star = '*' if estimate.low is not None and estimate.usable < estimate.resamples else ''
    return Number(estimate.value, text + star, estimate.low, estimate.high)


def _digits(value: float, digits: int, percent: bool, signed: bool) -> str:
    text = f"{100 * value if percent else value:{'+' if signed else ''}.{digits}f}"
    # What rounds to zero has no sign: '-0.0' says that something is lost.
    return text.lstrip('+-') if not text.strip('+-0.') else text
