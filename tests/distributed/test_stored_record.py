"""What two ranks read from stores and asked of their teachers, each of another one, added up in the record of rank zero."""

import os
import subprocess
import sys

import pytest
import yaml

from composer_kd.runs import RunFolder
from tests.distributed.launches import ROOT

pytestmark = pytest.mark.distributed

SAMPLES, EPOCHS = 256, 3


def test_what_every_rank_read_is_counted(tmp_path, teachers):
    names = ('first', 'second')
    said = {
        'run_name': 'student', 'run_folder': str(tmp_path / 'run'), 'seed': 5, 'model': {'name': 'digits_resnet', 'width': 4},
        'train_data': {'name': 'digits', 'batch_size': 32, 'train_size': SAMPLES, 'views': 1, 'view_seed': 0},
        'evaluators': {}, 'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.05}, 'max_duration': f'{EPOCHS}ep', 'progress_bar': False,
        'algorithms': {'distillation': {'sampling': 'by_rank', 'check_batches': 0, 'teachers': [
            {'run': str(teachers / name), 'name': name, 'cache': {'path': str(tmp_path / name), 'fill': True}} for name in names
        ]}},
    }
    (tmp_path / 'recipe.yaml').write_text(yaml.safe_dump(said))
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', '2', str(ROOT / 'scripts/train.py'), str(tmp_path / 'recipe.yaml')]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    record = RunFolder(tmp_path / 'run').read_record()
    assert [teacher.samples for teacher in record.teachers] == [EPOCHS * SAMPLES // 2] * 2
    # a rank reads what it has asked of its teacher before: none, then some half, then some three quarters of its share
    stored = {teacher.name: teacher.stored for teacher in record.teachers}
    share = SAMPLES // 2
    assert all(0.9 * share < stored[name] < 1.6 * share for name in names), stored
    # and of a sample that it asked about, there is one answer
    for name in names:
        parts = [yaml.safe_load(path.read_text()) for path in (tmp_path / name / 'parts').glob('*/part.json')]
        assert sum(part['samples'] for part in parts) == EPOCHS * share - stored[name]
    student, forward = record.flops.student_forward_per_sample, record.flops.teacher_forward_per_sample
    asked = sum(forward[name] * (EPOCHS * share - stored[name]) for name in names)
    assert record.flops.total == pytest.approx(3 * student * EPOCHS * SAMPLES + asked)
