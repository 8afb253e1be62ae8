"""A study small enough to be killed often, and what came of it."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from composer_kd.runs import RunFolder
from composer_kd.studies.file.schema import load_study
from composer_kd.studies.work.claims import Claims

RECIPE = {
    'run_name': 'small',
    'model': {'name': 'digits_resnet', 'width': 4},
    'train_data': {'name': 'digits', 'batch_size': 32, 'noise': 0.3, 'train_size': 320},
    'evaluators': {'test': {'data': {'name': 'digits', 'split': 'test', 'batch_size': 360}, 'interval': '2ep'}},
    'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.1, 'momentum': 0.9},
    'max_duration': '8ep',
    'save_interval': '1ep',
    'save_num_checkpoints_to_keep': 1,
    'progress_bar': False,
}
SEARCH = {
    'name': 'small',
    'recipe': 'recipe.yaml',
    'metric': 'test/MulticlassAccuracy',
    'where': {'launcher': 'in_process'},
    'retries': 50,
    'methods': {
        'alone': {},
        'taught': {'teachers': {'policy': 'random', 'count': 2}, 'distillation': {'loss': 'kl_divergence'}},
    },
    'search': {
        'space': {'optimizer.lr': {'low': 0.01, 'high': 0.5, 'log': True}, 'model.width': [4, 6]},
        'sampler': {'name': 'tpe', 'n_startup_trials': 2},
        'pruner': {'name': 'median', 'n_startup_trials': 2, 'n_warmup_steps': 30},
        'runs': 6,
    },
}


def write_study(folder, recipe=None, **changed):
    """Recipe and study file in a folder; the study's own folder lies beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'recipe.yaml').write_text(yaml.safe_dump({**RECIPE, **(recipe or {})}))
    said = {key: value for key, value in {**SEARCH, **changed}.items() if value is not None}
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump({'folder': str(folder / 'study'), **said}, sort_keys=False))
    return path


COMPARISON = {
    'search': None,
    'methods': {'alone': {}, 'taught': {'teachers': 'latest', 'distillation': {'loss': 'kl_divergence'}}},
    'comparison': {'durations': ['2ep', '3ep'], 'earlier': {'duration': '3ep'}},
    'seeds': 2,
}


def start(path, log, *more, **environment):
    """A worker in a session of its own."""
    with open(log, 'ab') as file:
        return subprocess.Popen(
            [sys.executable, '-m', 'composer_kd.cli', 'study', 'run', str(path), '--plain', *more],
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, 'PYTHONUNBUFFERED': '1', **environment}, cwd=path.parent,
        )


def attempts(path):
    """All attempts by run."""
    claims = Claims(load_study(path), 0)
    try:
        return claims.attempts.all()
    finally:
        claims.shut()


def results(path):
    """What came of every run: all that does not depend on the clock."""
    spec = load_study(path)
    claims = Claims(spec, 0)
    try:
        found, trials = {}, claims.trials.everything()
        for key, tries in claims.attempts.all().items():
            folder, trial = RunFolder(claims.folder(key)), trials[key]
            record = folder.read_record()
            found[key] = {
                'outcome': tries[-1].outcome, 'finished': sum(t.outcome == tries[-1].outcome for t in tries),
                'status': record.status, 'batches': record.batches, 'params': trial.params,
                'teachers': [Path(teacher).name for teacher in trial.user_attrs['teachers']],
                'value': trial.value, 'steps': sorted(trial.intermediate_values.items()),
                'evaluations': [(e.batch, e.metrics) for e in record.evaluations],
                'weights': weights(folder),
            }
        return found
    finally:
        claims.shut()


def weights(folder):
    """Digest of the model in a run's latest checkpoint."""
    state = torch.load(folder.latest_checkpoint(), weights_only=False, map_location='cpu')['state']['model']
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
