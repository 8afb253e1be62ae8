from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from composer_kd.report import best_runs_table, chains, mean_best, search_gain, search_table, to_text
from tests.report.made_rows import METRIC, make_row


def search(method: str, replicate: int, qualities, seconds, **changes) -> list:
    """A quality of ``None`` is a pruned run."""
    return [
        make_row(
            method, '1ep', 1000 * replicate + index, quality=quality, seconds=spent, index=index, replicate=replicate,
            finished=quality is not None, state='pruned' if quality is None else 'finished',
            params={'optimizer.lr': 0.1 * index}, **changes,
        )
        for index, (quality, spent) in enumerate(zip(qualities, seconds, strict=True))
    ]


def test_best_so_far():
    rows = search('a', 0, [None, 0.5, 0.4, math.nan, 0.7], [1, 2, 3, 4, 5])
    [chain] = chains(reversed(rows), METRIC)['a']
    assert [step.index for step in chain.steps] == [0, 1, 2, 3, 4]
    assert [step.quality for step in chain.steps] == [None, 0.5, 0.4, None, 0.7]
    assert [step.best for step in chain.steps] == [None, 0.5, 0.5, 0.5, 0.7]
    assert [step.total for step in chain.steps] == [1, 3, 6, 10, 15]
    assert (chain.best, chain.total, chain.best_step.index) == (0.7, 15, 4)
    assert [chain.best_at(total) for total in (0.5, 2.9, 3, 14.9, 15, 99)] == [None, None, 0.5, 0.5, 0.7, 0.7]
    assert [chain.best_after(count) for count in (0, 1, 2, 5, 6)] == [None, None, 0.5, 0.7, None]
    assert [chain.cost_of(quality) for quality in (0.4, 0.5, 0.51, 0.7, 0.8)] == [3, 3, 15, 15, None]


def test_lower_is_better():
    [chain] = chains(search('a', 0, [0.5, 0.6, 0.3], [1, 1, 1]), METRIC, higher_is_better=False)['a']
    assert [step.best for step in chain.steps] == [0.5, 0.5, 0.3]
    assert (chain.cost_of(0.4), chain.cost_of(0.2)) == (3, None)


def test_chains_leave_out_what_is_no_search():
    rows = [*search('a', 0, [0.5], [1]), make_row('earlier run', index=0), make_row('b')]
    assert list(chains(rows, METRIC)) == ['a']
    with pytest.raises(ValueError, match="'a', replicate 0: two runs with index 0"):
        chains([*rows, *search('a', 0, [0.6], [1])], METRIC)
    with pytest.raises(ValueError, match='No run was evaluated'):
        chains(rows, 'test/Other')
    with pytest.raises(ValueError, match='Unknown cost'):
        chains(rows, METRIC, 'joules')


def random_rows(seed: int, method: str, count: int = 6, replicates: int = 4) -> list:
    generator = np.random.default_rng(seed)
    return [
        row for replicate in range(replicates)
        for row in search(
            method, replicate,
            [None if index and generator.uniform() < 0.3 else float(generator.uniform()) for index in range(count)],
            generator.uniform(1, 3, count).tolist(),
        )
    ]


@pytest.mark.parametrize('seed', range(5))
def test_mean_best_against_brute_force(seed):
    rows = random_rows(seed, 'a')
    found = mean_best(chains(rows, METRIC)['a'])

    def mean(runs: float = math.inf, spent: float = math.inf) -> float:
        bests = []
        for replicate in range(4):
            made = [row for row in rows if row.replicate == replicate]
            totals = np.cumsum([row.costs['train_seconds'] for row in made])
            bests.append(max(
                row.quality.get(METRIC, -math.inf) for number, (row, total) in enumerate(zip(made, totals, strict=True))
                if number < runs and total <= spent
            ))
        return fmean(bests)

    assert found.runs.tolist() == [1, 2, 3, 4, 5, 6]
    for count, value in zip(found.runs, found.best_by_runs, strict=True):
        assert value == pytest.approx(mean(runs=count))
    # Within a step the value holds: looked at in the middle of each.
    for left, right, value in zip(found.cost, found.cost[1:], found.best_by_cost, strict=False):
        assert value == pytest.approx(mean(spent=(left + right) / 2))
    totals = [sum(r.costs['train_seconds'] for r in rows if r.replicate == n) for n in range(4)]
    assert found.cost[-1] == pytest.approx(min(totals))
    assert found.cost[0] == pytest.approx(max(next(r for r in rows if r.replicate == n).costs['train_seconds'] for n in range(4)))
    assert (np.diff(found.best_by_cost) >= 0).all()


def test_mean_best_extrapolates_nothing():
    rows = search('a', 0, [None, 0.5, 0.6], [1, 1, 1]) + search('a', 1, [0.4, 0.8], [5, 5]) + search('a', 2, [None], [9])
    found = mean_best(chains(rows, METRIC)['a'])
    # One has its first quality after two runs, the other has no third one; the last never finished one.
    assert (found.replicates, found.runs.tolist(), found.best_by_runs.tolist()) == (2, [2.0], [pytest.approx(0.65)])
    # The first had ended at 3 before the second had its first run at 5.
    assert found.cost.tolist() == []
    none = mean_best(chains([*search('a', 0, [None], [1]), *search('b', 0, [0.5], [1])], METRIC)['a'])
    assert (none.replicates, none.runs.tolist()) == (0, [])
    with pytest.raises(ValueError, match='at least one search'):
        mean_best([])


