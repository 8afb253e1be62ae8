"""The public names: listed in one place, documented, typed, each with an example that runs."""

import doctest
import inspect
import typing
from importlib import import_module
from pathlib import Path

import pytest

from composer_kd import public
from composer_kd.names import Registry
from composer_kd.public import PUBLIC, REGISTRIES, WHOLE, markdown, public_names, summary

ROOT = Path(__file__).parent.parent
NAMES = public_names()
IDS = [f'{module}.{name}' for module, name, _ in NAMES]
PLAIN = [(module, name, item) for module, name, item in NAMES if not isinstance(item, Registry)]


def examples(text):
    return doctest.DocTestParser().get_examples(text or '')


@pytest.mark.parametrize(('module', 'name', 'item'), PLAIN, ids=[f'{m}.{n}' for m, n, _ in PLAIN])
def test_each_has_an_example_that_uses_it(module, name, item):
    # that it runs is seen where the suite runs the doctests of its file
    ours = inspect.getmodule(inspect.unwrap(item))
    assert ours is not None
    assert ours.__name__.startswith('composer_kd'), 'not our own, so its docstring is not run'
    found = examples(inspect.getdoc(item))
    assert found, f'{module}.{name}: no example in its docstring'
    assert any(name.lower().replace('_', '') in example.source.lower().replace('_', '') for example in found), f'{module}.{name}: its example does not use it'
    assert any(example.want for example in found), f'{module}.{name}: its example shows nothing'


@pytest.mark.parametrize('registry', [name for _, name, item in NAMES if isinstance(item, Registry)])
def test_each_registry_is_in_the_example_of_the_list(registry):
    assert any(registry in example.source for example in examples(public.__doc__))
    assert registry in REGISTRIES


def test_nothing_is_said_of_a_registry_that_is_not_there():
    assert set(REGISTRIES) == {name for _, name, item in NAMES if isinstance(item, Registry)}


@pytest.mark.parametrize(('module', 'name', 'item'), PLAIN, ids=[f'{m}.{n}' for m, n, _ in PLAIN])
def test_each_says_what_it_is(module, name, item):
    said = summary(name, item)
    assert said.endswith('.'), said
    assert len(said) > 8


@pytest.mark.parametrize(('module', 'name', 'item'), PLAIN, ids=[f'{m}.{n}' for m, n, _ in PLAIN])
def test_each_is_typed(module, name, item):
    functions = [item]
    if inspect.isclass(item):
        own = [value for key, value in vars(item).items() if key == '__init__' or not key.startswith('_')]
        functions = [value.fget if isinstance(value, property) else getattr(value, '__func__', value) for value in own]
    for function in functions:
        function = inspect.unwrap(function) if callable(function) else function
        if not inspect.isfunction(function) or not function.__module__.startswith('composer_kd'):
            continue
        if function.__name__ == '<lambda>' or function.__qualname__.startswith('__create_fn__'):
            continue
        for parameter in list(inspect.signature(function).parameters.values()):
            if parameter.name not in ('self', 'cls'):
                assert parameter.annotation is not inspect.Parameter.empty, f'{function.__qualname__}: {parameter.name}'
        if function.__name__ != '__init__':
            assert 'return' in function.__annotations__, f'{function.__qualname__}: return type'


def of_module(module):
    found = import_module(module)
    said = getattr(found, '__all__', None)
    if said is not None:
        return {name for name in said if not name.startswith('__')}
    return {
        name for name, item in vars(found).items()
        if not name.startswith('_') and (getattr(item, '__module__', None) == module or isinstance(item, Registry))
        and typing.get_origin(item) is None
    }


@pytest.mark.parametrize('module', sorted(WHOLE))
def test_nothing_public_is_left_out(module):
    assert of_module(module) == set(PUBLIC[module])


def test_the_list_in_the_readme():
    assert markdown() in (ROOT / 'README.md').read_text(), 'run: python -m composer_kd.public'
