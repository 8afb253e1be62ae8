from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest

from composer_kd.report import comparison_headline, curves, read_rows, speedup
from composer_kd.report.csv_files import write_csv
from composer_kd.report.study_report import Report, gather
from tests.report.synthetic import METHODS, METRIC, comparison, note, run, search, sequence

TWO = {name: METHODS[name] for name in ('baseline', 'always on')}


@pytest.fixture(scope='module')
def study(tmp_path_factory) -> Path:
    return comparison(tmp_path_factory.mktemp('studies') / 'digits', seeds=3, description='Five ways')


@pytest.fixture(scope='module')
def report(study) -> Report:
    return gather([study])


def table(report: Report, name: str):
    return next(one for one in report.tables if one.name == name)


def fact(report: Report, name: str) -> str:
    return dict(report.facts)[name]


# --- a comparison ---

def test_headline_is_what_the_curves_say(study, report):
    found = curves(read_rows([study / 'runs']), METRIC).curves
    results = [speedup(found['baseline'], found[method]) for method in METHODS if method != 'baseline']
    expected = comparison_headline(results, 'test accuracy')
    assert report.headline[:len(expected)] == expected
    assert len(report.headline) > len(expected), 'what the teachers cost is told too'
    assert 'paid for itself' in report.headline[-1] or 'pay for itself' in report.headline[-1]


def test_sections_of_a_comparison(report):
    assert [section.title for section in report.sections] == [
        'Quality and its cost', 'Speed-up at equal quality', 'Overhead of distillation',
    ]
    assert [plot.key for plot in report.plots] == ['quality_over_cost', 'speedup_over_quality', 'overhead']
    assert [one.name for one in report.tables] == [
        'quality', 'pareto', 'speed-up', 'speed-up-at', 'break-even', 'overhead', 'overhead-cut', 'cost-of-distillation',
    ]
    # Methods come in the order of the study in every table, and only the qualities of the baseline are asked for.
    assert [row[0] for row in table(report, 'quality').rows] == list(METHODS)
    assert [row[0] for row in table(report, 'cost-of-distillation').rows] == list(METHODS)
    assert len(table(report, 'speed-up-at').columns) == 1 + 4 + 1


def test_facts(report):
    assert fact(report, 'Runs') == '72 (6 methods, 4 durations, 3 seeds); 5 earlier runs to learn from'
    assert fact(report, 'Quality') == f'Test accuracy, higher is better ({METRIC})'
    assert fact(report, 'Cost') == 'Training time (s, without evaluation); teachers not charged'
    assert fact(report, 'Compared with') == 'baseline'
    assert fact(report, 'Made on') == 'AMD EPYC, 2 cores'
    assert (report.title, report.description, report.warnings, report.left_out) == (
        'Noisy handwritten digits', 'Five ways', [], {},
    )


def test_charged_teachers_are_in_the_cost(study, report):
    charged = gather([study], teachers='charged')
    sunk, paid = ({row[0]: row[4].value for row in table(one, 'quality').rows} for one in (report, charged))
    assert sunk == paid, 'the quality does not depend on it'
    runs = {plot.key: plot for plot in charged.plots}['quality_over_cost'].layers
    cheapest = {layer.name: min(layer.x) for layer in runs if layer.kind == 'means'}
    # Five earlier runs of 24 epochs at 10 s, beside which a run is little; in minutes.
    assert cheapest['five averaged'] > 20
    assert cheapest['baseline'] < 1
    assert 'charged with the training of its teachers' in fact(charged, 'Cost')
    assert table(charged, 'break-even').rows == table(report, 'break-even').rows


def test_other_costs(study):
    money = gather([study], price=2.0)
    assert money.asked.cost == 'money'
    assert 'Money (at 2 a GPU-hour)' in fact(money, 'Cost')
    hours = gather([study], cost='gpu_hours')
    layers = [next(p for p in one.plots if p.key == 'quality_over_cost').layers for one in (money, hours)]
    for one, other in zip(*layers, strict=True):
        assert list(one.x) == pytest.approx([2 * x for x in other.x])
    flops = gather([study], cost='flops')
    assert next(p for p in flops.plots if p.key == 'quality_over_cost').x.label == 'Training TFLOPs (estimate)'


def test_a_steady_price(study):
    steady = gather([study], steady=True)
    layer = next(
        layer for layer in steady.plots[0].layers if layer.kind == 'runs' and layer.name == 'baseline'
    )
    assert len({round(x, 6) for x in layer.x}) == 4, 'one price for each duration'
    assert 'median time of a batch' in fact(steady, 'Cost')
    assert any('median time' in line for line in steady.notes)


