"""Which teacher of a recipe a store is written for, and what its training asks of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import yaml

from composer_kd.distillation import Distillation
from composer_kd.names import described, nearest
from composer_kd.recipes.parts import check_component, told_at
from composer_kd.recipes.schema import Recipe
from composer_kd.settings import Settings
from composer_kd.teachers import TeacherSpec, live_kind, parse_teachers


def _listed(settings: Mapping[str, Any] | None) -> list[Any]:
    """The teachers of a recipe's distillation as they were written, each with its name."""
    said = None if settings is None else settings.get('teachers')
    items = said if isinstance(said, list) else [] if said is None else [said]
    return [{'name': f'teacher{i}', **item} if isinstance(item, Mapping) else item for i, item in enumerate(items)]


def _choose(items: list[Any], said: str | None) -> Any:
    """The teacher that is asked, as it was written.

    Raises:
        ValueError: If it is not clear which, or is one of whom only answers are left.
    """
    names = [str(item.get('name')) for item in items if isinstance(item, Mapping)]
    if said is not None and '{' in said:
        item = read_yaml(said, '--teacher')
    elif said is None:
        if not items:
            raise ValueError("--teacher: the recipe has no teacher. Give one: --teacher '{run: FOLDER}'.")
        if len(items) > 1:
            raise ValueError(
                f"--teacher: the recipe has {len(items)} ({', '.join(names)}), and a store holds the answers of one. "
                f'Say which: --teacher {names[0] if names else "NAME"}.',
            )
        item = items[0]
    else:
        if said not in names:
            raise ValueError(
                f"--teacher: the recipe has none called '{said}', but {', '.join(names) or 'none at all'}."
                f"{nearest(said, names)} Give one of these names, or a teacher as '{{run: FOLDER}}'.",
            )
        item = next(one for one in items if isinstance(one, Mapping) and one.get('name') == said)
    if not isinstance(item, Mapping) or 'cache' not in item:
        return item
    if live_kind(item) is None:
        raise ValueError(
            f"--teacher: '{item.get('name', 'teacher0')}' is a store itself ({described(item['cache'])}). Give the "
            "model whose answers are to be stored: --teacher '{run: FOLDER}'.",
        )
    # what is to be written need not be there yet
    cache = item['cache']
    cache = {'path': cache} if isinstance(cache, str) else cache
    return {**item, 'cache': {**cache, 'fill': True} if isinstance(cache, Mapping) else cache}


def read_yaml(text: str, where: str) -> Any:
    """What an option says in YAML.

    Raises:
        ValueError: If it is none.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f'{where}: {text!r} is not valid YAML: {" ".join(str(error).split())}') from None
    if found is None:
        raise ValueError(f'{where}: is empty. Leave it out for the default.')
    return found


def who_is_asked(recipe: Recipe, said: str | None) -> tuple[Settings | None, TeacherSpec, float]:
    """The settings of a recipe's distillation, its teacher that is asked, and on which share of batches it is.

    The recipe's other teachers need not be there.

    Args:
        recipe: The recipe.
        said: The name of one of its teachers, or a teacher as YAML; ``None`` for the only one.

    Raises:
        ValueError: If it is not clear which, or is one of whom only answers are left.
        TypeError: For a setting of another kind.
        FileNotFoundError: For a teacher that is not there.
    """
    given = recipe.algorithms.get('distillation')
    items = _listed(given)
    chosen = _choose(items, said)
    spec = parse_teachers([chosen])[0]
    if given is None:
        return None, spec, 1.0
    count = 1 if given.get('sampling') == 'by_rank' else given.get('teachers_per_batch')
    share = 1.0 if count is None or (said is not None and '{' in said) else count / len(items)
    return settings_with(given, chosen), spec, share


def settings_with(given: Mapping[str, Any], teacher: Any) -> Settings:
    """Settings of a distillation with one teacher in place of all."""
    where = 'algorithms.distillation'
    given = {**given, 'teachers': [teacher], 'teachers_per_batch': None}
    check_component(Distillation, given, where)
    defaults = {p.name: p.default for p in inspect.signature(Distillation).parameters.values()}
    settings: Settings = told_at(
        where, 'distillation', Distillation, lambda: Settings.read(**{**defaults, **given}),
    )
    return settings
