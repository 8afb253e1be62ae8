from __future__ import annotations

import pytest

from composer_kd.report import (
    Curve,
    Point,
    TeachersCost,
    break_even,
    chains,
    comparison_headline,
    search_gain,
    search_headline,
    sequence,
    sequence_headline,
    speedup,
)
from composer_kd.report.headline import _plain
from composer_kd.report.interval import Estimate
from tests.report.made_rows import METRIC
from tests.report.test_search import search
from tests.report.test_sequence import steps


def line(method: str, factor: float, seeds: int = 3, first: int = 1) -> Curve:
    return Curve.of(method, [
        Point(f'{n}ep', s, factor * 10.0 * n * (1 + 0.01 * s), 0.1 * n) for n in range(first, first + 3) for s in range(seeds)
    ])


BASE = line('baseline', 1.0)


@pytest.mark.parametrize(('factor', 'words'), [
    (0.5, 'reached the same test accuracy 2.00 [1.96, 2.04] times as fast, in the median over 0.1 to 0.3: gained'),
    (2.0, 'reached the same test accuracy 0.50 [0.49, 0.51] times as fast, in the median over 0.1 to 0.3: lost'),
    (1.0, 'times as fast, in the median over 0.1 to 0.3: cannot be told apart from noise'),
])
def test_one_method(factor, words):
    [only] = comparison_headline([speedup(BASE, line('kd', factor))], 'test accuracy')
    assert only.startswith('Learning from earlier runs ')
    assert words in only
    assert 'not charged' in only
    assert "at the best of 'baseline', 0.3: " in only


def test_without_teachers_nobody_learned():
    [only] = comparison_headline([speedup(BASE, line('wide', 0.5))], taught=False)
    assert only.startswith("Compared with 'baseline', 'wide' reached")
    assert 'Learning' not in only
    assert 'charged' not in only


def test_all_lost():
    results = [speedup(BASE, line(name, factor)) for name, factor in (('slow', 2.0), ('slower', 3.0))]
    assert "all 2 ways lost. 'slow' lost least" in comparison_headline(results)[0]


def test_an_end_that_rounds_to_one_shows_its_side():
    edge = Estimate(1.2, 1.0032, 1.5, 10, 10, 'gained', 3)
    assert _plain(edge) == '1.20 [1.003, 1.500]'


def test_other_costs():
    [only] = comparison_headline([speedup(BASE, line('kd', 0.5))], 'accuracy', 'money', charged=True)
    assert 'at 50 [49, 51] % of the money, in the median over 0.1 to 0.3: gained' in only
    assert 'with the training of its teachers charged' in only


def test_several_methods():
    results = [speedup(BASE, line(name, factor)) for name, factor in (('slow', 2.0), ('fast', 0.5), ('same', 1.0))]
    results.append(speedup(BASE, line('above', 1.0, first=7)))
    paid = [break_even(BASE, line('fast', 0.5), TeachersCost(100.0, 5))]
    first, *others = comparison_headline(results, 'accuracy', break_evens=paid)
    assert 'of 4 ways, 1 lost, 1 gained, 1 cannot be told apart from noise, 1 cannot be compared' in first
    assert "'fast' came out best, picked out of 4: it reached" in first
    assert [sentence.split("'")[1] for sentence in others[:3]] == ['slow', 'same', 'above']
    assert 'so nothing can be said' in others[2]
    assert others[3].startswith('Charged, the training of its 5 teachers has paid for itself after 10 [')


def test_all_alike():
    first, *_ = comparison_headline([speedup(BASE, line(name, 0.5)) for name in 'ab'])
    assert 'all 2 ways gained.' in first
    first, other = comparison_headline([speedup(BASE, line(name, 0.5, seeds=2)) for name in 'ab'])
    assert 'none of 2 ways can be told apart from noise.' in first
    assert 'at least 3' in first
    assert 'at least 3' not in other


def test_a_gain_is_named_before_a_larger_ratio_that_may_be_noise():
    noisy = Curve.of('noisy', [Point(f'{n}ep', s, 10.0 * n / (0.2, 5.0, 9.0)[s], 0.1 * n) for n in (1, 2, 3) for s in range(3)])
    results = [speedup(BASE, noisy), speedup(BASE, line('sure', 0.5))]
    assert results[0].verdict == 'cannot be told apart from noise'
    assert "'sure' came out best" in comparison_headline(results)[0]


def test_few_seeds_and_nothing():
    [only] = comparison_headline([speedup(BASE, line('kd', 0.5, seeds=1))])
    assert 'at least 3' in only
    assert 'Nothing to compare' in comparison_headline([])[0]
    none = comparison_headline([speedup(BASE, line(name, 1.0, first=7)) for name in 'ab'], 'accuracy')
    assert none[0] == (
        "Learning from earlier runs: none of 2 ways can be compared, as none shares a range of accuracy with 'baseline'."
    )
    assert len(none) == 3
    dearer = [break_even(BASE, line('kd', 2.0), TeachersCost(100.0, 1))]
    assert 'not known to pay for itself: never' in comparison_headline([speedup(BASE, line('kd', 2.0))], break_evens=dearer)[1]


def test_search():
    rows = []
    for replicate in range(3):
        rows += search('alone', replicate, [0.5, 0.6, 0.8], [10, 10, 10 + replicate])
        rows += search('taught', replicate, [0.5, 0.8, 0.8], [10, 10, 10])
    found = chains(rows, METRIC)
    [only] = search_headline([search_gain(found['alone'], found['taught'])], 'accuracy')
    assert "reached the best accuracy that all these searches reached, 0.8, 1.55 [" in only
    assert only.startswith("Searching with 'taught' instead of 'alone' changed its best accuracy for the same total cost by")
    assert 'times as fast: gained' in only
    assert 'for the same total cost by +0.1333' in only
    [none] = search_headline([search_gain(found['alone'][:1], found['taught'][1:])])
    assert none == "Nothing can be said of searching with 'taught': no replicate was made with both."
    assert 'Nothing to compare' in search_headline([])[0]


def test_sequence():
    [only] = sequence_headline(sequence(steps(), METRIC, 'baseline'), 'accuracy')
    assert "Retraining with 'kd' instead of 'baseline' changed accuracy by +0.0315 [" in only
    assert 'over 3 steps with teachers (higher), for 1.13 [1.13, 1.13] times the time in all: gained in quality.' in only
    [none] = sequence_headline(sequence([row for row in steps() if row.index == 0], METRIC, 'baseline'))
    assert none.endswith("'kd': no step had a teacher.")
    assert 'Nothing to compare' in sequence_headline(sequence(steps(), METRIC, None))[0]
