from __future__ import annotations

from pathlib import Path

import pytest

from composer_kd.report import read_rows
from composer_kd.report.study_report import gather
from tests.report.synthetic import METHODS, comparison, run

TWO = {name: METHODS[name] for name in ('baseline', 'always on')}


# --- damaged runs ---

def test_a_damaged_run_is_left_out_of_its_study(tmp_path):
    study = comparison(tmp_path / 'a', TWO, seeds=3)
    broken = study / 'runs' / 'always-on-2ep-seed1'
    (broken / 'record.json').write_text('{')
    found = gather([study])
    assert list(found.left_out) == [broken]
    assert found.left_out[broken].startswith('record.json is damaged')
    assert (found.runs, len(found.rows)) == (29, 28)
    with pytest.raises(ValueError, match='Cannot read the record of run folder'):
        gather([broken])
    with pytest.raises(ValueError, match='Cannot read the record of run folder'):
        read_rows([study])
    for path in (study / 'runs').iterdir():
        (path / 'record.json').write_text('{')
    with pytest.raises(ValueError, match='no run can be read. .*record.json is damaged'):
        gather([study])


# --- teachers ---

def taught(folder: Path, teacher: str) -> Path:
    """Who taught a run, as its row says."""
    run(folder, method='kd', duration=2, seed=0, quality=0.5, teachers=1, share=1.0, origins=[Path(teacher)])
    [row] = read_rows([folder])
    [found] = row.teachers
    return found


def test_a_namesake_beside_a_run_is_not_its_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('digits/runs/best', 'old/best', 'best', 'runs/best'):
        run(tmp_path / name, method='earlier run', duration=2, seed=0, quality=0.5)
    mine = tmp_path / 'digits' / 'runs' / 'mine'
    assert taught(mine, 'old/best') == Path('old/best')
    for gone in ('prose/runs/best', '/gone/best', 'gone/best'):
        assert taught(mine, gone) == Path(gone), 'unknown, whatever lies near'
    assert taught(mine, 'prose/runs/mine') == Path('prose/runs/mine')


def test_a_copied_study_has_its_own_teachers(tmp_path, monkeypatch):
    first = tmp_path / 'first' / 'digits' / 'runs' / 'best'
    for folder in (first, tmp_path / 'copy' / 'digits' / 'runs' / 'best'):
        run(folder, method='earlier run', duration=2, seed=0, quality=0.5)
    copied = tmp_path / 'copy' / 'digits' / 'runs' / 'mine'
    beside = copied.with_name('best')
    assert taught(copied, str(first)) == beside, 'though the first is there as well'
    assert taught(copied, '/gone/digits/runs/best') == beside
    assert taught(copied, 'digits/runs/best') == beside
    monkeypatch.chdir(copied.parent)
    assert taught(Path('mine'), str(first)).resolve() == beside
    # Its own copy does not teach a run.
    assert taught(copied, '/gone/digits/runs/mine') == Path('/gone/digits/runs/mine')
