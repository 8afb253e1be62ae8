"""Teachers whose answers lie on disk: alone, or beside the model that gives what is missing."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from composer.core import State
from torch import Tensor

from composer_kd.answers import Format, Manifest, Store
from composer_kd.answers.manifest import NAME
from composer_kd.answers.parts import INDEX, SEGMENTS, read_segments
from composer_kd.teachers.fetch import fetched, is_remote
from composer_kd.teachers.keeper import Keeper
from composer_kd.teachers.specs import TeacherSpec


class StoredTeacher:
    """A teacher of whom only answers are left.

    Args:
        spec: What the user asked for.
        keeper: Its store.
        manifest: Of the store.
    """

    placement = 'stored'
    told_of_preparation: ClassVar[dict[str, Any]] = {'prepared': [], 'resolution_agreement': None}

    def __init__(self, spec: TeacherSpec, keeper: Keeper, manifest: Manifest) -> None:
        self.name, self.weight, self.keeper = spec.name, spec.weight, keeper
        self.origin = f"{spec.origin} ({manifest.teacher.get('origin', 'unknown')})"
        self.digest = with_format(str(manifest.teacher.get('digest', '')), manifest.format)
        self.vocabulary = manifest.view.get('vocabulary')
        self.opaque = True
        self.shared: int | None = None
        self._released = False

    @property
    def released(self) -> bool:
        """Whether it is not read any more."""
        return self._released

    def place(self, state: State, placement: str) -> None:
        """Nothing: it lies where it lies."""

    def to_device(self, state: State) -> None:
        """Nothing: its answers go to the device with the batch."""

    def release(self) -> None:
        """Read no more."""
        self._released = True

    def flops(self, batch: Any, positions: Tensor | None = None) -> float:
        """None at all."""
        return 0.0


def with_format(digest: str, form: Format) -> str:
    """The digest of a teacher whose answers are not kept to the last bit: what is learnt from it is not the same."""
    if form.name == 'dense' and form.dtype == 'float32':
        return digest
    return hashlib.sha256(f'{digest} {json.dumps(form.plain(), sort_keys=True)}'.encode()).hexdigest()


def _local_for(said: str | None, manifest: Manifest) -> Path:
    """Where a store from elsewhere is fetched to: the same for all processes of this machine and user, and another
    one when the store there is another, so that no shard of an earlier one is taken for its own.
    """
    base = Path(said or os.path.join(tempfile.gettempdir(), f'composer_kd-answers-{os.getuid()}'))
    cost = json.dumps(dict(manifest.cost), sort_keys=True)
    return base / f'{manifest.identity}-{hashlib.sha256(cost.encode()).hexdigest()[:8]}'


def stored_teacher(spec: TeacherSpec, classes: int | None) -> StoredTeacher:
    """A teacher from its store alone; every rank calls this.

    Args:
        spec: What the user asked for.
        classes: Of the student, where that is known.

    Raises:
        FileNotFoundError: If there is no store.
        ValueError: If it is damaged or not complete where it must be, of another number of classes than the student,
            or the answers of another teacher than was asked for.
    """
    assert spec.cache is not None
    where, path = f'{spec.where}.cache', spec.cache.path
    if is_remote(path) or spec.cache.local is not None:
        with fetched(f'{path}/{NAME}') as file:
            manifest = Manifest.read(file, where)
        segments, shards = [], []
        if manifest.complete:
            with fetched(f'{path}/{SEGMENTS}') as file, fetched(f'{path}/{INDEX}') as index:
                segments = read_segments(file, where, index)
                shards = json.loads(index.read_text())['shards']
        store = Store(manifest, _local_for(spec.cache.local, manifest), where, path, segments, shards)
    else:
        store = Store.open(path, where)
        manifest = store.manifest
    shares = spec.align.vocabulary == 'shared'
    _check(spec, where, path, manifest, None if shares else classes)
    keeper = Keeper(where, path, store, False, manifest.format, manifest.teacher)
    teacher = StoredTeacher(spec, keeper, manifest)
    if shares:
        teacher.shared = _shared(where, manifest.format, classes)
    return teacher


def _shared(where: str, form: Format, classes: int | None) -> int:
    """How many logits stored answers and the student's have in common.

    Raises:
        ValueError: If that is not known, or the answers are of more words than the student has and not all there.
    """
    if classes is None:
        raise ValueError(
            f"{where}: vocabulary: 'shared', and how many logits the student gives is not known from its model. Give "
            'that model its num_classes.',
        )
    if form.classes > classes and form.name != 'dense':
        raise ValueError(
            f"{where}: vocabulary: 'shared' cuts the answers to {classes} of {form.classes} words, and those stored as "
            f"'{form.describe()}' cannot be cut. Store them as dense, or beside the teacher itself, which cuts them "
            'before.',
        )
    return min(form.classes, classes)


def _check(spec: TeacherSpec, where: str, path: str, manifest: Manifest, classes: int | None) -> None:
    if classes is not None and manifest.format.classes != classes:
        raise ValueError(
            f"{where}: the answers in '{path}' are over {manifest.format.classes} classes, and the student has "
            f'{classes}. Distillation on logits needs the same classes or vocabulary in the same order.',
        )
    digest = str(manifest.teacher.get('digest', ''))
    if spec.digest is not None and not digest.startswith(spec.digest):
        raise ValueError(
            f"{spec.where}.digest: the answers in '{path}' were to be those of the teacher {spec.digest}, and are "
            f"those of {digest[:16]} ({manifest.teacher.get('origin')}). Give the store that was meant, or this "
            'digest.',
        )


def keeper_for(
    spec: TeacherSpec, origin: str, digest: str, classes: int | None, temperature: float | None,
) -> Keeper:
    """The store beside a live teacher.

    Args:
        spec: What the user asked for.
        origin: Where the teacher comes from.
        digest: The teacher's.
        classes: Its classes, where that is known.
        temperature: Of the training's loss, where that is one number.

    Raises:
        FileNotFoundError: If there is no store and none is to be made.
        ValueError: If the store holds another teacher's answers, or answers in another form.
    """
    assert spec.cache is not None
    where, path = f'{spec.where}.cache', spec.cache.path
    teacher = {'name': spec.name, 'origin': origin, 'digest': digest}
    if spec.cache.fill and not (Path(path) / NAME).exists():
        if classes is None:
            raise ValueError(
                f"{where}: how many classes the teacher has is not known from its model. Give the student's model its "
                'num_classes, or write the store with composer-kd cache.',
            )
        form = Format.read(spec.cache.form, classes, temperature, f'{where}.format')
        return Keeper(where, path, None, True, form, teacher)
    store = Store.open(path, where)
    expected: dict[str, Any] = {'teacher': {'digest': digest}}
    if spec.cache.form is not None:
        expected['format'] = Format.read(
            spec.cache.form, store.format.classes, temperature, f'{where}.format',
        ).plain()
    elif classes is not None:
        expected['format'] = {'classes': classes}
    found = store.manifest.differences(expected)
    if found:
        raise ValueError(
            f"{where}: '{path}' holds other answers than this teacher's: {'; '.join(found)}. Give each teacher a store "
            'of its own, and leave the format out to take what there is.',
        )
    return Keeper(where, path, store, spec.cache.fill, store.format, teacher)
