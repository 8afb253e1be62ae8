from __future__ import annotations

import numpy as np
import pytest

from composer_kd.report import Curve, Point, speedup


def curve(method: str, points: dict[float, float], seeds: int = 3, jitter: float = 0.0, **settings) -> Curve:
    """Cost to quality, the same for all seeds but for a jitter of quality that is 0 on average."""
    offsets = jitter * np.linspace(-1, 1, seeds) if seeds > 1 else [0.0]
    return Curve.of(
        method,
        [Point(f'{cost}s', s, cost, q + offsets[s]) for cost, q in points.items() for s in range(seeds)],
        **settings,
    )


def noisy(method: str, generator: np.random.Generator, seeds: int, noise: float, factor: float = 1.0) -> Curve:
    return Curve.of(method, [
        Point(f'{n}ep', s, factor * n * (1 + generator.normal(0, 0.02)), 1 - 0.1 / n + generator.normal(0, noise))
        for n in (1, 2, 4, 8) for s in range(seeds)
    ])


# --- known answers ---

def test_twice_as_fast_everywhere():
    base = curve('b', {10: 0.6, 20: 0.8, 40: 0.9})
    result = speedup(base, curve('m', {5: 0.6, 10: 0.8, 20: 0.9}))
    assert result.common == (0.6, 0.9)
    assert result.median.value == pytest.approx(2)
    assert (result.median.low, result.median.high) == (pytest.approx(2), pytest.approx(2))
    assert result.maximum == pytest.approx(2)
    assert [estimate.value for estimate in result.at.values()] == [pytest.approx(2)] * 3
    assert list(result.at) == [pytest.approx(q) for q in (0.6, 0.8, 0.9)]
    assert (result.verdict, result.note, result.seeds) == ('gained', '', (3, 3))


def test_half_as_fast_and_the_same():
    base = curve('b', {10: 0.6, 20: 0.8})
    slow = speedup(base, curve('m', {20: 0.6, 40: 0.8}))
    assert slow.median.value == pytest.approx(0.5)
    assert slow.verdict == 'lost'
    same = speedup(base, curve('m', {10: 0.6, 20: 0.8}))
    assert same.median.value == pytest.approx(1)
    assert same.verdict == 'cannot be told apart from noise'


def test_interpolation_between_points():
    # Baseline: cost = 10 + 100 (q - 0.6); method: cost = 8 + 50 (q - 0.5). At 0.7: 20 / 18; at 0.75: 25 / 20.5.
    base, method = curve('b', {10: 0.6, 30: 0.8}), curve('m', {8: 0.5, 23: 0.8})
    result = speedup(base, method, [0.6, 0.7, 0.75, 0.8])
    assert [result.at[q].value for q in (0.6, 0.7, 0.75, 0.8)] == [
        pytest.approx(x) for x in (10 / 13, 20 / 18, 25 / 20.5, 30 / 23)
    ]
    # The ratio grows with quality, so its median is that in the middle and its maximum that at the end.
    assert result.median.value == pytest.approx(20 / 18)
    assert (result.maximum, result.maximum_at) == (pytest.approx(30 / 23), pytest.approx(0.8))


def test_maximum_inside_the_range():
    # The method's kink at 0.7 is where it is furthest ahead: 20 / 10.
    result = speedup(curve('b', {10: 0.6, 30: 0.8}), curve('m', {9: 0.6, 10: 0.7, 30: 0.8}))
    assert (result.maximum, result.maximum_at) == (pytest.approx(2), pytest.approx(0.7))


def test_logarithmic_interpolation():
    # Quality linear in log cost: only the logarithm sees that the method is twice as fast between its points too.
    base, method = curve('b', {8: 0.6, 32: 0.8}), curve('m', {8: 0.7, 16: 0.8})
    assert speedup(base, method, [0.7], log_cost=True).at[0.7].value == pytest.approx(2)
    assert speedup(base, method, [0.7]).at[0.7].value == pytest.approx(20 / 8)


