"""What two ranks read from stores and asked of their teachers, added up in the record of rank zero."""

import os
import subprocess
import sys

import pytest
import yaml

from composer_kd.runs import RunFolder
from tests.distributed.launches import ROOT

pytestmark = pytest.mark.distributed

SAMPLES, EPOCHS = 256, 3


def record_of(folder, teachers, names, **settings):
    """The record of a run on two ranks that stores what it asks, in one view that comes again every epoch."""
    said = {
        'run_name': 'student', 'run_folder': str(folder / 'run'), 'seed': 5, 'model': {'name': 'digits_resnet', 'width': 4},
        'train_data': {'name': 'digits', 'batch_size': 32, 'train_size': SAMPLES, 'views': 1, 'view_seed': 0},
        'evaluators': {}, 'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.05}, 'max_duration': f'{EPOCHS}ep', 'progress_bar': False,
        'algorithms': {'distillation': {'check_batches': 0, **settings, 'teachers': [
            {'run': str(teachers / name), 'name': name, 'cache': {'path': str(folder / name), 'fill': True}} for name in names
        ]}},
    }
    (folder / 'recipe.yaml').write_text(yaml.safe_dump(said))
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(ROOT / 'scripts/train.py'), str(folder / 'recipe.yaml')]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return RunFolder(folder / 'run').read_record()


def answers(folder):
    return sum(yaml.safe_load(path.read_text())['samples'] for path in (folder / 'parts').glob('*/part.json'))


def test_ranks_with_a_teacher_each(tmp_path, teachers):
    names = ('first', 'second')
    record = record_of(tmp_path, teachers, names, sampling='by_rank')
    assert [teacher.samples for teacher in record.teachers] == [EPOCHS * SAMPLES // 2] * 2
    # a rank reads what it has asked of its teacher before: none, then some half, then some three quarters of its share
    stored, share = {teacher.name: teacher.stored for teacher in record.teachers}, SAMPLES // 2
    assert all(0.9 * share < stored[name] < 1.6 * share for name in names), stored
    # and of a sample that it asked about, there is one answer
    for name in names:
        assert answers(tmp_path / name) == EPOCHS * share - stored[name]
    student, forward = record.flops.student_forward_per_sample, record.flops.teacher_forward_per_sample
    asked = sum(forward[name] * (EPOCHS * share - stored[name]) for name in names)
    assert record.flops.total == pytest.approx(3 * student * EPOCHS * SAMPLES + asked)


def test_every_rank_reads_what_all_have_stored(tmp_path, teachers):
    [teacher] = record_of(tmp_path, teachers, ['first']).teachers
    # whoever is faster at the end of an epoch: every sample is asked about once
    assert (teacher.samples, teacher.stored) == (EPOCHS * SAMPLES, (EPOCHS - 1) * SAMPLES)
    assert answers(tmp_path / 'first') == SAMPLES
