"""A recipe whose distillation is tuned: its teachers, and how long it is."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from composer.utils import dist

from composer_kd.answers import SampleLoader
from composer_kd.answers.manifest import NAME
from composer_kd.caching.who import read_yaml
from composer_kd.plan.building import build_distillation, build_parts, build_teacher
from composer_kd.plan.course import Course
from composer_kd.plan.make import course_of
from composer_kd.plan.neighbours import Neighbours
from composer_kd.plan.reading import read_sources
from composer_kd.recipes import Recipe, check_recipe
from composer_kd.teachers import live_kind
from composer_kd.tuning.steps import quiet, share_of

WHERE = 'algorithms.distillation'
NOMINAL = 10_000
"""Steps of a training whose length is not known beforehand."""


@dataclass(frozen=True)
class Subject:
    """What is tuned.

    Attributes:
        recipe: The recipe, with the teachers that were given beside it.
        said: Its distillation.
        own: Whether the recipe itself distils.
        names: Of the teachers.
        weights: Their shares.
        live: By name, the teachers that can be asked, without their stores.
        stored: By name, those whose answers are stored already.
        alike: By name, a teacher of the same architecture, which takes the same time.
        ranks: Of the training.
    """

    recipe: Recipe
    said: Mapping[str, Any]
    own: bool
    names: Sequence[str]
    weights: Sequence[float]
    live: Mapping[str, Mapping[str, Any]]
    stored: Mapping[str, Mapping[str, Any]]
    alike: Mapping[str, str]
    ranks: int = 1

    @property
    def batch_size(self) -> int:
        """Samples of this rank's batch."""
        return share_of(self.recipe, self.ranks)


@dataclass(frozen=True)
class Length:
    """How long the training is, and of what.

    Attributes:
        course: Of the training; of :data:`NOMINAL` steps where it is not known.
        known: Whether it is.
        samples: Of an epoch, over all ranks; ``None`` where not known.
        views: That are kept of a sample; ``None`` for a new one each epoch.
    """

    course: Course
    known: bool
    samples: int | None
    views: int | None

    @property
    def steps(self) -> int:
        """In all."""
        steps = self.course.steps
        assert steps is not None
        return steps


def read_subject(recipe: Recipe, teachers: Sequence[str] = (), ranks: int = 1) -> Subject:
    """Check a recipe as a training would, and look at its teachers.

    Args:
        recipe: The recipe.
        teachers: In YAML, teachers to take in place of the recipe's own.
        ranks: Of the training.

    Raises:
        ValueError: For a recipe that is not valid, or without teachers.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For a missing teacher.
    """
    if dist.get_world_size() > 1:
        raise ValueError('tune: measures in one process. Start it without the launcher, and give --gpus N instead.')
    share_of(recipe, ranks)
    own = 'distillation' in recipe.algorithms
    said = dict(recipe.algorithms.get('distillation') or {})
    if teachers:
        said['teachers'] = [read_yaml(text, '--teacher') for text in teachers]
    items = said.get('teachers')
    items = items if isinstance(items, list) else [] if items is None else [items]
    if not items:
        raise ValueError(
            "tune: the recipe has no teacher. Give one or more: --teacher '{run: FOLDER}', or set "
            f'{WHERE}.teachers.',
        )
    wrong = [item for item in items if not isinstance(item, Mapping)]
    if wrong:
        raise TypeError(f'--teacher: expected a mapping such as {{run: FOLDER}}, got {wrong[0]!r}.')
    said['teachers'] = [dict(item) for item in items]
    recipe = recipe.model_copy(update={'algorithms': {**recipe.algorithms, 'distillation': said}})
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        check_recipe(recipe)
    named = {str(item.get('name') or f'teacher{i}'): dict(item) for i, item in enumerate(items)}
    live = {
        name: {**{key: value for key, value in item.items() if key != 'cache'}, 'name': name}
        for name, item in named.items() if live_kind(item) is not None
    }
    stored = {name: {**read, 'name': name} for name, item in named.items() if (read := _stored(item)) is not None}
    with quiet():
        alike = _alike(recipe, live)
    weights = [float(item.get('weight', 1.0)) for item in items]
    return Subject(recipe, said, own, list(named), weights, live, stored, alike, ranks)


def _stored(item: Mapping[str, Any]) -> dict[str, Any] | None:
    """The teacher as its answers are read, where there are some; nothing is written to its store."""
    cache = item.get('cache')
    if cache is None or live_kind(item) is None:
        return None if cache is None else dict(item)
    cache = dict(cache) if isinstance(cache, Mapping) else {'path': cache}
    if not (Path(str(cache['path'])) / NAME).is_file():
        return None  # the recipe's own training would begin it
    return {**item, 'cache': {**cache, 'fill': False}}


def _alike(recipe: Recipe, live: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    student = build_parts(recipe)[0].model
    first: dict[str, str] = {}
    found = {}
    for index, (name, item) in enumerate(live.items()):
        model = build_teacher(item, index, recipe, student, Neighbours(None)).model
        sign: Any = name
        if model is not None:
            sizes = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
            kinds = [type(module).__name__ for module in model.modules()]
            # a setting of its own may make it slower or faster
            sign = repr([sizes, kinds, item.get('prepare'), item.get('logits_key')])
        found[name] = first.setdefault(sign, name)
    return found


def read_length(subject: Subject, loader: Any) -> Length:
    """How long the training is, from its data.

    Args:
        subject: What is tuned.
        loader: One rank's training data.
    """
    source = read_sources(subject.recipe)[0]
    said = course_of(subject.recipe, source)
    try:
        per_epoch: int | None = len(loader) // subject.ranks
    except TypeError:
        per_epoch = None
    subset = subject.recipe.train_subset_num_batches
    if subset > 0:
        per_epoch = subset if per_epoch is None else min(per_epoch, subset)
    course = Course(said.duration, said.batch_size, said.tokens, per_epoch)
    known = course.steps is not None
    if not known:
        course = Course(type(said.duration).from_timestring(f'{NOMINAL}ba'), said.batch_size, said.tokens, per_epoch)
    keyed = isinstance(loader, SampleLoader)
    chosen: Any = loader.chosen if keyed else None
    return Length(course, known, None if chosen is None else len(chosen), loader.views if keyed else None)


def settings_of(subject: Subject, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The plain settings of the distillation with some of them changed, checked.

    Raises:
        ValueError: For settings that do not go together.
    """
    kd = {**subject.said, **changes}
    kd['teachers'] = [{'checkpoint': '', 'name': name, 'weight': weight}
                      for name, weight in zip(subject.names, subject.weights, strict=True)]
    algorithms = {**subject.recipe.algorithms, 'distillation': kd}
    with quiet(), torch.device('meta'):
        settings = build_distillation(subject.recipe.model_copy(update={'algorithms': algorithms}))
    assert settings is not None
    return settings
