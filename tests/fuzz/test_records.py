"""Run records that are damaged, made up or from elsewhere: read, or refused by the folder's name and the field."""

from __future__ import annotations

import json
import warnings

import pytest
from click.testing import CliRunner
from hypothesis import event, given
from hypothesis import strategies as st

from composer_kd.report.command import report
from composer_kd.runs import SCHEMA_VERSION, Distilled, Evaluation, Flops, Hardware, Record, RunFolder, TeacherUse
from tests.fuzz.cases import cases
from tests.fuzz.mutate import changes
from tests.fuzz.told import told
from tests.report.synthetic import METRIC, comparison

_COUNT = st.integers(0, 2**63 - 1)
_NUMBER = st.floats(allow_subnormal=True)
_TEXT = st.text(st.characters(exclude_categories=['Cs']), max_size=20)
_TEXTS = st.dictionaries(_TEXT, _TEXT, max_size=3)
_METRICS = st.dictionaries(_TEXT, st.dictionaries(_TEXT, _NUMBER, max_size=2), max_size=2)
_RECORDS = st.builds(
    Record, status=st.sampled_from(['finished', 'unfinished']), run_name=_TEXT, recipe_digest=st.none() | _TEXT, tags=_TEXTS,
    seed=st.none() | _COUNT, packages=_TEXTS, world_size=_COUNT, started_at=_TEXT, updated_at=_TEXT, batches=_COUNT, samples=_COUNT,
    train_seconds=_NUMBER, data_seconds=st.none() | _NUMBER, checkpoint=st.none() | _TEXT,
    hardware=st.builds(Hardware, cpu=_TEXT, memory_gib=_NUMBER, gpu=st.none() | _TEXT, gpu_count=_COUNT),
    kd=st.none() | st.builds(Distilled, active_batches=_COUNT, kd_seconds=_NUMBER, overhead=st.none() | _NUMBER),
    flops=st.builds(Flops, total=st.none() | _NUMBER, teacher_forward_per_sample=st.dictionaries(_TEXT, _NUMBER, max_size=2)),
    teachers=st.lists(st.builds(TeacherUse, name=_TEXT, origin=_TEXT.filter(lambda text: '\0' not in text), weight=_NUMBER, samples=_COUNT), max_size=2),
    evaluations=st.lists(st.builds(
        Evaluation, batch=_COUNT, epoch=_COUNT, sample=_COUNT, train_seconds=_NUMBER, flops=st.none() | _NUMBER, metrics=_METRICS,
    ), max_size=2),
)


