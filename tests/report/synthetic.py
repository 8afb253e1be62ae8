"""Run folders of studies that nobody trained: what a study's worker writes, with numbers that behave like real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from composer_kd.runs import Distilled, Evaluation, Flops, Hardware, Record, RunFolder, TeacherUse
from composer_kd.runs.study import StudyNote, write_note

METRIC = 'test/MulticlassAccuracy'

# Method: teachers, share of the batches with distillation, gain in quality of a short run.
METHODS: dict[str, tuple[int, float, float]] = {
    'baseline': (0, 0.0, 0.0),
    'always on': (1, 1.0, 0.10),
    'first 25 %': (1, 0.25, 0.08),
    'every 4th batch': (1, 0.25, 0.03),
    'one of five teachers': (1, 1.0, 0.09),
    'five averaged': (5, 1.0, 0.12),
}
TEACHER, LOSS, DATA = 0.33, 0.04, 0.05


def run(
    folder: Path, *, method: str, duration: float, seed: int, quality: float, teachers: int = 0, share: float = 0.0,
    tags: Mapping[str, str] | None = None, origins: Sequence[Path] = (), noise: float = 1.0, gpus: int = 0, **changes: Any,
) -> None:
    """One run of ``duration`` epochs of 100 batches."""
    batches = int(100 * duration)
    own = 0.1 * batches * noise
    kd = None
    if teachers:
        on = share * own
        kd = Distilled(
            active_batches=int(share * batches), kd_seconds=on * (TEACHER * teachers + LOSS),
            teacher_seconds=on * TEACHER * teachers, loss_seconds=on * LOSS, overhead=TEACHER * teachers + LOSS,
        )
    train = own + (kd.kd_seconds * 1.06 if kd else 0.0)
    name = METRIC.split('/')[1]
    fields: dict[str, Any] = {
        'status': 'finished', 'run_name': folder.name, 'seed': seed, 'started_at': '2024-05-01T10:00:00Z',
        'updated_at': '2024-05-01T11:00:00Z', 'max_duration': f'{duration:g}ep', 'batches': batches,
        'epochs': int(duration), 'samples': 32 * batches, 'train_seconds': train, 'wall_seconds': 1.15 * train,
        'tags': {'method': method, 'role': 'run', **(tags or {})}, 'kd': kd, 'data_seconds': DATA * own,
        'hardware': Hardware(cpu='AMD EPYC', cpu_cores=2, gpu='A100' if gpus else None, gpu_count=gpus),
        'world_size': max(gpus, 1),
        'flops': Flops(total=3e9 * 32 * batches * (1 + share * teachers / 3)),
        'teachers': [TeacherUse(name=path.name, origin=f'run:{path}') for path in origins],
        'evaluations': [Evaluation(
            batch=batches, epoch=int(duration), sample=1, train_seconds=train,
            metrics={'test': {name: quality, 'CrossEntropy': 2.5 * (1 - quality)}},
        )],
    }
    RunFolder(folder).write_record(Record(**(fields | changes)))
    recipe: dict[str, Any] = {'run_name': folder.name, 'seed': seed}
    if teachers:
        recipe['algorithms'] = {'distillation': {'teachers': [{'run': str(path)} for path in origins]}}
    RunFolder(folder).write_recipe(recipe)


def reached(duration: float, gain: float, draw: random.Random) -> float:
    """Quality at the end of a training of that many epochs."""
    return 0.78 - 0.36 / duration ** 0.5 + gain / duration + draw.gauss(0.0, 0.012)


def slug(name: str) -> str:
    return ''.join(c if c.isalnum() else '-' for c in name.lower()).strip('-') or 'x'


def note(folder: Path, kind: str, methods: Sequence[str], **changes: Any) -> None:
    fields: dict[str, Any] = {
        'name': folder.name, 'kind': kind, 'metric': METRIC, 'higher_is_better': True, 'baseline': methods[0],
        'reference': 'five averaged' if 'five averaged' in methods else None, 'methods': list(methods),
        'label': 'Test accuracy', 'title': 'Noisy handwritten digits',
    }
    write_note(folder, StudyNote(**(fields | changes)))


def comparison(
    folder: Path, methods: Mapping[str, tuple[int, float, float]] = METHODS, durations: Sequence[float] = (2, 4, 8, 16),
    seeds: int = 5, earlier: int = 5, gpus: int = 0, study: bool = True, **changes: Any,
) -> Path:
    """A comparison: earlier runs, then every method with every duration and seed."""
    draw = random.Random(0)
    runs = folder / 'runs'
    pool = [runs / f'earlier-{i}' for i in range(earlier)]
    for i, path in enumerate(pool):
        run(path, method='earlier run', duration=24, seed=1000 + i, quality=reached(24, 0.0, draw), gpus=gpus,
            tags={'study': folder.name, 'kind': 'comparison', 'role': 'earlier', 'replicate': str(i), 'index': str(i)})
    for seed in range(seeds):
        for duration in durations:
            for method, (teachers, share, gain) in methods.items():
                run(
                    runs / f'{slug(method)}-{duration:g}ep-seed{seed}', method=method, duration=duration, seed=seed,
                    quality=reached(duration, gain, draw), teachers=teachers, share=share, noise=draw.uniform(0.97, 1.03),
                    origins=pool[:max(teachers, 1)] if teachers else (), gpus=gpus,
                    tags={'study': folder.name, 'kind': 'comparison', 'replicate': str(seed), 'index': '0'},
                )
    if study:
        note(folder, 'comparison', list(methods), **changes)
    return folder


def search(folder: Path, runs: int = 12, replicates: int = 5, failed: Sequence[int] = (), **changes: Any) -> Path:
    """Searches with and without earlier runs as teachers; runs at ``failed`` places did not finish."""
    draw = random.Random(1)
    methods = {'without KD': (0, 0.0), 'learns from the best': (1, 0.25)}
    for method, (teachers, share) in methods.items():
        for replicate in range(replicates):
            chain = folder / 'runs' / f'{slug(method)}-seed{replicate}'
            best: tuple[float, Path] | None = None
            for index in range(runs):
                lr = 10 ** draw.uniform(-2, 0)
                path = chain.with_name(f'{chain.name}-run{index:02d}')
                taught = teachers if best else 0
                quality = 0.72 - 0.12 * abs(draw.gauss(0, 0.7)) + (0.03 if taught else 0.0)
                run(
                    path, method=method, duration=4, seed=1000 * replicate + index, quality=quality, teachers=taught,
                    share=share, origins=(best[1],) if best and taught else (), noise=draw.uniform(0.95, 1.05),
                    tags={
                        'study': folder.name, 'kind': 'search', 'replicate': str(replicate), 'index': str(index),
                        'params': json.dumps({'optimizer.lr': lr, 'train_data.batch_size': draw.choice([32, 64])}),
                    },
                    **({'status': 'unfinished'} if index in failed else {}),
                )
                if index not in failed and (best is None or quality > best[0]):
                    best = (quality, path)
    note(folder, 'search', list(methods), **changes)
    return folder


def sequence(folder: Path, steps: int = 5, replicates: int = 5, **changes: Any) -> Path:
    """Continual retraining on growing data, with and without the run before as teacher."""
    draw = random.Random(2)
    methods = {'from scratch': 0, 'learns from the latest': 1}
    for step in range(steps):
        for replicate in range(replicates):
            for method, teachers in methods.items():
                taught = teachers if step else 0
                chain = folder / 'runs' / f'{slug(method)}-seed{replicate}'
                run(
                    chain.with_name(f'{chain.name}-step{step}'), method=method, duration=3 + 2 * step,
                    seed=1000 * replicate + step, teachers=taught, share=0.25, noise=draw.uniform(0.97, 1.03),
                    quality=0.55 + 0.25 * (1 - 0.6 ** step) + (0.025 if taught else 0.0) + draw.gauss(0, 0.01),
                    origins=(chain.with_name(f'{chain.name}-step{step - 1}'),) if taught else (),
                    tags={'study': folder.name, 'kind': 'sequence', 'replicate': str(replicate), 'index': str(step),
                          'step': str(step)},
                )
    note(folder, 'sequence', list(methods), **changes)
    return folder
