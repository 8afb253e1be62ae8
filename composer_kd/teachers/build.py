"""Teachers from what the user asked for."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from composer.models import ComposerModel

from composer_kd.batches import Key, LogitsKey
from composer_kd.models import build_model
from composer_kd.models.outside import raise_everywhere
from composer_kd.models.published import classes_of, load_published
from composer_kd.models.surgery import apply_surgery
from composer_kd.runs import RunFolder
from composer_kd.teachers.fitting import load_weights
from composer_kd.teachers.preparing import AUTO, refuse_impossible, with_resolution
from composer_kd.teachers.specs import TeacherSpec
from composer_kd.teachers.stored import StoredTeacher, keeper_for, stored_teacher
from composer_kd.teachers.teacher import (
    Teacher,
    outputs_known,
    refuse_another_vocabulary,
    refuse_shared_parameters,
)
from composer_kd.teachers.weights import read_weights

log = logging.getLogger(__name__)

AnyTeacher = Teacher | StoredTeacher


def model_of_run(path: str) -> ComposerModel:
    """The model of an earlier run: its architecture, rewritten as its algorithms rewrote it, with its latest weights.

    Args:
        path: The run folder.

    Returns:
        The model on the CPU, in eval mode. It evaluates to the quality the run recorded at its latest checkpoint.

    Raises:
        FileNotFoundError: If there is no such folder or no checkpoint in it.
        ValueError: If the folder holds no run, or its weights do not fit its recipe.
    """
    folder = RunFolder(path)
    recipe = folder.read_recipe()
    if not isinstance(recipe.get('model'), Mapping):
        raise ValueError(f'{folder.recipe_path} names no model, so the architecture of this run is not known.')
    # What a run started from need not be downloaded to be overwritten.
    said = recipe['model']
    architecture = {key: said[key] for key in said if (said.get('name'), key) != ('resnet', 'weights')}
    model = apply_surgery(build_model(architecture, f'{folder.recipe_path}: model'), recipe.get('algorithms') or {})
    checkpoint = str(folder.latest_checkpoint())
    load_weights(model, read_weights(checkpoint), f'run {path}', checkpoint)
    try:
        if folder.read_record().status != 'finished':
            log.warning('The run in %s did not finish; its latest checkpoint (%s) is taken.', path, checkpoint)
    except (FileNotFoundError, ValueError) as error:
        log.warning('The run in %s has no readable record; its checkpoint %s is taken. (%s)', path, checkpoint, error)
    return model.eval()


def _module_for(spec: TeacherSpec, student: ComposerModel, where: str) -> torch.nn.Module:
    if spec.kind == 'module':
        assert isinstance(spec.source, torch.nn.Module)
        return spec.source
    # Building a model draws its initial weights; the training's generators must not notice.
    with torch.random.fork_rng(devices=[]):
        if spec.kind == 'run':
            return model_of_run(spec.source)
        if spec.weights is not None:
            return load_published(spec.source, spec.weights, where)
        if spec.model is None:
            module: torch.nn.Module = copy.deepcopy(student)
        else:
            module = apply_surgery(build_model(spec.model, f'{where}.model'), spec.algorithms)
        load_weights(module, read_weights(spec.source), where, spec.source)
    return module


def _same_outputs(student: ComposerModel, theirs: int | None, spec: TeacherSpec) -> None:
    if not spec.compared:
        return
    own = outputs_known(student)
    if own is not None and theirs is not None and own != theirs:
        raise ValueError(
            f'{spec.where} ({spec.origin}) has {theirs} outputs and the student {own}. Distillation on logits needs '
            'the same classes or vocabulary in the same order: choose a teacher made for this task.',
        )


def _channels_last(model: torch.nn.Module) -> bool:
    """Whether any convolution's weights lie channels last and only so."""
    return any(
        p.ndim == 4 and not p.is_contiguous() and p.is_contiguous(memory_format=torch.channels_last)
        for p in model.parameters()
    )


