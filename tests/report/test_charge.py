from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from composer_kd.report import (
    Curve,
    Point,
    TeachersCost,
    break_even,
    break_even_table,
    charged,
    read_rows,
    teachers_cost,
    to_text,
    with_teachers,
)
from composer_kd.runs import Distilled, Record, RunFolder, TeacherUse
from tests.report.made_rows import make_row


def family() -> list:
    """A grandparent (100 s) taught one parent (50 s); both parents (50 s, 30 s) taught the child (10 s)."""
    old = make_row('earlier run', folder='old', seconds=100.0)
    parents = [
        make_row('earlier run', folder='one', seconds=50.0, teachers=(Path('old'),)),
        make_row('earlier run', folder='two', seconds=30.0),
    ]
    child = make_row('kd', folder='child', seconds=10.0, teachers=(Path('one'), Path('two'), Path('old')))
    alone = make_row(folder='alone', seconds=10.0)
    return [old, *parents, child, alone]


def test_teachers_and_theirs_are_charged_once():
    rows = family()
    found = charged(rows, rows)
    assert [row.costs['train_seconds'] for row in found.rows] == [100.0, 150.0, 30.0, 190.0, 10.0]
    assert found.unknown == {}
    # Other costs stay.
    assert [row.costs['flops'] for row in found.rows] == [row.costs['flops'] for row in rows]
    assert [row.costs['flops'] for row in charged(rows, rows, 'flops').rows][3] == pytest.approx(190e6)


def test_two_runs_share_a_teacher():
    rows = family()
    again = make_row('kd', seed=1, folder='child2', seconds=10.0, teachers=(Path('two'),))
    assert teachers_cost([rows[3], again], rows) == TeachersCost(180.0, 3)
    assert teachers_cost([again], rows) == TeachersCost(30.0, 1)
    assert teachers_cost([rows[4]], rows) == TeachersCost(0.0, 0)


def test_a_circle_ends():
    rows = [make_row(folder='a', seconds=1.0, teachers=(Path('b'),)), make_row(folder='b', seconds=2.0, teachers=(Path('a'),))]
    assert teachers_cost(rows[:1], rows).cost == 3.0


@pytest.mark.parametrize(('changes', 'reason'), [
    ({'teachers': (Path('gone'),)}, "the run of teacher 'gone' is not there"),
    ({'other_teachers': ('torchvision:resnet50',)}, 'torchvision:resnet50 is no run'),
    ({'active_share': 0.5}, 'does not say who taught it'),
])
def test_unknown_costs_are_told(changes, reason):
    row = make_row('kd', folder='child', **changes)
    found = charged([row], [row])
    assert math.isnan(found.rows[0].costs['train_seconds'])
    assert reason in found.unknown[Path('child')]
    assert reason in teachers_cost([row], [row]).why


def test_teacher_without_that_cost():
    teacher = make_row(folder='t')
    teacher.costs['flops'] = math.nan
    child = make_row('kd', folder='child', teachers=(Path('t'),))
    found = charged([child], [child, teacher], 'flops')
    assert "teacher 't' recorded no flops" in found.unknown[Path('child')]


def test_teachers_are_read_from_their_folders(tmp_path: Path):
    def write(name: str, teacher: str | None, seconds: float) -> None:
        uses = [] if teacher is None else [TeacherUse(name='t', origin=f'run:{tmp_path}/{teacher}')]
        RunFolder(tmp_path / name).write_record(Record(
            run_name=name, started_at='t', updated_at='t', train_seconds=seconds, teachers=uses,
            kd=Distilled() if uses else None,
        ))

    write('pool/old', None, 4.0)
    write('pool/one', 'pool/old', 2.0)
    write('runs/child', 'pool/one', 1.0)
    write('runs/orphan', 'pool/gone', 1.0)
    (tmp_path / 'pool' / 'gone').mkdir()
    rows = read_rows([tmp_path / 'runs'])
    every = with_teachers(rows)
    assert sorted(row.run_name for row in every) == ['pool/old', 'pool/one', 'runs/child', 'runs/orphan']
    found = charged(rows, every)
    assert found.rows[0].costs['train_seconds'] == 7.0
    assert list(found.unknown) == [tmp_path / 'runs' / 'orphan']


# --- break-even ---

