"""A training on two real ranks: its recipe, its start by the command that a user gives, and what is left of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from composer_kd.recipes import parse_recipe, train
from composer_kd.runs import RunFolder, checkpoints
from composer_kd.teachers import read_weights

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 30.0
"""Seconds that a rank waits for another."""

MARGIN = 30.0
"""Seconds that the launcher gives its ranks to end, and more than a process takes to notice."""


def make_teachers(folder: Path) -> Path:
    """Two earlier runs, made in this process."""
    for seed, name in enumerate(('first', 'second')):
        train(parse_recipe({
            'run_name': name, 'run_folder': str(folder / name), 'seed': seed, 'model': {'name': 'digits_resnet', 'width': 4},
            'train_data': {'name': 'digits', 'batch_size': 64}, 'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.1},
            'max_duration': '1ep', 'progress_bar': False,
        }))
    return folder


def recipe(**changes: Any) -> dict[str, Any]:
    """A student's recipe that saves all the time and draws by chance wherever it can: 99 batches."""
    return {
        'run_name': 'student', 'run_folder': 'run', 'seed': 5,
        'model': {'name': 'digits_resnet', 'width': 64},  # a checkpoint of some megabytes
        'train_data': {'name': 'digits', 'batch_size': 32, 'noise': 0.4, 'shift': 1},
        'evaluators': {
            'validation': {'data': {'name': 'digits', 'split': 'validation', 'batch_size': 512}},
            'test': {'data': {'name': 'digits', 'split': 'test', 'batch_size': 512}, 'interval': '1dur'},
        },
        'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.05, 'momentum': 0.9},
        'scheduler': {'name': 'cosine_annealing_with_warmup', 't_warmup': '8ba'},
        'algorithms': {
            'mixup': {'alpha': 0.2},
            'distillation': {
                'teachers': [{'run': 'teachers/first'}, {'run': 'teachers/second'}], 'teachers_per_batch': 1,
                'probability': 0.7, 'start': '0.1dur', 'end': '0.9dur', 'check_batches': 0,
            },
        },
        'max_duration': '3ep', 'eval_interval': '2ep', 'save_interval': '3ba', 'save_num_checkpoints_to_keep': 3,
        'progress_bar': False, 'dist_timeout': TIMEOUT, **changes,
    }


class Launch:
    """``composer -n RANKS scripts/train.py RECIPE`` and all the processes that belong to it.

    Args:
        recipe: Path of the recipe; no other training may have it.
        log: Where output goes.
        script: In place of ``scripts/train.py``.
        ranks: How many.
    """

    def __init__(self, recipe: Path, log: Path, script: str, ranks: int = 2) -> None:
        self.recipe, self.log = recipe, log
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), str(ROOT / script), str(recipe)]
        environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}
        with open(log, 'wb') as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment,
                cwd=recipe.parent, start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors='replace')

    def living(self) -> list[psutil.Process]:
        """Every process that has the recipe on its command line, whoever its parent is."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.recipe) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def pids(self) -> dict[str, int]:
        """Process ids of what there is of ``rank 0``, ``rank 1`` and ``launcher``."""
        found = {}
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                rank = process.environ().get('RANK') if process.pid != self.process.pid else None
                found['launcher' if rank is None else f'rank {rank}'] = process.pid
        return found

    def gone(self, within: float = TIMEOUT + MARGIN) -> float:
        """Wait until nothing is left of it.

        Returns:
            The seconds that it took.
        """
        began = time.monotonic()
        while self.process.poll() is None or self.living():
            assert time.monotonic() - began < within, f'{self.living()} still live\n{self.text()}'
            time.sleep(0.05)
        return time.monotonic() - began

    def end(self, seconds: float = 600) -> int:
        """Wait for its end; the launcher's exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f'no end after {seconds} s\n{self.text()}') from None
        finally:
            self.clear()

    def clear(self) -> None:
        """Leave nothing behind, however a test ended."""
        for process in self.living():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


class Student:
    """A run with its recipe and its teachers in one folder, which may be copied.

    Args:
        root: The folder; what is there already is taken as it is.
        teachers: Where the teachers are copied from.
        script: What the launcher starts.
        **changes: To the recipe.
    """

    def __init__(self, root: Path, teachers: Path, script: str = 'scripts/train.py', **changes: Any) -> None:
        self.script = script
        self.root, self.path = root, root / 'student.yaml'
        root.mkdir(parents=True, exist_ok=True)
        if not (root / 'teachers').exists():
            shutil.copytree(teachers, root / 'teachers', symlinks=True)
        plain = recipe(**changes)
        self.path.write_text(yaml.safe_dump(plain, sort_keys=False))
        self.folder = RunFolder(root / plain['run_folder'])
        self._launches = 0

    def start(self, ranks: int = 2) -> Launch:
        """Give the command."""
        self._launches += 1
        return Launch(self.path, self.root / f'launch{self._launches}.log', self.script, ranks)

    def run(self, ranks: int = 2) -> tuple[int, str]:
        """Give the command and wait; exit status and output."""
        launch = self.start(ranks)
        return launch.end(), launch.text()

    def batch(self) -> int:
        """The batch of the newest checkpoint that is whole."""
        found = checkpoints.newest(self.folder.checkpoints)
        return 0 if found is None else checkpoints.counts(found.name)[0]

    def until(self, launch: Launch, batch: float) -> None:
        """Wait for a checkpoint of that batch."""
        began = time.monotonic()
        while self.batch() < batch:
            assert launch.process.poll() is None, launch.text()
            assert time.monotonic() - began < 300, launch.text()
            time.sleep(0.02)

    def kept(self) -> dict[str, bytes]:
        """What a start that fails must leave as it is, byte for byte."""
        files = [self.folder.record_path, self.folder.recipe_path, *self.folder.checkpoints.iterdir()]
        return {str(path): path.read_bytes() for path in files}


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def same_weights(one: RunFolder, other: RunFolder) -> bool:
    """Whether two runs ended with the same bits."""
    ours, theirs = (read_weights(str(folder.latest_checkpoint())) for folder in (one, other))
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def account(folder: RunFolder) -> dict[str, Any]:
    """A record without its times, and without the name of its last checkpoint."""
    record = folder.read_record().model_dump()
    for key in ('started_at', 'updated_at', 'train_seconds', 'data_seconds', 'wall_seconds', 'checkpoint'):
        del record[key]
    for part in (record['kd'], *record['evaluations']):
        for key in [key for key in part if key.endswith('seconds') or key == 'overhead']:
            del part[key]
    return record


_METRIC = re.compile(r'^\[metric\]\[batch=(\d+)\]: (\S+): (\S+) \n', re.MULTILINE)
_DECIDED = re.compile(r'kd/(active|weight|teacher/.*)|loss/.*')


def decisions(log: Path) -> dict[tuple[int, str], str]:
    """What a start's log says of each batch: whether, who, how strongly, and the losses."""
    found = _METRIC.findall(log.read_text())
    return {(int(batch), name): value for batch, name, value in found if _DECIDED.fullmatch(name)}


def logs(folder: RunFolder) -> list[Path]:
    """Rank zero's logs, in the order of the starts."""
    found = [(int(path.name.removeprefix('start').split('-')[0]), path) for path in folder.logs.glob('start*-rank0.txt')]
    return [path for _, path in sorted(found)]
