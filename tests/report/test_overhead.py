from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from composer_kd.report import cut, cut_table, overhead_table, split, to_text
from tests.report.made_rows import METRIC, make_row


def kd_row(method: str, duration: str, seed: int, *, batches: float, base: float, teacher: float, loss: float, rest: float,
           waited: float = math.nan, quality: float = 0.5):
    """Seconds a batch: without distillation, in teachers, in the loss, in the rest."""
    return make_row(
        method, duration, seed, batches=batches, seconds=batches * (base + teacher + loss + rest), quality=quality,
        kd_seconds=batches * (teacher + loss), teacher_seconds=batches * teacher, loss_seconds=batches * loss,
        active_share=1.0 if teacher else 0.0, data_seconds=batches * waited,
    )


def family(waited: float = 0.05) -> list:
    """Machines of three speeds, one a seed: shares are the same on all of them, and medians of times are not."""
    rows = []
    for seed, pace in enumerate((1.0, 3.0, 0.5)):
        for number, duration in enumerate(('1ep', '2ep')):
            batches = 10.0 * (number + 1)
            parts = {'batches': batches, 'base': 1.0 * pace}
            rows += [
                kd_row('baseline', duration, seed, **parts, teacher=0, loss=0, rest=0, waited=waited * pace),
                kd_row('five', duration, seed, **parts, teacher=1.0 * pace, loss=0.1 * pace, rest=0.2 * pace,
                       waited=(waited + 0.03) * pace, quality=0.6),
                kd_row('one', duration, seed, **parts, teacher=0.2 * pace, loss=0.1 * pace, rest=0.03 * pace,
                       waited=waited * pace, quality=0.58 + 0.01 * seed),
            ]
    return rows


def test_split_is_paired():
    five, one = split(family(), 'baseline')
    assert (five.method, one.method) == ('five', 'one')
    assert (five.teacher, five.loss, five.data) == (pytest.approx(1.0), pytest.approx(0.1), pytest.approx(0.03))
    assert (five.rest, five.total) == (pytest.approx(0.17), pytest.approx(1.3))
    assert (five.pairs, five.paired, five.why) == (6, True, '')
    assert one.total == pytest.approx(0.33)
    assert one.teacher + one.loss + one.data + one.rest == pytest.approx(one.total)


def test_split_without_waiting_times():
    five = split(family(math.nan), 'baseline')[0]
    assert (five.data, five.rest) == (None, pytest.approx(0.2))
    assert 'in the rest' in five.why


def test_split_without_pairs_takes_the_median_batch():
    rows = [row for row in family() if row.method == 'baseline' or row.seed == 1]
    rows = [row for row in rows if row.method != 'baseline' or row.seed != 1]
    five = split(rows, 'baseline')[0]
    # The baseline's batches take 1.0 and 0.5 s, the method's 3 * 2.3.
    assert (five.paired, five.total) == (False, pytest.approx(3 * 2.3 / 0.75 - 1))
    assert 'median batch' in five.why


def test_split_of_nothing():
    rows = family()
    [five, one] = split([row for row in rows if row.method != 'baseline'], 'baseline')
    assert (five.total, one.total) == (None, None)
    assert 'no finished baseline' in five.why
    assert split([], 'baseline') == []
    unfinished = make_row('kd', finished=False)
    untrained = make_row('kd2', batches=0.0, seconds=0.0)
    assert split([make_row(), unfinished, untrained, make_row('earlier run')], 'baseline') == []
    text = to_text(overhead_table([five]))
    assert 'no finished baseline' in text


