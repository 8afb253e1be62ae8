import re
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.studies.file.fields import flat, over, slug
from composer_kd.studies.rules.planned import LONGEST_SEARCH, Planned, planned_runs
from tests.studies.specs import comparison, search, sequence

NAMES = st.text('aBc -.25%é+_/', min_size=1, max_size=8).filter(slug)
KINDS = ('comparison', 'search', 'sequence')


def make(kind, names, seeds, length):
    methods = {'baseline': {}, **{name: {'teachers': 'all'} for name in names}}
    if kind == 'comparison':
        return comparison(methods=methods, seeds=seeds, durations=[f'{2 ** i}ep' for i in range(length)])
    if kind == 'search':
        return search(runs=length, methods=methods, seeds=seeds)
    return sequence(steps=length, methods=methods, seeds=seeds)


def by_key(spec):
    runs = list(planned_runs(spec))
    assert len({run.key for run in runs}) == len(runs), 'keys are unique'
    return {run.key: run for run in runs}


def test_a_comparison():
    spec = comparison('latest', seeds=[0, 3], durations=['2ep', '4ep'], set={'a': 1},
                      comparison={'durations': ['2ep', '4ep'], 'earlier': {
                          'runs': 2, 'duration': '8ep', 'first_seed': 50, 'set': {'a': 2, 'b.c': 3}}})
    runs = list(planned_runs(spec))
    assert [run.key for run in runs] == [
        'earlier-0', 'earlier-1',
        'baseline-2ep-seed0', 'always-on-2ep-seed0', 'baseline-4ep-seed0', 'always-on-4ep-seed0',
        'baseline-2ep-seed3', 'always-on-2ep-seed3', 'baseline-4ep-seed3', 'always-on-4ep-seed3',
    ]
    earlier, baseline, taught = runs[1], runs[2], runs[-1]
    assert (earlier.run_seed, earlier.teachers, earlier.waits) == (51, None, ())
    assert list(earlier.set.items()) == [('a', 2), ('b.c', 3), ('max_duration', '8ep')]
    assert earlier.tags == {'study': 'small', 'kind': 'comparison', 'method': 'earlier run', 'replicate': '1',
                            'index': '0', 'role': 'earlier'}
    assert (baseline.teachers, baseline.pool, baseline.waits, baseline.needs_teacher) == (None, (), (), False)
    assert (taught.pool, taught.waits) == (('earlier-0', 'earlier-1'), ('earlier-0', 'earlier-1'))
    assert taught.needs_teacher
    assert (taught.seed, taught.run_seed, taught.set) == (3, 3, {'a': 1, 'max_duration': '4ep'})
    assert taught.params == {'method': 'always on', 'max_duration': '4ep', 'seed': 3}
    assert taught.tags['method'] == 'always on'


def test_earlier_runs_are_made_with_the_baseline_or_the_method_that_is_named():
    said = {'methods': {'a': {'teachers': 'all'}, 'b': {'set': {'x': 1}}, 'c': {'set': {'x': 2}}}}
    assert next(planned_runs(comparison(**said))).set['x'] == 1
    assert next(planned_runs(comparison(**said, report={'baseline': 'c'}))).set['x'] == 2
    earlier = {'durations': ['2ep'], 'earlier': {'duration': '2ep', 'method': 'c'}}
    assert next(planned_runs(comparison(**said, comparison=earlier))).set['x'] == 2


def test_a_search():
    runs = list(planned_runs(search(runs=2, seeds=2)))
    assert [run.key for run in runs] == [
        'alone-seed0-run00', 'taught-seed0-run00', 'alone-seed1-run00', 'taught-seed1-run00',
        'alone-seed0-run01', 'taught-seed0-run01', 'alone-seed1-run01', 'taught-seed1-run01',
    ]
    assert all(not run.waits and not run.pool for run in runs if run.method == 'alone')
    first, second = runs[3], runs[7]
    assert (first.chain, first.waits, list(first.pool)) == ('taught-seed1', (), [])
    assert (second.waits, list(second.pool)) == (('taught-seed1-run00',), ['taught-seed1-run00'])
    assert (second.run_seed, second.index, second.params, second.needs_teacher) == (1001, 1, {}, False)