def _build(
    spec: TeacherSpec, student: ComposerModel, channels_last: bool, input_key: Key, target_key: Key,
    logits_key: LogitsKey, temperature: float | None,
) -> AnyTeacher:
    if spec.kind == 'cache':
        return stored_teacher(spec, outputs_known(student))
    if spec.weights is not None:  # known before anything is downloaded
        _same_outputs(student, classes_of(spec.weights), spec)
    module = _module_for(spec, student, spec.where)
    _same_outputs(student, outputs_known(module), spec)
    if channels_last and spec.kind != 'module':  # a copy of the inputs for every convolution otherwise
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    key: Any = logits_key if spec.logits_key is None else spec.logits_key
    prepare = AUTO if spec.prepare is None else spec.prepare
    refuse_impossible(module, prepare, spec.where)
    teacher = Teacher(
        module, spec.name, spec.weight, spec.origin, input_key, target_key, key, spec.kind == 'module', prepare,
    )
    digests = teacher.digest, with_resolution(teacher.digest, prepare.digits)
    if spec.digest is not None and not any(digest.startswith(spec.digest) for digest in digests):
        raise ValueError(
            f'{spec.where}.digest: {spec.origin} was to have the digest {spec.digest}, and has {teacher.digest[:16]}: '
            'it is not the teacher that was meant. Give that one, or this digest.',
        )
    teacher.digest = digests[1]
    if spec.cache is not None:
        known = outputs_known(module)
        known = outputs_known(student) if known is None else known
        teacher.keep(keeper_for(spec, teacher.origin, teacher.digest, known, temperature))
    return teacher


def build_teachers(
    specs: Sequence[TeacherSpec], student: ComposerModel, input_key: Key = None, target_key: Key = None,
    logits_key: LogitsKey = None, temperature: float | None = None,
) -> list[AnyTeacher]:
    """Load every teacher, on the CPU, and look at what can be seen without data; every rank of a training calls this.

    Args:
        specs: What the user asked for.
        student: The student after the other algorithms' surgery.
        input_key: Where a batch holds a plain module's input.
        target_key: Where a batch holds the labels.
        logits_key: Where outputs hold the logits, unless the teacher says otherwise.
        temperature: Of the training's loss, where that is one number: stored answers may be answers at one.

    Raises:
        FileNotFoundError: For a missing folder or checkpoint, or published weights that cannot be downloaded.
        ValueError: For weights that cannot be read or do not fit, a number of classes other than the student's,
            another digest than was asked for, or a teacher that shares parameters with the student.
    """
    teachers: list[AnyTeacher] = []
    channels_last = _channels_last(student)
    for spec in specs:
        failed = None
        try:
            teachers.append(_build(spec, student, channels_last, input_key, target_key, logits_key, temperature))
        except (FileNotFoundError, ValueError, TypeError, RuntimeError) as error:
            failed = error
        raise_everywhere(failed)  # the others would wait for this rank at the next teacher
    live = [teacher for teacher in teachers if isinstance(teacher, Teacher)]
    if input_key is not None and live and all(isinstance(t.module, ComposerModel) for t in live):
        raise ValueError(
            f'input_key: {input_key!r} says where a plain module finds its input, and every teacher is a '
            'ComposerModel, which is called on the whole batch. Leave it out.',
        )
    refuse_shared_parameters(student, live)
    refuse_another_vocabulary(student, teachers)
    return teachers


def _kept(teacher: AnyTeacher) -> str:
    keeper = teacher.keeper
    if keeper is None:
        return ''
    stored = 0 if keeper.store is None else keeper.store.samples
    return f', {stored:,} stored answers ({keeper.form.describe()})'


def look_at_teachers(
    specs: Sequence[TeacherSpec], student: ComposerModel, input_key: Key = None, target_key: Key = None,
    logits_key: LogitsKey = None, fits: Callable[[Sequence[AnyTeacher]], None] | None = None,
    temperature: float | None = None,
) -> dict[str, str]:
    """Load every teacher that lies on this machine and let it go again, to see that it can be loaded and fits.

    Args:
        specs: What the user asked for.
        student: The student after the other algorithms' surgery.
        input_key: As of :func:`build_teachers`, and so are ``target_key`` and ``logits_key``.
        target_key: Where a batch holds the labels.
        logits_key: Where outputs hold the logits.
        fits: Refuses teachers that do not go together with the rest of the settings.
        temperature: As of :func:`build_teachers`.

    Returns:
        By name, the first digits of each teacher's digest, or that it lies elsewhere and was not looked at.

    Raises:
        FileNotFoundError: As :func:`build_teachers`.
        ValueError: Likewise.
    """
    here = [spec for spec in specs if spec.here]
    # what input_key is for may lie elsewhere
    teachers = build_teachers(
        here, student, input_key if len(here) == len(specs) else None, target_key, logits_key, temperature,
    )
    if fits is not None:
        fits(teachers)
    found = {teacher.name: f'fits, digest {teacher.digest[:16]}{_kept(teacher)}' for teacher in teachers}
    for spec in specs:
        if spec.weights is not None and not spec.here:
            _same_outputs(student, classes_of(spec.weights), spec)
            found[spec.name] = 'not on this machine: downloaded at the start'
    return {spec.name: found.get(spec.name, 'not on this machine, not looked at') for spec in specs}
