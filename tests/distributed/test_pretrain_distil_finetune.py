"""Pre-train, distil, fine-tune: three recipes, one after another, from YAML and the launcher, on one rank and on two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from composer_kd.runs import RunFolder
from tests.yamls.overlay import ROOT, SMALL_BERT

pytestmark = pytest.mark.distributed

SHORT = ['max_duration=12ba', 'eval_interval=6ba', 'save_interval=6ba', 'progress_bar=false', 'precision=null',
         'train_data.batch_size=16', 'train_data.num_workers=0', 'scheduler.t_warmup=1ba']
BERT = [*SHORT, *(f'model.{key}={value}' for key, value in SMALL_BERT.items()), 'train_data.tokenizer=data/sample/tokenizer']


def composer(ranks: int, root: Path, recipe: str, *changes: str) -> RunFolder:
    command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), str(ROOT / 'scripts/train.py'),
               str(ROOT / 'yamls' / recipe), *changes]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = RunFolder(root / next(change.split('=')[1] for change in changes if change.startswith('run_folder=')))
    assert str(folder.path.name) in done.stdout, 'the user is told where the run is'
    return folder


@pytest.mark.parametrize('ranks', [1, 2])
def test_one_after_another(workshop, ranks):
    root, runs = workshop.root, f'runs/launched-{ranks}'
    first = composer(ranks, root, 'bert/prose.yaml', *BERT, f'run_folder={runs}/first')
    second = composer(
        ranks, root, 'bert/prose_kd.yaml', *BERT, f'run_folder={runs}/second', 'seed=3',
        f'algorithms.distillation.teachers=[{{run: {runs}/first}}]',
    )
    third = composer(
        ranks, root, 'glue/mnli.yaml', *BERT, f'run_folder={runs}/third', f'start_from.run={runs}/second',
        'train_data.path=data/sample/glue', 'train_data.max_seq_len=32', 'device_train_microbatch_size=4',
        *(f'evaluators.{label}.data.batch_size=16' for label in ('matched', 'mismatched')),
    )
    records = [folder.read_record() for folder in (first, second, third)]
    assert [(record.status, record.batches, record.samples, record.world_size) for record in records] == [('finished', 12, 192, ranks)] * 3
    assert records[0].kd is None
    assert records[1].kd is not None
    assert records[1].kd.active_batches == 12
    assert [(teacher.origin, teacher.samples) for teacher in records[1].teachers] == [(f'run:{runs}/first', 192)]
    for record, metric in zip(records, ('LanguageCrossEntropy', 'LanguageCrossEntropy', 'accuracy'), strict=True):
        found = [value for metrics in record.evaluations[-1].metrics.values() for name, value in metrics.items()
                 if metric.lower() in name.lower()]
        assert found, record.evaluations[-1].metrics
