from __future__ import annotations

import math
from statistics import fmean

import pytest
from scipy import stats

from composer_kd.report import sequence, sequence_gain_table, sequence_table, to_text
from tests.report.made_rows import METRIC, make_row

GAINS = (0.0, 0.03, 0.02, 0.04)


def steps(replicates: int = 4, **changes) -> list:
    rows = []
    for replicate in range(replicates):
        for step in range(4):
            shift = 0.1 * replicate + 0.02 * step
            rows.append(make_row(
                'baseline', '1ep', 1000 * replicate + step, quality=0.3 + shift, seconds=10.0 + step, index=step,
                replicate=replicate,
            ))
            rows.append(make_row(
                'kd', '1ep', 1000 * replicate + step, quality=0.3 + shift + GAINS[step] + 0.001 * replicate,
                seconds=(12.0 if step else 10.0) + step, index=step, replicate=replicate,
                active_share=1.0 if step else 0.0, **changes,
            ))
    return rows


def test_steps():
    found = sequence(steps(), METRIC, 'baseline')
    assert (found.steps, list(found.methods), found.higher_is_better) == ((0, 1, 2, 3), ['baseline', 'kd'], True)
    kd = found.methods['kd']
    assert [one.mean_cost for one in kd] == [10, 13, 14, 15]
    assert [one.mean_total for one in kd] == [10, 23, 37, 52]
    assert [one.distilled for one in kd] == [False, True, True, True]
    # Replicates lie 0.1 apart, and paired that does not matter.
    expected = stats.ttest_1samp([0.03, 0.031, 0.032, 0.033], 0).confidence_interval(0.9)
    assert (kd[1].difference.low, kd[1].difference.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert kd[1].difference.verdict == 'gained'
    assert kd[2].mean_quality == pytest.approx(fmean(0.3 + 0.1 * r + 0.04 + 0.02 + 0.001 * r for r in range(4)))
    assert found.methods['baseline'][1].difference.value is None


def test_gain_is_over_steps_with_teachers():
    [gain] = sequence(steps(), METRIC, 'baseline').gains
    assert gain.steps == (1, 2, 3)
    assert gain.difference.value == pytest.approx(0.03 + 0.0015)
    assert gain.last.value == pytest.approx(0.04 + 0.0015)
    assert gain.cost_ratio.value == pytest.approx(52 / 46)
    assert (gain.verdict, gain.cost_ratio.verdict, gain.why) == ('gained', 'lost', '')


def test_lower_is_better():
    found = sequence(steps(), METRIC, 'baseline', higher_is_better=False)
    assert found.gains[0].verdict == 'lost'


def test_missing_runs():
    rows = steps()
    # A step of replicate 3 failed: it cost something and has no quality.
    rows = [
        make_row('kd', '1ep', 3002, quality=None, seconds=7.0, index=2, replicate=3, finished=False, state='failed')
        if (row.method, row.replicate, row.index) == ('kd', 3, 2) else row for row in rows
    ]
    # Step 3 of replicate 2 was never made.
    rows = [row for row in rows if (row.method, row.replicate, row.index) != ('kd', 2, 3)]
    found = sequence(rows, METRIC, 'baseline')
    kd, gain = found.methods['kd'], found.gains[0]
    assert sorted(kd[2].quality) == [0, 1, 2]
    assert kd[2].difference.seeds == 3
    assert kd[2].mean_cost == pytest.approx((3 * 14 + 7) / 4)
    assert kd[3].mean_total == pytest.approx((52 + 52 + 45) / 3)
    assert (gain.difference.seeds, gain.cost_ratio.seeds) == (2, 3)
    assert gain.verdict == 'cannot be told apart from noise'
    assert '2 replicates without all steps left out' in gain.why
    assert 'at least 3' in gain.why


def test_where_nothing_can_be_said():
    rows = steps()
    assert sequence(rows, METRIC, None).gains == []
    assert sequence(rows, METRIC, 'other').baseline is None
    untaught = [row for row in rows if row.index == 0]
    [gain] = sequence(untaught, METRIC, 'baseline').gains
    assert (gain.difference.value, gain.why) == (None, 'no step had a teacher')
    with pytest.raises(ValueError, match="'kd', step 0: two runs of replicate 0"):
        sequence([*rows, rows[1]], METRIC, 'baseline')
    costless = [type(row)(**{**row.__dict__, 'costs': {**row.costs, 'flops': math.nan}}) for row in rows]
    found = sequence(costless, METRIC, 'baseline', 'flops')
    assert math.isnan(found.methods['kd'][0].mean_cost)
    assert found.gains[0].cost_ratio.value is None
    assert 'unknown' in to_text(sequence_table(found))
    lonely = sequence([row for row in rows if (row.method, row.index) != ('kd', 3)], METRIC, 'baseline')
    assert lonely.methods['kd'][3].why == 'no run of it was made'
    assert 'no run of it was made' in to_text(sequence_table(lonely), width=160)


def test_tables():
    found = sequence(steps(), METRIC, 'baseline')
    text = to_text(sequence_table(found), width=160)
    assert '+0.0315' in text
    assert 'gained' in text
    table = sequence_gain_table(found)
    assert '1.13' in to_text(table)
    assert table.to_csv().splitlines()[1].startswith('kd,0.0315')
