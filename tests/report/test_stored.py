"""What stored answers spare a sequence of runs: totals, ratios, and what a report says of them."""

import math
from pathlib import Path

import pytest
from scipy import stats

from composer_kd.report import Row, at_median_price, stored_costs, stored_table, to_text
from composer_kd.report.rows import read_rows
from composer_kd.report.stored import live_method, stored_headline
from composer_kd.report.study_report import gather
from composer_kd.runs import Distilled, Record, RunFolder, TeacherUse
from tests.report import synthetic
from tests.report.made_rows import make_row

METHODS = {'none': 10.0, 'live': 15.0, 'stored': 11.0}


def rows(replicates=4, steps=3):
    found = []
    for replicate in range(replicates):
        for step in range(steps):
            for method, seconds in METHODS.items():
                taught = method != 'none' and step > 0
                stored = method == 'stored' and taught
                found.append(make_row(
                    method, '1ep', 100 * replicate + step, index=step, replicate=replicate, kind='sequence',
                    seconds=10.0 if not taught else seconds + 0.1 * replicate + (3.0 if stored and step == 1 else 0.0),
                    active_share=float(taught), asked=0 if not taught else 100 if not stored or step == 1 else 20,
                    stored=80 if stored and step == 2 else 0, store_seconds=0.5 if stored else 0.0,
                    stores={f'answers/{replicate}': 1000 * step} if stored else {},
                ))
    return found


def by_method(found):
    return {one.method: one for one in found}


def test_totals_and_ratios():
    found = by_method(stored_costs(rows(), 'none', 'live'))
    stored, live, none = found['stored'], found['live'], found['none']
    # the first of two taught runs wrote, and is in the total
    totals = {method: [10 + 2 * (METHODS[method] + 0.1 * r) + (3 if method == 'stored' else 0) for r in range(4)] for method in METHODS}
    totals['none'] = [30.0] * 4
    assert stored.total == pytest.approx(sum(totals['stored']) / 4)
    ratios = [a / b for a, b in zip(totals['stored'], totals['live'], strict=True)]
    expected = stats.ttest_1samp([math.log(ratio) for ratio in ratios], 0).confidence_interval(0.9)
    assert stored.to_reference.value == pytest.approx(stats.gmean(ratios))
    assert stored.to_reference.low == pytest.approx(math.exp(expected.low))
    assert stored.to_reference.verdict == 'gained'
    assert stored.to_baseline.value == pytest.approx(stats.gmean([total / 30 for total in totals['stored']]))
    assert (stored.to_baseline.verdict, live.to_baseline.verdict) == ('lost', 'lost')
    assert (stored.asked, stored.read, stored.share) == (4 * 120, 4 * 80, 0.4)
    assert (stored.stores, stored.size, stored.seconds) == (4, 8000, 4.0)
    assert (live.asked, live.share, live.size, live.stored) == (800, 0.0, 0, False)
    assert (none.share, none.to_baseline.value, none.to_reference.value) == (None, None, pytest.approx(30 / 40.3, rel=1e-2))
    assert not any(one.why for one in found.values())


def test_only_the_same_runs_are_compared():
    made = [row for row in rows() if (row.method, row.replicate, row.index) != ('live', 3, 2)]
    stored = by_method(stored_costs(made, 'none', 'live'))['stored']
    assert (stored.to_reference.seeds, stored.to_baseline.seeds) == (3, 4)
    few = by_method(stored_costs(rows(2), 'none', 'live'))['stored']
    assert few.to_reference.verdict == 'cannot be told apart from noise'
    assert few.why == '2 replicates cannot tell a difference from noise'
    nobody = [row for row in rows() if (row.method, row.index) != ('live', 2)]
    alone = by_method(stored_costs(nobody, 'none', 'live'))['stored']
    assert alone.to_reference.value is None
    assert alone.why == "no replicate has the same runs as one of 'live'"
    assert by_method(stored_costs(rows(), None, None))['stored'].why == ''