def test_later_runs_of_a_search_wait_for_the_first_alone():
    run = list(planned_runs(search(runs=5)))[-1]
    assert run.waits == ('taught-seed0-run00',)
    assert list(run.pool) == [f'taught-seed0-run{index:02d}' for index in range(4)]


def test_a_search_without_a_number_of_runs_is_long_and_lazy():
    runs = planned_runs(search(runs=None))
    assert [run.index for run in islice(runs, 6)] == [0, 0, 1, 1, 2, 2]
    assert sum(1 for _ in runs) == 2 * LONGEST_SEARCH - 6


def test_a_sequence():
    runs = list(planned_runs(sequence(steps=3, set={'optimizer.lr': 0.1})))
    assert [run.key for run in runs] == [f'{name}-seed0-step{step}' for step in range(3) for name in ('alone', 'taught')]
    last = runs[-1]
    assert last.waits == tuple(last.pool) == ('taught-seed0-step0', 'taught-seed0-step1')
    assert (last.run_seed, last.params, last.tags['step']) == (2, {'method': 'taught', 'seed': 0, 'step': 2}, '2')
    assert last.set == {'optimizer.lr': 0.1, 'train_data.train_size': 300}


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS), names=st.lists(NAMES, max_size=3, unique_by=slug),
    seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), length=st.integers(1, 4),
    more=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_keys_are_unique_and_names_of_files_and_stand_for_the_same_run_when_a_study_grows(kind, names, seeds, length, more):
    names = [name for name in names if slug(name) != 'baseline']
    cut, shorter = max(1, len(seeds) - more[0]), max(1, length - more[1])
    small, large = by_key(make(kind, names, seeds[:cut], shorter)), by_key(make(kind, names, seeds, length))
    assert all(re.fullmatch(r'[a-z0-9][a-z0-9.-]*', key) and len(key) < 200 for key in large)
    for key, run in small.items():
        assert large[key] == run
    if kind != 'comparison':
        for run in large.values():
            assert all(large[key].chain == run.chain and large[key].index < run.index for key in run.pool)
            assert set(run.waits) <= set(run.pool)


def test_keys_do_not_change_when_methods_are_added_or_reordered():
    one = by_key(sequence(methods={'a': {}, 'b': {'teachers': 'all'}}))
    two = by_key(sequence(methods={'b': {'teachers': 'all'}, 'c': {}, 'a': {}}))
    assert all(two[key] == run for key, run in one.items())


def test_every_run_waits_for_runs_that_are_planned_before_it():
    for spec in (comparison(seeds=2), search(runs=3, seeds=2), sequence(seeds=2)):
        seen: set[str] = set()
        for run in planned_runs(spec):
            assert isinstance(run, Planned)
            assert seen.issuperset(run.waits)
            assert seen.issuperset(run.pool)
            seen.add(run.key)


@pytest.mark.parametrize('names', [('a', 'a-2ep'), ('run', 'run-seed0'), ('earlier', 'x')])
def test_names_that_look_like_the_ends_of_keys(names):
    for kind in KINDS:
        by_key(make(kind, names, [0, 1], 3))


# --- dotted keys ---

@given(st.dictionaries(st.sampled_from('abc'), st.recursive(
    st.integers() | st.none() | st.lists(st.integers(), max_size=2), lambda inner: st.dictionaries(st.sampled_from('abc'), inner), max_leaves=6,
)))
def test_flat_keeps_every_value(said):
    def look(at, key):
        for part in key.split('.'):
            at = at[part]
        return at

    found = flat(said)
    assert all(look(said, key) == value for key, value in found.items())
    assert flat(found) == found


def test_flat_leaves_mappings_with_other_names_whole():
    plan = {'layers.*.attn': 'colwise_parallel'}
    assert flat({'parallelism_config': {'tp': {'layer_plan': plan}}}) == {'parallelism_config.tp.layer_plan': plan}
    assert flat({'callbacks': {'lr_monitor': {}}}) == {'callbacks.lr_monitor': {}}


def test_over_places_the_upper_ones_last():
    assert list(over({'a': 1, 'b': 2}, {'a': 3, 'c': 4}).items()) == [('b', 2), ('a', 3), ('c', 4)]
