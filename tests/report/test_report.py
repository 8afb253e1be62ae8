from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest

from composer_kd.report import (
    Curve,
    Point,
    Row,
    at_median_price,
    collect,
    cost_table,
    curves,
    lower_is_better,
    metric_names,
    plot_quality_over_cost,
    quality_table,
    read_rows,
    speedup,
    speedup_at_table,
    speedup_table,
    to_text,
)
from composer_kd.runs import Distilled, Evaluation, Flops, Record, RunFolder

METRIC = 'test/MulticlassAccuracy'


def write_run(folder: Path, *, method: str | None, duration: int, seed: int, quality: float, **changes) -> None:
    kd = None
    if method not in (None, 'baseline'):
        kd = Distilled(active_batches=duration * 5, kd_seconds=0.2 * duration, teacher_seconds=0.15 * duration, overhead=0.4)
    evaluations = [
        Evaluation(batch=duration * 5, epoch=0, sample=1, train_seconds=1.0, metrics={'test': {'MulticlassAccuracy': 0.1}}),
        Evaluation(
            batch=duration * 10, epoch=duration, sample=2, train_seconds=2.0,
            metrics={'test': {'MulticlassAccuracy': quality, 'CrossEntropy': 1 - quality}},
        ),
    ]
    fields = {
        'status': 'finished', 'run_name': folder.name, 'tags': {} if method is None else {'method': method}, 'seed': seed,
        'started_at': 't', 'updated_at': 't', 'max_duration': f'{duration}ep', 'batches': duration * 10,
        'epochs': duration, 'samples': duration * 320, 'train_seconds': duration * (1.0 if kd is None else 1.2),
        'wall_seconds': duration * 2.0, 'kd': kd, 'flops': Flops(total=1e6 * duration), 'evaluations': evaluations,
        **changes,
    }
    RunFolder(folder).write_record(Record(**fields))


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for method, gain in (('baseline', 0.0), ('always on', 0.05)):
        for duration in (1, 2, 4):
            for seed in range(3):
                write_run(
                    tmp_path / 'all' / f'{method}-{duration}-{seed}', method=method, duration=duration, seed=seed,
                    quality=0.9 - 0.2 / duration + gain + 0.001 * (seed - 1),
                )
    return tmp_path / 'all'


# --- collecting ---

def test_rows(runs):
    rows = read_rows([runs])
    assert len(rows) == 18
    row = next(r for r in rows if (r.method, r.duration, r.seed) == ('always on', '2ep', 1))
    assert row.quality == {METRIC: pytest.approx(0.85), 'test/CrossEntropy': pytest.approx(0.15)}
    assert row.costs == {
        'train_seconds': 2.4, 'wall_seconds': 4.0, 'gpu_hours': pytest.approx(2.4 / 3600), 'flops': 2e6,
        'samples': 640.0, 'batches': 20.0,
    }
    assert (row.finished, row.kd_seconds, row.active_share, row.step_overhead) == (True, 0.4, 0.5, 0.4)
    assert row.overhead == pytest.approx(0.4 / 2.0)
    assert metric_names(rows) == ['test/CrossEntropy', METRIC]
    baseline = next(r for r in rows if r.method == 'baseline')
    assert (baseline.overhead, baseline.active_share, baseline.step_overhead) == (0.0, 0.0, None)


def test_a_run_is_read_once(runs):
    one = runs / 'baseline-1-0'
    assert len(read_rows([one, runs, one])) == 18


def test_runs_without_a_tag(tmp_path):
    write_run(tmp_path / 'a', method=None, duration=1, seed=0, quality=0.5)
    write_run(tmp_path / 'b', method=None, duration=1, seed=0, quality=0.5, kd=Distilled())
    assert [row.method for row in read_rows([tmp_path])] == ['baseline', 'distillation']


def test_curves_of_runs(runs):
    collected = collect([runs], METRIC)
    assert collected.left_out == {}
    assert list(collected.curves) == ['always on', 'baseline']
    curve = collected.curves['always on']
    assert curve.durations == ('1ep', '2ep', '4ep')
    assert curve.mean_cost == pytest.approx([1.2, 2.4, 4.8])
    assert curve.mean_quality == pytest.approx([0.75, 0.85, 0.9])
    assert curve.higher_is_better
    losses = curves(read_rows([runs]), 'test/CrossEntropy', 'flops').curves['baseline']
    assert not losses.higher_is_better
    assert losses.mean_cost == pytest.approx([1e6, 2e6, 4e6])


@pytest.mark.parametrize(('changes', 'reason'), [
    ({'status': 'unfinished'}, 'did not finish'),
    ({'batches': 11}, 'end was not evaluated'),
    ({'evaluations': []}, 'end was not evaluated'),
    ({'quality': math.nan}, 'nan'),
    ({'train_seconds': 0.0}, 'no train_seconds'),
])
def test_left_out_with_a_reason(runs, changes, reason):
    folder = runs / 'broken'
    write_run(folder, **{'method': 'baseline', 'duration': 1, 'seed': 9, 'quality': 0.7, **changes})
    collected = collect([runs], METRIC)
    assert list(collected.left_out) == [folder]
    assert reason in collected.left_out[folder]
    assert collected.curves['baseline'].seeds == (0, 1, 2)