def lines(method: str, factor: float, seeds: int = 3, jitter: float = 0.0, **settings) -> Curve:
    spread = np.linspace(-jitter, jitter, seeds) if seeds > 1 else [0.0]
    return Curve.of(method, [
        Point(f'{n}ep', s, factor * 10.0 * n * (1 + spread[s]), 0.1 * n) for n in (1, 2, 3) for s in range(seeds)
    ], **settings)


def test_break_even_in_closed_form():
    # Over qualities 0.1 to 0.3 the saving is 4 to 12, evenly: its median is 8.
    found = break_even(lines('b', 1.0), lines('m', 0.6), TeachersCost(81.0, 2))
    assert found.saving.value == pytest.approx(8.0)
    assert (found.runs, found.low, found.high) == (11, 11, 11)
    assert (found.teachers, found.teachers_cost, found.why) == (2, 81.0, '')
    assert break_even(lines('b', 1.0), lines('m', 0.6), TeachersCost(80.0, 2)).runs == 10
    assert break_even(lines('b', 1.0), lines('m', 0.6), TeachersCost(1.0, 2)).runs == 1


def test_break_even_interval_is_that_of_the_saving():
    found = break_even(lines('b', 1.0, 5, 0.1), lines('m', 0.6, 5, 0.1), TeachersCost(100.0, 1))
    assert found.saving.low < 8.0 < found.saving.high
    assert found.low == math.ceil(100 / found.saving.high) < found.runs < found.high == math.ceil(100 / found.saving.low)
    # The saving of the seed-means is 20 times (mean factor of the baseline - 0.6 times that of the method).
    generator = np.random.default_rng(1)
    factors = np.linspace(0.9, 1.1, 5)
    base, mine = (factors[generator.integers(5, size=(4000, 5))].mean(axis=1) for _ in range(2))
    assert np.std(20 * (base - 0.6 * mine)) == pytest.approx((found.saving.high - found.saving.low) / 2 / 2.38, rel=0.12)


def test_break_even_never_and_not_known():
    dearer = break_even(lines('b', 1.0), lines('m', 1.5), TeachersCost(10.0, 1))
    assert (dearer.runs, dearer.low, dearer.high) == (None, None, None)
    assert 'never' in dearer.why
    noisy = break_even(lines('b', 1.0, 5, 0.5), lines('m', 0.95, 5, 0.5), TeachersCost(10.0, 1))
    assert noisy.runs is not None
    assert noisy.high is None
    assert 'noise' in noisy.why
    unknown = break_even(lines('b', 1.0), lines('m', 0.5), TeachersCost(math.nan, 1, 'it is not there'))
    assert (unknown.runs, unknown.why) == (None, 'it is not there')
    apart = Curve.of('m', [Point('1ep', s, 1.0, 0.9) for s in range(3)])
    assert 'no quality in common' in break_even(lines('b', 1.0), apart, TeachersCost(1.0, 1)).why
    assert break_even(lines('b', 1.0), lines('m', 0.5), TeachersCost(0.0, 0)).why == 'it had no teachers'
    one = break_even(lines('b', 1.0, 1), lines('m', 0.5, 1), TeachersCost(5.0, 1))
    assert (one.runs, one.low, one.high) == (1, None, None)
    assert 'noise' in one.why
    with pytest.raises(ValueError, match="'b' and 'm'"):
        break_even(lines('b', 1.0), lines('m', 1.0, higher_is_better=False), TeachersCost(1.0, 1))


def test_lower_is_better():
    def losses(method: str, factor: float) -> Curve:
        return Curve.of(
            method, [Point(f'{n}', s, factor * n, 1.0 / n) for n in (1, 2, 4) for s in range(3)], higher_is_better=False,
        )

    assert break_even(losses('b', 10.0), losses('m', 5.0), TeachersCost(10.0, 1)).saving.verdict == 'gained'


def test_table():
    found = [
        break_even(lines('b', 1.0), lines('m', 0.6), TeachersCost(81.0, 2)),
        break_even(lines('b', 1.0), lines('n', 1.5), TeachersCost(math.nan, 1, 'x is no run')),
    ]
    text = to_text(break_even_table(found))
    assert '11 [11, 11]' in text
    assert 'x is no run' in text
    lines_of_csv = break_even_table(found).to_csv().splitlines()
    assert lines_of_csv[0].startswith("method,teachers,teachers' cost,saved by a run at equal quality,saved")
    cells = lines_of_csv[1].split(',')
    assert [float(cell) for cell in cells[1:9]] == [2, 81, *[pytest.approx(8)] * 3, 11, 11, 11]