def test_failed_runs_were_paid_for():
    made = [Row(**{**row.__dict__, 'finished': False, 'state': 'failed'}) for row in rows()]
    assert by_method(stored_costs(made, 'none', 'live'))['stored'].total == by_method(stored_costs(rows(), 'none', 'live'))['stored'].total
    costless = [Row(**{**row.__dict__, 'costs': {**row.costs, 'flops': math.nan}}) for row in rows()]
    found = by_method(stored_costs(costless, 'none', 'live', 'flops'))['stored']
    assert (found.to_baseline.value, math.isnan(found.total)) == (None, True)
    assert 'recorded no flops' in found.why


def test_the_method_with_live_teachers():
    assert live_method(rows(), None) == 'live'
    assert live_method(rows(), 'stored') == 'stored'
    another = [Row(**{**row.__dict__, 'method': 'half'}) for row in rows() if row.method == 'live']
    assert live_method([*rows(), *another], None) is None


def test_a_steady_price_would_hide_what_storing_costs():
    kept = at_median_price(rows())
    for before, after in zip(rows(), kept, strict=True):
        if before.stores:
            assert before.costs == after.costs
    assert any(before.costs != after.costs for before, after in zip(rows(), kept, strict=True))


def test_table_and_headline():
    found = stored_costs(rows(), 'none', 'live')
    text = to_text(stored_table(found, 'none', 'live'), width=160)
    for said in ('40.0 %', '0.008 MB', '480', '4 s', 'ratio to', '0.88'):
        assert said in text, said
    [line] = stored_headline(found, 'none', 'live')
    assert line.startswith("'stored' read 40 % of its teachers' answers from stores; the total cost of its runs was 0.8")
    assert "times that of 'live' and 1.1" in line
    assert line.endswith('storing counted in.')
    [line] = stored_headline(found, 'none', 'live', 'flops')
    assert line.endswith('in flops.')
    [line] = stored_headline(stored_costs(rows(), None, None), None, None)
    assert line == "'stored' read 40 % of its teachers' answers from stores."


def test_a_row_of_a_record(tmp_path):
    teachers = [
        TeacherUse(name='a', origin='run:runs/a', samples=100, stored=70, store='answers/a', store_bytes=5),
        TeacherUse(name='b', origin='cache:answers/b (run:runs/b)', samples=50, stored=50, store='answers/b'),
    ]
    record = Record(
        run_name='x', started_at='a', updated_at='b', train_seconds=10.0, batches=1, teachers=teachers,
        kd=Distilled(store_seconds=0.5, store_outside_seconds=2.0),
    )
    row = Row.of(tmp_path, record)
    assert (row.asked, row.stored, row.store_seconds) == (30, 120, 2.5)
    assert row.stores == {'answers/a': 5, 'answers/b': None}
    assert row.costs['train_seconds'] == 12.0, 'what the clock of the training does not hold was spent too'
    assert row.costs['gpu_hours'] == pytest.approx(12 / 3600)
    assert (row.teachers, row.other_teachers) == ((Path('runs/a'),), ('cache:answers/b (run:runs/b)',))
    # before its first word the record names no teacher, and the recipe does
    RunFolder(tmp_path).write_record(record.model_copy(update={'teachers': []}))
    RunFolder(tmp_path).write_recipe({'algorithms': {'distillation': {'teachers': [
        {'cache': 'answers/b'}, {'run': 'runs/a', 'cache': {'path': 'answers/a', 'fill': True}}]}}})
    [row] = read_rows([tmp_path])
    assert (row.teachers, row.other_teachers) == ((Path('runs/a'),), ('cache:answers/b',))


def test_a_report_of_a_study(tmp_path):
    folder = synthetic.sequence(tmp_path / 'study')
    assert not any(section.title == 'Stored answers' for section in gather([folder]).sections)
    for path in sorted((folder / 'runs').glob('learns*')):
        record = RunFolder(path).read_record()
        stored = [t.model_copy(update={'samples': 320, 'stored': 240, 'store': f'x/{path.name}', 'store_bytes': 10}) for t in record.teachers]
        RunFolder(path).write_record(record.model_copy(update={'teachers': stored}))
    report = gather([folder])
    [section] = [section for section in report.sections if section.title == 'Stored answers']
    assert 'stored-answers' in [table.name for table in section.tables]
    assert any("'learns from the latest' read 75 % of its teachers' answers" in line for line in report.headline)
    assert '75.0 %' in to_text(section.tables[0], width=160)