def test_worse_at_greater_cost_counts_as_what_was_reached_before():
    # 0.8 is reached at cost 20 for good; the drop at 40 does not move it.
    base = curve('b', {10: 0.6, 20: 0.8, 40: 0.7, 80: 0.9})
    result = speedup(base, curve('m', {10: 0.6, 20: 0.8, 80: 0.9}), [0.7, 0.8, 0.85])
    assert result.at[0.7].value == pytest.approx(1)
    assert result.at[0.8].value == pytest.approx(1)
    # Baseline from (40, 0.8 so far) to (80, 0.9), the method from (20, 0.8): 60 / 50.
    assert result.at[0.85].value == pytest.approx(60 / 50)


def test_lower_is_better():
    base = curve('b', {10: 2.0, 20: 1.0}, higher_is_better=False)
    result = speedup(base, curve('m', {5: 2.0, 10: 1.0}, higher_is_better=False), [1.5])
    assert result.common == (2.0, 1.0)
    assert result.at[1.5].value == pytest.approx(2)
    assert result.verdict == 'gained'


# --- where there is no answer ---

def test_no_extrapolation():
    result = speedup(curve('b', {10: 0.6, 20: 0.8}), curve('m', {10: 0.7, 20: 0.9}), [0.65, 0.7, 0.75, 0.8, 0.85])
    assert result.common == (pytest.approx(0.7), pytest.approx(0.8))
    assert [result.at[q].value is None for q in (0.65, 0.7, 0.75, 0.8, 0.85)] == [True, False, False, False, True]
    assert result.at[0.85].verdict == 'no common quality'
    assert (result.at[0.85].low, result.at[0.85].high) == (None, None)


@pytest.mark.parametrize(('better', 'worse'), [('b', 'm'), ('m', 'b')])
def test_nothing_in_common(better, worse):
    curves = {better: curve(better, {10: 0.8, 20: 0.9}), worse: curve(worse, {10: 0.5, 20: 0.6})}
    result = speedup(curves['b'], curves['m'])
    assert result.common is None
    assert (result.median.value, result.maximum, result.verdict) == (None, None, 'no common quality')
    assert f"the worst of '{better}' is better than the best of '{worse}'" in result.note


@pytest.mark.parametrize('seeds', [1, 2])
def test_too_few_seeds_tell_nothing(seeds):
    base, method = curve('b', {10: 0.6, 20: 0.8}, seeds=5), curve('m', {5: 0.6, 10: 0.8}, seeds=seeds)
    result = speedup(base, method)
    assert result.median.value == pytest.approx(2)
    assert result.verdict == 'cannot be told apart from noise'
    assert 'at least 3' in result.note
    assert (result.median.low is None) == (seeds == 1)


def test_resamples_that_do_not_overlap_are_told():
    base = curve('b', {10: 0.60, 20: 0.70}, seeds=5, jitter=0.05)
    result = speedup(base, curve('m', {10: 0.68, 20: 0.78}, seeds=5, jitter=0.05))
    assert 0 < result.median.usable < result.median.resamples == 2000
    assert f'{result.median.usable} of 2000' in result.note
    assert result.verdict == 'cannot be told apart from noise'


# --- the bootstrap ---

def test_interval_is_repeatable_and_holds_the_value():
    base, method = (noisy(name, np.random.default_rng(seed), 5, 0.003) for name, seed in (('b', 1), ('m', 2)))
    one, two = speedup(base, method), speedup(base, method)
    assert one == two
    assert one.median.low is not None
    assert one.median.low < one.median.value < one.median.high


