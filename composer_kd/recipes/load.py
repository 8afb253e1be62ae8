"""A recipe from a file: its bases merged under it, the command line over it, interpolations resolved."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from composer_kd.recipes.errors import in_one_paragraph
from composer_kd.recipes.layers import override, read_layers, resolve
from composer_kd.recipes.schema import Recipe


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    ``base: other.yaml`` (relative to the file that says it) is merged under the file: mappings key by key, anything
    else replaced. A key set to null, in a file over its base or on the command line, removes what the base says.
    Interpolations such as ``${run_name}`` or ``${oc.env:HOME}`` are resolved after all is merged; what they resolve to
    is written to the run folder, so keep secrets out of recipes.

    Args:
        path: The file.
        overrides: ``key=value`` with a dotted key, the value in YAML; list items by number
            (``algorithms.distillation.teachers[0].run=runs/a``).

    Returns:
        The recipe, checked by itself; :func:`composer_kd.recipes.check_recipe` holds its components against what
        they are made with.

    Raises:
        FileNotFoundError: For a missing file or base.
        ValueError: For a file that is no YAML mapping, bases in a circle, an override that cannot be applied, an
            interpolation that cannot be resolved, or a recipe that says what none may say; in one paragraph.

    Example:
        >>> recipe = load_recipe('yamls/digits/baseline.yaml', ['optimizer.lr=0.05', 'max_duration=2ep'])
        >>> recipe.optimizer['lr'], recipe.max_duration
        (0.05, '2ep')
    """
    said = read_layers(path)
    for text in overrides:
        said = override(said, text)
    return parse_recipe(resolve(said, path))


def parse_recipe(said: Mapping[str, Any]) -> Recipe:
    """The recipe of plain data, as :meth:`composer_kd.runs.RunFolder.read_recipe` returns it.

    Raises:
        ValueError: If it says what no recipe may say; in one paragraph.

    Example:
        >>> parse_recipe({'run_name': 'a', 'model': 'm', 'train_data': {'name': 'd', 'batch_size': 8},
        ...               'optimizer': 'adam', 'max_duration': '1ep'}).run_folder
        'runs/a'
    """
    try:
        return Recipe.model_validate(said)
    except ValidationError as error:
        raise ValueError(in_one_paragraph(error)) from error
