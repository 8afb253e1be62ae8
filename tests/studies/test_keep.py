from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.studies.rules.keep import best, needed, removable
from composer_kd.studies.rules.planned import planned_runs
from composer_kd.studies.rules.policy import Candidate, choose
from tests.studies.specs import METRIC, comparison, search, sequence

VALUES = (0.1, 0.5, 0.9)
POLICIES = st.sampled_from([
    'latest', {'latest': 2}, 'best', {'top': 2}, 'all', {'random': 1}, {'policy': 'all', 'floor': 0.5},
    {'policy': 'latest', 'floor': 0.5}, {'policy': 'best', 'floor': 0.9},
])


def candidate(key, value):
    return Candidate(key, f'runs/{key}', {METRIC: value})


def continuations(spec, done, coming):
    """Every way in which the runs to come may end, in planned order, and the teachers each would be given then."""
    for ends in product((None, *VALUES), repeat=len(coming)):
        reached = dict(done)
        for run, value in zip(coming, ends, strict=True):
            if run.teachers is not None:
                pool = [candidate(key, reached[key]) for key in run.pool if reached.get(key) is not None]
                yield {
                    c.name for c in choose(
                        run.teachers, pool, f'{spec.name}/{run.key}', spec.metric, spec.is_higher_better)
                }
            reached[run.key] = value


def some_study(kind, policy, keep):
    if kind == 'comparison':
        return comparison(policy, earlier=3, durations=['2ep'], keep=keep)
    return search(policy, runs=4, keep=keep) if kind == 'search' else sequence(policy, steps=4, keep=keep)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(['comparison', 'search', 'sequence']), policy=POLICIES, keep=st.sampled_from(['needed', 'best']),
    ends=st.lists(st.none() | st.sampled_from(VALUES), max_size=8),
)
def test_nothing_is_removed_that_a_run_to_come_can_be_given(kind, policy, keep, ends):
    spec = some_study(kind, policy, keep)
    runs = [run for run in planned_runs(spec) if run.method != 'alone']
    done = {run.key: value for run, value in zip(runs, ends, strict=False)}
    coming = runs[len(done):]
    if len(coming) > 5:
        coming = coming[:5]
    finished = [candidate(key, value) for key, value in done.items() if value is not None]
    gone = set(removable(spec, runs[len(done):], finished))
    for teachers in continuations(spec, done, coming):
        assert not teachers & gone
    assert not best(spec, finished) & gone


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(['search', 'sequence']), policy=POLICIES, ends=st.lists(st.sampled_from(VALUES), max_size=3))
def test_nothing_is_kept_that_no_run_can_be_given(kind, policy, ends):
    spec = some_study(kind, policy, 'best')
    runs = [run for run in planned_runs(spec) if run.method == 'taught']
    done = {run.key: value for run, value in zip(runs, ends, strict=False)}
    finished = [candidate(key, value) for key, value in done.items()]
    possible = set().union(*continuations(spec, done, runs[len(done):]))
    if 'random' in policy:
        possible = set(done)  # what is drawn follows from who finishes, and is not worked out beforehand
    assert needed(spec, runs[len(done):], finished) <= possible | best(spec, finished)


@pytest.mark.parametrize('policy', ['all', {'random': 1}])
def test_whoever_may_be_drawn_is_needed(policy):
    spec = sequence(policy, steps=4, keep='best')
    runs = [run for run in planned_runs(spec) if run.method == 'taught']
    finished = [candidate(run.key, 0.5) for run in runs[:3]]
    assert needed(spec, runs[3:], finished) == {run.name for run in finished}
    assert needed(spec, [], finished) == {finished[-1].name}


def test_order_of_ending_does_not_matter():
    # A search side by side: run 3 is over before run 1, which is still to choose.
    spec = search('latest', runs=4, keep='best')
    runs = [run for run in planned_runs(spec) if run.method == 'taught']
    finished = [candidate(runs[0].key, 0.5), candidate(runs[3].key, 0.9)]
    assert needed(spec, [runs[1], runs[2]], finished) == {runs[0].key, runs[3].key}
    assert needed(spec, [], finished) == {runs[3].key}


def test_teachers_of_runs_that_are_going_stay():
    spec = sequence('latest', steps=4, keep='best')
    runs = [run for run in planned_runs(spec) if run.method == 'taught']
    finished = [candidate(run.key, 0.9 - 0.1 * run.index) for run in runs[:2]]
    # Step 2 is going with step 1 as its teacher; step 3 can be taught by 1 (if 2 fails) or 2.
    assert removable(spec, runs[2:], finished, {runs[2].key: [runs[0].key]}) == []
    finished.append(candidate(runs[2].key, 0.1))
    assert removable(spec, runs[3:], finished) == [runs[1].key], 'the best one and the latest'
    assert removable(spec, runs[3:], finished, {runs[3].key: [runs[1].key]}) == [runs[2].key]


@pytest.mark.parametrize(('keep', 'kept'), [
    ('needed', ['earlier-1', 'always-on-2ep-seed0']), ('best', ['always-on-2ep-seed0']),
])
def test_at_the_end_of_a_comparison(keep, kept):
    spec = comparison('best', durations=['2ep'], keep=keep)
    keys = [run.key for run in planned_runs(spec)]
    finished = [candidate(key, value) for key, value in zip(keys, (0.1, 0.5, 0.6, 0.9), strict=True)]
    gone = removable(spec, [], finished)
    assert gone == [key for key in keys if key not in kept], 'further seeds and durations would need their teacher'


def test_while_a_comparison_goes_on_its_teachers_stay():
    spec = comparison('all', durations=['2ep'], keep='best')
    runs = list(planned_runs(spec))
    finished = [candidate(run.key, 0.5) for run in runs[:3]]
    assert needed(spec, runs[3:], finished) == {'earlier-0', 'earlier-1', 'baseline-2ep-seed0'}


def test_everything_is_kept_unless_asked():
    spec = sequence(steps=3)
    assert removable(spec, [], [candidate('taught-seed0-step0', 0.1), candidate('taught-seed0-step1', 0.2)]) == []


def test_chains_are_told_apart_by_whole_names():
    # The method 'a' with seed 1 is not the method 'a' with seed 11, nor one called 'a-seed1-run00'.
    spec = search('latest', runs=2, seeds=[1, 11], keep='needed',
                  methods={'a': {'teachers': 'latest'}, 'a-seed1-run00': {'teachers': 'latest'}})
    finished = [candidate(run.key, 0.5) for run in planned_runs(spec)]
    kept = needed(spec, [], finished)
    assert kept == {run.name for run in finished if run.name.endswith('run01')}
