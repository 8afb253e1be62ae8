"""Recipes and the trainings they describe.

Names are loaded when they are first used, so that what needs no torch (:mod:`~composer_kd.recipes.layers`,
:mod:`~composer_kd.recipes.errors`) starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd.recipes.build import build_trainer, check_recipe, train
    from composer_kd.recipes.folder import recipe_digest
    from composer_kd.recipes.load import load_recipe, parse_recipe
    from composer_kd.recipes.main import train_main
    from composer_kd.recipes.schema import Recipe
    from composer_kd.recipes.tasks import DATA

__all__ = [
    'DATA', 'Recipe', 'build_trainer', 'check_recipe', 'load_recipe', 'parse_recipe', 'recipe_digest', 'train',
    'train_main',
]

_HOMES = {
    'DATA': 'tasks', 'Recipe': 'schema', 'build_trainer': 'build', 'check_recipe': 'build', 'load_recipe': 'load',
    'parse_recipe': 'load', 'recipe_digest': 'folder', 'train': 'build', 'train_main': 'main',
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f'composer_kd.recipes.{_HOMES[name]}'), name)
    raise AttributeError(f"module 'composer_kd.recipes' has no attribute '{name}'")
