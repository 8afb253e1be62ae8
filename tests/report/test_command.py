from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from composer_kd.report.command import report, show
from composer_kd.report.study_report import gather
from tests.report.synthetic import METHODS, METRIC, comparison

TWO = {name: METHODS[name] for name in ('baseline', 'always on')}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return comparison(tmp_path / 'digits', TWO, seeds=3)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(report, [str(argument) for argument in arguments])


def test_it_answers_and_writes(study):
    result = call(study)
    assert result.exit_code == 0, result.output
    lines = ' '.join(result.output.split())
    headline = gather([study]).headline
    assert lines.startswith(headline[0])
    assert all(line in lines for line in headline)
    assert '15 runs' not in lines
    files = {path.name for path in (study / 'report').iterdir()}
    assert {'report.html', 'runs.csv', 'speed-up.csv', 'quality_over_cost.png', 'overhead.png'} <= files
    for name in ('Tables: ', 'Plots: ', f"Page: {study / 'report' / 'report.html'}"):
        assert name in result.output


def test_it_says_where_files_go(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call(study / 'runs', '--metric', METRIC, '--no-page').exit_code == 0
    assert (tmp_path / 'report' / 'runs.csv').exists()
    assert not (tmp_path / 'report' / 'report.html').exists()
    assert call(study, '--out', tmp_path / 'there', '--no-files').exit_code == 0
    assert not (tmp_path / 'there').exists()
    assert not (study / 'report').exists()


def test_settings_reach_the_report(study):
    result = call(study, '--price', '3', '--teachers', 'charged', '--baseline', 'always on', '--steady', '--no-files')
    assert result.exit_code == 0, result.output
    text = ' '.join(result.output.split())
    assert 'Compared with: always on' in text
    assert 'Money (at 3 a GPU-hour)' in text
    assert 'charged with the training' in text
    assert 'median time of a batch' in text
    assert 'lower is better' in call(study, '--metric', 'test/CrossEntropy', '--no-files').output


def test_left_out_runs_are_told(study):
    from tests.report.synthetic import run

    for seed in range(20, 32):
        run(study / 'runs' / f'cut{seed}', method='baseline', duration=2, seed=seed, quality=0.6, status='unfinished')
    output = call(study, '--no-files').output
    assert 'Left out, 12 of 41 runs:' in output
    assert 'cut20: it did not finish' in ' '.join(output.split())
    assert 'and 2 more' in output


def test_a_damaged_run_is_left_out(study):
    (study / 'runs' / 'baseline-2ep-seed0' / 'record.json').write_text('{"version": 1')
    output = ' '.join(call(study, '--no-files').output.split())
    assert 'Left out, 1 of 29 runs:' in output
    assert 'baseline-2ep-seed0: record.json is damaged' in output


class _Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.isatty = lambda: terminal


@pytest.mark.parametrize(('terminal', 'columns', 'width'), [(True, 80, 80), (True, 140, 140), (False, 80, 110)])
def test_a_terminal_has_its_own_width(study, monkeypatch, terminal, columns, width):
    screen = _Screen(terminal)
    monkeypatch.setattr(sys, 'stdout', screen)
    monkeypatch.setenv('COLUMNS', str(columns))
    widths = []
    monkeypatch.setattr('rich.console.Console.print', lambda console, *_, **__: widths.append(console.width))
    show(gather([study]))
    assert set(widths) == {width}


@pytest.mark.parametrize(('arguments', 'message'), [
    (['nothing'], "There is no run folder 'nothing'"),
    (['{study}', '--metric', 'test/Accuracy'], "Did you mean 'test/MulticlassAccuracy'?"),
    (['{study}', '--cost', 'money'], 'takes a price'),
    (['{study}', '--out', '{study}/runs/earlier-0/record.json/x'], 'record.json'),
])
def test_errors_are_one_paragraph(study, arguments, message):
    result = call(*(argument.format(study=study) for argument in arguments))
    assert result.exit_code == 1
    [line] = [line for line in result.stderr.splitlines() if line]
    assert line.startswith('error: ')
    assert message in line


def test_a_traceback_on_request(monkeypatch):
    monkeypatch.setenv('COMPOSER_KD_TRACEBACK', '1')
    assert isinstance(call('nothing').exception, FileNotFoundError)


def test_the_answer_needs_neither_torch_nor_plots(study):
    code = (
        'import sys\n'
        'from composer_kd.report.command import report\n'
        f'report([{str(study)!r}, "--no-files"], standalone_mode=False)\n'
        'print([name for name in ("torch", "composer", "matplotlib", "plotly", "jinja2", "pandas") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[]'
