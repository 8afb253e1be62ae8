import pytest
from composer.core import Time

from composer_kd.plan.course import Course


def course(duration, length=20, tokens=0):
    return Course(Time.from_timestring(duration), 64, tokens, length)


@pytest.mark.parametrize(('duration', 'steps'), [
    ('3ep', 60), ('7ba', 7), ('640sp', 10), ('641sp', 11), ('6400tok', 10),
])
def test_steps(duration, steps):
    assert course(duration, tokens=10).steps == steps


def test_what_is_not_known_is_not_guessed():
    unknown = course('3ep', length=None)
    assert unknown.steps is None
    assert unknown.moments('1ba') is None
    assert course('100ba', length=None).moments('1ep') is None
    assert course('100tok').steps is None, 'data without tokens'


@pytest.mark.parametrize(('duration', 'interval', 'moments'), [
    ('10ep', 1, 10), ('10ep', '3ep', 4), ('10ep', '20ep', 1), ('10ep', '50ba', 4), ('10ep', '49ba', 5),
    ('10ep', '0.3dur', 4), ('10ep', '1dur', 1), ('10ep', 0, 0), ('10ep', '1280sp', 10), ('10ep', '1sp', 200),
    ('1000sp', '0.5dur', 2), ('90ba', '2ep', 3),
])
def test_moments_are_those_of_the_interval_and_the_end(duration, interval, moments):
    assert course(duration).moments(interval) == moments


def test_the_clock():
    clock = course('3ep', tokens=10).clock(45)
    assert (clock.batch, clock.epoch, clock.sample, clock.token) == (45, 2, 45 * 64, 45 * 640)
