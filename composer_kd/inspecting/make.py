"""From a teacher, a recipe and this machine to what is to be known before it teaches."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import yaml
from composer.core import get_precision_context

from composer_kd.batches import batch_size_of, target_of
from composer_kd.caching.asking import precision_of
from composer_kd.inspecting.calibration import best_temperature, nll, reliability, scaled_confidence
from composer_kd.inspecting.cost import bytes_of, time_teacher, weigh
from composer_kd.inspecting.layers import TOP, chosen, observe
from composer_kd.inspecting.result import Beside, Calibration, Identity, Inspected, Layer, Memory
from composer_kd.inspecting.rows import Rows, parts_of, read_rows, wanted
from composer_kd.inspecting.subject import Made, Subject, load, read_subject
from composer_kd.inspecting.verdict import judge
from composer_kd.recipes import Recipe
from composer_kd.teachers import Teacher

Tell = Callable[[str, float], None]
_READ = 0.7


def inspect_teacher(
    teacher: str, recipe: Recipe, *, student: str | None = None, evaluator: str | None = None,
    batches: int | None = None, layers: str = TOP, bins: int = 15, device: str | None = None, seconds: float = 10.0,
    tell: Tell = lambda what, share: None,
) -> Inspected:
    """Look at a model as the teacher of a recipe: what it is, how good it is, how sure of itself, and what it costs.

    Nothing is trained for good, and the recipe's run folder is not touched.

    Args:
        teacher: A run folder, the path or URI of a checkpoint, or in YAML what stands under ``teachers:``.
        recipe: The recipe that it would teach.
        student: A run folder whose model it is compared with; ``None`` for the recipe's own, if that holds a finished
            run.
        evaluator: Label of the recipe's evaluator whose data is taken; ``None`` for the first.
        batches: Of this data, the first so many; ``None`` for all, or as many as the evaluator takes.
        layers: Which are told: ``'top'``, ``'all'`` or a pattern of names.
        bins: Of confidence, 1 or more.
        device: ``'cpu'``, ``'gpu'`` or another of Composer's; ``None`` for the recipe's.
        seconds: How long steps are timed, about; 0 leaves that out.
        tell: Is told what is done now, and which share of all is done.

    Raises:
        ValueError: For a recipe without validation data, a teacher that does not fit or whose answers are not finite,
            or settings out of range.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher, student or data.

    Example:
        >>> import tempfile
        >>> from composer_kd.models import build_model
        >>> from composer_kd.recipes import parse_recipe
        >>> recipe = parse_recipe({
        ...     'run_name': 'a', 'model': {'name': 'digits_resnet', 'width': 4}, 'optimizer': 'adam',
        ...     'train_data': {'name': 'digits', 'batch_size': 8}, 'max_duration': '1ep',
        ...     'evaluators': {'validation': {'data': {'name': 'digits'}}},
        ... })
        >>> with tempfile.TemporaryDirectory() as place:
        ...     torch.save(build_model(recipe.model).state_dict(), f'{place}/new.pt')
        ...     found = inspect_teacher(f'{place}/new.pt', recipe, seconds=0)
        >>> found.rows, found.verdict.good
        (359, False)
    """
    if (batches is not None and batches < 1) or bins < 1 or not seconds >= 0:
        raise ValueError(
            f'expected batches and bins of 1 or more and seconds of 0 or more, got {batches}, {bins} and {seconds}.',
        )
    tell('getting ready', 0.0)
    subject = read_subject(recipe, teacher, student, evaluator, device)
    made = load(subject)
    asked = made.teacher
    identity = _identity(asked)
    with torch.random.fork_rng(devices=[]):
        shown, count, no_layers, memory = _look(subject, made, layers)
        rows = _read(subject, made, batches, tell)
    identity = replace(identity, prepared=list(asked.told_of_preparation['prepared']))
    beside = _beside(subject, made, rows)
    calibration, right = _calibration(rows, bins, subject.temperature), None
    if len(rows.labels):
        right = float((rows.teacher.first == rows.labels).mean())
    notes = [*subject.notes, *(f'{name}: cannot be computed here' for name in rows.left_out)]
    told = getattr(getattr(asked, 'alignment', None), 'told', '')
    if told:
        notes.append(f'made to fit the student: {told}')
    if _opaque(asked) and not identity.parameters:
        notes.append('it runs outside of torch, where its parameters and its memory cannot be seen')
    if batches is not None:
        notes.append('of the first batches alone, which are no random part of data that is sorted')
    del made, asked  # their memory is free before a training is timed
    gc.collect()
    timing = None
    if seconds > 0:
        timing, more = time_teacher(subject, seconds, lambda share: tell('steps', _READ + (1 - _READ) * share))
        notes += more
    commonest = float(np.bincount(rows.labels).max() / len(rows.labels)) if len(rows.labels) else None
    verdict = judge(
        len(rows.labels), right, commonest, calibration, beside, subject.no_student, timing, _named(subject),
    )
    return Inspected(
        recipe.run_name, subject.device.name, precision_of(subject.recipe, subject.device).value,
        identity, shown, count, no_layers, subject.label, rows.samples,
        len(rows.labels), rows.classes, rows.teacher.quality, right, commonest, calibration, beside,
        subject.no_student, timing, memory, verdict, notes,
    )


def _kind(teacher: Teacher) -> str:
    module: Any = teacher.module
    for name in ('model', 'module'):  # what Composer's wrappers hold
        inner = getattr(module, name, None)
        if isinstance(inner, torch.nn.Module):
            module = inner
            break
    return f'{type(module).__module__}.{type(module).__qualname__}'


def _opaque(teacher: Teacher) -> bool:
    return bool(getattr(teacher, 'opaque', False) or getattr(teacher.module, 'opaque', False))


def _identity(teacher: Teacher) -> Identity:
    parameters = list(teacher.module.parameters())
    return Identity(
        teacher.origin, _kind(teacher), teacher.digest, sum(p.numel() for p in parameters), bytes_of(teacher.module),
        sorted({str(p.dtype).removeprefix('torch.') for p in parameters}), [],
    )


def _named(subject: Subject) -> str:
    said = {key: value for key, value in subject.item.items() if key != 'name'}
    return f"--teacher '{yaml.safe_dump(said, default_flow_style=True, width=1000).strip()}'"


def _look(subject: Subject, made: Made, which: str) -> tuple[list[Layer], int, str, Memory | None]:
    """Bring the models to the device, and look at the teacher's layers and memory on one microbatch."""
    device, recipe = subject.device, subject.recipe
    part = next(parts_of(made.data, device, _microbatch(subject), 1, lambda share: None), None)
    if part is None:
        raise ValueError(f'evaluators.{subject.label}.data: there is no batch in it.')
    positions, _ = wanted(part, subject.target_key, subject.ignore_index, _shift(made))
    for model in (made.teacher, made.student):
        if model is not None:
            device.module_to_device(model.module)
    teacher, samples = made.teacher, batch_size_of(part) or 1
    precision = precision_of(recipe, device)

    def run() -> None:
        with get_precision_context(precision, recipe.precision_config):
            teacher.outputs(part, positions)
    module = teacher.module
    shown, every, why = list[Layer](), list[Layer](), ''
    if _opaque(teacher):
        why = 'it is a program, of which no layer can be tapped'
    else:
        labels = target_of(part, subject.target_key)
        tokens = labels.shape[1] if positions is not None else _tokens(part)
        every = observe(module, run, samples, tokens)
        shown = chosen(module, every, which)
    if subject.spec.prepare is not None:
        teacher.make_ready(device.tensor_to_device(torch.zeros(0)).device, precision)
        run()  # its first answer is checked, with the untouched model beside it
    unseen = _opaque(teacher) and next(module.parameters(), None) is None
    return shown, len(every), why, None if unseen else weigh(teacher.module, run, samples, device)