def test_another_baseline_and_reference(study):
    found = gather([study], baseline='always on', reference='one of five teachers')
    assert fact(found, 'Compared with') == 'always on'
    assert found.looks['always on'].line == 'dashed'
    assert 'baseline' in {row[0] for row in table(found, 'speed-up').rows}
    assert 'one of five teachers' in table(found, 'overhead-cut').title


def test_another_metric(study):
    found = gather([study], metric='test/CrossEntropy')
    assert not found.asked.higher_is_better
    assert found.asked.label == 'test/CrossEntropy', 'the words of the study are about another metric'
    assert gather([study], metric='test/CrossEntropy', higher_is_better=True).asked.higher_is_better


def test_left_out_with_reasons(tmp_path):
    study = comparison(tmp_path / 'a', TWO, seeds=3)
    run(study / 'runs' / 'nan', method='baseline', duration=2, seed=9, quality=math.nan)
    run(study / 'runs' / 'cut', method='always on', duration=2, seed=9, quality=0.6, status='unfinished')
    run(study / 'runs' / 'alien', method='always on', duration=2, seed=10, quality=0.6, teachers=1, share=1.0,
        origins=[tmp_path / 'gone'])
    found = gather([study])
    assert {folder.name: reason for folder, reason in found.left_out.items()} == {
        'nan': f'it ended with {METRIC} nan', 'cut': 'it did not finish',
    }
    assert fact(found, 'Runs').startswith('25 of 27 (')
    charged = gather([study], teachers='charged')
    assert "teacher 'gone' is not there" in charged.left_out[study / 'runs' / 'alien']


def test_other_machines_are_warned_of(tmp_path):
    study = comparison(tmp_path / 'a', TWO, seeds=3)
    run(study / 'runs' / 'gpu', method='baseline', duration=2, seed=9, quality=0.5, gpus=8)
    [warning] = gather([study]).warnings
    assert 'different machines' in warning
    assert '8x A100 (1 run)' in warning
    assert 'AMD EPYC, 2 cores (29 runs)' in warning
    assert gather([study], cost='flops').warnings == []
    assert 'so their hours of training do not compare' in gather([study], cost='gpu_hours').warnings[0]
    assert 'so their costs in money do not compare' in gather([study], price=2.0).warnings[0]


def test_few_seeds_are_warned_of(tmp_path):
    assert 'cannot tell a gain from noise' in gather([comparison(tmp_path / 'a', TWO, seeds=1)]).warnings[0]


def test_a_single_run(tmp_path):
    run(tmp_path / 'runs' / 'a', method='mine', duration=2, seed=0, quality=0.5)
    found = gather([tmp_path / 'runs' / 'a'], metric=METRIC)
    assert found.headline[0].startswith('Nothing')
    assert [plot.key for plot in found.plots] == ['quality_over_cost']
    assert found.title == 'a'
    assert found.folder == Path('report')


def test_no_baseline(tmp_path):
    study = comparison(tmp_path / 'a', {'always on': METHODS['always on']}, seeds=3, baseline=None)
    found = gather([study])
    assert 'no method without distillation' in found.headline[0]
    assert [plot.key for plot in found.plots] == ['quality_over_cost']
    assert '#000000' not in {look.colour for look in found.looks.values()}


def test_only_earlier_runs_yet(tmp_path):
    study = comparison(tmp_path / 'a', TWO, durations=(), earlier=2)
    assert gather([study]).headline == [
        'Nothing to report yet: only earlier runs, which others are to learn from, are there.',
    ]


def test_runs_without_a_study(tmp_path, study, report):
    shutil.copytree(study / 'runs', tmp_path / 'runs')
    found = gather([tmp_path / 'runs'], metric=METRIC)
    assert found.asked.baseline == 'baseline'
    assert [row[1:] for row in sorted(table(found, 'speed-up').rows)] == [
        row[1:] for row in sorted(table(report, 'speed-up').rows)
    ]
    with pytest.raises(ValueError, match='Give one of them, as EVALUATOR/METRIC'):
        gather([tmp_path / 'runs'])


# --- searches and sequences ---

def test_a_search(tmp_path):
    found = gather([search(tmp_path / 'a', runs=6, replicates=3, failed=(2,))])
    assert found.headline[0].startswith("Searching with 'learns from the best' instead of 'without KD'")
    assert fact(found, 'Runs') == '36 (2 methods, 3 searches of each); 6 of them not finished'
    assert fact(found, 'Cost') == 'Training time (s, without evaluation)'
    assert [plot.key for plot in found.plots] == ['best_over_cost', 'best_over_runs']
    assert [one.name for one in found.tables] == ['search', 'best-runs']


