"""Times and intervals: what is no time is refused by the name of the setting."""

from __future__ import annotations

import math

from composer.core import Time, TimeUnit
from hypothesis import event, given
from hypothesis import strategies as st

from composer_kd import schedule
from composer_kd.recipes.hints import is_time
from composer_kd.times import parse_time
from tests.fuzz import junk
from tests.fuzz.cases import cases
from tests.fuzz.told import told

durations = st.tuples(st.sampled_from([1, 7, 10**12]), st.sampled_from(['ep', 'ba', 'sp', 'tok', 'iter']))


@cases(1000)
@given(junk.times | junk.values, durations, st.none() | st.integers(1, 100))
def test_a_time_is_read_or_refused_by_name(text, duration, length):
    def read():
        time = parse_time(text, 'x.start')
        return time, schedule.resolve(time, Time.from_timestring('{}{}'.format(*duration)), length, 'x.start')

    found, message = told(read)
    event('read' if message is None else 'refused')
    if message is not None:
        assert message.startswith('x.start: '), message
        return
    time, bound = found
    assert bound.value >= 0
    assert time.unit != TimeUnit.DURATION or bound.value <= duration[0] * (length or 1)
    assert math.isfinite(float(bound.value))
    window = schedule.Window(bound, bound)
    assert schedule.restore(schedule.describe(window)) == window
    assert not window.contains(schedule.Clock(5, 5, 5, 5, 5))


@cases(500)
@given(junk.times | junk.values)
def test_an_interval_is_read_or_refused_by_name(text):
    interval, message = told(lambda: schedule.Interval.parse(text, 'x.interval'))
    if message is not None:
        assert message.startswith('x.interval: '), message
        return
    assert interval.every >= 1
    assert interval.unit in (TimeUnit.BATCH, TimeUnit.EPOCH)
    assert schedule.is_on(schedule.Clock(5, 5), schedule.Anchor(5, 5), interval, 1.0, 0)


@cases(500)
@given(junk.times | junk.values)
def test_whether_it_is_a_time_can_be_asked_of_anything(text):
    assert is_time(text) in (True, False)