def test_cut():
    [one] = cut(family(), 'baseline', 'five', METRIC)
    assert one.method == 'one'
    # 0.3 of 1.1 is left of the recorded time, 0.33 of 1.3 of the time of a batch.
    assert one.kd.value == pytest.approx(1 - 0.3 / 1.1)
    assert one.wall.value == pytest.approx(1 - 0.33 / 1.3)
    assert (one.kd.verdict, one.wall.verdict) == ('gained', 'gained')
    assert (one.kd.low, one.kd.high) == (pytest.approx(one.kd.value), pytest.approx(one.kd.value))
    # Quality, one figure a seed: 0.58, 0.59, 0.60 against 0.6 and 0.5.
    assert one.to_reference.value == pytest.approx(-0.01)
    expected = stats.ttest_1samp([0.08, 0.09, 0.10], 0).confidence_interval(0.9)
    assert (one.to_baseline.low, one.to_baseline.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert (one.to_baseline.verdict, one.to_baseline.seeds) == ('gained', 3)
    assert one.why == ''


def test_cut_where_paces_differ_by_duration_too():
    generator = np.random.default_rng(2)
    rows, kept = [], []
    for seed in range(4):
        for duration in ('1ep', '2ep'):
            pace, own, full = generator.uniform(0.8, 1.2), generator.uniform(0.1, 0.2), generator.uniform(0.9, 1.1)
            kept.append((own, full))
            parts = {'batches': 10.0, 'base': pace, 'loss': 0.0, 'rest': 0.0}
            rows += [kd_row('baseline', duration, seed, **parts, teacher=0), kd_row('five', duration, seed, **parts, teacher=full * pace),
                     kd_row('one', duration, seed, **parts, teacher=own * pace)]
    [one] = cut(rows, 'baseline', 'five', METRIC)
    own, full = np.array(kept).reshape(4, 2, 2).mean(axis=1).T
    assert one.wall.value == pytest.approx(1 - own.mean() / full.mean())
    # Fieller's ends are those which a t-test just refuses.
    for end in (one.wall.low, one.wall.high):
        assert stats.ttest_1samp(own - (1 - end) * full, 0).pvalue == pytest.approx(0.1)
    spent = np.array([[row.kd_seconds / 10 for row in rows if row.method == name] for name in ('one', 'five')])
    ratios = np.divide(*spent.reshape(2, 4, 2).mean(axis=2))
    assert one.kd.value == pytest.approx(1 - stats.gmean(ratios))
    ends = stats.ttest_1samp(np.log(ratios), 0).confidence_interval(0.9)
    assert (one.kd.low, one.kd.high) == (pytest.approx(1 - np.exp(ends.high)), pytest.approx(1 - np.exp(ends.low)))
    assert one.wall.low < one.wall.value < one.wall.high


def test_cut_only_where_all_have_a_run():
    rows = [row for row in family() if not (row.method == 'one' and row.seed == 2)]
    [one] = cut(rows, 'baseline', 'five', METRIC)
    assert one.to_reference.seeds == 2
    assert one.to_reference.verdict == 'cannot be told apart from noise'
    rows = [row for row in rows if not (row.method == 'baseline' and row.seed == 0)]
    [one] = cut(rows, 'baseline', 'five', METRIC)
    assert (one.wall.seeds, one.kd.seeds) == (1, 2)


def test_cut_says_what_is_missing():
    rows = family()
    [one, five] = cut(rows, 'nothing', 'neither', METRIC)[:2]
    assert "'nothing' and 'neither'" in one.why
    assert (five.kd.value, five.kd.why) == (None, 'no pair of equal duration and seed')
    text = to_text(cut_table([one], 'neither', 'nothing'))
    assert "no finished run of 'nothing' and 'neither'" in text
    # No metric: shares without quality.
    [one] = cut(rows, 'baseline', 'five', 'test/Other')
    assert one.kd.value is not None
    assert (one.to_baseline.value, one.to_baseline.why) == (None, 'no pairs')
    text = to_text(cut_table([one], 'five'), width=200)
    assert "'one, quality less five', 'one, quality less baseline': no pairs." in ' '.join(text.split())
    # A reference without distillation has nothing to cut.
    rows.append(make_row('plain'))
    found = cut([row for row in rows if row.method != 'five'], 'baseline', 'plain', METRIC)
    assert 'no overhead' in found[0].kd.why


def test_a_window_that_never_opened_cuts_everything():
    rows = family()
    closed = [type(row)(**{**row.__dict__, 'method': 'closed', 'kd_seconds': 0.0, 'active_share': 0.0,
                           'other_teachers': ('checkpoint:a',)}) for row in rows if row.method == 'baseline']
    found = {one.method: one for one in cut([*rows, *closed], 'baseline', 'five', METRIC)}
    assert (found['closed'].kd.value, found['closed'].wall.value) == (1.0, pytest.approx(1.0))


def test_steps_of_a_sequence_are_no_replicates():
    rows = []
    for method, teacher in (('baseline', 0.0), ('five', 1.0), ('one', 0.2)):
        for step in range(4):
            row = kd_row(method, '1ep', 1000 + step, batches=10.0, base=1.0, teacher=teacher, loss=0.0, rest=0.0)
            rows.append(type(row)(**{**row.__dict__, 'index': step, 'replicate': 1}))
    [one] = cut(rows, 'baseline', 'five', METRIC)
    assert (one.kd.seeds, one.kd.value) == (1, pytest.approx(0.8))