def test_a_sequence(tmp_path):
    found = gather([sequence(tmp_path / 'a', steps=3, replicates=3)])
    assert found.headline[0].startswith("Retraining with 'learns from the latest' instead of 'from scratch'")
    assert fact(found, 'Runs') == '18 (2 methods, 3 steps, 3 seeds)'
    assert [plot.key for plot in found.plots] == ['quality_over_steps', 'cost_over_steps', 'overhead']
    assert 'Test accuracy' in table(found, 'sequence').title


def test_runs_of_two_kinds_without_a_study(tmp_path, study):
    other = search(tmp_path / 'b', runs=4, replicates=3)
    found = gather([study / 'runs', other / 'runs'], metric=METRIC, baseline='baseline')
    assert next(section.title for section in found.sections) == 'Quality and its cost'
    assert 'Hyperparameter search' in [section.title for section in found.sections]
    assert found.runs == 72 + 5 + 24
    # Each study on its own is what it would be alone.
    alone = gather([study / 'runs'], metric=METRIC, baseline='baseline')
    assert sorted(table(found, 'speed-up').rows) == sorted(table(alone, 'speed-up').rows)


def test_a_steady_price_is_nothing_for_a_search(tmp_path):
    study = search(tmp_path / 'a', runs=4, replicates=3, steady_price=True)
    found = gather([study])
    assert not found.asked.steady
    assert found.asked.cost_label == 'Training time (s, without evaluation)'
    with pytest.raises(ValueError, match='the runs of a search differ in what a batch costs'):
        gather([study], steady=True)
    assert gather([comparison(tmp_path / 'b', TWO, seeds=1, steady_price=True)]).asked.steady


# --- what cannot be ---

@pytest.mark.parametrize(('settings', 'message'), [
    ({'metric': 'test/MulticlassAcuracy'}, "Did you mean 'test/MulticlassAccuracy'"),
    ({'cost': 'train_second'}, "Did you mean 'train_seconds'"),
    ({'cost': 'money'}, 'takes a price'),
    ({'price': -1.0}, 'above 0'),
    ({'price': 2.0, 'cost': 'flops'}, "the cost asked for is 'flops'"),
    ({'price': 2.0, 'cost': 'gpu_hours'}, 'leave out the price'),
    ({'teachers': 'free'}, "expected 'sunk' or 'charged'"),
    ({'baseline': 'base line'}, "Did you mean 'baseline'"),
    ({'reference': 'five average'}, "Did you mean 'five averaged'"),
])
def test_refusals(study, settings, message):
    with pytest.raises(ValueError, match=message):
        gather([study], **settings)


def test_wrong_paths(tmp_path):
    with pytest.raises(ValueError, match='expected folders of studies or runs'):
        gather([])
    with pytest.raises(FileNotFoundError, match='no run folder'):
        gather([tmp_path / 'nothing'])
    (tmp_path / 'empty' / 'below').mkdir(parents=True)
    with pytest.raises(ValueError, match="There is no run in '.*empty' or below it"):
        gather([tmp_path / 'empty'])
    note(tmp_path / 'new', 'comparison', ['baseline'])
    with pytest.raises(ValueError, match='has no run yet'):
        gather([tmp_path / 'new'])


def test_a_study_file_stands_for_its_folder(tmp_path, monkeypatch, study):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.yaml').write_text(f'name: a\nfolder: {study}\n')
    assert gather(['a.yaml']).title == 'Noisy handwritten digits'
    (tmp_path / 'b.yaml').write_text('name: b\n')
    with pytest.raises(FileNotFoundError, match='runs/b'):
        gather(['b.yaml'])
    comparison(tmp_path / 'runs' / 'b', TWO, seeds=1)
    assert gather(['b.yaml']).runs == 8 + 5
    (tmp_path / 'c.yaml').write_text('a: [')
    with pytest.raises(ValueError, match='Cannot read study file'):
        gather(['c.yaml'])


# --- CSV ---

def test_csv_files(tmp_path, report):
    import csv

    files = write_csv([*report.tables, report.tables[0]], report.rows, tmp_path / 'out')
    assert [path.name for path in files][:3] == ['runs.csv', 'quality.csv', 'pareto.csv']
    assert files[-1].name == 'quality-2.csv'
    with open(files[0], newline='') as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 77
    line = next(line for line in lines if line['run'] == 'five-averaged-16ep-seed2')
    row = next(row for row in report.rows if row.run_name == line['run'])
    assert float(line[METRIC]) == row.quality[METRIC]
    assert float(line['train_seconds']) == row.costs['train_seconds']
    assert line['teachers'] == ' '.join(f'earlier-{i}' for i in range(5))
    assert (line['method'], line['role'], line['state'], line['index']) == ('five averaged', 'run', 'finished', '0')
    with open(files[1], newline='') as file:
        assert len(list(csv.reader(file))) == 7
