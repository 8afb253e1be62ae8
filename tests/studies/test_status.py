import io
import re

import pytest
from rich.console import Console

from composer_kd.studies.progress.state import RunState
from composer_kd.studies.progress.status import expected_seconds, status_lines, status_table, time_left
from composer_kd.studies.rules.planned import planned_runs
from tests.studies.specs import comparison, search, sequence

NOW = 1_700_000_000.0


def to_text(*things, width=140):
    console = Console(file=io.StringIO(), width=width)
    for thing in things:
        console.print(thing)
    return console.file.getvalue()


def states_of(spec, *changes, limit=None):
    states = [RunState(run) for _, run in zip(range(limit or 10_000), planned_runs(spec), strict=False)]
    for state, change in zip(states, changes, strict=False):
        for name, value in change.items():
            setattr(state, name, value)
    return states


def done(seconds=100.0, quality=0.5, **more):
    return {'state': 'finished', 'quality': quality, 'train_seconds': 0.8 * seconds, 'wall_seconds': seconds,
            'attempts': 1, 'share': 1.0, 'started': NOW - 500, 'ended': NOW - 400, **more}


def lines(spec, states):
    return [line.plain for line in status_lines(spec, states, NOW)]


def test_a_row_says_how_far_a_run_is():
    spec = comparison(durations=['2ep'])
    states = states_of(spec, done(), done(3800.0), done(), {
        'state': 'running', 'attempts': 2, 'wall_seconds': 60.0, 'train_seconds': 50.0, 'share': 0.25,
        'quality': 0.1234567, 'teachers': ['earlier-0', 'runs/earlier-1'],
    })
    text = to_text(status_table(spec, states, NOW), width=140)
    row = next(line for line in text.splitlines() if 'always-on-2ep-seed0' in line)
    assert re.search(r'running .*0\.1235 .*0:00:50 .*25 % .*2 .*0:03:00 .*earlier-0, earlier-1', row)
    assert '0:50:40' in text, 'training time of the longer one'


def test_totals_and_time_left():
    spec = comparison(durations=['2ep', '4ep'], where={'workers': 2})
    # Two earlier runs, then each method at 2 and at 4 epochs.
    states = states_of(spec, done(50.0), done(50.0), done(100.0), done(200.0), done(400.0))
    first, second = lines(spec, states)
    assert first == '5 of 6 finished, 1 waiting.'
    # Nothing is known of this method at 4 epochs but what the other needs for them.
    assert second == 'Time of workers 0:13:20, of it training 0:10:40. About 0:06:40 left with 2 workers.'


def test_time_left_is_told_from_runs_of_the_same_kind():
    spec = comparison(durations=['2ep', '4ep'], seeds=3)
    states = states_of(spec, {}, {}, done(100.0), done(200.0))
    expected = expected_seconds(states)
    by_key = {state.planned.key: state for state in states}
    assert expected(by_key['baseline-2ep-seed2']) == 100.0
    assert expected(by_key['always-on-2ep-seed1']) == 200.0
    assert expected(by_key['baseline-4ep-seed0']) is None, 'a run of another duration says nothing'
    assert time_left(by_key['baseline-2ep-seed2'], 100.0) == 100.0
    going = RunState(by_key['baseline-2ep-seed2'].planned, 'running', wall_seconds=30.0, share=0.6)
    assert time_left(going, 100.0) == pytest.approx(20.0)
    assert time_left(by_key['baseline-2ep-seed0'], 100.0) == 0.0
    assert time_left(RunState(going.planned, 'running', wall_seconds=130.0), 100.0) == 0.0


def test_failed_runs_say_why_and_nothing_is_read_as_markup():
    spec = sequence()
    reason = 'ValueError: [/red] got a list [1, 2]\n[bold]the last line'
    states = states_of(spec, {'state': 'failed', 'attempts': 3, 'reason': reason}, {'state': 'died', 'attempts': 1})
    told = lines(spec, states)
    assert told[0] == '0 of 6 finished, 1 failed, 1 died, 4 waiting.'
    assert f'alone-seed0-step0 failed after 3 tries: {reason}' in told
    assert 'taught-seed0-step0 died at try 1, and will be started again.' in told
    assert '[/red] got a list [1, 2]' in to_text(*status_lines(spec, states, NOW))


def test_a_method_with_brackets_in_its_name():
    spec = search(methods={'[/b] odd': {'teachers': 'all'}}, name='x', metric='test/[b]x')
    change = {'params': {'a.lr': '[/b]', 'b.lr': True}, 'teachers': ['runs/[i]', 'odd']}
    text = to_text(status_table(spec, states_of(spec, change), NOW), width=140)
    assert 'b-odd-seed0-run00' in text
    assert 'test/[b]x' in text
    assert '[i], odd' in text
    assert 'a.lr=[/b], b.lr=True' in text


def test_the_budget_of_a_search():
    spec = search(search={'space': {'optimizer.lr': [0.1, 1.0]}, 'runs': 4, 'hours': 2.0, 'gpu_hours': 3.0},
                  where={'gpus_per_run': 2})
    states = states_of(
        spec, done(900.0, started=NOW - 3600, ended=NOW - 2700, params={'optimizer.lr': 0.123456}), {},
        done(1800.0, started=NOW - 3600, ended=NOW - 1800),
    )
    told = lines(spec, states)
    # Side by side: 1800 s in which one of the two was going; 2700 s on two GPUs each.
    assert told[2] == 'alone-seed0: begun or used 2 of 4 runs, 0.50 of 2 hours, 1.50 of 3 GPU-hours.'
    assert ' lr=0.1235' in to_text(status_table(spec, states, NOW), width=160)


def test_a_search_without_a_number_of_runs_does_not_count_what_may_never_come():
    spec = search(runs=None)
    told = lines(spec, states_of(spec, done(), limit=12))
    assert told[0] == '1 finished.'
    assert 'left' not in told[1]


def test_a_long_study_is_shown_in_part_unless_asked():
    spec = comparison(durations=['2ep', '4ep'], seeds=20)
    changes = [done(ended=NOW - 1000 + i) for i in range(30)]
    changes[7] = {'state': 'failed', 'attempts': 1, 'ended': NOW}
    changes[30:] = [{'state': 'running', 'attempts': 1}]
    states = states_of(spec, *changes)
    shown, every = status_table(spec, states, NOW), status_table(spec, states, NOW, all_runs=True)
    keys = list(shown.columns[0].cells)
    assert len(keys) == 5 + 1 + 1 + 5
    assert states[7].planned.key in keys
    assert states[30].planned.key in keys
    assert [states[i].planned.key for i in range(25, 36)] == keys[1:]
    assert '70 further runs are not shown; --all shows all.' in to_text(shown, width=160)
    assert len(every.rows) == len(states) == 82
    assert every.caption is None


def test_before_anything_ran():
    spec = comparison()
    assert lines(spec, states_of(spec)) == [
        '0 of 6 finished, 6 waiting.',
        'Time of workers 0:00:00, of it training 0:00:00. How much is left shows when the first runs are finished.',
    ]