def test_interval_widens_with_noise_and_narrows_with_seeds():
    def width(seeds: int, noise: float) -> float:
        widths = []
        for seed in range(5):
            generator = np.random.default_rng(seed)
            median = speedup(noisy('b', generator, seeds, noise), noisy('m', generator, seeds, noise), resamples=500).median
            widths.append(median.high - median.low)
        return float(np.mean(widths))

    assert width(5, 0.001) < width(5, 0.004) / 2
    assert width(16, 0.003) < width(5, 0.003) / 1.5


def test_a_seed_is_one_replicate_for_all_durations():
    # Each seed is off by the same factor in cost at every duration: resampling seeds jointly keeps the shape.
    factors = (0.5, 1.0, 1.5)
    base = Curve.of('b', [Point(f'{n}', s, n * f, n / 10) for n in (1, 2, 4) for s, f in enumerate(factors)])
    method = curve('m', {1.0: 0.1, 2.0: 0.2, 4.0: 0.4})
    result = speedup(base, method)
    # Jointly, the ratio at every quality is the mean factor of the resample; its extremes are those of one seed drawn thrice.
    assert result.median.value == pytest.approx(1)
    assert result.median.low == pytest.approx(0.5, abs=0.1)
    assert result.median.high == pytest.approx(1.5, abs=0.1)
    for estimate in result.at.values():
        assert (estimate.low, estimate.high) == (pytest.approx(result.median.low), pytest.approx(result.median.high))


def test_no_difference_is_seldom_called_one_and_a_clear_one_is_found():
    wrong = right = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        base = noisy('b', generator, 5, 0.003)
        wrong += speedup(base, noisy('m', generator, 5, 0.003), resamples=400).verdict in ('gained', 'lost')
        right += speedup(base, noisy('m', generator, 5, 0.003, factor=1 / 1.5), resamples=400).verdict == 'gained'
    # A 90 % interval is wrong one time in ten; 13 of 60 or more has a chance of 1 % then.
    assert wrong <= 12
    assert right >= 55


def test_missing_runs():
    points = [Point('1', s, 1.0, 0.6) for s in range(4)] + [Point('2', s, 2.0, 0.8) for s in range(2)]
    result = speedup(curve('b', {2.0: 0.6, 4.0: 0.8}, seeds=4), Curve.of('m', points))
    assert result.median.value == pytest.approx(2)
    # Resamples without a run of duration 2: (2 / 4) ** 4 of them.
    assert result.median.usable == pytest.approx(2000 * (1 - 1 / 16), rel=0.02)


# --- refusals ---

def test_refusals():
    up, down = curve('b', {1: 0.5}), curve('m', {1: 0.5}, higher_is_better=False)
    with pytest.raises(ValueError, match="'b' and 'm'"):
        speedup(up, down)
    for settings in ({'level': 1.0}, {'level': 0.0}, {'resamples': 0}):
        with pytest.raises(ValueError, match='Expected 0 < level < 1'):
            speedup(up, up, **settings)
    with pytest.raises(ValueError, match="two runs of duration 1ep with seed 3"):
        Curve.of('m', [Point('1ep', 3, 1.0, 0.5), Point('1ep', 3, 2.0, 0.6)])
    with pytest.raises(ValueError, match='at least one finished run'):
        Curve.of('m', [])
    for point in (Point('1ep', 3, 0.0, 0.5), Point('1ep', 3, 1.0, float('nan')), Point('1ep', 3, float('inf'), 0.5)):
        with pytest.raises(ValueError, match='a cost above 0 and a finite'):
            Curve.of('m', [point])


def test_curve_is_sorted_by_cost():
    made = Curve.of('m', [Point('10ep', 2, 9.0, 0.9), Point('2ep', 2, 2.0, 0.7), Point('2ep', 1, 4.0, 0.6)])
    assert (made.durations, made.seeds) == (('2ep', '10ep'), (1, 2))
    assert made.mean_cost.tolist() == [3.0, 9.0]
    assert made.mean_quality.tolist() == [pytest.approx(0.65), 0.9]
    assert np.isnan(made.quality[1, 0])
