"""Which way is recommended: the order, the budget, the runs that share a store."""

import pytest

from composer_kd.tuning.choices import EARLY, ONE, Choice, all_choices, when_and_whom
from composer_kd.tuning.predict import Prediction
from composer_kd.tuning.recommend import NOT_MEASURED, recommend, runs_within
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.variants import pick, variants_of


def way(name, overhead, runs=1, writing=0.0, pays_after=None, active=10, **choice):
    return Prediction(Choice(name, {}, **choice), 100, active, {'t': active}, 100.0, 100.0 * overhead, writing,
                      pays_after=pays_after, runs=runs)


LIVE = [way('first', 0.4), way('second', 0.2), way('third', 0.05), way('fourth', 0.01)]


@pytest.mark.parametrize(('budget', 'name'), [(0.5, 'first'), (0.4, 'first'), (0.39, 'second'), (0.1, 'third'), (0.01, 'fourth')])
def test_the_first_that_keeps_within_the_budget(budget, name):
    found = recommend(LIVE, budget)
    assert found.prediction.choice.name == name
    assert found.met
    assert f'within the budget of {100 * budget:g} %.' in found.why[0]
    assert found.why[-1] == NOT_MEASURED


def test_a_budget_that_cannot_be_met_is_told_and_the_cheapest_is_named():
    found = recommend([*LIVE[::-1]], 0.005)
    assert not found.met
    assert found.prediction.choice.name == 'fourth'
    assert found.why[0].startswith('The budget of 0.5 % cannot be met: the cheapest of these choices is fourth: 1.0 %')


def test_what_is_published_stands_beside_it():
    found = recommend([way('a', 0.05, evidence=(ONE, EARLY))], 0.1)
    assert [line for line in found.why if line.startswith('Published: ')] == [f'Published: {ONE}.', f'Published: {EARLY}.']


@pytest.mark.parametrize(('runs', 'name'), [(1, 'live'), (2, 'live'), (3, 'stored'), (30, 'stored')])
def test_a_store_from_its_break_even_on(runs, name):
    ways = [way('stored', 0.02, runs, writing=10.0, pays_after=3, stored=True), way('live', 0.09, runs)]
    assert recommend(ways, 0.2).prediction.choice.name == name


def test_writing_is_shared_by_the_runs_and_counts():
    ways = [way('stored', 0.02, 4, writing=40.0, pays_after=2, stored=True), way('live', 0.09, 4)]
    assert ways[0].overhead_of_all == pytest.approx(0.02 + 0.1)
    found = recommend(ways, 0.1)
    assert found.prediction.choice.name == 'live'
    told = 'If 5 runs shared its store (--runs 5), stored would keep within the budget, at 10.0 %.'
    assert told in found.why
    assert runs_within(ways[0], 0.1) == 5
    assert recommend([way('stored', 0.02, 5, writing=40.0, pays_after=2, stored=True), ways[1]], 0.1).prediction.runs == 5


def test_how_many_runs_by_brute_force():
    for kd, writing, pays in ((0.02, 40.0, 2), (0.02, 1.0, 7), (0.0, 7.7, 1), (0.1, 5.0, 1)):
        one = way('stored', kd, writing=writing, pays_after=pays, stored=True)
        by_hand = next((n for n in range(pays, 1000) if (one.kd + writing / n) / one.base <= 0.1), None)
        assert runs_within(one, 0.1) == by_hand
    assert runs_within(way('stored', 0.01, writing=1.0, stored=True), 0.1) is None, 'a store that never pays'


def test_a_store_that_is_there_costs_nothing_more():
    assert recommend([way('stored', 0.02, pays_after=0, stored=True)], 0.1).prediction.choice.stored


def test_what_never_distils_is_no_choice():
    assert recommend([way('never', 0.0, active=0), *LIVE], 0.5).prediction.choice.name == 'first'
    with pytest.raises(ValueError, match='none of the choices distils on any batch'):
        recommend([way('never', 0.0, active=0)], 0.5)


# --- the order ---

def settings(choice):
    base = {'start': '0dur', 'end': '1dur', 'interval': 1, 'probability': 1.0, 'teachers_per_batch': 3, 'sampling': 'random'}
    return when_and_whom({**base, **choice.changes}, 3)


