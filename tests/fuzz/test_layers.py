"""Files and command lines with a fault: refused by the file's name, the argument or the key, never with a traceback."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.recipes import load_recipe, parse_recipe
from composer_kd.recipes.errors import dotted
from composer_kd.recipes.layers import override, resolve
from composer_kd.recipes.schema import Recipe
from tests.fuzz import junk
from tests.fuzz.cases import cases
from tests.fuzz.mutate import paths
from tests.fuzz.recipes import AGAINST, whole
from tests.fuzz.told import begins_with, names, told
from tests.recipes.tiny import plain

_PATHS = sorted({dotted(path) for path in paths(whole())})
_KEYS = st.sampled_from(_PATHS) | st.text('ab.[]0123-/ =', max_size=8) | st.sampled_from([
    '', '.', '..', 'a..b', 'a.', '.a', '[0]', 'seed[', 'seed]', 'seed[0]', 'scheduler[9]', 'scheduler[-1]', 'scheduler[٣]',
    'scheduler[0].name.x', 'tags.a b', '-seed', '--seed', 'seed ', 'ä', 'a[' + '9' * 5000 + ']', 'a' + '.b' * 2000, 'base', '${seed}',
    'algorithms.x', 'algorithms', 'evaluators.test', 'model..name', 'model[0]', 'model.0', 'scheduler.0.name', 'scheduler.x',
])
_VALUES = junk.words | junk.times | st.text(max_size=8) | st.sampled_from([
    '[', ']', '{', '{a', '{a:', '{a: 1', '&a [*a]', '&a {b: *a}', '*a', '!!int x', '!!float x', '!!bool x', '!!timestamp x',
    '!!binary x', '!!set {a}', '!!omap [a]', '!!python/object:os.system {}', '!x', '{[1]: 2}', '{1: 2, a: 3}', '{null: 1}',
    '{a: 1, a: 2}', '<<', '{<<: 1}', '? a', '- a\n- b', '%', '@', '`', '|', '>', '"', "'", '"\\ud800"', '"\\0"', '0x' + 'f' * 5000,
    '2024-01-01', '1_000', '0o8', '.inf', '.nan', '-.inf', '1e999', '${', '${}', '${x}', '${seed}', '${max_duration}', '${.}',
    '${..seed}', '${oc.env:NO_SUCH}', '${oc.env:HOME}', '${oc.create:1}', '${unknown:1}', '${oc.decode:"["}', '${optimizer}',
    '${oc.select:x}', '\\${x}', '???', '[' * 2000, '[' * 2000 + ']' * 2000, '[' * 400 + ']' * 400, '{a: [1, {b: null}]}', '[null]',
])
_TEXT = yaml.safe_dump(whole())
_INTERPOLATED = st.sampled_from([
    '${tags.a}', '${tags.b}', '${tags.c}', '${.a}', '${.b}', '${..seed}', '${seed}', '${description}', '${tags}', '${', '}', '$', '${}',
    '${x}', '${oc.env:NO_SUCH_VARIABLE}', '${oc.env:NO_SUCH_VARIABLE,1}', '${tags.${tags.a}}', '${oc.decode:"${"}', '${oc.decode:"1e"}',
    '${oc.create:{a:1}}', '${oc.deprecated:tags.a}', '${oc.dict.keys:tags}', '${oc.select:tags.a}', '${x:1}', '\\${x}', 'x', ' ', '\\',
])


def _spliced(place, text):
    return (_TEXT[:place] + text + _TEXT[place:]).encode(errors='surrogatepass')


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp('recipes') / 'whole.yaml'
    path.write_text(yaml.safe_dump(whole()))
    return path


def _parts(key):
    return tuple(int(part) if re.fullmatch('[0-9]{1,9}', part) else part for part in re.split(r'[.\[\]]+', key.rstrip(']')) if part)


@cases(500)
@given(_KEYS, st.sampled_from(['=', '=', '=', '=', '==', '', ' = ']), _VALUES)
def test_an_argument_is_taken_or_refused_by_name(key, equals, value):
    argument = f'{key}{equals}{value}'
    said = whole()
    _, message = told(lambda: parse_recipe(resolve(override(said, argument), 'whole.yaml')))
    assert said == whole(), 'the recipe underneath was changed'
    if message is not None:
        path = _parts(argument.partition('=')[0])
        quoted = [f"'{_solid(text)}'" for text in (argument, key, dotted(path))]
        assert begins_with(_solid(message), quoted) or names(message, path, AGAINST.get(path[0], ())), message


def _solid(text):
    return ''.join(text.split())


@cases(300)
@given(st.one_of(
    st.binary(max_size=20), st.tuples(st.integers(0, len(_TEXT)), _VALUES).map(lambda cut: _spliced(*cut)),
    _VALUES.map(lambda text: text.encode(errors='surrogatepass')),
    st.integers(0, len(_TEXT)).map(lambda end: _TEXT[:end].encode()),
))
def test_a_file_is_read_or_refused_by_its_name_or_a_key(recipe, content):
    path = recipe.with_name('changed.yaml')
    path.write_bytes(content)
    _, message = told(lambda: load_recipe(path))
    if message is not None:
        keys = [*Recipe.model_fields, 'base', 'recipe', 'missing']
        assert message.startswith(f"'{path}'") or begins_with(message, [*keys, 'base of']), message


@cases(300)
@given(st.dictionaries(st.sampled_from('abc'), st.lists(_INTERPOLATED, min_size=1, max_size=3).map(''.join), max_size=3))
def test_an_interpolation_is_resolved_or_refused_by_its_key(tags):
    said = {**plain(), 'tags': tags, 'description': '${tags}'}
    _, message = told(lambda: parse_recipe(resolve(said, 'a.yaml')))
    assert message is None or begins_with(message, ['tags', 'description']), message
