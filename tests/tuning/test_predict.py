"""Predictions from given figures against brute force and against what real trainings counted."""

import math
from dataclasses import replace

import pytest
from composer.core import Time

from composer_kd.answers import Format
from composer_kd.plan.course import Course
from composer_kd.plan.result import Distilling
from composer_kd.recipes import parse_recipe
from composer_kd.recipes.build import train
from composer_kd.tuning.advice import advise
from composer_kd.tuning.choices import Choice
from composer_kd.tuning.predict import Costs, Schedule, seconds_of
from composer_kd.tuning.subject import Length
from tests.tuning.made import answers, digits, measured, several, subject

SECONDS = {'t0': 0.2, 't1': 0.3, 't2': 0.7}
LENGTH = Length(Course(Time.from_timestring('2ep'), 16, 0, 6), True, 100, None)


def advice(recipe, budget=0.1, runs=1, length=LENGTH, ranks=1, **figures):
    different = replace(subject(recipe, ranks=ranks), alike={name: name for name in SECONDS})
    return advise(different, length, measured(SECONDS, **figures), budget, runs)


def named(found, name):
    return next(one for one in found.predictions if one.choice.name == name)


@pytest.mark.parametrize('changes', [
    {}, {'end': '0.6dur', 'interval': 3}, {'teachers_per_batch': 1}, {'teachers_per_batch': 2, 'start': '0.25dur'},
    {'teachers_per_batch': 1, 'sampling': 'round_robin', 'probability': 0.5}, {'interval': '1ep', 'start': '1ep'},
], ids=str)
@pytest.mark.filterwarnings('ignore')
def test_a_real_training_asks_as_often_as_was_predicted(tmp_path, changes):
    recipe = several(tmp_path, **changes)
    own = named(advice(recipe), 'as the recipe says')
    record = train(parse_recipe(recipe)).read_record()
    asked = {teacher.name: teacher.batches for teacher in record.teachers}
    assert own.asked == asked
    assert own.active == record.kd.active_batches
    assert own.steps == record.batches == 12
    by_hand = sum(SECONDS[name] * count for name, count in asked.items()) + 0.1 * record.kd.active_batches
    assert own.kd == pytest.approx(by_hand)
    assert own.overhead == pytest.approx(by_hand / 12)
    assert own.hours == pytest.approx((12 + by_hand) / 3600)


def test_windows_and_intervals_by_hand(tmp_path):
    found = advice(several(tmp_path))
    whole = sum(SECONDS.values()) + 0.1
    for name, active in (
        ('as the recipe says', 12), ('all 3 teachers, first 50 %', 6), ('all 3 teachers, every 2nd batch', 6),
        ('all 3 teachers, first 25 %', 3), ('all 3 teachers, every 4th batch', 3),
        ('all 3 teachers, first 50 %, every 2nd batch', 3), ('all 3 teachers, first 25 %, every 4th batch', 1),
    ):
        one = named(found, name)
        assert (one.active, one.first) == (active, 0)
        assert one.overhead == pytest.approx(active * whole / 12)
    one = named(found, 'one teacher, every 4th batch')
    assert sum(one.asked.values()) == 3
    assert one.kd == pytest.approx(sum(SECONDS[name] * count for name, count in one.asked.items()) + 0.3)


def test_a_longer_training_has_the_same_share(tmp_path):
    long = Length(Course(Time.from_timestring('200ep'), 16, 0, 6), True, 100, None)
    one = named(advice(several(tmp_path), length=long), 'all 3 teachers, first 25 %')
    assert (one.steps, one.active) == (1200, 300)
    assert one.overhead == pytest.approx(0.25 * 1.3)


def test_what_is_waited_for_anyway_is_free(tmp_path):
    busy = named(advice(several(tmp_path), loader=1.5, workers=2), 'as the recipe says')
    assert busy.base == pytest.approx(12 * 1.5)
    assert busy.kd == pytest.approx(12 * (1.3 - 0.5))
    hidden = named(advice(several(tmp_path), loader=9.0, workers=2), 'as the recipe says')
    assert hidden.kd == 0
    own = named(advice(several(tmp_path), loader=1.5, workers=0), 'as the recipe says')
    assert own.base == 12, 'loaded by the training itself, and in its step already'


def test_stored_by_brute_force(tmp_path):
    """Views of two epochs, 100 samples each, for three teachers; what runs cost with and without, run by run."""
    found = advice(several(tmp_path), stored=answers())
    live, stored = (named(found, name) for name in ('as the recipe says', 'as the recipe says, stored'))
    assert stored.kd == pytest.approx(12 * (3 * 0.01 + 0.02))
    each = [100 * 2 * (0.2 + SECONDS[name] + 0.05) / 16 for name in SECONDS]
    assert stored.writing == pytest.approx(sum(each))
    assert stored.bytes == 3 * 200 * Format('dense', 10).sample_bytes(1)
    runs = next(n for n in range(1, 100) if stored.writing + n * stored.kd <= n * live.kd)
    assert stored.pays_after == runs
    assert stored.overhead_of_all == pytest.approx((stored.kd + stored.writing) / 12)
    half = named(found, 'all 3 teachers, first 50 %, stored')
    assert half.writing == pytest.approx(stored.writing / 2), 'one epoch, one view'


