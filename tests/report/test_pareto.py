from __future__ import annotations

import math

import numpy as np
import pytest

from composer_kd.report import Curve, ParetoPoint, Point, pareto, points, to_text
from composer_kd.report.tables_costs import pareto_table


def beats(a: ParetoPoint, b: ParetoPoint, higher: bool) -> bool:
    as_good, better = (a.quality >= b.quality, a.quality > b.quality) if higher else (
        a.quality <= b.quality, a.quality < b.quality,
    )
    return a.cost <= b.cost and as_good and (a.cost < b.cost or better)


@pytest.mark.parametrize('higher', [True, False])
@pytest.mark.parametrize('seed', range(20))
def test_front_is_that_of_brute_force(seed, higher):
    generator = np.random.default_rng(seed)
    # Few values, so that there are ties in cost, in quality and in both.
    found = [
        ParetoPoint(f'm{i}', '1ep', float(generator.integers(1, 9)), float(generator.integers(1, 9)), 3)
        for i in range(25)
    ]
    expected = {p.method for p in found if not any(beats(other, p, higher) for other in found)}
    front = pareto(found, higher)
    assert {p.method for p in front} == expected
    assert len(front) == len(expected)
    assert [p.cost for p in front] == sorted(p.cost for p in front)


def test_what_is_not_finite_is_on_no_front():
    odd = [ParetoPoint('a', '1', math.nan, 0.9, 1), ParetoPoint('b', '1', 1.0, math.nan, 1), ParetoPoint('c', '1', 1.0, 0.1, 1)]
    assert [p.method for p in pareto(odd)] == ['c']
    assert pareto([]) == []
    assert 'No run to show' in to_text(pareto_table([], 'accuracy'))


def test_points_are_means_over_seeds():
    curve = Curve.of('m', [Point('1ep', 0, 1.0, 0.5), Point('1ep', 1, 3.0, 0.7), Point('2ep', 1, 5.0, 0.8)])
    assert points({'m': curve}) == [
        ParetoPoint('m', '1ep', 2.0, pytest.approx(0.6), 2), ParetoPoint('m', '2ep', 5.0, 0.8, 1),
    ]
    table = pareto_table(pareto(points({'m': curve})), 'accuracy', 'flops')
    assert table.to_csv().splitlines()[0] == 'method,duration,mean cost,mean quality,runs'
    assert 'FLOPs' in table.title
