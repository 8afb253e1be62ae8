"""A recipe's teacher and data, ready to be asked about any sample outside of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from composer.core import DataSpec, Precision, get_precision_context
from composer.devices import Device
from composer.utils import dist, get_device
from torch import Tensor

from composer_kd.answers import Format, Identity, Manifest, SampleLoader
from composer_kd.batches import batch_size_of, counting, positions_of, target_of
from composer_kd.caching.when import Batches, asked_batches, epochs_of
from composer_kd.caching.who import who_is_asked
from composer_kd.models import apply_surgery
from composer_kd.recipes.build import build_train_data, cap_threads, check_data
from composer_kd.recipes.parts import make_parts
from composer_kd.recipes.schema import Recipe
from composer_kd.settings import Settings
from composer_kd.teachers import Teacher, TeacherSpec, build_teachers, outputs_known
from composer_kd.teachers.packing import pack_rows, versions

WHERE = 'cache'


@dataclass
class Asked:
    """A teacher and the data it is asked about.

    Attributes:
        recipe: The recipe.
        settings: Of its distillation, if it has one.
        spec: The teacher as it was named.
        teacher: The teacher, on the device.
        form: How its answers are written.
        loader: The recipe's training data.
        data: What Composer knows of it.
        device: Where the teacher runs.
        batches: Which batches of the recipe's own training are distilled; ``None`` where that is not known.
        views: The views that are stored, ascending.
        shift: Whether labels are those of the tokens before.
        share: The share of these batches on which this teacher is asked.
    """

    recipe: Recipe
    settings: Settings | None
    spec: TeacherSpec
    teacher: Teacher
    form: Format
    loader: SampleLoader
    data: DataSpec
    device: Device
    batches: Batches | None
    views: Sequence[int]
    shift: bool
    share: float = 1.0

    @property
    def precision(self) -> Precision:
        """In which the teacher runs: that of the recipe."""
        return precision_of(self.recipe, self.device)

    @property
    def ignore_index(self) -> int:
        """The label that does not count."""
        return -100 if self.settings is None else self.settings.ignore_index

    def manifest(self) -> Manifest:
        """What the store belongs to."""
        identity = self.loader.identity or Identity({}, {})
        return Manifest(
            {
                'name': self.spec.name, 'origin': self.spec.origin, 'digest': self.teacher.digest,
                'prepared': ', '.join(self.teacher.told_of_preparation['prepared']),
            },
            identity.data, identity.view, {'ignore_index': self.ignore_index, 'shift': self.shift}, self.form,
            self.precision.value, versions(),
        )

    def ask(self, batch: Any) -> Iterator[tuple[Tensor, Any, Tensor | None]]:
        """The teacher's logits for a batch in host memory, microbatch by microbatch, each with the microbatch on the
        device and the positions of its logits.
        """
        size = self.recipe.device_train_microbatch_size
        size = size if isinstance(size, int) else batch_size_of(batch) or 1
        for part in self.data.split_batch(self.data.batch_transforms(batch), size):
            part = self.data.microbatch_transforms(self.device.batch_to_device(part))
            positions = positions_of(part)  # as in a training, so that the answer is the same to the last bit
            with get_precision_context(self.precision, self.recipe.precision_config):
                yield self.teacher.outputs(part, positions), part, positions

    def rows(self, batch: Any, keys: Sequence[int]) -> Iterator[tuple[Tensor, int, bool]]:
        """The answer to each sample of a batch in host memory: its rows ``(R, row_bytes)`` on the host, how many they
        are, and whether they are finite.
        """
        key = None if self.settings is None else self.settings.target_key
        begin = 0
        for logits, part, positions in self.ask(batch):
            counted = counting(target_of(part, key), self.ignore_index, self.shift)
            count = batch_size_of(part)
            assert count is not None
            mine = list(keys[begin:begin + count])
            raw, counts, finite = pack_rows(self.form, logits, positions, counted, mine, WHERE)
            yield from zip(raw.cpu().split(counts), counts, finite, strict=True)
            begin += count


def precision_of(recipe: Recipe, device: Device) -> Precision:
    """In which a recipe trains: what it says, or Composer's default for the device."""
    return Precision('fp32' if recipe.precision is None and device.name == 'cpu' else recipe.precision or 'amp_fp16')


