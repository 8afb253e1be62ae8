"""What is inspected: a teacher, a recipe's validation data, and the student beside it; checked before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from composer.devices import Device
from composer.models import ComposerModel
from composer.utils import dist, get_device

from composer_kd.caching.who import read_yaml, settings_with
from composer_kd.callbacks import untouched
from composer_kd.models import apply_surgery
from composer_kd.names import nearest, split_named
from composer_kd.recipes import DATA, Recipe
from composer_kd.recipes.build import cap_threads, check_data
from composer_kd.recipes.fits import check_fit
from composer_kd.recipes.parts import construct, make_parts
from composer_kd.runs import RunFolder
from composer_kd.teachers import Teacher, TeacherSpec, build_teachers, parse_teachers
from composer_kd.teachers.fetch import is_remote
from composer_kd.tuning.steps import quiet

TEACHER, STUDENT = 'teacher', 'student'


@dataclass(frozen=True)
class Subject:
    """What is inspected.

    Attributes:
        recipe: The recipe, on the device that was asked for.
        said: Its distillation without its teachers; empty without one.
        label: Of the evaluator whose data is taken.
        item: The teacher as a training takes it.
        spec: The same, read.
        run: The student's run folder; ``None`` for none.
        no_student: Then, why.
        temperature: At which the recipe distils.
        device: Where all runs.
        notes: What a reader should know of all this.
    """

    recipe: Recipe
    said: Mapping[str, Any]
    label: str
    item: Mapping[str, Any]
    spec: TeacherSpec
    run: str | None
    no_student: str
    temperature: float
    device: Device
    notes: tuple[str, ...]

    @property
    def ignore_index(self) -> int:
        """The label that does not count."""
        return int(self.said.get('ignore_index', -100))

    @property
    def target_key(self) -> Any:
        """Where a batch holds the labels."""
        return self.said.get('target_key')


def read_teacher(text: str) -> dict[str, Any]:
    """The teacher as it stands under ``teachers:``, from what a user names it by.

    Args:
        text: A run folder, the path or URI of a checkpoint, or a mapping in YAML.

    Raises:
        ValueError: For YAML that is none, or stored answers, which are no model.
        TypeError: For YAML that is no mapping.
        FileNotFoundError: For a path with nothing there.

    Example:
        >>> read_teacher('{torchvision: resnet18}')
        {'name': 'teacher', 'torchvision': 'resnet18'}
    """
    if text.lstrip().startswith('{') or ': ' in text:
        item = read_yaml(text, 'TEACHER')
        if not isinstance(item, Mapping):
            raise TypeError(f'TEACHER: expected a mapping such as {{run: FOLDER}}, got {item!r}.')
        if set(item) <= {'cache', 'name', 'weight', 'digest'} and 'cache' in item:
            raise ValueError(
                f"TEACHER: {item['cache']!r} is a store of answers, and a model is inspected. Give the model that "
                "wrote it, as '{run: FOLDER}'; 'composer-kd cache verify' looks at the store.",
            )
        return {'name': TEACHER, **{key: value for key, value in item.items() if key not in ('cache', 'weight')}}
    path = Path(text)
    if not is_remote(text) and not path.exists():
        raise FileNotFoundError(
            f"TEACHER: there is nothing at '{text}' (relative to {os.getcwd()}). Give a run folder, a checkpoint, or a "
            "teacher in YAML as in a recipe: '{torchvision: resnet18}'.",
        )
    folder = RunFolder(path)
    is_run = path.is_dir() and (folder.recipe_path.is_file() or folder.record_path.is_file())
    return {'name': TEACHER, 'run' if is_run else 'checkpoint': text}


def read_subject(
    recipe: Recipe, teacher: str, student: str | None = None, evaluator: str | None = None, device: str | None = None,
) -> Subject:
    """Check what is asked for, before anything is loaded.

    Args:
        recipe: The recipe.
        teacher: As :func:`read_teacher` takes it.
        student: A run folder; ``None`` for the recipe's own, if it holds a finished run.
        evaluator: Label of one of the recipe's evaluators; ``None`` for the first.
        device: ``'cpu'``, ``'gpu'`` or another of Composer's; ``None`` for the recipe's.

    Raises:
        ValueError: For a recipe without validation data, an unknown evaluator, a device that is not here, or what
            :func:`read_teacher` refuses.
        TypeError: Likewise.
        FileNotFoundError: For a missing teacher or student.
    """
    if dist.get_world_size() > 1:
        raise ValueError('inspect: measures in one process. Start it without the launcher.')
    if not recipe.evaluators:
        raise ValueError(
            'evaluators: the recipe has no validation data to inspect a teacher on. Add an evaluator, as in '
            'evaluators={validation: {data: {name: ...}}}.',
        )
    label = next(iter(recipe.evaluators)) if evaluator is None else evaluator
    if label not in recipe.evaluators:
        raise ValueError(
            f"--evaluator: the recipe has none called '{label}', but {', '.join(recipe.evaluators)}."
            f'{nearest(label, list(recipe.evaluators))}',
        )
    item = read_teacher(teacher)
    spec = parse_teachers([item])[0]
    recipe, found, notes = _placed(recipe, device)
    check_data(recipe)
    said = dict(recipe.algorithms.get('distillation') or {})
    said.pop('teachers', None)
    if said:
        with quiet():
            settings_with(said, item)  # checks them all
    if 'run' in item and (status := _status(str(item['run']))) != 'finished':
        notes.append(f'the run of the teacher is {status}: its latest checkpoint is taken')
    run, no_student = _student(recipe, item, student)
    return Subject(
        recipe, said, label, item, spec, run, no_student, _temperature(said, notes), found, tuple(notes),
    )


def _placed(recipe: Recipe, name: str | None) -> tuple[Recipe, Device, list[str]]:
    name = name or recipe.device
    if (name == 'gpu' and not torch.cuda.is_available()) or (name == 'mps' and not torch.backends.mps.is_available()):
        raise ValueError(f"--device: there is no '{name}' on this machine. Give --device cpu, or leave it out.")
    device, notes = get_device(name), list[str]()
    changes: dict[str, Any] = {'device': name}
    if device.name != 'gpu':
        if recipe.precision not in (None, 'fp32'):
            notes.append(f'in fp32, as there is no {recipe.precision} here: times on the device that trains are others')
        changes |= {'precision': 'fp32', 'precision_config': None}
    return recipe.model_copy(update=changes), device, notes


def _student(
    recipe: Recipe, item: Mapping[str, Any], said: str | None,
) -> tuple[str | None, str]:
    if said is not None:
        try:
            folder = RunFolder(said)
            folder.read_recipe()
            folder.latest_checkpoint()
        except (FileNotFoundError, ValueError) as error:
            raise type(error)(f'--student: {error}') from error
        return said, ''
    own, other = recipe.run_folder, 'give another with --student RUN'
    if not Path(own).exists():
        return None, f"there is no run in the recipe's run folder '{own}' yet; give one with --student RUN"
    if 'run' in item and os.path.realpath(str(item['run'])) == os.path.realpath(own):
        return None, f"the run in the recipe's run folder '{own}' is the teacher itself; {other}"
    try:
        folder = RunFolder(own)
        folder.read_recipe()
        status = folder.read_record().status
        folder.latest_checkpoint()
    except (FileNotFoundError, ValueError) as error:
        return None, f"the recipe's run folder '{own}' has no run that can be read: {' '.join(str(error).split())}"
    if status != 'finished':
        return None, f"the run in the recipe's run folder '{own}' did not finish; --student {own} takes it all the same"
    return own, ''


def _temperature(said: Mapping[str, Any], notes: list[str]) -> float:
    """The first number that the recipe gives as a temperature of logits."""
    losses = said.get('losses')
    every = [said.get('loss'), *(losses if isinstance(losses, list) else [])]
    for loss in every:
        heat = loss.get('temperature') if isinstance(loss, Mapping) else None
        if isinstance(heat, (int, float)) and not isinstance(heat, bool) and heat > 0:
            return float(heat)
        if heat is not None:
            notes.append("the recipe's temperature follows a schedule: entropy is told at temperature 1")
            break
    return 1.0


@dataclass(frozen=True)
class Made:
    """What was loaded.

    Attributes:
        judge: The model that the recipe trains, untrained: its metrics are the task's.
        teacher: On the CPU.
        student: Likewise; ``None`` without one.
        status: Of the student's run.
        data: The evaluator's.
    """

    judge: ComposerModel
    teacher: Teacher
    student: Teacher | None
    status: str
    data: DataSpec


def load(subject: Subject) -> Made:
    """Load models and data.

    Raises:
        ValueError: For a teacher or a student that does not fit, or data that cannot be built.
        TypeError: For settings of a wrong type.
        FileNotFoundError: For what is missing.
    """
    cap_threads()
    recipe, said = subject.recipe, subject.said
    others = {name: value for name, value in recipe.algorithms.items() if name != 'distillation'}
    with untouched(), quiet():
        parts = make_parts(recipe.model_copy(update={'algorithms': others, 'start_from': None}))
        judge = apply_surgery(parts.model, others)
        # what these load is a ComposerModel, which is called on the whole batch
        own = subject.spec.kind in ('run', 'checkpoint')
        keys = None if own else said.get('input_key'), subject.target_key, said.get('logits_key')
        teacher = build_teachers([subject.spec], judge, *keys)[0]
        assert isinstance(teacher, Teacher), 'stores were refused by name'
        student = None if subject.run is None else _load_student(subject, judge)
    status = '' if subject.run is None else _status(subject.run)
    return Made(judge, teacher, student, status, build_data(recipe, subject.label, judge))


def _load_student(subject: Subject, judge: ComposerModel) -> Teacher:
    try:
        spec = parse_teachers([{'run': subject.run, 'name': STUDENT}])[0]
        built = build_teachers([spec], judge, None, subject.target_key, subject.said.get('logits_key'))[0]
    except (FileNotFoundError, ValueError, TypeError) as error:
        raise type(error)(f'--student: {error}') from error
    assert isinstance(built, Teacher)
    return built


def _status(run: str) -> str:
    try:
        return RunFolder(run).read_record().status
    except (FileNotFoundError, ValueError):
        return 'unknown'


def build_data(recipe: Recipe, label: str, model: ComposerModel) -> DataSpec:
    """The data of one of a recipe's evaluators, as a single rank evaluates on it.

    Args:
        recipe: The recipe.
        label: Of the evaluator.
        model: What the data is held against.

    Raises:
        ValueError: For a setting that the data refuses, damaged data, or data that the model cannot take.
        FileNotFoundError: For missing data.
    """
    where = f'evaluators.{label}.data'
    said = {'batch_size': recipe.train_data['batch_size'], **recipe.evaluators[label].data}
    name, settings = split_named(said, where)
    size = settings.pop('batch_size')
    built = construct(DATA, name, settings, where, batch_size=size, seed=recipe.seed, train=False)
    check_fit(model, {where: built})
    return built if isinstance(built, DataSpec) else DataSpec(built)
