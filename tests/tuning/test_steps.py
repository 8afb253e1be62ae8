"""What is made of the times of steps, and what is left of a recipe whose steps are timed."""

import pytest
from composer.core import Time

from composer_kd.recipes import parse_recipe
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.steps import Step, alone, enough, in_turn, share_of, sort_out, time_steps, warm_up
from tests.caching.made import digits

NAMES = ['a', 'b']
TEACHER = {'a': 0.5, 'b': 0.25}


def made(count, names=NAMES, loss=0.125, drift=0.0, storing=0.0):
    """Steps of a second, the first ones slow, every other with one of the teachers."""
    steps = []
    for i in range(count):
        slow, base = (100.0 if i < max(3, 2 * len(names) - 1) else 0.0), 1.0 + drift * i
        if i % 2:
            steps.append(Step(base + slow))
        else:
            teacher = TEACHER[names[i // 2 % len(names)]]
            steps.append(Step(base + slow + teacher + loss + storing, teacher + loss / 2, teacher + slow, storing))
    return steps


def test_every_part_is_told_apart():
    found = sort_out(made(4 + 8 + 1), NAMES)
    assert found.off.seconds == 1.0
    assert {name: spread.seconds for name, spread in found.teachers.items()} == TEACHER
    assert found.rest.seconds == 0.125
    assert found.added.count == 4
    assert found.added.low == pytest.approx(0.375)
    assert found.added.high == pytest.approx(0.625)
    assert sort_out(made(13, storing=0.5), NAMES).storing.seconds == 0.5


def test_what_slows_the_machine_down_meets_both_kinds():
    found = sort_out(made(41, drift=0.25), NAMES)
    assert found.rest.seconds == pytest.approx(0.125), 'not the drift'
    one_bad = made(41)
    one_bad[20] = Step(50.0, 40.0, 40.0)
    assert sort_out(one_bad, NAMES).rest.seconds == pytest.approx(0.125)


def test_what_was_seen_inside_is_not_lost_in_noise():
    steps = made(13)
    noisy = [Step(step.whole - 0.3 * (i % 2 == 0), step.kd, step.teacher) for i, step in enumerate(steps)]
    found = sort_out(noisy, NAMES)
    assert found.rest.seconds == 0.0625, 'half of the loss is forward, and was seen by the algorithm itself'
    assert found.rest.low == pytest.approx(0.125 - 0.3)


def test_without_teachers():
    found = sort_out([*[Step(9.0)] * 4, Step(1.0), Step(3.0)], [])
    assert found.off == Spread(2.0, 1.5, 2.5, 2)
    assert found.rest is None


@pytest.mark.parametrize('names', [[], ['a'], ['a', 'b', 'c']])
def test_two_of_each_and_so_many_seconds(names):
    over = enough(names, 5.0)
    count = next(count for count in range(100) if over(count, 5.0 * (count > warm_up(len(names)))))
    assert not over(10_000, 4.9)
    steps = [Step(1.0)] * count
    found = sort_out(steps, names)
    assert [spread.count for spread in found.teachers.values()] == [2] * len(names)
    assert found.off.count >= 2


def test_what_warming_up_takes_does_not_count():
    over = enough(['a'], 5.0)
    assert not any(over(count, 100.0 + count / 10) for count in range(1, 50))
    assert over(60, 110.0)


def test_a_training_without_an_end_in_its_own_unit_and_of_one_rank(tmp_path):
    recipe = parse_recipe(digits(tmp_path, callbacks={'lr_monitor': {}}, loggers={'file': {}}, max_duration='3ep'))
    bare = alone(recipe, None, ranks=4)
    assert 'distillation' not in bare.algorithms
    assert not bare.callbacks
    assert not bare.loggers
    assert Time.from_timestring(bare.max_duration).value == 3_000_000
    assert bare.train_data['batch_size'] == 4
    assert recipe.train_data['batch_size'] == 16, 'the recipe is as it was'
    with pytest.raises(ValueError, match='16 samples cannot be divided evenly over 3 GPUs'):
        share_of(recipe, 3)


@pytest.mark.usefixtures('nothing_is_left_behind')
def test_a_real_training_is_timed_and_leaves_nothing(tmp_path):
    recipe = parse_recipe(digits(tmp_path))
    teachers = [{**recipe.algorithms['distillation']['teachers'][0], 'name': name} for name in NAMES]
    kd = in_turn(recipe.algorithms['distillation'], teachers)
    before = sorted(tmp_path.rglob('*'))
    steps = time_steps(alone(recipe, kd), lambda count, _: count >= 9)
    assert len(steps) == 9, 'longer than the epoch of six'
    assert [step.teacher > 0 for step in steps] == [True, False] * 4 + [True]
    assert all(step.whole > step.kd >= step.teacher for step in steps)
    assert sorted(tmp_path.rglob('*')) == before