def prepare(
    recipe: Recipe, teacher: str | None = None, form: Any = None, views: int | None = None,
    batch_size: int | None = None,
) -> Asked:
    """Make teacher and data of a recipe ready; every rank calls this.

    Args:
        recipe: The recipe; nothing of it is trained and its run folder is not touched.
        teacher: The name of one of its teachers, or a teacher as YAML; ``None`` for the only one.
        form: How answers are written, as :meth:`composer_kd.answers.Format.read` takes it.
        views: How many views are stored; ``None`` for those that the recipe keeps, or else that its training shows
            while it is distilled.
        batch_size: Samples that a rank loads at once; ``None`` for the recipe's.

    Raises:
        ValueError: For a recipe that is not valid, data that does not say which samples it gives, or a number of views
            that is neither given nor known.
        FileNotFoundError: For a missing teacher or data.
    """
    cap_threads()
    check_data(recipe)
    device = get_device(recipe.device)
    if dist.get_world_size() > 1 and not dist.is_initialized():
        dist.initialize_dist(device, recipe.dist_timeout)
    settings, spec, share = who_is_asked(recipe, teacher)
    others = {name: value for name, value in recipe.algorithms.items() if name != 'distillation'}
    student: Any = apply_surgery(make_parts(recipe.model_copy(update={'algorithms': others})).model, others)
    keys = (None, None, None) if settings is None else (settings.input_key, settings.target_key, settings.logits_key)
    prepare = spec.prepare if settings is None else settings.specs[0].prepare
    built = build_teachers([replace(spec, cache=None, prepare=prepare)], student, *keys)[0]
    assert isinstance(built, Teacher)
    device.module_to_device(built.module)
    built.make_ready(device.tensor_to_device(torch.zeros(0)).device, precision_of(recipe, device))
    classes = outputs_known(built.module) if built.shared is None else built.shared
    classes = outputs_known(student) if classes is None else classes
    if classes is None:
        raise ValueError('--format: how many classes the teacher has is not known from its model or the student.')
    said = form if form is not None else None if spec.cache is None else spec.cache.form
    heat = None if settings is None else settings.fixed_temperature
    data = build_train_data(recipe, batch_size)
    loader: Any = data.dataloader
    if not isinstance(loader, SampleLoader):
        raise ValueError(
            f"train_data: '{recipe.train_data['name']}' does not say which samples it gives; answers are stored by "
            'sample. Make its loader with make_loader (see the README on stored answers).',
        )
    batches = asked_batches(recipe, settings, len(loader))
    return Asked(
        recipe, settings, spec, built, Format.read(said, classes, heat, '--format'), loader, data, device, batches,
        _views(loader, batches, views), bool(getattr(student, 'shift_labels', False)), share,
    )


def _views(loader: SampleLoader, batches: Batches | None, said: int | None) -> Sequence[int]:
    if said is not None:
        if loader.views is not None and said > loader.views:
            raise ValueError(f'--views: the recipe keeps {loader.views} views of a sample, fewer than {said}.')
        return range(said)
    if loader.views is not None:
        return range(loader.views)
    if batches is None:
        raise ValueError(
            "--views: how many epochs are distilled is not known from the recipe's durations. Say how many views to "
            'store, or set train_data.views.',
        )
    if not len(batches):
        raise ValueError(
            '--views: the recipe distils on no batch at all, so it asks for no answers. Look at start, end and '
            'max_duration, or say how many views to store.',
        )
    return epochs_of(batches, len(loader))


def waits(device: Device) -> None:
    """Wait until the device has done what it was asked."""
    if device.name == 'gpu':
        torch.cuda.synchronize()
