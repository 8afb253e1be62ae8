import math
from collections import Counter
from fractions import Fraction

import pytest
from composer.core import Time, TimeUnit
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd import schedule
from composer_kd.schedule import Anchor, Bound, Clock, Interval, Window
from composer_kd.times import parse_time


def clocks(sizes, length):
    """Every batch's clock of a training whose batches hold these numbers of samples (and thrice as many tokens)."""
    samples = 0
    for batch, size in enumerate(sizes):
        yield Clock(batch, batch // length, samples, 3 * samples, 0)
        samples += size


def window_of(start, end, duration, length):
    bounds = [schedule.resolve(parse_time(t, 't'), duration, length, 't') for t in (start, end)]
    return Window(*bounds)


def on_batches(window, sizes, length, interval='1ba', probability=1.0, seed=1):
    anchor, found = window.anchor(length), []
    for clock in clocks(sizes, length):
        if anchor is None and window.contains(clock):
            anchor = Anchor(clock.batch, clock.epoch)
        if not window.contains(clock) or anchor is None:
            continue
        if schedule.is_on(clock, anchor, Interval.parse(interval), probability, seed):
            found.append(clock.batch)
    return found


@pytest.mark.parametrize(('start', 'end', 'expected'), [
    ('0dur', '1dur', range(40)), ('0dur', '0.25dur', range(10)), ('0.1dur', '0.3dur', range(4, 12)),
    ('0.11dur', '1dur', range(5, 40)), ('1ep', '3ep', range(10, 30)), ('7ba', '9ba', range(7, 9)),
    ('0sp', '41sp', range(11)), ('40sp', '1dur', range(10, 40)), ('12tok', '24tok', range(1, 2)),
    ('5ba', '1ep', range(5, 10)), ('0dur', '0dur', range(0)), ('3iter', '1dur', range(0)),
])
def test_windows_of_every_unit_are_exact_to_the_batch(start, end, expected):
    window = window_of(start, end, Time(4, TimeUnit.EPOCH), 10)
    assert on_batches(window, [4] * 40, 10) == list(expected)


@pytest.mark.parametrize(('duration', 'expected'), [
    (Time(40, TimeUnit.BATCH), range(10)), (Time(160, TimeUnit.SAMPLE), range(10)), (Time(480, TimeUnit.TOKEN), range(10)),
])
def test_a_share_of_the_duration_in_any_unit(duration, expected):
    assert on_batches(window_of('0dur', '0.25dur', duration, None), [4] * 40, 10) == list(expected)


def test_tenths_are_exact():
    for tenth in range(11):
        bound = schedule.resolve(parse_time(f'0.{tenth}dur' if tenth < 10 else '1dur', 't'),
                                 Time(3, TimeUnit.EPOCH), 10, 't')
        assert bound.value == 3 * tenth


@settings(max_examples=300, deadline=None)
@given(
    start=st.fractions(0, 1, max_denominator=64), width=st.fractions(0, 1, max_denominator=64),
    epochs=st.integers(1, 6), length=st.integers(1, 17), every=st.integers(1, 7), unit=st.sampled_from(['ba', 'ep']),
)
def test_counts_against_brute_force(start, width, epochs, length, every, unit):
    end = min(Fraction(1), start + width)
    window = Window(*(Bound(TimeUnit.BATCH, x * epochs * length) for x in (start, end)))
    total = epochs * length
    inside = [b for b in range(total) if start <= Fraction(b, total) < end]
    first = inside[0] if inside else 0
    expected = [
        b for b in inside if (b - first if unit == 'ba' else b // length - first // length) % every == 0
    ]
    assert on_batches(window, [1] * total, length, f'{every}{unit}') == expected


def test_an_interval_counts_from_the_windows_first_batch_even_where_that_shows_only_when_reached():
    sizes = [5, 3, 4, 4, 6, 2, 4, 4, 4, 4, 4, 4]
    window = window_of('9sp', '1dur', Time(1, TimeUnit.EPOCH), 12)
    assert window.anchor(12) is None
    assert on_batches(window, sizes, 12, '4ba') == [3, 7, 11]


def test_every_kth_epoch():
    window = window_of('1ep', '1dur', Time(6, TimeUnit.EPOCH), 3)
    assert on_batches(window, [1] * 18, 3, '2ep') == [3, 4, 5, 9, 10, 11, 15, 16, 17]


def test_probability_keeps_its_share_and_repeats():
    window = window_of('0dur', '1dur', Time(4000, TimeUnit.BATCH), None)
    first = on_batches(window, [1] * 4000, 4000, probability=0.3)
    assert first == on_batches(window, [1] * 4000, 4000, probability=0.3)
    assert first != on_batches(window, [1] * 4000, 4000, probability=0.3, seed=2)
    assert abs(len(first) / 4000 - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 4000)


def draws(weights, count, sampling, batches=6000, interval='1ba'):
    anchor = Anchor(0, 0)
    return [schedule.choose(Clock(b, 0), anchor, Interval.parse(interval), weights, count, sampling, 17)
            for b in range(batches)]


def test_random_teachers_follow_their_weights_without_replacement():
    seen = Counter(i for chosen in draws([1, 2, 5], 1, 'random') for i in chosen)
    for i, weight in enumerate([1, 2, 5]):
        assert abs(seen[i] / 6000 - weight / 8) < 0.03
    assert all(len(set(chosen)) == 2 for chosen in draws([1, 2, 5], 2, 'random'))


def test_extreme_weights_do_not_underflow():
    assert Counter(draws([1e-9, 1.0], 1, 'random', 200)) == {(1,): 200}


def test_round_robin_takes_turns_over_the_batches_that_are_on():
    assert draws([1] * 3, 2, 'round_robin', 4) == [(0, 1), (0, 2), (1, 2), (0, 1)]
    every = [schedule.choose(Clock(b, 0), Anchor(2, 0), Interval.parse(4), [1] * 3, 1, 'round_robin', 0)
             for b in (2, 6, 10, 14)]
    assert every == [(0,), (1,), (2,), (0,)]


def test_round_robin_over_every_second_epoch_leaves_out_no_teacher():
    def asked(batch, length, first=0):
        clock = Clock(batch, batch // length, batch_in_epoch=batch % length)
        return schedule.choose(clock, Anchor(first, first // length), Interval.parse('2ep'), [1] * 2, 1, 'round_robin', 0)[0]

    assert [asked(batch, 1) for batch in (0, 2, 4, 6)] == [0, 1, 0, 1]
    assert [asked(batch, 3) for batch in (0, 1, 2, 6, 7, 8, 12)] == [0, 1, 0, 1, 0, 1, 0]
    assert [asked(batch, 3, first=1) for batch in (1, 2, 6, 7, 8, 12)] == [0, 1, 0, 1, 0, 1], 'begun amid an epoch'


def test_the_smallest_weights_are_drawn_as_often_as_each_other():
    seen = Counter(draws([5e-324, 5e-324], 1, 'random', 1000))
    assert abs(seen[0,] - 500) < 100


def test_all_teachers_where_there_are_no_more():
    assert draws([1, 1], 2, 'random', 2) == [(0, 1), (0, 1)]


def test_no_generator_is_disturbed():
    import random

    import numpy as np
    import torch
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    draws([1, 2], 1, 'random', 10)
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@pytest.mark.parametrize('value', ['', 'soon', '1.5ep', '-1ba', '1.2dur', '-0.1dur', True, None, '10', 1.5,
                                   'infba', 'nandur', 'infdur', '1e400sp', 2**63, 10**400])
def test_a_bad_time_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r'start: expected a'):
        parse_time(value, 'start')


@pytest.mark.parametrize('value', ['90sec', '1h30m', '3s'])
def test_wall_clock_time_is_refused_with_the_reason(value):
    with pytest.raises(ValueError, match='no two ranks'):
        parse_time(value, 'end')


@pytest.mark.parametrize('value', [0, -2, '0ba', '3sp', '0.5dur', 'often'])
def test_a_bad_interval_is_refused(value):
    with pytest.raises(ValueError, match='interval: expected'):
        Interval.parse(value)


def test_a_share_of_epochs_needs_their_length():
    with pytest.raises(ValueError, match='this dataloader has no length'):
        schedule.resolve(parse_time('0.5dur', 'end'), Time(2, TimeUnit.EPOCH), None, 'end')


@settings(deadline=None)
@given(st.fractions(0, 10**9), st.sampled_from(['ba', 'ep', 'sp', 'tok']))
def test_a_window_survives_a_checkpoint(value, unit):
    window = Window(Bound(TimeUnit(unit), value), Bound(TimeUnit('ba'), Fraction(7, 3)))
    assert schedule.restore(schedule.describe(window)) == window


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 9), st.integers(0, 50))
def test_by_rank_is_fair_and_never_asks_a_teacher_that_is_not_held(total, count, ranks, first):
    count = min(count, total)
    weights, seen = [1.0] * total, [0] * total
    for batch in range(first, first + total):
        clock, said = Clock(batch=batch), []
        for rank in range(ranks):
            chosen = schedule.choose(clock, Anchor(first, 0), Interval.parse(1), weights, count, 'by_rank', 17, rank, ranks)
            assert len(set(chosen)) == count
            assert set(chosen) <= schedule.ever_asked(total, count, 'by_rank', rank, ranks)
            said += chosen
        asked = schedule.askers(clock, Anchor(first, 0), Interval.parse(1), weights, count, 'by_rank', 17, ranks)
        assert asked == {i: said.count(i) for i in set(said)}
        assert max(asked.values()) - min([*asked.values(), *[0] * (len(asked) < total)]) <= 1 or count == total
        seen = [n + said.count(i) for i, n in enumerate(seen)]
    assert max(seen) == min(seen), 'over as many batches as there are teachers all are asked equally often'
    if (ranks * count) % total == 0 and count < total:
        assert len(schedule.ever_asked(total, count, 'by_rank', 0, ranks)) == count