def test_refusals(runs, tmp_path):
    with pytest.raises(FileNotFoundError, match='no run folder'):
        read_rows([tmp_path / 'nothing'])
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match="There is no run in '.*empty' or below it"):
        read_rows([tmp_path / 'empty'])
    rows = read_rows([runs])
    with pytest.raises(ValueError, match="Did you mean 'test/MulticlassAccuracy'"):
        curves(rows, 'test/MulticlassAcuracy')
    with pytest.raises(ValueError, match="Did you mean 'train_seconds'"):
        curves(rows, METRIC, 'train_second')
    write_run(runs / 'again', method='baseline', duration=1, seed=0, quality=0.7)
    with pytest.raises(ValueError, match='two runs of duration 1ep with seed 0'):
        collect([runs], METRIC)


@pytest.mark.parametrize(('metric', 'expected'), [
    ('eval/CrossEntropy', True), ('eval/LanguagePerplexity', True), ('loss/BinaryF1Score', False),
    ('error/MulticlassAccuracy', False), ('eval/MeanSquaredError', True),
])
def test_direction_of_a_metric(metric, expected):
    assert lower_is_better(metric) is expected


# --- tables ---

def test_quality_table(runs):
    text = to_text(quality_table(collect([runs], METRIC).curves, METRIC))
    assert '0.8500 ± 0.0010' in text
    assert 'over 3 seeds' in text
    assert text.index('1ep') < text.index('2ep') < text.index('4ep')


def test_a_run_is_priced_at_its_methods_median_time_of_a_batch(runs):
    write_run(runs / 'slow', method='baseline', duration=2, seed=9, quality=0.7, train_seconds=77.0)
    rows = {row.run_name: row for row in at_median_price(read_rows([runs]))}
    assert rows['slow'].costs['train_seconds'] == pytest.approx(2.0)
    assert rows['slow'].costs['batches'] == 20
    assert rows['baseline-4-0'].costs['train_seconds'] == pytest.approx(4.0)
    assert rows['always on-4-0'].costs['train_seconds'] == pytest.approx(4.8)
    write_run(runs / 'none', method='empty', duration=1, seed=9, quality=0.7, batches=0, train_seconds=1.5)
    assert at_median_price(read_rows([runs / 'none']))[0].costs['train_seconds'] == 1.5


def test_cost_table(runs):
    write_run(runs / 'cut', method='baseline', duration=1, seed=9, quality=0.7, status='unfinished', train_seconds=99.0)
    text = to_text(cost_table(read_rows([runs])))
    line = next(line for line in text.splitlines() if 'always on' in line)
    # Half of the batches; 0.2 s a second of the rest; 40 % on a step; 1.2 times the baseline's time.
    for cell in ('50 %', '0.47 s', '20.0 ± 0.0 %', '40.0 ± 0.0 %'):
        assert cell in line
    assert '20 [20,20] %' in line
    assert 'median [quartiles] of pairs' in ' '.join(text.split())


def test_speedup_tables(runs):
    found = collect([runs], METRIC).curves
    result = speedup(found['baseline'], found['always on'], [0.75, 0.8, 0.99])
    text = to_text(speedup_table([result]), width=80)
    assert f'{result.median.value:.2f} [{result.median.low:.2f}, {result.median.high:.2f}]' in text
    assert 'gained' in text
    assert '90 % interval' in text
    at = to_text(speedup_at_table([result]), width=80)
    assert 'at 0.9900' in at
    assert f'{result.at[0.75].value:.2f}' in at
    # Nobody reaches 0.99.
    assert any(cell.strip() == '-' for line in at.splitlines() for cell in line.split('│'))


def test_speedup_table_says_why_there_is_none():
    low, high = (Curve.of(n, [Point('1ep', s, 1.0, q) for s in range(3)]) for n, q in (('baseline', 0.5), ('m', 0.9)))
    text = to_text(speedup_table([speedup(low, high)]))
    assert 'no common quality' in text
    assert "'m': the worst of 'm' is better" in text


def test_tables_fit_a_terminal_of_80_columns(runs):
    rows = read_rows([runs])
    found = curves(rows, METRIC).curves
    results = [speedup(found['baseline'], found['always on'])]
    for table in (quality_table(found, METRIC), cost_table(rows), speedup_table(results), speedup_at_table(results)):
        assert '…' not in to_text(table, width=80)


# --- plots ---

def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b'\x89PNG\r\n\x1a\n'
    return struct.unpack('>II', data[16:24])


def test_plot_is_drawn(runs, tmp_path):
    found = collect([runs], METRIC).curves
    path = plot_quality_over_cost(found, tmp_path / 'plots' / 'a.png', metric=METRIC)
    assert path == tmp_path / 'plots' / 'a.png'
    assert min(png_size(path)) > 400
    # Something is drawn: another cost gives another picture.
    other = plot_quality_over_cost(found, tmp_path / 'b.png', metric=METRIC, log_cost=True, title='Other')
    assert path.read_bytes() != other.read_bytes()


def test_plot_of_many_methods_single_seeds_and_one_duration(tmp_path):
    many = {
        f'method {i}': Curve.of(f'method {i}', [Point('1ep', 0, 1.0 + i, 0.5 + i / 20)]) for i in range(9)
    }
    png_size(plot_quality_over_cost(many, tmp_path / 'a.png', metric=METRIC))


def test_plot_of_nothing(tmp_path):
    with pytest.raises(ValueError, match='Nothing to plot'):
        plot_quality_over_cost({}, tmp_path / 'a.png', metric=METRIC)


def test_run_before_its_first_step():
    row = Row.of(Path('a'), Record(run_name='a', started_at='t', updated_at='t'))
    assert math.isnan(row.overhead)
    assert (row.finished, row.quality, row.active_share, row.seed) == (False, {}, 0.0, -1)
