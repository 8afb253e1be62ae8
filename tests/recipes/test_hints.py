import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, Union

import pytest
import torch
from composer.core import Time

from composer_kd import components
from composer_kd.recipes.hints import check_types, fits, hints_of, in_words
from composer_kd.recipes.tasks import DATA

REGISTRIES = [components.ALGORITHMS, components.CALLBACKS, components.LOGGERS, components.OPTIMIZERS, components.SCHEDULERS]


@pytest.mark.parametrize(('value', 'hint', 'fine'), [
    (1, int, True), (True, int, False), (1.5, int, False), ('1', int, False),
    (1, float, True), (1.5, float, True), (True, float, False), ('1', float, False),
    (1, bool, False), (False, bool, True), ('a', str, True), (1, str, False),
    (None, int | None, True), (None, int, False), (1, int | None, True),
    ('1ep', str | Time, True), ('soon', str | Time, False), (3, str | Time | int, True),
    (['a'], list[str], True), ('a', list[str], False), ([1], Sequence[str], False), ([0.9, 1], tuple[float, float], True),
    ({'a': 1}, dict[str, Any], True), ([], dict[str, Any], False),
    ('a', Literal['a', 'b'], True), ('c', Literal['a', 'b'], False),
    (3, Union[int, str], True), ([], Union[int, str], False),  # noqa: UP007
    (0.1, float | torch.Tensor, True), ('a', float | torch.Tensor, False), ([0.1], float | torch.Tensor, False),
    ([0.9], tuple[float, float], False), ([0.9, 0.9, 0.9], tuple[float, ...], True), ([0.9, 'a'], tuple[float, str], True),
    ('sum', Callable[[int], int], False), ('anything', Any, True),
])
def test_plain_data_fits_or_not(value, hint, fine):
    assert fits(value, hint) is fine


def test_words_say_what_is_expected():
    assert in_words(str | Time | None) == "a time string such as '0.5dur', '3ep' or '100ba' or null"
    assert in_words(Sequence[int]) == 'a list of a whole number'


def everything():
    return [(registry.kind, name, registry.get(name)) for registry in [*REGISTRIES, DATA] for name in registry.names()]


@pytest.mark.parametrize(('kind', 'name', 'target'), everything(), ids=lambda item: item if isinstance(item, str) else '')
def test_every_default_is_accepted(kind, name, target):
    defaults = {
        key: parameter.default for key, parameter in inspect.signature(target).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    check_types(defaults, hints_of(target), name, target)


def test_hints_that_only_a_type_checker_can_read_hide_no_others():
    def function(a: int, b: 'NowhereImported') -> None:  # noqa: F821
        """Nothing."""

    function.__annotations__ = {'a': 'int', 'b': 'NowhereImported'}
    assert hints_of(function) == {'a': int}
