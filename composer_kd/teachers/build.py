"""Teachers from what the user asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from composer.models import ComposerModel

from composer_kd.batches import Key, LogitsKey
from composer_kd.models.outside import raise_everywhere
from composer_kd.models.traits import traits_of
from composer_kd.teachers.aligning import Alignment, align
from composer_kd.teachers.kinds import is_opaque, kind_of, load_kind
from composer_kd.teachers.preparing import AUTO, prepare_opaque, refuse_impossible, with_resolution
from composer_kd.teachers.specs import TeacherSpec
from composer_kd.teachers.stored import StoredTeacher, keeper_for, stored_teacher
from composer_kd.teachers.teacher import (
    Teacher,
    outputs_known,
    refuse_another_vocabulary,
    refuse_shared_parameters,
)

log = logging.getLogger(__name__)

AnyTeacher = Teacher | StoredTeacher

_WORDS, _PADDING = 1000, 2048
"""More outputs than this are words, and so many more or fewer may be padding."""


class _Words(NamedTuple):
    name: str
    origin: str
    vocabulary: str | None



def _module_for(spec: TeacherSpec, student: ComposerModel) -> torch.nn.Module:
    # Building a model draws its initial weights; the training's generators must not notice.
    with torch.random.fork_rng(devices=[]):
        return load_kind(kind_of(spec.kind), spec.source, spec.settings, spec.where, student)


def _same_outputs(student: ComposerModel, theirs: int | None, spec: TeacherSpec) -> None:
    if not spec.compared:
        return
    own = outputs_known(student)
    if own is None or theirs is None or own == theirs or spec.align.vocabulary == 'shared':
        return
    padded = min(own, theirs) > _WORDS and abs(own - theirs) < _PADDING
    hint = (
        " If both have the same tokenizer and one's vocabulary is padded, set vocabulary: shared." if padded else ''
    )
    raise ValueError(
        f'{spec.where} ({spec.origin}) has {theirs} outputs and the student {own}. Distillation on logits needs '
        f'the same classes or vocabulary in the same order: choose a teacher made for this task.{hint}',
    )


def known_outputs(spec: TeacherSpec) -> int | None:
    """The number of a teacher's classes where that is known before it is loaded."""
    outputs = kind_of(spec.kind).outputs
    return None if outputs is None else outputs(spec.source, **spec.settings)


def _aligned(spec: TeacherSpec, module: torch.nn.Module, student: ComposerModel) -> Alignment:
    types = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    short = next(iter(types)) if len(types) == 1 and types != {torch.float32} and spec.kind != 'module' else None
    found = align(spec.align, traits_of(module), traits_of(student), f'{spec.where} ({spec.origin})', short)
    if spec.align.vocabulary == 'shared':
        own, theirs = outputs_known(student), outputs_known(module)
        if own is None or theirs is None:
            raise ValueError(
                f"{spec.where}.vocabulary: 'shared', and how many logits the {'student' if own is None else 'teacher'} "
                'gives is not known from its model. Give that model its num_classes.',
            )
        refuse_another_vocabulary(student, [_Words(spec.name, spec.origin, getattr(module, 'vocabulary', None))])
        found.shared = min(own, theirs)
    if found.told:
        log.info("Teacher '%s' is made to fit the student: %s.", spec.name, found.told[:500])
    return found


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
    _same_outputs(student, known_outputs(spec), spec)  # known before anything is downloaded
    module = _module_for(spec, student)
    _same_outputs(student, outputs_known(module), spec)
    if channels_last and spec.kind != 'module':  # a copy of the inputs for every convolution otherwise
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    key: Any = logits_key if spec.logits_key is None else spec.logits_key
    prepare = AUTO if spec.prepare is None else spec.prepare
    if prepare.digits is not None and spec.align.resolution is not None:
        raise ValueError(
            f'{spec.where}: resolution: {spec.align.resolution} says on which images the teacher was trained, and '
            f'prepare.resolution: {prepare.digits} that it is to see smaller ones. Give one.',
        )
    if is_opaque(module):
        prepare = prepare_opaque(prepare, spec.where)
    refuse_impossible(module, prepare, spec.where)
    aligned = _aligned(spec, module, student)
    teacher = Teacher(
        module, spec.name, spec.weight, spec.origin, input_key, target_key, key, spec.kind == 'module', prepare,
        aligned,
    )
    digests = teacher.digest, with_resolution(aligned.digest(teacher.digest), prepare.digits)
    if spec.digest is not None and not any(digest.startswith(spec.digest) for digest in digests):
        raise ValueError(
            f'{spec.where}.digest: {spec.origin} was to have the digest {spec.digest}, and has {teacher.digest[:16]}: '
            'it is not the teacher that was meant. Give that one, or this digest.',
        )
    teacher.digest = digests[1]
    if spec.cache is not None:
        known = outputs_known(module)
        known = aligned.shared or (outputs_known(student) if known is None else known)
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

    Example:
        >>> from composer_kd.models import build_model
        >>> from composer_kd.teachers import parse_teachers
        >>> student, other = (build_model({'name': 'digits_resnet', 'width': width}) for width in (4, 8))
        >>> [teacher.name for teacher in build_teachers(parse_teachers({'module': other, 'name': 'wide'}), student)]
        ['wide']
    """
    teachers: list[AnyTeacher] = []
    channels_last = _channels_last(student)
    for spec in specs:
        failed = None
        try:
            teachers.append(_build(spec, student, channels_last, input_key, target_key, logits_key, temperature))
        except Exception as error:  # what a user's own kind raises is theirs to choose
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
        if known_outputs(spec) is not None and not spec.here:
            _same_outputs(student, known_outputs(spec), spec)
            found[spec.name] = 'not on this machine: downloaded at the start'
    return {spec.name: found.get(spec.name, 'not on this machine, not looked at') for spec in specs}
