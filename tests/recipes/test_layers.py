import re
import subprocess
import sys

import pytest

from composer_kd.recipes.layers import override, place, read_layers, resolve


def test_layers_and_errors_need_no_torch():
    code = (
        'import sys, composer_kd.recipes.layers, composer_kd.recipes.errors; '
        "sys.exit([name for name in ('torch', 'composer', 'numpy') if name in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, '')


def test_the_package_still_answers_for_its_names():
    from composer_kd import recipes

    assert all(getattr(recipes, name) is not None for name in recipes.__all__)
    with pytest.raises(AttributeError, match="no attribute 'recipe'"):
        _ = recipes.recipe


def test_messages_say_what_the_file_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"study: there is no file '.*'. Give the path of a study \(a YAML"):
        read_layers(tmp_path / 'nowhere.yaml', 'study')
    (tmp_path / 'a.yaml').write_text('base: a.yaml')
    with pytest.raises(ValueError, match=re.escape('base: the studies are bases of each other: a.yaml -> a.yaml.')):
        read_layers(tmp_path / 'a.yaml', 'study')
    (tmp_path / 'b.yaml').write_text('[1]')
    with pytest.raises(ValueError, match='as a study is, got list'):
        read_layers(tmp_path / 'b.yaml', 'study')


def test_a_value_is_placed_at_a_dotted_key():
    said = {'optimizer': {'name': 'sgd', 'lr': 0.1}, 'teachers': [{'run': 'a'}]}
    assert place(said, 'optimizer.lr', 0.5) == {**said, 'optimizer': {'name': 'sgd', 'lr': 0.5}}
    assert place(said, 'optimizer', {'lr': 0.5}) == {**said, 'optimizer': {'name': 'sgd', 'lr': 0.5}}
    assert place(said, 'teachers[0].run', 'b')['teachers'] == [{'run': 'b'}]
    assert place(said, 'a.b.c', None) == {**said, 'a': {'b': {'c': None}}}
    assert said == {'optimizer': {'name': 'sgd', 'lr': 0.1}, 'teachers': [{'run': 'a'}]}, 'nothing given is changed'
    assert place(said, 'name', 'a=b: [') == {**said, 'name': 'a=b: ['}, 'values are data, not YAML'
    assert override(said, 'optimizer.lr=0.5') == place(said, 'optimizer.lr', 0.5)
    for key in ('', '[0]', '.'):
        with pytest.raises(ValueError, match='expected a dotted key'):
            place(said, key, 1)


def test_interpolations():
    assert resolve({'a': 1, 'b': '${a}'}, 'x.yaml') == {'a': 1, 'b': 1}
    with pytest.raises(ValueError, match=r"b: cannot be resolved in 'x.yaml'"):
        resolve({'b': '${nowhere}'}, 'x.yaml')
