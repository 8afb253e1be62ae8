"""``composer-kd cache verify``: a fine store is fine, and whatever is not is named, without a traceback."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from composer_kd.caching import prepare, verify_store, write_store
from composer_kd.recipes import load_recipe, train
from composer_kd.recipes.tasks.digits import Digits
from tests.caching.made import answers, cache, digits, refused, save_teacher, text, write, written


@pytest.fixture
def store(recipe, tmp_path):
    """Of two parts: a view each."""
    written(recipe, '--out', tmp_path / 'out', '--views', 1)
    written(recipe, '--out', tmp_path / 'out')
    return tmp_path / 'out'


def shown(result):
    return dict(re.split(r'  +', line.strip(), maxsplit=1) for line in result.stdout.splitlines()[1:] if re.match(r'\S', line))


def not_fine(*arguments):
    """What is told, in a table or in one paragraph; exit status 1."""
    result = cache('verify', *arguments)
    assert result.exit_code == 1, result.output
    if result.stdout:
        assert 'NOT as they should be' in result.stdout.splitlines()[0]
        return ' '.join(line.strip() for line in result.stdout.splitlines())
    return refused('verify', *arguments)


def shards(store):
    return sorted(store.rglob('*.mds'))


@pytest.mark.parametrize('form', ['dense', '{name: dense, dtype: float32}', 'top_k', '{name: sampled, k: 9}'])
def test_a_fine_store(recipe, tmp_path, form):
    written(recipe, '--out', tmp_path / 'out', '--format', form)
    before = {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*') if path.is_file()}
    result = written('verify', recipe, tmp_path / 'out')
    assert result.stdout.startswith('Stored answers, verified')
    said = shown(result)
    assert said['files'] == '1'
    assert said['answers compared'] == said['the same to the last bit'] == '200'
    assert said['largest difference'].startswith('0 ')
    assert said['same likeliest class'] == '100.00 % of rows'
    assert {path: path.read_bytes() for path in (tmp_path / 'out').rglob('*') if path.is_file()} == before, 'only looked at'


def test_a_sample_of_it(recipe, store):
    assert shown(written('verify', recipe, store, '--samples', 7))['answers compared'] == '7'


def test_text(tmp_path):
    path = write(text(tmp_path), tmp_path)
    written(path, '--out', tmp_path / 'out', '--format', '{name: top_k, k: 3}')
    assert shown(written('verify', path, tmp_path / 'out'))['the same to the last bit'] == '80'


def test_a_store_that_a_run_filled(recipe, tmp_path):
    teachers = f"[{{checkpoint: {tmp_path / 'teacher.pt'}, cache: {{path: {tmp_path / 'filled'}, fill: true}}}}]"
    train(load_recipe(recipe, ['max_duration=9ba', f'algorithms.distillation.teachers={teachers}']))
    said = shown(written('verify', recipe, tmp_path / 'filled'))
    assert said['answers compared'] == str(9 * 16)
    assert said['not in the store'] == '56 answers that this recipe may ask for'


def test_a_store_of_what_is_only_asked(recipe, tmp_path):
    written(recipe, '--out', tmp_path / 'out', '--only-asked')
    assert shown(written('verify', recipe, tmp_path / 'out'))['not in the store'] == '8 answers that this recipe may ask for'


def test_any_flipped_byte_of_a_shard_is_noticed(recipe, store):
    shard = shards(store)[0]
    whole = shard.read_bytes()
    for place in (0, 5, 60, 410, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1:])
        assert str(shard) in not_fine(recipe, store)
    shard.write_bytes(whole)
    written('verify', recipe, store)


@pytest.mark.parametrize('name', ['index.json', 'segments.npy', 'manifest.json', 'parts/*/part.json', 'parts/*/index.json'])
@pytest.mark.parametrize('how', ['half', 'gone', 'empty'])
def test_a_half_copied_store(recipe, store, name, how):
    file = next(iter(sorted(store.glob(name))))
    if how == 'gone':
        file.unlink()
    else:
        file.write_bytes(b'' if how == 'empty' else file.read_bytes()[:file.stat().st_size // 2])
    told = not_fine(recipe, store)
    assert str(store) in told


def test_a_shorter_shard(recipe, store):
    shard = shards(store)[1]
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"'{shard}' has " in not_fine(recipe, store)
    shard.unlink()
    assert f"'{shard}' is missing" in not_fine(recipe, store)


def test_a_part_that_is_gone_is_named_and_written_again(recipe, store):
    whole = answers(store)
    part = sorted((store / 'parts').iterdir())[1]
    shutil.rmtree(part)
    told = not_fine(recipe, store)
    assert f'{part}: is missing' in told
    assert '100 answers that this recipe may ask for' in told
    assert ', 100 of them new' in written(recipe, '--out', store).stdout
    assert answers(store) == whole
    written('verify', recipe, store)


def test_an_index_that_is_gone_is_written_again(recipe, store):
    (store / 'index.json').unlink()
    assert 'its index cannot be read' in not_fine(recipe, store)
    written(recipe, '--out', store)
    written('verify', recipe, store)


def test_other_weights_at_the_same_place(recipe, store, tmp_path):
    save_teacher(tmp_path / 'teacher.pt', {'name': 'digits_resnet', 'width': 8}, seed=5)
    assert 'does not belong to this recipe: teacher.digest is ' in not_fine(recipe, store)


@pytest.mark.parametrize(('change', 'told'), [
    ('train_data.noise=0.3', 'view.noise is 0.2 in the store and 0.3 in this recipe'),
    ('seed=4', 'view.seed is 17 in the store and 4 in this recipe'),
    ('train_data.split=test', "data.split is 'train' in the store and 'test'"),
    ('algorithms.distillation.ignore_index=5', 'rows.ignore_index is -100 in the store and 5'),
])
def test_another_recipe(recipe, store, change, told):
    changes = [change, *(['train_data.train_size=null'] if 'split' in change else [])]
    assert told.replace("'", '') in not_fine(recipe, store, *changes).replace("'", '')


def test_answers_to_other_inputs_are_counted_and_told(recipe, store, monkeypatch):
    """As another version of a library would prepare them."""
    plain = Digits._augmented
    monkeypatch.setattr(Digits, '_augmented', lambda self, epoch: plain(self, epoch) + np.float32(1e-6 * (epoch == 1)))
    told = not_fine(recipe, store)
    assert re.search('to another input +100 ', told)
    assert 'was given to another input than this training has there' in told


def test_a_teacher_that_says_something_else_with_the_same_digest(recipe, store):
    """As other code or hardware might: the weights are the same, what is made of them is not."""
    asked = prepare(load_recipe(recipe, []))
    assert verify_store(asked, str(store)).fine
    with torch.no_grad():
        last = [value for name, value in asked.teacher.module.named_parameters() if name.endswith('bias')][-1]
        last[0] += 0.5
    found = verify_store(asked, str(store))
    assert not found.fine
    assert found.exact < found.samples
    assert found.largest == pytest.approx(0.5, abs=0.01)
    assert found.largest > found.tolerance
    with torch.no_grad():
        last[0] -= 0.4999
    found = verify_store(asked, str(store))
    assert found.fine, 'rounding'


@pytest.mark.parametrize('form', ['dense', '{name: top_k, k: 3}'])
def test_a_teacher_that_has_come_to_say_no_number_or_what_is_not_kept(recipe, tmp_path, form):
    written(recipe, '--out', tmp_path / 'out', '--format', form)
    asked = prepare(load_recipe(recipe, []), form=yaml.safe_load(form))
    bias = [value for name, value in asked.teacher.module.named_parameters() if name.endswith('bias')][-1]
    before = bias.clone()
    for change in ({3: float('nan')}, {0: -torch.inf, 1: 0.5}, {5: 60.0, 6: 60.0, 7: 60.0}, {3: -torch.inf}):
        with torch.no_grad():
            bias.copy_(before)
            for place, value in change.items():
                bias[place] += value
        found = verify_store(asked, str(tmp_path / 'out'))
        assert not found.fine, change
        assert found.largest > found.tolerance


def test_draws_move_little_where_the_teacher_does(recipe, tmp_path):
    written(recipe, '--out', tmp_path / 'out', '--format', '{name: sampled, k: 20}')
    asked = prepare(load_recipe(recipe, []), form={'name': 'sampled', 'k': 20})
    bias = [value for name, value in asked.teacher.module.named_parameters() if name.endswith('bias')][-1]
    found = []
    for change in (0.0, 1e-4, 0.5, 9.0, float('nan')):
        with torch.no_grad():
            bias[4] += change
        found.append(verify_store(asked, str(tmp_path / 'out')))
    assert [one.fine for one in found] == [True, True, False, False, False]
    assert [found[0].largest, found[4].largest] == [0.0, float('inf')]
    assert found[1].largest <= 1e-4
    assert 0.2 < found[3].largest < 0.3, 'all draws are of class 4 now, and were of any'


def test_a_class_that_the_teacher_forbids_hides_no_difference(recipe, tmp_path):
    asked = prepare(load_recipe(recipe, []))
    bias = [value for name, value in asked.teacher.module.named_parameters() if name.endswith('bias')][-1]
    with torch.no_grad():
        bias[0] = -torch.inf
    write_store(asked, str(tmp_path / 'out'))
    assert verify_store(asked, str(tmp_path / 'out')).largest == 0.0
    with torch.no_grad():
        bias[1] += 0.5
    found = verify_store(asked, str(tmp_path / 'out'))
    assert found.largest == pytest.approx(0.5, abs=0.01)
    assert not found.fine


def test_the_tolerance_follows_the_size_of_logits_and_the_precision(recipe, store):
    asked = prepare(load_recipe(recipe, []))
    small = verify_store(asked, str(store)).tolerance
    asked.recipe = asked.recipe.model_copy(update={'precision': 'amp_bf16'})
    rough = replace(asked)
    assert rough.precision.value == 'amp_bf16'
    assert verify_store(rough, str(store)).tolerance > 4 * small


def test_places_that_are_no_store(recipe, tmp_path):
    assert f"error: verify: there is no manifest.json in '{tmp_path / 'nowhere'}'" in refused('verify', recipe, tmp_path / 'nowhere')
    assert 'there is no manifest.json' in refused('verify', recipe, tmp_path)
    assert 'there is no manifest.json' in refused('verify', recipe, recipe)
    assert "is elsewhere. Give the folder it was copied from" in refused('verify', recipe, 's3://bucket/answers')


def test_a_manifest_of_another_version(recipe, store):
    said = json.loads((store / 'manifest.json').read_text())
    (store / 'manifest.json').write_text(json.dumps({**said, 'version': 99}))
    assert 'version' in not_fine(recipe, store)


def test_none_of_what_the_recipe_asks_for(recipe, store):
    told = not_fine(recipe, store, 'algorithms.distillation.start=1ep', 'max_duration=9ep', 'algorithms.distillation.interval=7ep',
                    'algorithms.distillation.start=4ep')
    assert re.search('answers compared +0', told)


def test_a_recipe_that_reads_the_store(tmp_path):
    recipe = digits(tmp_path)
    out = tmp_path / 'out'
    teacher = f"{{checkpoint: {tmp_path / 'teacher.pt'}}}"
    recipe['algorithms']['distillation']['teachers'] = [{'cache': str(out)}]
    path = write(recipe, tmp_path)
    written(path, '--out', out, '--teacher', teacher)
    assert 'is a store itself' in refused('verify', path, out)
    written('verify', path, out, '--teacher', teacher)
