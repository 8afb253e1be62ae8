import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.studies.file.parts import POLICIES, TeacherPolicy
from composer_kd.studies.rules.policy import Candidate, choose

METRIC = 'test/Accuracy'
QUALITIES = st.none() | st.sampled_from([0.1, 0.2, 0.3, math.nan, math.inf, -math.inf])


def candidates(qualities, metric=METRIC):
    return [
        Candidate(f'run{index}', f'runs/run{index}', {} if value is None else {metric: value})
        for index, value in enumerate(qualities)
    ]


def names(policy, qualities, draw='study/run', higher_is_better=True, metric=METRIC):
    chosen = choose(TeacherPolicy.model_validate(policy), candidates(qualities, metric), draw, METRIC, higher_is_better)
    return [run.name for run in chosen]


@pytest.mark.parametrize(('policy', 'expected'), [
    ('latest', ['run4']), ({'latest': 2}, ['run3', 'run4']), ('best', ['run3']), ({'top': 2}, ['run1', 'run3']),
    ({'top': 9}, ['run0', 'run1', 'run2', 'run3', 'run4']), ('all', ['run0', 'run1', 'run2', 'run3', 'run4']),
    ({'policy': 'all', 'floor': 0.5}, ['run1', 'run2', 'run3']),
    ({'policy': 'latest', 'floor': 0.5}, ['run3']), ({'policy': 'best', 'floor': 0.95}, []),
])
def test_each_policy(policy, expected):
    # Of equally good runs the later one is the best.
    assert names(policy, [0.1, 0.9, 0.5, 0.9, 0.2]) == expected


def test_low_is_good_for_a_loss():
    assert names('best', [2.0, 1.0, 3.0], higher_is_better=False) == ['run1']
    assert names({'policy': 'all', 'floor': 2.0}, [2.0, 1.0, 3.0], higher_is_better=False) == ['run0', 'run1']


def test_a_metric_of_the_policy_has_its_own_direction():
    policy = {'policy': 'best', 'metric': 'test/CrossEntropy'}
    assert names(policy, [2.0, 1.0, 3.0], metric='test/CrossEntropy') == ['run1']
    assert names('best', [2.0, 1.0, 3.0], metric='test/CrossEntropy') == [], 'none has the metric'


def test_runs_without_the_quality():
    assert names('all', [None, 0.5, math.nan, math.inf]) == ['run0', 'run1']
    assert names({'latest': 3}, [0.5, None]) == ['run0', 'run1']
    assert names({'policy': 'all', 'floor': 0.0}, [None, 0.5]) == ['run1']
    assert names('best', [None, math.nan]) == []


@given(
    policy=st.sampled_from(POLICIES), count=st.integers(1, 4), qualities=st.lists(QUALITIES, max_size=7),
    floor=st.none() | st.sampled_from([0.0, 0.2]), higher=st.booleans(), draw=st.text(max_size=3),
)
def test_what_every_choice_keeps(policy, count, qualities, floor, higher, draw):
    said = {'policy': policy, 'floor': floor, **({'count': count} if policy in ('latest', 'random', 'top') else {})}
    chosen = names(said, qualities, draw, higher)
    assert chosen == names(said, qualities, draw, higher), 'the same after every restart'
    assert chosen == sorted(chosen), 'oldest first'
    assert len(set(chosen)) == len(chosen)
    values = {f'run{index}': value for index, value in enumerate(qualities)}
    good = {
        name for name, value in values.items()
        if (value is None and floor is None and policy not in ('best', 'top'))
        or (value is not None and math.isfinite(value)
            and (floor is None or (value >= floor if higher else value <= floor)))
    }
    limit = len(good) if policy == 'all' else 1 if policy == 'best' else count
    assert set(chosen) <= good
    assert len(chosen) == min(limit, len(good))
    if policy in ('best', 'top') and chosen:
        left = [values[name] for name in good - set(chosen)]
        worst = (min if higher else max)(values[name] for name in chosen)
        assert all(value <= worst if higher else value >= worst for value in left)


def test_chance_reaches_everyone_about_equally_and_follows_from_the_draw_alone():
    drawn = Counter(name for i in range(3000) for name in names({'random': 2}, [0.1] * 5, f'study/run{i}'))
    assert set(drawn) == {f'run{index}' for index in range(5)}
    assert all(abs(count - 1200) < 150 for count in drawn.values())


def test_chance_is_the_same_in_another_process():
    code = (
        'from composer_kd.studies.rules.policy import *\nfrom composer_kd.studies.file.parts import TeacherPolicy\n'
        "runs = [Candidate(f'run{i}', '') for i in range(9)]\n"
        "print(*[c.name for c in choose(TeacherPolicy(policy='random', count=3), runs, 'study/x', 'a/b', True)])"
    )
    here = names({'random': 3}, [None] * 9, 'study/x')
    root = Path(__file__).parents[2]
    for seed in ('1', '2'):
        told = subprocess.run([sys.executable, '-c', code], cwd=root, capture_output=True, text=True, check=True,
                              env={'PYTHONHASHSEED': seed, 'PATH': ''})
        assert told.stdout.split() == here


def test_more_runs_move_few_random_choices():
    # A run keeps its teacher unless a new one takes its place: what was drawn is not drawn again.
    for i in range(50):
        before, after = set(names('random', [0.1] * 4, f's/{i}')), set(names('random', [0.1] * 5, f's/{i}'))
        assert after == before or after == {'run4'}