def _tokens(part: Any) -> int | None:
    words = part.get('input_ids') if isinstance(part, dict) or hasattr(part, 'get') else None
    return words.shape[1] if isinstance(words, torch.Tensor) and words.dim() == 2 else None


def _shift(made: Made) -> bool:
    return bool(getattr(made.judge, 'shift_labels', False))


def _microbatch(subject: Subject) -> Any:
    return subject.recipe.evaluators[subject.label].device_eval_microbatch_size


def _read(subject: Subject, made: Made, batches: int | None, tell: Tell) -> Rows:
    spec = subject.recipe.evaluators[subject.label]
    own = spec.subset_num_batches
    if batches is None and own is not None and own > 0:
        batches = own
    return read_rows(
        made.judge, made.teacher, made.student, made.data, subject.device,
        precision=precision_of(subject.recipe, subject.device), precision_config=subject.recipe.precision_config,
        metric_names=spec.metric_names, microbatch=_microbatch(subject), batches=batches,
        target_key=subject.target_key, ignore_index=subject.ignore_index, temperature=subject.temperature,
        tell=lambda share: tell('validation data', _READ * share),
    )


def _calibration(rows: Rows, bins: int, temperature: float) -> Calibration | None:
    if not len(rows.labels):
        return None
    seen = rows.teacher
    found = reliability(seen.confidence, seen.first == rows.labels, bins)
    best = best_temperature(rows.logits, rows.logits_labels)
    then = reliability(
        scaled_confidence(rows.logits, best), rows.logits.argmax(axis=1) == rows.logits_labels, bins,
    )
    entropy = float(seen.entropy.mean(dtype=np.float64))
    return Calibration(
        float(seen.confidence.mean(dtype=np.float64)), found.error, float(seen.nll.mean(dtype=np.float64)), best,
        nll(rows.logits, rows.logits_labels, best), then.error, len(rows.logits_labels), found, then, temperature,
        entropy, entropy / float(np.log(rows.classes)),
    )


def _beside(subject: Subject, made: Made, rows: Rows) -> Beside | None:
    if made.student is None or rows.student is None or subject.run is None:
        return None
    own = Beside(subject.run, made.student.digest, made.status, rows.student.quality)
    if not len(rows.labels):
        return own
    right, theirs = rows.teacher.first == rows.labels, rows.student.first == rows.labels
    return Beside(
        own.run, own.digest, own.status, own.quality, float(theirs.mean()),
        float(rows.student.nll.mean(dtype=np.float64)), float((rows.teacher.first == rows.student.first).mean()),
        float(rows.kl.mean(dtype=np.float64)), float((right & ~theirs).mean()), float((theirs & ~right).mean()),
    )
