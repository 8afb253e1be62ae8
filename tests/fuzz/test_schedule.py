"""Window, interval, choices and plan against a model that walks through every batch in plain numbers."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections import Counter
from fractions import Fraction
from itertools import permutations

import pytest
from composer.core import TimeUnit
from hypothesis import assume, event, given
from hypothesis import strategies as st
from torch import nn

from composer_kd import Distillation, schedule
from composer_kd.decision import Plan
from composer_kd.plan.building import build_distillation
from composer_kd.plan.course import Course
from composer_kd.plan.distilling import follow
from composer_kd.recipes import parse_recipe
from tests.fuzz.cases import cases
from tests.fuzz.course import active, intervals, opens_late, times, trainings, written
from tests.recipes.tiny import plain

_KNOWN = ('dur', 'ep', 'ba', 'sp', 'tok')
_RECIPE = plain()
_POOL = [nn.Linear(1, 1) for _ in range(5)]


def distillation(teachers=1, weights=None, **settings):
    pool = [{'module': _POOL[i], 'weight': (weights or [1.0] * teachers)[i]} for i in range(teachers)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of windows that never open
        return Distillation(pool, **settings)


def begun(kd, state):
    plan = Plan(kd._s)
    plan.fit_start(state)
    return plan


def checkpointed(kd, plan):
    """What a checkpoint holds of it, as plain text would."""
    return json.loads(json.dumps({**json.loads(kd.state_dict()['books']), **plan.state_dict()}))


@cases(1000)
@given(trainings(), times(), times(), intervals)
def test_active_batches_are_those_of_the_model(training, start, end, every):
    settings = {'start': start.text, 'end': end.text, 'interval': written(every)}
    if opens_late(start, end, training):
        with pytest.raises(ValueError, match=r'^start: '):
            begun(distillation(**settings), training.state())
        return
    expected = [moment.ba for moment in active(training, start, end, every)]
    event(f'{min(len(expected), 3)} active')
    plan = begun(distillation(**settings), training.state())
    decisions = {moment.ba: plan.decide(training.state(moment)) for moment in training.batches}
    assert [batch for batch, decision in decisions.items() if decision.on] == expected
    closed = [moment.ba for moment in training.batches if end.over(moment, training)]
    assert [batch for batch, decision in decisions.items() if decision.closed] == closed


@cases(300)
@given(trainings(plain=True), times(_KNOWN), times(_KNOWN), intervals, st.sampled_from([1.0, 0.5, 0.2]), st.integers(1, 4), st.data())
def test_the_plan_counts_as_the_training_will(training, start, end, every, probability, teachers, data):
    assume(not opens_late(start, end, training))
    count = data.draw(st.integers(1, teachers))
    sampling = data.draw(st.sampled_from(['random', 'round_robin']))
    said = {
        'start': str(start), 'end': str(end), 'interval': every[0] if every[1] == 'ba' else written(every),
        'probability': probability, 'teachers_per_batch': count, 'sampling': sampling,
    }
    weights = [1.0 + i for i in range(teachers)]
    plan = begun(distillation(teachers, weights, **said), training.state())
    decisions = {moment.ba: plan.decide(training.state(moment)) for moment in training.batches}
    on = {batch: decision.teachers for batch, decision in decisions.items() if decision.on}
    size = training.sizes[0]
    course = Course(training.max_duration, size, training.tokens, len(training.sizes))
    assert course.steps == len(training.batches)
    names = [f'teacher{i}' for i in range(teachers)]
    pool = [{'run': f'runs/{name}', 'weight': weight} for name, weight in zip(names, weights, strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        settings = build_distillation(parse_recipe({**_RECIPE, 'algorithms': {'distillation': {'teachers': pool, **said}}}))
    found = follow(course, settings, names, weights, 17)
    assert (found.active_steps, found.first_step, found.last_step) == (
        len(on), min(on, default=None), max(on, default=None))
    asked = Counter(names[i] for chosen in on.values() for i in chosen)
    assert found.batches == {name: asked[name] for name in names}
    assert found.samples == {name: size * asked[name] for name in names}


@cases(250)
@given(trainings(), times(), times(), intervals, st.data())
def test_a_resumed_training_goes_on_as_it_would_have(training, start, end, every, data):
    assume(not opens_late(start, end, training) and training.batches)
    settings = {
        'teachers': 3, 'weights': [1.0, 2.0, 3.0], 'start': str(start), 'end': str(end), 'interval': written(every),
        'probability': data.draw(st.sampled_from([1.0, 0.5])), 'teachers_per_batch': data.draw(st.integers(1, 3)),
        'sampling': data.draw(st.sampled_from(['random', 'round_robin'])),
    }
    whole = begun(distillation(**settings), training.state())
    expected = [whole.decide(training.state(moment)) for moment in training.batches]
    # Every batch is followed by a new process on its own, or on another number of ranks, with the length it had or more.
    longer = dataclasses.replace(training, duration=(training.duration[0] * data.draw(st.integers(1, 3)), training.duration[1]))
    kd = distillation(**settings)
    plan, found = begun(kd, training.state()), []
    kills = data.draw(st.sets(st.integers(0, len(training.batches)), max_size=5))
    for moment in training.batches:
        if moment.ba in kills:
            held = checkpointed(kd, plan)
            kd = distillation(**settings)
            plan = Plan(kd._s)
            plan.load_state_dict(held)
            plan.fit_start(longer.state(moment))
        found.append(plan.decide(longer.state(moment)))
    assert found == expected


@cases(60)
@given(st.lists(st.sampled_from([1.0, 2.0, 0.5, 1e-3, 1e308, 1e-308, 5e-324]), min_size=2, max_size=4), st.data())
def test_teachers_drawn_at_random_follow_their_weights(weights, data):
    """The share of each set of teachers is that of draws without replacement, one after another, by weight."""
    count = data.draw(st.integers(1, len(weights) - 1))
    seed = data.draw(st.integers(0, 2**32 - 1))
    expected: Counter[tuple[int, ...]] = Counter()
    for order in permutations(range(len(weights)), count):
        share, left = Fraction(1), [Fraction(weight) for weight in weights]
        for i in order:
            share, left[i] = share * left[i] / sum(left), Fraction(0)
        expected[tuple(sorted(order))] += share
    draws = 1000
    seen = Counter(
        schedule.choose(schedule.Clock(batch), schedule.Anchor(0, 0), schedule.Interval(1, TimeUnit.BATCH), weights, count,
                        'random', seed)
        for batch in range(draws)
    )
    assert set(seen) <= set(expected)
    for chosen, share in expected.items():
        # Six standard deviations: of millions of comparisons none fails by chance.
        assert abs(seen[chosen] - draws * share) <= 6 * math.sqrt(draws * share * (1 - share)) + 6, (chosen, float(share))


@cases(400)
@given(trainings(), times(), times(), intervals, st.integers(2, 5), st.data())
def test_teachers_in_turn_take_turns_over_the_batches_that_are_on(training, start, end, every, teachers, data):
    assume(not opens_late(start, end, training))
    count = data.draw(st.integers(1, teachers - 1))
    plan = begun(distillation(
        teachers, start=start.text, end=end.text, interval=written(every), teachers_per_batch=count, sampling='round_robin',
    ), training.state())
    for turn, moment in enumerate(active(training, start, end, every)):
        in_turn = sorted((turn * count + i) % teachers for i in range(count))
        assert plan.decide(training.state(moment)).teachers == tuple(in_turn)
