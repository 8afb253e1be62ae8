"""The commands as a person meets them."""

import re

import pytest
from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.studies.store import attempts
from composer_kd.studies.work.jobs import Answer
from tests.studies.small import write_study
from tests.studies.test_claims import SEARCH, begun, go_on


def invoke(*arguments):
    result = CliRunner().invoke(main, ['study', *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, ' '.join(result.output.split())


def test_status_before_and_after_it_began(tmp_path):
    path = write_study(tmp_path, **SEARCH)
    code, output = invoke('status', path)
    assert code == 1
    assert 'was not begun yet. Begin it with composer-kd study run' in output
    claims = begun(tmp_path, **SEARCH, retries=0)
    go_on(claims, 2)
    claims.close(claims.take(), Answer(status=1, message='the end of its log'))
    code, output = invoke('status', path, '--all')
    claims.shut()
    assert code == 0
    assert len(set(re.findall(r'taught-seed0-run\d\d (?:finished|failed|waiting)', output))) == 5
    assert '2 of 5 finished, 1 failed, 2 waiting.' in output
    assert 'taught-seed0-run02 failed after 1 try: the end of its log' in output


def test_watching_ends_with_the_study(tmp_path):
    claims = begun(tmp_path, **SEARCH)
    go_on(claims)
    claims.shut()
    code, output = invoke('status', tmp_path / 'study.yaml', '--watch')
    assert code == 0
    assert '5 of 5 finished' in output


@pytest.mark.parametrize(('overrides', 'told'), [
    (['sedes=3'], "unknown key 'sedes'. Did you mean 'seeds'?"),
    (['search.sampler=tpee'], "unknown sampler 'tpee'. Did you mean 'tpe'?"),
    (['recipe=nowhere.yaml'], "there is no file"),
    (['teachers.runs=[runs/nowhere]', 'teachers.policy=best'], 'methods.taught'),
], ids=['key', 'sampler', 'recipe', 'teachers'])
def test_bad_input_is_told_in_one_paragraph(overrides, told, tmp_path):
    path = write_study(tmp_path, **(SEARCH if overrides[0].startswith(('sedes', 'search', 'recipe')) else {
        **SEARCH, 'methods': {'taught': {'teachers': 'best', 'distilation': {}}}}))
    code, output = invoke('run', path, *overrides)
    assert code == 1
    assert output.startswith('error: ')
    assert told in output


def test_a_database_that_is_not_there_is_told_soon_and_without_the_password(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, 'FIRST_PATIENCE', 0.0)
    monkeypatch.setattr('composer_kd.studies.store.trials.FIRST_PATIENCE', 0.0)
    begun(tmp_path, **SEARCH).shut()
    storage = 'storage=postgresql+psycopg://me:topsecret@127.0.0.1:1/studies'
    code, output = invoke('status', tmp_path / 'study.yaml', storage)
    assert code == 1
    assert 'error: storage: the database does not answer' in output
    assert 'topsecret' not in output
    assert 'topsecret' not in ''.join(path.read_text() for path in (tmp_path / 'study').glob('study.y*'))


@pytest.mark.parametrize(('storage', 'told'), [
    ('mysql+nosuchdriver://me@127.0.0.1/studies', 'there is no such kind of database'),
    ('oracle+cx_oracle://me@127.0.0.1/studies', "the database's driver is missing"),
    ('somewhere', 'expected the URL of a database'),
])
def test_a_database_that_nobody_knows_is_told(storage, told, tmp_path):
    begun(tmp_path, **SEARCH).shut()
    code, output = invoke('status', tmp_path / 'study.yaml', f'storage={storage}')
    assert code == 1
    assert 'storage: ' in output
    assert told in output


def test_report_of_a_study_by_its_file(tmp_path):
    claims = begun(tmp_path, **SEARCH)
    go_on(claims)
    claims.shut()
    code, output = invoke('report', tmp_path / 'study.yaml', '--no-files')
    assert code == 0, output
    assert '5 runs' in output or 'Runs: 5' in output
