"""A way to distil as YAML, to be pasted into the recipe."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import yaml

from composer_kd.recipes.tasks import DATA
from composer_kd.teachers import live_kind
from composer_kd.tuning.choices import Choice
from composer_kd.tuning.subject import Subject


def to_paste(subject: Subject, choice: Choice) -> dict[str, Any]:
    """The part of a recipe that distils in that way.

    Stored answers are written by the first run that asks for them (``fill``), or beforehand by ``composer-kd cache``.
    Runs of other seeds find them only if they show the same views, so that ``train_data.view_seed`` is set, too.

    Args:
        subject: The recipe.
        choice: The way.
    """
    kd = {**subject.said, **choice.changes}
    if not choice.stored:
        # a store that the recipe begins or reads by itself stays; another way leaves it out
        if choice.changes:
            kd['teachers'] = [_live(item) for item in kd['teachers']]
        return {'algorithms': {'distillation': kd}}
    kd['teachers'] = [
        _stored(item, store_of(subject, name)) for item, name in zip(kd['teachers'], subject.names, strict=True)
    ]
    found: dict[str, Any] = {'algorithms': {'distillation': kd}}
    name = str(subject.recipe.train_data['name'])
    takes_seed = 'view_seed' in inspect.signature(DATA.get(name)).parameters
    if takes_seed and subject.recipe.train_data.get('view_seed') is None and len(subject.stored) < len(subject.names):
        found['train_data'] = {'view_seed': subject.recipe.seed}
    return found


def in_yaml(part: Mapping[str, Any]) -> str:
    """The part as text.

    Example:
        >>> print(in_yaml({'algorithms': {'distillation': {'end': '0.5dur', 'teachers': [{'run': 'runs/a'}]}}}), end='')
        algorithms:
          distillation:
            end: 0.5dur
            teachers:
            - run: runs/a
    """
    return yaml.safe_dump(dict(part), sort_keys=False, default_flow_style=False, allow_unicode=True, width=120)


def store_of(subject: Subject, teacher: str) -> str:
    """Where the answers of a teacher are to be stored.

    Args:
        subject: The recipe.
        teacher: The teacher's name.
    """
    name = f'{subject.recipe.run_name}-{teacher}'
    return f"stores/{re.sub('[^A-Za-z0-9._-]+', '-', name)}"


def _live(item: Mapping[str, Any]) -> dict[str, Any]:
    return dict(item) if live_kind(item) is None else {key: value for key, value in item.items() if key != 'cache'}


def _stored(item: Mapping[str, Any], path: str) -> dict[str, Any]:
    return dict(item) if 'cache' in item else {**item, 'cache': {'path': path, 'fill': True}}
