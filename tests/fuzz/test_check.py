"""Recipes with a fault, built as far as they can be without data: refused by name, or are none the worse for it."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import event, given

from composer_kd.callbacks import untouched
from composer_kd.plan import plan_recipe
from composer_kd.recipes import check_recipe, parse_recipe
from composer_kd.runs import RunFolder
from tests.fuzz.cases import cases
from tests.fuzz.mutate import changes
from tests.fuzz.recipes import AGAINST, buildable
from tests.fuzz.told import names, told


@pytest.fixture(scope='module', autouse=True)
def _here(tmp_path_factory):
    """A folder with two runs that could teach, as far as can be seen from outside."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('here'))
        for name in ('a', 'b'):
            folder = RunFolder(f'runs/{name}')
            folder.write_recipe({'model': {'name': 'digits_resnet', 'width': 4}})
            folder.checkpoints.mkdir()
            torch.save({}, folder.checkpoints / 'ep1-ba6-rank0.pt')
        yield


def checked(data):
    # No memory for weights: a width may be anything now.
    with warnings.catch_warnings(), untouched(), torch.device('meta'):
        warnings.simplefilter('ignore')
        return check_recipe(parse_recipe(data))


def test_the_recipe_can_be_built():
    checked(buildable())
    assert plan_recipe(parse_recipe(buildable()), ranks=1).distilling.active_steps


@cases(400)
@given(changes(buildable()))
def test_a_changed_recipe_is_built_or_refused_by_name(change):
    _, message = told(lambda: checked(change.data))
    event('refused' if message else 'built')
    if message is not None:
        assert names(message, change.path, AGAINST.get(change.path[0], ())), message


@cases(30)
@given(changes(buildable()))
def test_a_changed_recipe_is_planned_or_refused_by_name(change):
    plan, message = told(lambda: plan_recipe(parse_recipe(change.data), ranks=1))
    event('refused' if message else 'planned')
    if message is None:
        assert plan.model_dump_json()
        return
    assert names(message, change.path, AGAINST.get(change.path[0], ())), message