def test_runs_share_what_writing_takes(tmp_path):
    one, ten = (named(advice(several(tmp_path), runs=n, stored=answers()), 'as the recipe says, stored') for n in (1, 10))
    assert ten.overhead_of_all - ten.overhead == pytest.approx((one.overhead_of_all - one.overhead) / 10)
    assert (one.pays_after, one.kd) == (ten.pays_after, ten.kd)


def test_kept_views_are_stored_once(tmp_path):
    views = Length(Course(Time.from_timestring('200ep'), 16, 0, 6), True, 100, 4)
    one = named(advice(several(tmp_path), length=views, stored=answers()), 'as the recipe says, stored')
    assert one.bytes == 3 * 4 * 100 * Format('dense', 10).sample_bytes(1)


def test_a_store_that_is_slower_than_the_teacher_never_pays(tmp_path):
    one = named(advice(several(tmp_path), stored=answers(reading=9.0)), 'as the recipe says, stored')
    assert one.pays_after is None


def test_top_k_answers_of_several_teachers_are_no_choice(tmp_path):
    form = Format('top_k', 10, k=3, temperature=1.0)
    found = advice(several(tmp_path), stored=answers(form=form))
    stored = [one.choice.name for one in found.predictions if one.choice.stored]
    assert 'one teacher, always, stored' in stored
    assert not [name for name in stored if name.startswith(('all', 'as'))]


def test_ranks_write_together_and_by_rank_each_asks_its_share(tmp_path):
    alone = named(advice(several(tmp_path), stored=answers()), 'as the recipe says, stored')
    four = named(advice(several(tmp_path), stored=answers(), ranks=4), 'as the recipe says, stored')
    assert four.writing == pytest.approx(alone.writing / 4)
    recipe = several(tmp_path, sampling='by_rank')
    for item in recipe['algorithms']['distillation']['teachers']:
        item['weight'] = 1.0
    one = named(advice({**recipe, 'train_data': {**recipe['train_data'], 'batch_size': 15}}, ranks=3,
                       length=Length(Course(Time.from_timestring('2ep'), 15, 0, 6), True, 100, None)), 'as the recipe says')
    assert one.asked == dict.fromkeys(SECONDS, 12)
    assert one.kd == pytest.approx(12 * (sum(SECONDS.values()) / 3 + 0.1)), 'of each rank, one teacher'


def test_teachers_that_are_alike_cost_the_same(tmp_path):
    found = subject(several(tmp_path))
    assert found.alike == {'t0': 't0', 't1': 't0', 't2': 't0'}
    one = advise(found, LENGTH, measured({'t0': 0.5}), 0.1, 1)
    assert named(one, 'as the recipe says').kd == pytest.approx(12 * (1.5 + 0.1))


def test_a_length_that_is_not_known_is_told_in_shares(tmp_path):
    recipe = several(tmp_path)
    length = Length(Course(Time.from_timestring('10000ba'), 16, 0, None), False, None, None)
    one = named(advice(recipe, length=length), 'all 3 teachers, first 25 %')
    assert one.overhead == pytest.approx(0.25 * 1.3)
    with pytest.raises(ValueError, match='start: '):
        advice({**recipe, 'algorithms': {'distillation': {**recipe['algorithms']['distillation'], 'start': '9000ba',
                                                            'end': '100ba'}}}, length=length)


def test_live_and_stored_teachers_side_by_side():
    counts = Distilling(active_steps=4, batches={'a': 4, 'b': 4}, samples={'a': 32, 'b': 32})
    costs = Costs(1.0, {'a': 0.5}, 0.1, reading=0.01, stored_loss=0.02)
    assert seconds_of(costs, Schedule(10, counts, 8), ['b']) == pytest.approx(4 * (0.5 + 0.01 + 0.1))
    assert seconds_of(costs, Schedule(10, counts, 8), ['a', 'b']) == pytest.approx(4 * (0.01 + 0.01 + 0.02))


def test_one_teacher_that_is_the_recipes_own_is_named_once(tmp_path):
    recipe = digits(tmp_path)
    found = advise(subject(recipe), LENGTH, measured({'teacher0': 0.5}), 0.1, 1)
    assert [one.choice.name for one in found.predictions][:2] == ['as the recipe says', 'first 50 %']
    assert math.isclose(found.recommendation.prediction.overhead, 0.6 / 12)
    assert isinstance(found.recommendation.prediction.choice, Choice)