def _same(one, other):
    """Whether two are equal, NaN being equal to itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or (one != one and other != other)


@cases(250)
@given(_RECORDS)
def test_a_record_is_the_same_after_it_was_written_and_read(tmp_path_factory, record):
    folder = RunFolder(tmp_path_factory.getbasetemp() / 'round')
    folder.write_record(record)
    assert _same(folder.read_record().model_dump(), record.model_dump())
    json.loads(folder.record_path.read_text(), parse_constant=lambda name: pytest.fail(f'{name} is no JSON'))


_WHOLE = Record(
    run_name='a', status='finished', started_at='2024-05-01T10:00:00Z', updated_at='2024-05-01T11:00:00Z', max_duration='4ep', seed=0,
    batches=400, epochs=4, samples=12800, train_seconds=53.0, wall_seconds=61.0, data_seconds=2.0, recipe_digest='0' * 64,
    packages={'torch': '2.7.0'}, hardware=Hardware(cpu='AMD EPYC', cpu_cores=2), flops=Flops(total=5.1e13),
    tags={'method': 'always on', 'role': 'run', 'study': 'whole', 'kind': 'comparison', 'replicate': '0', 'index': '0', 'params': '{}'},
    kd=Distilled(active_batches=400, kd_seconds=14.8, teacher_seconds=13.2, loss_seconds=1.6, overhead=0.37),
    teachers=[TeacherUse(name='earlier-0', origin='run:runs/earlier-0', batches=400, samples=12800)],
    evaluations=[Evaluation(batch=400, epoch=4, sample=12800, train_seconds=53.0, metrics={'test': {METRIC.split('/')[1]: 0.7}})],
)


_CHANGED = changes(json.loads(_WHOLE.to_json()))
_VERSION = f'"version": {SCHEMA_VERSION}'.encode()
_BYTES = _WHOLE.to_json().encode()
_DAMAGED = st.one_of(
    st.integers(0, len(_BYTES)).map(lambda end: _BYTES[:end]),
    st.tuples(st.integers(0, len(_BYTES)), st.binary(min_size=1, max_size=3)).map(
        lambda cut: _BYTES[:cut[0]] + cut[1] + _BYTES[cut[0] + len(cut[1]):]),
    st.tuples(st.sampled_from(sorted({_VERSION, b'400', b'53.0', b'"finished"', b'null', b'{', b'}'})), st.sampled_from([
        b'"version": 99', b'"version": 0', b'"version": true', b'"version": 1e3', b'1e400', b'-1', b'9' * 400, b'9' * 5000, b'1' + b'0' * 30,
        b'NaN', b'Infinity', b'-Infinity', b'"NaN"', b'"400"', b'4e2', b'400.5', b'"\\ud800"', b'"\\u0000"', b'[' * 3000, b'{"a":' * 3000,
        b'[' * 300 + b']' * 300, b'', b',', b'"run_name": "b", "run_name": {}', b'\xff\xfe', b'\xef\xbb\xbf', b'//', b"'",
    ])).map(lambda swap: _BYTES.replace(*swap)),
    st.sampled_from([b'', b'[]', b'{}', b'null', b'1', b'{"version": 2}', b'{"version": 99}', b'[' * 5000, b'\xff' * 10]),
)


def _written(change):
    return json.dumps(change.data, default=str).encode()


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """A study of which one run's record is replaced."""
    folder = tmp_path_factory.mktemp('study')
    return comparison(folder / 'whole', {'baseline': (0, 0.0, 0.0), 'always on': (1, 1.0, 0.1)}, (2, 4), seeds=2, earlier=1)


def read_changed(study, content):
    folder = RunFolder(next(study.glob('runs/always-on-4ep-*')))
    folder.record_path.write_bytes(content)
    record, message = told(folder.read_record)
    event('read' if message is None else 'refused')
    if message is None:
        RunFolder(folder.path).write_record(record)
        assert _same(folder.read_record().model_dump(), record.model_dump())
    return folder.path, message


@cases(1000)
@given(_CHANGED)
def test_a_changed_record_is_read_or_refused_by_its_folder_and_field(study, change):
    folder, message = read_changed(study, _written(change))
    if message is None:
        return
    said = f"Cannot read the record of run folder '{folder}': "
    fields = ['.'.join(map(_key, path)) for path in (change.path, change.path[:-1], change.was)]
    assert message.startswith(said), message
    assert 'version' in change.was or any(f'({field}' in message for field in fields if field), message


def _key(key):
    """A key as JSON has it, and as a message does."""
    return ' '.join((key if isinstance(key, str) else json.dumps(key)).split())


@cases(700)
@given(_DAMAGED)
def test_a_damaged_record_is_read_or_refused_by_its_folder(study, content):
    folder, message = read_changed(study, content)
    assert message is None or message.startswith((
        f"Cannot read the record of run folder '{folder}': ", f"Cannot read record.json of run folder '{folder}': ")), message


@cases(60)
@given(_CHANGED.map(_written) | _DAMAGED)
def test_a_report_leaves_out_a_changed_record_or_takes_it_as_it_is(study, content):
    folder, message = read_changed(study, content)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # NumPy's, of numbers that are no seconds
        result = CliRunner().invoke(report, [str(study), '--no-files'], catch_exceptions=False)
    assert result.exit_code == 0 or result.stderr.startswith('error: '), result.output
    if message is not None:
        assert folder.name in ''.join(result.output.split()), result.output