def names(own=True, live=True, storable=lambda choice: False, teachers=3):
    return [choice.name for choice in all_choices(teachers, own, live, storable, settings)]


def test_the_order_from_what_disturbs_least():
    assert names() == [
        'as the recipe says', 'one teacher, always', 'all 3 teachers, first 50 %', 'one teacher, first 50 %',
        'all 3 teachers, every 2nd batch', 'one teacher, every 2nd batch', 'all 3 teachers, first 25 %',
        'one teacher, first 25 %', 'all 3 teachers, every 4th batch', 'one teacher, every 4th batch',
        'all 3 teachers, first 50 %, every 2nd batch', 'one teacher, first 50 %, every 2nd batch',
        'all 3 teachers, first 25 %, every 4th batch', 'one teacher, first 25 %, every 4th batch',
    ], "all 3 teachers, always, is what the recipe says already"
    assert names(own=False)[0] == 'all 3 teachers, always'


def test_stored_twins_stand_right_behind():
    found = names(storable=lambda choice: choice.name != 'one teacher, always')
    assert found[:4] == ['as the recipe says', 'as the recipe says, stored', 'one teacher, always', 'all 3 teachers, first 50 %']
    only = names(live=False, storable=lambda choice: True)
    assert all(name.endswith(', stored') for name in only)
    assert len(only) == 14


def test_evidence_goes_with_what_is_done():
    found = {choice.name: choice for choice in all_choices(3, True, True, lambda choice: True, settings)}
    assert ONE in found['one teacher, first 50 %'].evidence
    assert EARLY in found['one teacher, first 50 %'].evidence
    assert ONE not in found['all 3 teachers, first 50 %'].evidence
    assert EARLY not in found['one teacher, always'].evidence


# --- how teachers are prepared ---

def seen(**ways):
    return {name: Spread.of(values * 5) for name, values in ways.items()}


@pytest.mark.parametrize(('ways', 'taken'), [
    ({'auto': [1.0, 1.1], 'none': [0.9, 0.8]}, 'none'), ({'auto': [1.0, 1.1], 'none': [0.98, 1.02]}, 'auto'),
    ({'auto': [1.0, 1.1], 'none': [0.5, 1.2]}, 'auto'), ({'auto': [1.0, 1.0], 'none': [2.0, 2.0], 'bf16': [0.5, 0.5]}, 'bf16'),
], ids=['faster', 'hardly', 'noisy', 'fastest'])
def test_a_preparation_is_taken_if_it_is_faster_beyond_noise(ways, taken):
    assert pick({'a': seen(**ways)}, dict.fromkeys(ways)) == taken


def test_a_few_measurements_decide_nothing():
    found = {'auto': Spread.of([1.0] * 4), 'none': Spread.of([0.5] * 4)}
    assert pick({'a': found}, {'auto': 'auto', 'none': 'none'}) == 'auto'


def test_one_preparation_for_all_teachers_and_those_with_their_own_keep_it():
    both = {'a': seen(auto=[1.0], none=[0.7]), 'b': seen(auto=[1.0], none=[1.8])}
    assert pick(both, {'auto': 'auto', 'none': 'none'}) == 'auto'
    assert pick({'a': both['a'], 'b': seen(own=[5.0])}, {'auto': 'auto', 'none': 'none'}) == 'auto'
    assert pick({}, {'auto': 'auto', 'none': 'none'}) == 'auto', 'stored answers alone'


def test_the_recipes_own_preparation_stands_first_and_keeps_its_resolution():
    assert list(variants_of({}, False)) == ['auto', 'none', 'bf16']
    assert list(variants_of({'prepare': 'none'}, True)) == ['none', 'auto', 'bf16', 'compiled']
    own = variants_of({'prepare': {'resolution': 160, 'fold_batchnorm': False}}, True)
    assert next(iter(own.items())) == ('as the recipe says', {'resolution': 160, 'fold_batchnorm': False})
    assert all(way['resolution'] == 160 for way in own.values())
    assert own['none']['channels_last'] is False
    assert own['compiled']['compile'] is True
