"""The README of an export: how to load it, what it was trained on, what it reached."""

from __future__ import annotations

import re
from pathlib import Path

from composer_kd.components import ALGORITHMS
from composer_kd.export.probe import EvaluationData, Probe
from composer_kd.export.vision import preparation
from composer_kd.export.written import Written
from composer_kd.names import split_named
from composer_kd.recipes import Recipe
from composer_kd.recipes.tasks.glue.tasks import TASKS
from composer_kd.recipes.tasks.images.folder import class_folders
from composer_kd.runs import Record

# More names than these are found in other files.
_NAMED = 20


def class_names(recipe: Recipe, classes: int) -> list[str]:
    """The names of the classes in the order of their numbers, where they are known on this machine.

    Args:
        recipe: Of the run.
        classes: How many there are.

    Returns:
        The names; none where they are not known, or are numbers themselves.
    """
    name, settings = split_named(recipe.train_data, 'train_data')
    names: list[str] = []
    if name == 'imagenet':
        folder = Path(settings['path']) / str(settings.get('split') or 'train')
        names = class_folders(folder) if folder.is_dir() else []
    elif name == 'glue':
        names = [label for label in TASKS[settings['task']].classes if not label.isdigit()]
    return names if len(names) == classes else []


def _classes(recipe: Recipe, classes: int, names: list[str]) -> str:
    name, settings = split_named(recipe.train_data, 'train_data')
    if name == 'glue' and not TASKS[settings['task']].classes:
        return 'The output is one number, a score.'
    if names and len(names) <= _NAMED:
        return f"{classes} classes: {', '.join(f'{number} {label}' for number, label in enumerate(names))}."
    order = {
        'imagenet': 'in the alphabetical order of their folders',
        'cifar': f"as in CIFAR-{classes}'s {'fine ' if classes == 100 else ''}labels",
    }.get(name, "as in the data's labels")
    return f'{classes} classes, numbered from 0 {order}.'


def _inputs(data: EvaluationData, probe: Probe) -> list[str]:
    if 'images' not in probe.inputs:
        return []
    channels, height, width = probe.inputs['images'].shape[1:]
    prepared = preparation(data)
    told = [f'Inputs are float32 images of {channels} x {height} x {width} (channels, height, width)']
    if prepared is not None:
        mean, std = (', '.join(map(str, values)) for values in (prepared.mean, prepared.std))
        told.append(f'RGB with pixels in 0 to 1, less the mean ({mean}), divided by ({std})')
    if prepared is not None and prepared.resize is not None:
        told.append(f'the middle of a picture whose shorter side was resized to {prepared.resize} pixels, bilinearly')
    if data.name == 'digits':
        told.append("pixels in 0 to 1, scikit-learn's divided by 16")
    return [f"{'; '.join(told)}."]


def quality_of(record: Record | None, checkpoint: str, latest: bool) -> list[str]:
    """Lines on how good the weights in a checkpoint are, by the batch in its name.

    Args:
        record: Of the run; ``None`` if it has none.
        checkpoint: Its path.
        latest: Whether it is the run's latest: the run's last evaluation is told then, if none is of its batch.
    """
    evaluations = record.evaluations if record is not None else []
    found = re.search(r'ba(\d+)', Path(checkpoint).name)
    told = f'The weights are those after {int(found[1]):,} batches. ' if found else ''
    same = [evaluation for evaluation in evaluations if found and evaluation.batch == int(found[1])]
    chosen = same or (evaluations if latest else [])
    if not chosen:
        return [f'{told}It is not known here how good they are.' if told else 'It is not known here how good it is.']
    values = [
        f'- {label}: {metric} {value:.6g}'
        for label, metrics in chosen[-1].metrics.items() for metric, value in metrics.items()
    ]
    return [f'{told}Evaluated after {chosen[-1].batch:,} batches of training:', '', *values]


def card(
    written: Written, recipe: Recipe, data: EvaluationData, probe: Probe, names: list[str], parameters: int,
    quality: list[str],
) -> str:
    """The text of the README.

    Args:
        written: What was written.
        recipe: Of the run.
        data: What it was evaluated on.
        probe: What was asked of it.
        names: Of the classes, as far as they are known.
        parameters: Their number.
        quality: Of :func:`quality_of`.
    """
    name, settings = split_named(recipe.train_data, 'train_data')
    kind = settings.get('task') or (f"{name} {settings['classes']}" if 'classes' in settings else name)
    known = set(ALGORITHMS.names())
    algorithms = [
        algorithm for algorithm in recipe.algorithms
        if algorithm in known and ALGORITHMS.get(algorithm).__module__.startswith('composer.')
    ]
    outputs = probe.expected.shape[-1]
    lines = [
        f'# {written.title}', '', f'{parameters:,} parameters, float32.', *written.words,
        *_inputs(data, probe), *([] if probe.expected.dim() > 2 else [_classes(recipe, outputs, names)]), '',
        '## How to load it', '', 'Run in this folder:', '',
    ]
    for library, code in written.code.items():
        lines += [f'With {library}:', '', '```python', code.strip(), '```', '']
    means = f", with {', '.join(algorithms)}" if algorithms else ''
    lines += ['## Training and quality', '', f'Trained on the data "{kind}"{means}.', '', *quality, '']
    return '\n'.join([*lines, 'Digests of the files are in `SHA256SUMS`.', ''])
