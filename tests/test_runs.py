from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

from composer_kd.runs import (
    SCHEMA_VERSION,
    Evaluation,
    Record,
    RunFolder,
    digest,
    schema_markdown,
    write_atomically,
)

ROOT = Path(__file__).parents[1]


def make_record(**changes) -> Record:
    fields = {'run_name': 'a', 'started_at': '2024-01-01T00:00:00Z', 'updated_at': '2024-01-01T00:00:05Z', **changes}
    return Record.model_validate(fields)


# --- importing ---

@pytest.mark.parametrize('module', ['composer_kd.runs', 'composer_kd.report'])
def test_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit(any(m.split('.')[0] in ('torch', 'composer') for m in sys.modules))"
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


# --- atomic writes ---

def test_write_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / 'record.json'
    write_atomically(path, 'one')
    write_atomically(path, 'two é')
    assert path.read_text(encoding='utf-8') == 'two é'
    assert [p.name for p in tmp_path.iterdir()] == ['record.json']


def test_written_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / 'plain').write_text('x')
    write_atomically(tmp_path / 'atomic', 'x')
    assert (tmp_path / 'atomic').stat().st_mode == (tmp_path / 'plain').stat().st_mode


@pytest.mark.parametrize('step', ['fsync', 'replace'])
def test_failed_write_keeps_the_old_file_and_no_temporary_one(tmp_path, monkeypatch, step):
    path = tmp_path / 'record.json'
    write_atomically(path, 'old')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match='No space left'):
        write_atomically(path, 'new')
    assert path.read_text() == 'old'
    assert [p.name for p in tmp_path.iterdir()] == ['record.json']


