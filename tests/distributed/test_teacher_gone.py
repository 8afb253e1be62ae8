"""A teacher that is removed, cut short or replaced between a kill and the next start: refused, and nothing is lost."""

import shutil
import time

import pytest

from tests.distributed.launches import TIMEOUT, Student, account, same_weights

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def removed(first, second):
    shutil.rmtree(first)
    return ['teachers/first']


def truncated(first, second):
    found = next(path for path in (first / 'checkpoints').iterdir() if not path.is_symlink())
    found.write_bytes(found.read_bytes()[:-5000])
    return ['teachers/first', 'truncated']


def changed(first, second):
    shutil.rmtree(first)
    shutil.copytree(second, first, symlinks=True)
    return ['digest']


@pytest.mark.parametrize('harm', [removed, truncated, changed])
def test_refused_until_it_is_back(tmp_path, alone, interrupted, teachers, harm):
    shutil.copytree(interrupted, tmp_path / 'student', symlinks=True)
    student = Student(tmp_path / 'student', teachers)
    digests = [teacher.digest[:8] for teacher in student.folder.read_record().teachers]
    kept, place = student.kept(), student.root / 'teachers'
    words = harm(place / 'first', place / 'second')
    began = time.monotonic()
    status, text = student.run()
    assert status == 1, text
    assert time.monotonic() - began < TIMEOUT + 60, text
    told = [line for line in text.splitlines() if line.startswith('error: ')]
    assert len(told) == 1, f'told once, by one rank\n{text}'
    assert all(word in told[0] for word in words + (digests if harm is changed else [])), told[0]
    assert 'Traceback' not in text
    assert student.kept() == kept

    shutil.rmtree(place)
    shutil.copytree(teachers, place, symlinks=True)
    status, text = student.run()
    assert status == 0, text
    assert same_weights(alone.folder, student.folder)
    assert account(alone.folder) == account(student.folder)
