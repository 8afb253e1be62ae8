import re

import pytest

from composer_kd.recipes import load_recipe

ROOT = """
run_name: root
model: {name: digits_resnet, width: 8, blocks: 3}
train_data: {name: digits, batch_size: 32}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
algorithms:
  channels_last: null
  ema: {half_life: 10ba}
callbacks: {lr_monitor: {}}
evaluators:
  test: {data: {name: digits, batch_size: '${train_data.batch_size}'}}
max_duration: 4ep
load_ignore_keys: [a, b]
"""


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path
    write('first.yaml', ROOT)
    return write


def test_a_base_is_merged_under_the_file_that_names_it(write):
    middle = write('sub/middle.yaml', 'base: ../first.yaml\nrun_name: middle\nmodel: {width: 4}\nseed: 3')
    path = write('child.yaml', 'base: sub/middle.yaml\noptimizer: {lr: 0.5}\nload_ignore_keys: [c]')
    assert load_recipe(middle).run_folder == 'runs/middle'
    recipe = load_recipe(path)
    assert recipe.model == {'name': 'digits_resnet', 'width': 4, 'blocks': 3}
    assert recipe.optimizer == {'name': 'sgd', 'lr': 0.5, 'momentum': 0.9}
    assert recipe.load_ignore_keys == ['c'], 'lists are replaced'
    assert (recipe.run_name, recipe.seed) == ('middle', 3)
    assert 'base' not in recipe.plain()


def test_null_removes_what_the_base_says_and_means_defaults_at_the_root(write):
    assert load_recipe(write('same.yaml', 'base: first.yaml')).algorithms == {'channels_last': {}, 'ema': {'half_life': '10ba'}}
    path = write('child.yaml', 'base: first.yaml\nalgorithms: {ema: null}\noptimizer: {momentum: null}\ncallbacks: null')
    recipe = load_recipe(path)
    assert recipe.algorithms == {'channels_last': {}}
    assert recipe.optimizer == {'name': 'sgd', 'lr': 0.1}
    assert recipe.callbacks == {}


@pytest.mark.parametrize('text', ['algorithms: {blurpool: null}', 'loggers: {file: null}'])
def test_null_that_removes_nothing_is_no_way_to_add_an_algorithm(write, text):
    path = write('child.yaml', f'base: first.yaml\n{text}')
    with pytest.raises(ValueError, match=r'default settings, write \{\}'):
        load_recipe(path)


def test_algorithms_keep_their_order_with_new_ones_last(write):
    path = write('child.yaml', 'base: first.yaml\nalgorithms: {blurpool: {}, channels_last: {}}')
    assert list(load_recipe(path).algorithms) == ['channels_last', 'ema', 'blurpool']


def test_interpolations_see_the_merged_recipe(write, monkeypatch):
    monkeypatch.setenv('RUNS', '/elsewhere')
    path = write('child.yaml', 'base: first.yaml\nrun_folder: ${oc.env:RUNS}/${run_name}\ntrain_data: {batch_size: 16}')
    recipe = load_recipe(path, ['run_name=other'])
    assert recipe.evaluators['test'].data['batch_size'] == 16
    assert recipe.run_folder == '/elsewhere/other'


def test_the_command_line_is_merged_last(write):
    recipe = load_recipe(write('a.yaml', 'base: first.yaml\nseed: 1'), [
        'seed=2', 'model.width=16', 'optimizer.lr=1e-3', 'max_duration=20ba', 'algorithms.ema=null',
        'algorithms.label_smoothing={smoothing: 0.1}', 'load_ignore_keys[1]=z', 'description=a = b', 'train_data.shift=1',
    ])
    assert recipe.seed == 2
    assert recipe.model['width'] == 16
    assert recipe.optimizer == {'name': 'sgd', 'lr': 1e-3, 'momentum': 0.9}
    assert recipe.algorithms == {'channels_last': {}, 'label_smoothing': {'smoothing': 0.1}}
    assert recipe.load_ignore_keys == ['a', 'z']
    assert recipe.description == 'a = b'
    assert recipe.train_data == {'name': 'digits', 'batch_size': 32, 'shift': 1}


def test_items_of_lists_are_reached_by_number(write):
    path = write('a.yaml', 'base: first.yaml\nalgorithms: {distillation: {teachers: [{run: a}, {run: b}]}}')
    for key in ('teachers[1].run', 'teachers.1.run'):
        recipe = load_recipe(path, [f'algorithms.distillation.{key}=c', 'algorithms.distillation.teachers[0]=null'])
        assert recipe.algorithms['distillation']['teachers'] == [{'run': 'c'}]


@pytest.mark.parametrize(('override', 'told'), [
    ('optimzer.lr=1', "unknown key 'optimzer'. Did you mean 'optimizer'?"),
    ('sed=null', "Did you mean 'seed'?"),
    ('seed', 'expected key=value'),
    ('--seed=3', 'expected key=value'),
    ('=3', 'expected key=value'),
    ('seed.x=3', "'seed.x': seed is 5, which holds no keys"),
    ('load_ignore_keys[2]=x', 'load_ignore_keys is a list of 2'),
    ('load_ignore_keys.first=x', 'load_ignore_keys is a list of 2'),
    ('model={a: ', "'model={a: ': the value is not valid YAML"),
    ('algorithms.blurpool=null', 'write {}'),
    ('run_folder=${nowhere}', "run_folder: cannot be resolved in"),
    ('seed=!!int x', "'seed=!!int x': the value is not valid YAML: ValueError"),
    ('seed=!!bool x', "'seed=!!bool x': the value is not valid YAML: KeyError"),
    ('tags.a=' + '[' * 2000 + ']' * 2000, 'the value is not valid YAML: RecursionError'),
    ('seed=0x' + 'f' * 5000, 'seed: expected a number that fits into 64 bits, got one of 20000'),
    ('tags..a=1', "'tags..a=1': expected key=value"),
    ('load_ignore_keys[' + '9' * 5000 + ']=x', 'load_ignore_keys is a list of 2'),
    ('a' + '.a' * 2000 + '=1', 'expected key=value'),
])
def test_overrides_that_cannot_be_applied(write, override, told):
    path = write('a.yaml', 'base: first.yaml\nseed: 5')
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        load_recipe(path, [override])
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('text', 'told'), [
    ('a: [1', 'is not valid YAML'),
    ('seed: 1\nseed: 2', 'is not valid YAML'),
    ('seed: !!float x', 'is not valid YAML: ValueError'),
    ('seed: ' + '9' * 5000, 'is not valid YAML: ValueError'),
    ('tags: ' + '[' * 2000 + ']' * 2000, 'is not valid YAML: RecursionError'),
    ('- a', 'expected a mapping of keys to values'),
    ('base: 3', 'base: expected the path of a recipe'),
    ('base: bad.yaml', 'bad.yaml -> bad.yaml'),
    ('base: circle.yaml', 'bad.yaml -> circle.yaml -> bad.yaml'),
])
def test_files_that_are_no_recipes(write, text, told):
    write('circle.yaml', 'base: bad.yaml')
    with pytest.raises(ValueError, match=re.escape(told)) as caught:
        load_recipe(write('bad.yaml', text))
    assert '\n' not in str(caught.value)


def test_missing_files_are_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"recipe: there is no file '.*nowhere.yaml'"):
        load_recipe(tmp_path / 'nowhere.yaml')
    with pytest.raises(FileNotFoundError, match=r"base of 'a.yaml': there is no file '.*missing.yaml'"):
        load_recipe(write('a.yaml', 'base: missing.yaml'))
