from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from composer_kd.report import COSTS, Row, at_median_price, cost_name, curves, read_rows, speedup, with_costs
from composer_kd.runs import Distilled, Hardware, Record, RunFolder, TeacherUse
from tests.report.made_rows import METRIC, make_row


def record(**changes) -> Record:
    return Record(**{'run_name': 'a', 'started_at': 't', 'updated_at': 't', **changes})


# --- costs ---

def test_gpu_hours_and_money():
    rows = with_costs([make_row(seconds=1800.0), make_row(seed=1, seconds=7200.0, gpu_count=8)], price=2.5)
    assert [row.costs['gpu_hours'] for row in rows] == [pytest.approx(0.5), pytest.approx(16.0)]
    assert [row.costs['money'] for row in rows] == [pytest.approx(1.25), pytest.approx(40.0)]
    assert 'money' not in with_costs([make_row()])[0].costs
    curve = curves(rows, METRIC, 'money').curves['baseline']
    assert curve.cost.ravel() == pytest.approx([1.25, 40.0])


def of_work(row, flops=1e9):
    return replace(row, costs={**row.costs, 'flops': flops * row.costs['batches']})


def test_runs_without_a_teacher_have_one_price_if_they_compute_the_same():
    rows = [
        of_work(make_row('baseline', seed=0, seconds=10.0)), of_work(make_row('baseline', seed=1, seconds=12.0)),
        of_work(make_row('earlier run', seed=2, seconds=30.0)), of_work(make_row('wide', seed=3, seconds=40.0), 2e9),
    ]
    assert [row.costs['train_seconds'] for row in at_median_price(rows)] == [12.0, 12.0, 12.0, 40.0]
    taught = [replace(of_work(make_row('kd', seed=s, seconds=t)), active_share=1.0) for s, t in ((0, 15.0), (1, 17.0))]
    found = at_median_price([*rows, *taught])
    assert [row.costs['train_seconds'] for row in found[:4]] == [12.0, 12.0, 12.0, 40.0]
    assert [row.costs['train_seconds'] for row in found[4:]] == [16.0, 16.0]


def test_a_steady_price_is_drawn_anew_in_every_resample():
    """Prices that differ by more than the methods do leave nothing to be said."""
    def rows(prices):
        return [
            of_work(make_row(method, duration=f'{n}ep', seed=s, seconds=10.0 * n * factor * price, batches=10.0 * n,
                             quality=0.1 * n + 0.001 * s))
            for method, factor in (('baseline', 1.0), ('kd', 0.9)) for n in (1, 2, 3)
            for s, price in enumerate(prices[method])
        ]

    def told(prices):
        raw = [replace(row, active_share=float(row.method == 'kd')) for row in rows(prices)]
        found = curves(with_costs(raw, steady=True), METRIC)
        return speedup(found.curves['baseline'], found.curves['kd']).median

    quiet = told({'baseline': (1.0, 1.0, 1.0, 1.0, 1.0), 'kd': (1.0, 1.0, 1.0, 1.0, 1.0)})
    assert quiet.verdict == 'gained'
    busy = told({'baseline': (0.7, 1.0, 1.0, 1.4, 0.8), 'kd': (1.0, 0.7, 1.5, 1.0, 1.3)})
    assert busy.verdict == 'cannot be told apart from noise'
    assert busy.high - busy.low > 0.2
    together = told({'baseline': (0.7, 1.0, 1.0, 1.4, 0.8), 'kd': (0.7, 1.0, 1.0, 1.4, 0.8)})
    assert together.verdict == 'gained', 'what slows both down says nothing of either'


def test_steady_price_comes_before_money():
    rows = [of_work(make_row(seed=s, seconds=t, gpu_count=2)) for s, t in enumerate((10.0, 20.0, 90.0))]
    assert with_costs(rows)[0].costs.get('seconds_per_batch') is None
    found = with_costs(rows, price=3600.0, steady=True)
    assert [row.costs['train_seconds'] for row in found] == [20.0] * 3
    assert [row.costs['money'] for row in found] == [pytest.approx(40.0)] * 3
    assert [row.costs['wall_seconds'] for row in found] == [20.0, 40.0, 180.0]
    assert at_median_price([make_row(batches=0.0, seconds=1.0)])[0].costs['train_seconds'] == 1.0


@pytest.mark.parametrize('price', [0.0, -1.0, math.nan, math.inf])
def test_prices_that_are_none(price):
    with pytest.raises(ValueError, match='a price above 0'):
        with_costs([make_row()], price)