def test_unknown_costs_do_not_crash():
    rows = search('a', 0, [0.5, 0.6], [1, math.nan]) + search('b', 0, [0.5, 0.6], [1, 1])
    found = chains(rows, METRIC)
    assert (found['a'][0].total != found['a'][0].total, found['a'][0].cost_of(0.6)) == (True, None)
    assert mean_best(found['a']).cost.tolist() == []
    assert mean_best(found['a']).best_by_runs.tolist() == [0.5, 0.6]
    gain = search_gain(found['b'], found['a'])
    assert (gain.cost_ratio.value, gain.at_equal_cost.value, gain.cost) == (None, None, None)
    assert gain.after_equal_runs.value == 0.0
    assert 'at a known cost' in gain.why


# --- what is gained ---

def test_gain_in_closed_form():
    rows = []
    for replicate, pace in enumerate((1.0, 2.0, 4.0)):
        rows += search('baseline', replicate, [0.5, 0.6, 0.7, 0.8], [10 * pace] * 4)
        rows += search('kd', replicate, [0.5, 0.8, 0.7, 0.8], [12 * pace] * 4)
    found = chains(rows, METRIC)
    gain = search_gain(found['baseline'], found['kd'])
    # All reach 0.8: the baseline after 40, the method after 24, whatever the pace.
    assert (gain.quality, gain.replicates) == (0.8, 3)
    assert gain.cost_ratio.value == pytest.approx(40 / 24)
    assert (gain.verdict, gain.why) == ('gained', '')
    # Each pair at what its baseline spent in all: both have found 0.8 by then.
    assert gain.cost == pytest.approx(fmean([40, 80, 160]))
    assert gain.at_equal_cost.value == pytest.approx(0.0)
    assert (gain.runs, gain.after_equal_runs.value) == (4, pytest.approx(0.0))
    assert gain.total_ratio.value == pytest.approx(1.2)
    assert gain.total_ratio.verdict == 'lost'
    early = search_gain(found['baseline'], found['kd'], 0.65)
    assert early.cost_ratio.value == pytest.approx(30 / 24)


@pytest.mark.parametrize('seed', range(4))
def test_gain_against_scipy(seed):
    found = chains(random_rows(seed, 'a') + random_rows(seed + 100, 'b'), METRIC)
    gain = search_gain(found['a'], found['b'])
    quality = min(chain.best for chain in found['a'] + found['b'])
    assert gain.quality == quality
    logs = [math.log(x.cost_of(quality) / y.cost_of(quality)) for x, y in zip(found['a'], found['b'], strict=True)]
    expected = stats.ttest_1samp(logs, 0).confidence_interval(0.9)
    assert (gain.cost_ratio.low, gain.cost_ratio.high) == (
        pytest.approx(math.exp(expected.low)), pytest.approx(math.exp(expected.high)),
    )
    differences = [
        y.best_at(min(x.total, y.total)) - x.best_at(min(x.total, y.total))
        for x, y in zip(found['a'], found['b'], strict=True)
    ]
    assert gain.at_equal_cost.value == pytest.approx(fmean(differences))


def test_gain_where_little_can_be_said():
    rows = search('a', 0, [0.5, 0.6], [1, 1]) + search('b', 0, [0.5, 0.7], [1, 1]) + search('b', 1, [0.5], [1])
    found = chains(rows, METRIC)
    gain = search_gain(found['a'], found['b'])
    assert (gain.replicates, gain.cost_ratio.value, gain.cost_ratio.low) == (1, pytest.approx(1.0), None)
    assert 'at least 3' in gain.why
    beyond = search_gain(found['a'], found['b'], 0.65)
    assert (beyond.cost_ratio.value, beyond.verdict) == (None, 'no common quality')
    apart = search_gain(found['a'], found['b'][1:])
    assert (apart.replicates, apart.why) == (0, 'no replicate was made with both')
    rows = search('a', 0, [None], [1]) + search('b', 0, [0.5], [1])
    found = chains(rows, METRIC)
    assert search_gain(found['a'], found['b']).why == 'no replicate has a finished run of both'
    with pytest.raises(ValueError, match='got 0 and 1'):
        search_gain([], found['b'])


def test_tables():
    rows = search('a', 0, [0.5, None, 0.6], [1, 1, 1]) + search('b', 0, [None, None, 0.7], [1, 1, 1])
    found = chains(rows, METRIC)
    gain = search_gain(found['a'], found['b'])
    text = to_text(search_table([gain], METRIC))
    assert 'cannot be told apart' in ' '.join(text.split())
    assert gain.why[:20] in text
    best = best_runs_table(found, METRIC).to_csv().splitlines()
    assert best[0] == 'method,replicate,runs,best,which'
    assert best[1] == 'a,0,3 (1 pruned),0.6,a-1ep-seed2-2: lr 0.2'
    none = best_runs_table(chains(search('a', 0, [0.5], [1]) + search('b', 0, [None], [1]), METRIC), METRIC)
    assert 'none finished' in to_text(none)
