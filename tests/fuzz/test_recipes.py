"""Recipes with a fault are refused by the name of what is wrong, or are none the worse for it."""

from __future__ import annotations

from hypothesis import event, given

from composer_kd.recipes import parse_recipe
from composer_kd.recipes.schema import Recipe
from tests.fuzz.cases import cases
from tests.fuzz.mutate import changes
from tests.fuzz.recipes import AGAINST, whole
from tests.fuzz.told import names, told


def test_the_recipe_has_every_key():
    assert set(whole()) == set(Recipe.model_fields)
    assert parse_recipe(whole()).plain().keys() == set(Recipe.model_fields)


@cases(1500)
@given(changes(whole()))
def test_a_changed_recipe_is_read_or_refused_by_name(change):
    recipe, message = told(lambda: parse_recipe(change.data))
    if message is not None:
        event('refused')
        assert names(message, change.path, AGAINST.get(change.path[0], ())), message
        return
    again = parse_recipe(recipe.plain())
    assert again == recipe or 'nan' in repr(recipe)