def test_money_takes_a_price():
    with pytest.raises(ValueError, match="'money' takes a price"):
        curves([make_row()], METRIC, 'money')
    with pytest.raises(ValueError, match="Did you mean 'gpu_hours'"):
        curves([make_row()], METRIC, 'gpu_hour')


def test_names():
    assert cost_name('flops') == COSTS['flops']
    assert cost_name('money', 2) == 'Money (at 2 a GPU-hour)'
    assert 'median time of a batch' in cost_name('train_seconds', steady=True)
    assert cost_name('flops', steady=True) == COSTS['flops']
    assert cost_name('Joules') == 'Joules'


# --- rows ---

def test_tags_of_a_study():
    tags = {'method': 'm', 'role': 'run', 'replicate': '2', 'index': '3', 'kind': 'search', 'ended': 'pruned',
            'params': json.dumps({'optimizer.lr': 0.1, 'train_data.batch_size': 32})}
    row = Row.of(Path('a'), record(
        tags=tags, seed=2003, train_seconds=7200.0, hardware=Hardware(gpu='A100', gpu_count=4), world_size=4,
        kd=Distilled(kd_seconds=3.0, teacher_seconds=2.0, loss_seconds=1.0), data_seconds=5.0,
    ))
    assert (row.method, row.replicate, row.index, row.seed, row.state) == ('m', 2, 3, 2003, 'pruned')
    assert row.params == {'optimizer.lr': 0.1, 'train_data.batch_size': 32}
    assert (row.teacher_seconds, row.loss_seconds, row.data_seconds) == (2.0, 1.0, 5.0)
    assert (row.world_size, row.gpu_count, row.costs['gpu_hours']) == (4, 4, pytest.approx(8.0))
    assert not row.finished


def test_old_records_and_odd_tags():
    row = Row.of(Path('a'), record(version=1, seed=7, tags={'index': 'x', 'replicate': '', 'params': '{'}))
    assert (row.index, row.replicate, row.params, row.role, row.state) == (None, 7, {}, 'run', 'unfinished')
    assert math.isnan(row.data_seconds)
    assert (row.teachers, row.other_teachers, row.distilled) == ((), (), False)
    assert Row.of(Path('a'), record(tags={'params': '[1]'})).params == {}


def test_teachers_from_the_record_there_or_in_a_copy(tmp_path: Path):
    for name in ('runs/earlier-0', 'outside'):
        RunFolder(tmp_path / name).write_record(record())
    origins = [f'run:elsewhere/{tmp_path.name}/runs/earlier-0', 'run:elsewhere/outside', f'run:{tmp_path}/outside', 'run:gone',
               'torchvision:resnet50/IMAGENET1K_V2', 'checkpoint:s3://bucket/a.pt']
    row = Row.of(tmp_path / 'runs' / 'a', record(
        kd=Distilled(), teachers=[TeacherUse(name=str(i), origin=origin) for i, origin in enumerate(origins)],
    ))
    assert row.teachers == (
        tmp_path / 'runs' / 'earlier-0', Path('elsewhere/outside'), tmp_path / 'outside', Path('gone'),
    )
    assert row.other_teachers == ('torchvision:resnet50/IMAGENET1K_V2', 'checkpoint:s3://bucket/a.pt')
    assert row.distilled


def test_teachers_from_the_recipe_where_the_record_has_none(tmp_path: Path):
    folder = RunFolder(tmp_path / 'a')
    folder.write_record(record(kd=Distilled()))
    folder.write_recipe({'algorithms': {'distillation': {'teachers': [{'run': 'b'}, {'torchvision': 'resnet50'}]}}})
    [row] = read_rows([folder.path])
    assert (row.teachers, row.other_teachers) == ((Path('b'),), ('torchvision:resnet50',))
    for text in ('algorithms: [', 'algorithms: 3', '- a', 'algorithms: {distillation: {teachers: 5}}'):
        folder.recipe_path.write_text(text)
        assert read_rows([folder.path])[0].teachers == ()


def test_earlier_runs_are_no_curve():
    rows = [make_row(), make_row('earlier run', '9ep'), make_row('m', '9ep', role='earlier')]
    found = curves(rows, METRIC)
    assert list(found.curves) == ['baseline']
    assert found.left_out == {}


@pytest.mark.parametrize(('state', 'reason'), [('pruned', 'pruned'), ('failed', 'failed'), ('unfinished', 'not finish')])
def test_why_a_run_is_left_out(state, reason):
    rows = [make_row(), make_row(seed=1, finished=False, state=state)]
    assert reason in curves(rows, METRIC).left_out[rows[1].folder]
