from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from composer_kd.report.interval import NOISE, geometric_mean_of, mean_of, ratio_of, resampled, student

# --- Student's ---

@pytest.mark.parametrize('count', [2, 3, 5, 12])
@pytest.mark.parametrize('level', [0.8, 0.9, 0.95])
def test_mean_is_the_paired_t_test(count, level):
    generator = np.random.default_rng(count)
    mine, theirs = generator.normal(0.3, 1, count), generator.normal(0, 1, count)
    found = mean_of((mine - theirs).tolist(), level)
    expected = stats.ttest_rel(mine, theirs).confidence_interval(level)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.value == pytest.approx(float(mine.mean() - theirs.mean()))
    assert student(count, level) == pytest.approx(float(stats.t.ppf((1 + level) / 2, count - 1)))


def test_verdicts_of_a_mean():
    assert mean_of([0.1, 0.11, 0.12]).verdict == 'gained'
    assert mean_of([0.1, 0.11, 0.12], higher_is_better=False).verdict == 'lost'
    assert mean_of([-0.1, -0.11, -0.12]).verdict == 'lost'
    assert mean_of([-0.1, 0.11, 0.12]).verdict == NOISE
    assert mean_of([0.0, 0.0, 0.0]).verdict == NOISE
    two = mean_of([0.1, 0.1001])
    assert (two.verdict, two.low > 0) == (NOISE, True)
    one = mean_of([0.1, math.nan])
    assert (one.value, one.low, one.seeds, one.verdict) == (0.1, None, 1, NOISE)
    none = mean_of([math.nan])
    assert (none.value, none.why) == (None, 'no pairs')


@pytest.mark.parametrize('count', [3, 5])
def test_interval_of_a_mean_covers_as_often_as_it_says(count):
    generator = np.random.default_rng(7)
    draws = generator.normal(1.0, 2.0, (2000, count))
    held = sum(found.low <= 1.0 <= found.high for found in map(mean_of, draws.tolist()))
    # Four standard errors of a share of 0.9 in 2000.
    assert held / 2000 == pytest.approx(0.9, abs=0.027)


def test_percentile_interval_of_three_pairs_would_not():
    # Why means of pairs have the closed form: resamples of three never leave their range.
    generator = np.random.default_rng(7)
    held = 0
    for values in generator.normal(1.0, 2.0, (400, 3)):
        drawn = values[generator.integers(3, size=(500, 3))].mean(axis=1)
        found = resampled(float(values.mean()), drawn, 3, 0.9, null=0.0)
        held += found.low <= 1.0 <= found.high
    assert held / 400 < 0.82


def test_wrong_verdicts_are_as_rare_as_the_level_says():
    generator = np.random.default_rng(3)
    wrong = sum(mean_of(values).verdict != NOISE for values in generator.normal(0, 1, (2000, 3)).tolist())
    assert wrong / 2000 == pytest.approx(0.1, abs=0.027)


# --- geometric mean ---

def test_geometric_mean():
    ratios = [1.2, 1.5, 1.1, 1.4]
    found = geometric_mean_of(ratios)
    logs = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.9)
    assert found.value == pytest.approx(float(stats.gmean(ratios)))
    assert (found.low, found.high) == (pytest.approx(math.exp(logs.low)), pytest.approx(math.exp(logs.high)))
    assert found.verdict == 'gained'
    # Swapping the sides gives the inverse.
    back = geometric_mean_of([1 / ratio for ratio in ratios])
    assert (back.low, back.verdict) == (pytest.approx(1 / found.high), 'lost')
    assert geometric_mean_of(ratios, higher_is_better=False).verdict == 'lost'
    assert geometric_mean_of([]).value is None


# --- Fieller's ---

def test_ratio_holds_the_values_that_a_t_test_does_not_refuse():
    generator = np.random.default_rng(5)
    above, below = generator.normal(2, 0.5, 6), generator.normal(5, 0.6, 6)
    found = ratio_of(above.tolist(), below.tolist())
    assert found.value == pytest.approx(above.mean() / below.mean())
    for end in (found.low, found.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.1)
    assert found.low < found.value < found.high < 1
    assert found.verdict == 'gained'
    assert ratio_of(below.tolist(), above.tolist()).verdict == 'lost'


def test_ratio_covers_as_often_as_it_says():
    generator = np.random.default_rng(9)
    held, count = 0, 1500
    for _ in range(count):
        below = generator.normal(1.0, 0.15, 4)
        found = ratio_of((0.2 * below + generator.normal(0, 0.05, 4)).tolist(), below.tolist())
        held += found.low is not None and found.low <= 0.2 <= found.high
    assert held / count == pytest.approx(0.9, abs=0.031)


def test_ratio_without_an_interval_or_a_value():
    loose = ratio_of([1.0, 2.0, 3.0], [-1.0, 0.5, 2.0])
    assert (loose.value, loose.low, loose.high, loose.verdict) == (pytest.approx(4.0), None, None, NOISE)
    assert 'cannot be told apart from 0' in loose.why
    assert ratio_of([1.0, 1.0], [0.0, -1.0]).value is None
    assert ratio_of([], []).why == 'no pairs'
    one = ratio_of([1.0, math.nan], [2.0, 3.0])
    assert (one.value, one.low, one.seeds) == (0.5, None, 1)
    same = ratio_of([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    assert (same.value, same.low, same.high) == (0.5, pytest.approx(0.5), pytest.approx(0.5))
    with pytest.raises(ValueError, match='longer|shorter'):
        ratio_of([1.0], [1.0, 2.0])


# --- the expanded percentile interval ---

def test_expanded_interval_has_the_length_of_students_for_a_mean():
    generator = np.random.default_rng(0)
    values = generator.normal(0, 1, 12)
    drawn = values[generator.integers(12, size=(20000, 12))].mean(axis=1)
    found, exact = resampled(float(values.mean()), drawn, 12, 0.9, null=0.0), mean_of(values.tolist())
    assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=0.06)
    assert (found.seeds, found.resamples) == (12, 20000)


def test_resamples_without_an_answer_speak_for_neither_side():
    draws = np.full(1000, 2.0)
    assert resampled(2.0, draws, 5, 0.9).verdict == 'gained'
    draws[:200] = np.nan
    assert resampled(2.0, draws, 5, 0.9).verdict == NOISE
    assert resampled(2.0, np.full(10, np.nan), 5, 0.9).why == 'no resample has an answer'
    assert resampled(math.nan, draws, 5, 0.9).verdict == 'no common quality'