def test_killed_writer_leaves_a_whole_record(tmp_path):
    code = textwrap.dedent("""
        import sys
        from composer_kd.runs import Record, RunFolder
        folder, n = RunFolder(sys.argv[1]), 0
        record = Record(run_name='a' * 200_000, started_at='t', updated_at='t')
        while True:
            n += 1
            record.batches = n
            folder.write_record(record)
            if n == 3:
                print('started', flush=True)
    """)
    with subprocess.Popen(
        [sys.executable, '-c', code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'started\n'
        process.send_signal(signal.SIGKILL)
    record = RunFolder(tmp_path).read_record()
    assert record.status == 'unfinished'
    assert record.batches >= 3


# --- digest ---

def test_digest_depends_on_content_alone():
    one = {'a': [1, 2.5, None], 'b': {'c': True, 'd': 'é'}}
    assert digest(one) == digest({'b': {'d': 'é', 'c': True}, 'a': [1, 2.5, None]})
    assert digest({'a': 1}) != digest({'a': 2})
    assert digest([1, 2]) != digest([2, 1])
    assert len(digest({})) == 64


def test_digest_refuses_objects():
    with pytest.raises(TypeError):
        digest({'a': object()})


# --- the record ---

VERSION_1 = """
{"version": 1, "status": "finished", "run_name": "old", "recipe_digest": null, "tags": {"method": "baseline"},
 "seed": 17, "packages": {"python": "3.11.7", "composer_kd": "0.1.0"},
 "hardware": {"platform": "Linux x86_64", "cpu": "a", "cpu_cores": 2, "memory_gib": 8.0, "gpu": null, "gpu_count": 0},
 "world_size": 1, "started_at": "2024-01-01T00:00:00Z", "updated_at": "2024-01-01T00:01:00Z", "max_duration": "2ep",
 "batches": 8, "epochs": 2, "samples": 64, "tokens": 0, "train_seconds": 3.5, "wall_seconds": 4.5,
 "kd": {"active_batches": 8, "kd_seconds": 1.0, "teacher_seconds": 0.8, "loss_seconds": 0.2, "load_seconds": 0.1,
        "overhead": 0.4},
 "flops": {"student_forward_per_sample": 10.0, "teacher_forward_per_sample": {"last": 10.0}, "total": 2560.0,
           "method": "counted"},
 "teachers": [{"name": "last", "origin": "run: runs/last", "digest": null, "weight": 1.0, "batches": 8, "samples": 64}],
 "evaluations": [{"batch": 8, "epoch": 2, "sample": 64, "token": 0, "train_seconds": 3.5, "kd_seconds": 1.0,
                  "flops": null, "metrics": {"test": {"MulticlassAccuracy": 0.5, "CrossEntropy": "NaN"}}}],
 "checkpoint": "ep2-ba8-rank0.pt"}
"""


def test_records_of_version_1_are_read(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_path.write_text(VERSION_1)
    record = folder.read_record()
    assert (record.version, record.data_seconds, record.train_seconds) == (1, None, 3.5)
    assert record.teachers[0].name == 'last'
    assert math.isnan(record.evaluations[0].metrics['test']['CrossEntropy'])
    assert make_record().version == 4


def test_values_that_are_not_finite_survive(tmp_path):
    metrics = {'eval': {'nan': math.nan, 'inf': math.inf, 'minus': -math.inf, 'fine': 0.5}}
    folder = RunFolder(tmp_path)
    evaluation = Evaluation(batch=1, epoch=0, sample=8, train_seconds=1.0, metrics=metrics)
    folder.write_record(make_record(evaluations=[evaluation]))

    def refuse(constant):
        raise AssertionError(f'{constant} is no JSON')

    json.loads(folder.record_path.read_text(), parse_constant=refuse)
    values = folder.read_record().evaluations[0].metrics['eval']
    assert math.isnan(values['nan'])
    assert (values['inf'], values['minus'], values['fine']) == (math.inf, -math.inf, 0.5)


def test_every_field_is_documented():
    text = schema_markdown()
    for name in ('status', 'kd_seconds', 'student_forward_per_sample', 'digest', 'metrics', 'gpu_count', 'checkpoint'):
        assert f'| `{name}` |' in text
    assert '| None |' not in text
    assert '|  |' not in text


def test_misspelt_field_is_refused():
    with pytest.raises(ValueError, match='wall_second'):
        make_record(wall_second=3)


# --- refusals ---

def assert_helpful(error: pytest.ExceptionInfo, folder: Path, *words: str) -> None:
    message = str(error.value)
    assert str(folder) in message
    assert '\n' not in message
    for word in words:
        assert word in message


def test_missing_folder(tmp_path):
    folder = tmp_path / 'not-here'
    for read in (RunFolder(folder).read_record, RunFolder(folder).read_recipe, RunFolder(folder).latest_checkpoint):
        with pytest.raises(FileNotFoundError) as error:
            read()
        assert_helpful(error, folder, 'no run folder', 'Check the path')


def test_file_instead_of_folder(tmp_path):
    path = tmp_path / 'model.pt'
    path.write_text('x')
    with pytest.raises(ValueError, match='is a file') as error:
        RunFolder(path).read_record()
    assert_helpful(error, path, 'checkpoint')


def test_folder_that_is_no_run_folder(tmp_path):
    (tmp_path / 'readme.txt').write_text('x')
    with pytest.raises(ValueError, match=r'record\.json') as error:
        RunFolder(tmp_path).read_record()
    assert_helpful(error, tmp_path, 'no run folder')
    with pytest.raises(ValueError, match=r'recipe\.yaml'):
        RunFolder(tmp_path).read_recipe()


@pytest.mark.parametrize(
    'text', ['', '{"version": 1, "run_na', '[]', '{"run_name": "a"}', '{"version": 1, "run_name": "a"}', '\x00\x01'],
)
def test_torn_or_foreign_record(tmp_path, text):
    folder = RunFolder(tmp_path)
    folder.record_path.write_text(text)
    with pytest.raises(ValueError, match='damaged') as error:
        folder.read_record()
    assert_helpful(error, tmp_path, 'record.json', 'Copy the folder again')


@pytest.mark.parametrize(('before', 'after', 'told'), [
    ('"batches": 0', '"batches": ' + '9' * 30, r'\(batches: a number of more than 64 bits\)'),
    ('"cpu": ""', '"cpu": "\\ud800"', r'\(hardware\.cpu: halves of characters\)'),
    ('"tags": {}', '"tags": {"\\ud800": "a"}', r'\(tags\.\\ud800: halves of characters\)'),
    ('"teachers": []', '"teachers": [{"name": "a", "origin": "a\\u0000"}]', r'\(teachers\.0\.origin: .*a path holds no NUL\)'),
    ('"tags": {}', '"tags": ' + '[' * 3000, r'\(it is nested too deeply\)'),
    (f'"version": {SCHEMA_VERSION}', '"version": true', "an integer 'version'"),
])
def test_a_record_that_nobody_wrote(tmp_path, before, after, told):
    folder = RunFolder(tmp_path)
    text = Record(run_name='a', started_at='', updated_at='').to_json()
    assert before in text
    folder.record_path.write_text(text.replace(before, after))
    with pytest.raises(ValueError, match=told) as error:
        folder.read_record()
    assert_helpful(error, tmp_path, 'record.json', 'Copy the folder again')


def test_record_that_is_not_text(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_path.write_bytes(b'\xff\xfe\x80')
    with pytest.raises(ValueError, match='not text') as error:
        folder.read_record()
    assert_helpful(error, tmp_path)


def test_newer_schema(tmp_path):
    folder = RunFolder(tmp_path)
    folder.record_path.write_text(json.dumps({'version': SCHEMA_VERSION + 1, 'what': 'ever'}))
    with pytest.raises(ValueError, match='Upgrade composer_kd') as error:
        folder.read_record()
    assert_helpful(error, tmp_path, str(SCHEMA_VERSION + 1), str(SCHEMA_VERSION))


def test_recipe_round_trip_and_refusals(tmp_path):
    folder = RunFolder(tmp_path / 'run')
    recipe = {'seed': 17, 'model': {'name': 'x', 'widths': [1, 2]}, 'algorithms': {'ema': None}, 'max_duration': '2ep'}
    folder.write_recipe(recipe)
    assert folder.read_recipe() == recipe
    assert list(folder.read_recipe()) == list(recipe)
    with pytest.raises(TypeError, match='expected mappings') as error:
        folder.write_recipe({'model': object()})
    assert_helpful(error, folder.path)
    assert folder.read_recipe() == recipe
    for text, problem in (('a: [1', 'not valid YAML'), ('- 1', 'mapping')):
        folder.recipe_path.write_text(text)
        with pytest.raises(ValueError, match=problem) as error:
            folder.read_recipe()
        assert_helpful(error, folder.path)


# --- checkpoints ---

def checkpoints(folder: Path, *names: str) -> RunFolder:
    (folder / 'checkpoints').mkdir()
    for name in names:
        path = folder / 'checkpoints' / name
        if name.endswith('/'):
            path.mkdir()
            (path / '.metadata').write_text('x')
        else:
            with zipfile.ZipFile(path, 'w') as file:  # what torch.save writes
                file.writestr('data.pkl', 'x')
    return RunFolder(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_latest_follows_the_link(tmp_path):
    folder = checkpoints(tmp_path, 'ep1-ba8-rank0.pt', 'ep2-ba16-rank0.pt')
    # Not the highest: the link says which one was saved last and completely.
    (folder.checkpoints / 'latest-rank0.pt').symlink_to('ep1-ba8-rank0.pt')
    assert folder.latest_checkpoint() == folder.checkpoints / 'ep1-ba8-rank0.pt'


def test_what_was_damaged_after_it_was_linked_is_not_passed_over(tmp_path):
    folder = checkpoints(tmp_path, 'ep1-ba8-rank0.pt', 'ep2-ba16-rank0.pt')
    (folder.checkpoints / 'latest-rank0.pt').symlink_to('ep2-ba16-rank0.pt')
    cut(folder.checkpoints / 'ep2-ba16-rank0.pt')
    assert folder.latest_checkpoint() == folder.checkpoints / 'ep2-ba16-rank0.pt', 'older weights would be loaded instead'


def test_latest_may_be_sharded(tmp_path):
    folder = checkpoints(tmp_path, 'ep1-ba8/')
    (folder.checkpoints / 'latest-rank0.pt').symlink_to('ep1-ba8')
    assert folder.latest_checkpoint() == folder.checkpoints / 'ep1-ba8'


def test_latest_that_a_copy_turned_into_a_file(tmp_path):
    folder = checkpoints(tmp_path, 'ep1-ba8-rank0.pt', 'latest-rank0.pt')
    assert folder.latest_checkpoint() == folder.checkpoints / 'latest-rank0.pt'


@pytest.mark.parametrize('dangling', [False, True])
def test_without_the_link_the_highest_batch_counts(tmp_path, dangling):
    folder = checkpoints(
        tmp_path, 'ep1-ba8-rank0.pt', 'ep9-ba72-rank0.pt', 'ep10-ba80-rank0.pt', 'ep11-ba88-rank1.pt', 'notes.txt',
        'latest-rank0.pt.symlink',
    )
    # Saves that were cut short.
    (folder.checkpoints / 'ep12-ba96').mkdir()
    (folder.checkpoints / 'ep13-ba104-rank0.pt').touch()
    shutil.copy(folder.checkpoints / 'ep1-ba8-rank0.pt', folder.checkpoints / 'ep14-ba112-rank0.pt')
    cut(folder.checkpoints / 'ep14-ba112-rank0.pt')
    if dangling:
        (folder.checkpoints / 'latest-rank0.pt').symlink_to('ep11-ba88-rank0.pt')
    assert folder.latest_checkpoint().name == 'ep10-ba80-rank0.pt'


def test_without_the_link_sharded_ones_and_names_by_epoch_count(tmp_path):
    folder = checkpoints(tmp_path, 'ep1-ba8/', 'ep2-ba16/')
    assert folder.latest_checkpoint().name == 'ep2-ba16'
    (tmp_path / 'b').mkdir()
    assert checkpoints(tmp_path / 'b', 'ep2.pt', 'ep10.pt').latest_checkpoint().name == 'ep10.pt'


@pytest.mark.parametrize('names', [None, (), ('notes.txt',)])
def test_no_checkpoint(tmp_path, names):
    folder = RunFolder(tmp_path) if names is None else checkpoints(tmp_path, *names)
    with pytest.raises(FileNotFoundError, match='no checkpoint') as error:
        folder.latest_checkpoint()
    assert_helpful(error, tmp_path, 'save_interval')
