"""Estimates and findings as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from composer_kd.caching.command import size
from composer_kd.caching.estimate import Estimate
from composer_kd.caching.verify import Verified


def _table(title: str, rows: list[tuple[str, str]]) -> None:
    table = Table(title=title, show_header=False, title_justify='left', box=None, pad_edge=False)
    for name, value in rows:
        table.add_row(name, value)
    Console(width=None if Console().is_terminal else 160).print(table)


def _count(number: int, what: str) -> str:
    return f'{number:,} {what}{"" if number == 1 else "s"}'


def duration(seconds: float) -> str:
    """A span of time in three digits.

    Example:
        >>> duration(0.0123), duration(5400)
        ('12.3 ms', '90 min')
    """
    if seconds < 1:
        return f'{1e3 * seconds:.3g} ms' if seconds >= 1e-3 else f'{1e6 * seconds:.3g} us'
    if seconds < 120:
        return f'{seconds:.3g} s'
    return f'{seconds / 60:.3g} min' if seconds < 7200 else f'{seconds / 3600:.3g} h'


def show_estimate(found: Estimate) -> None:
    """Print an estimate."""
    form = found.form
    rows = [
        ('format', form.describe()),
        ('answers', f'{found.stored:,}: {found.samples:,} samples, {_count(found.views, "view")} of each'),
        ('rows of a sample', f'{found.rows:.3g}, {form.row_bytes} bytes each'),
        ('bytes of a sample', f'{form.sample_bytes(found.rows):.0f}, with its check and its place in the tables '
         f'({found.rows * form.bound:.0f} are twice its values and their indices)'),
        ('size of the store', size(found.bytes)),
        ('all logits in float16', f'{size(found.dense_bytes)}, {found.dense_bytes / found.bytes:.3g} times as much'),
        ('asked for by one run', f'{found.asked:,}, which alone would take {size(found.asked_bytes)} (--only-asked)'
         if found.asked < found.stored else f'{found.asked:,}'),
    ]
    if found.note:
        rows.insert(2, ('of which data', found.note))
    if form.name == 'dense' and form.dtype == 'float16':
        rows = [row for row in rows if row[0] != 'all logits in float16']
    speed = found.speed
    if speed is None:
        rows.append(('time', f'not measured: {found.why}'))
    else:
        assert found.seconds is not None
        assert found.saved_seconds is not None
        rows += [
            ('a sample takes', f'teacher {duration(speed.teacher)}, loading {duration(max(speed.data, 0))}, '
             f'storing {duration(speed.packing)}, reading {duration(speed.reading)} '
             f'(on {speed.samples:,} samples, one process)'),
            ('writing it', f'{duration(found.seconds)} on one process like this one'),
            ('a run saves', duration(found.saved_seconds) if found.saved_seconds > 0 else
             'nothing: reading takes as long as the teacher'),
            ('it has paid', 'never' if found.runs is None else f'after {_count(found.runs, "run")}; with '
             'fill: true the first run writes as it trains'),
        ]
    _table('Stored answers, estimated', rows)


def show_verified(found: Verified) -> None:
    """Print what was found."""
    rows = [
        ('files', f'{found.files}' + ''.join(f'\n{fault}' for fault in found.damaged)),
        ('not in the store', f'{found.missing:,} answers that this recipe may ask for' if found.missing else '0'),
        ('answers compared', f'{found.samples:,}'),
        ('to another input', f'{found.other:,}' + (f'\n{found.told}' if found.told else '')),
        ('the same to the last bit', f'{found.exact:,}'),
        ('largest difference', f'{found.largest:.3g} (rounding explains {found.tolerance:.2g})'),
        ('same likeliest class', f'{100 * found.agree:.2f} % of rows'),
    ]
    _table('Stored answers, verified' if found.fine else 'Stored answers: NOT as they should be', rows)
