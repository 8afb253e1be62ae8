"""``composer-kd cache estimate``: what it says is what is then written, and it leaves nothing behind."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd.answers import Format, Store
from composer_kd.caching import estimate_size, estimate_store, prepare, write_store
from composer_kd.caching.estimate import Estimate, Speed
from composer_kd.caching.when import asked_batches, epochs_of
from composer_kd.caching.who import settings_with
from composer_kd.recipes import load_recipe
from tests.caching.made import ROOT, answers, digits, refused, save_teacher, text, write, written

pytestmark = pytest.mark.usefixtures('nothing_is_left_behind')

HEADER = 188
"""Of a shard of one column: its length and what its columns are."""


def shards(path):
    return [file.stat().st_size for file in Path(path).rglob('*.mds')]


def lines(result):
    return dict(re.split(r'  +', line.strip(), maxsplit=1) for line in result.stdout.splitlines()[1:] if re.match(r'\S', line))


@pytest.mark.parametrize('only', [False, True])
@pytest.mark.parametrize('form', ['dense', {'name': 'dense', 'dtype': 'float32'}, 'top_k', {'name': 'sampled', 'k': 30}])
def test_bytes_are_those_that_are_then_written(recipe, tmp_path, form, only):
    asked = prepare(load_recipe(recipe, []), form=form)
    found = estimate_store(asked, only, 0.2)
    before = sorted(tmp_path.rglob('*'))
    done = write_store(asked, str(tmp_path / 'out'), only)
    assert found.stored == done.samples == (192 if only else 200)
    assert found.rows == 1
    assert sum(shards(tmp_path / 'out')) == found.bytes + HEADER
    assert done.bytes - found.bytes < 8000, 'manifest, index and the like do not grow with the samples'
    assert tmp_path / 'out' not in before


def test_rows_of_text_are_measured_on_a_sample(tmp_path):
    asked = prepare(load_recipe(write(text(tmp_path), tmp_path), []), form={'name': 'top_k', 'k': 3})
    found = estimate_store(asked, seconds=5)
    write_store(asked, str(tmp_path / 'out'))
    assert sum(shards(tmp_path / 'out')) == pytest.approx(found.bytes + HEADER, rel=0.15)
    assert found.rows == pytest.approx(0.15 * 26, rel=0.5)


def test_a_store_has_paid_when_what_runs_save_is_what_it_took():
    speed = Speed(data=0.001, teacher=0.01, packing=0.002, reading=0.0005, samples=100)
    found = Estimate(Format('dense', 10), 1, 500, 2, 1000, 800, speed)
    assert found.seconds == pytest.approx(13.0)
    assert found.saved_seconds == pytest.approx(7.6)
    assert found.runs == 2
    assert (found.runs - 1) * found.saved_seconds < found.seconds <= found.runs * found.saved_seconds
    slow = Estimate(Format('dense', 10), 1, 500, 2, 1000, 800, Speed(0.001, 0.01, 0.002, 0.01, 100))
    assert slow.runs is None
    assert Estimate(Format('dense', 10), 1, 500, 2, 1000, 800, None).runs is None


def test_what_the_command_shows(recipe):
    result = written('estimate', recipe, '--seconds', 0.3, '--format', '{name: top_k, k: 3}')
    said = lines(result)
    assert said['format'] == 'top_k, k 3, float16, temperature 1'
    assert said['answers'] == '200: 100 samples, 2 views of each'
    assert said['rows of a sample'] == '1, 11 bytes each'
    assert said['bytes of a sample'].startswith('23, with its check')
    assert said['size of the store'] == '4.6 kB'
    assert said['asked for by one run'] == '192, which alone would take 4.42 kB (--only-asked)'
    assert re.match(r'teacher [\d.e+]+ (s|ms|us), loading ', said['a sample takes'])
    assert 'on one process like this one' in said['writing it']
    assert re.match(r'after \d+ runs?;|never', said['it has paid'])
    assert result.stderr == ''


@pytest.mark.parametrize('gone', ['teacher', 'data'])
def test_without_teacher_or_data_the_size_alone(tmp_path, gone):
    path = write(text(tmp_path), tmp_path)
    if gone == 'teacher':
        (tmp_path / 'bert.pt').unlink()
    else:
        import shutil
        shutil.rmtree(tmp_path / 'text')
    if gone == 'data':
        said = lines(written('estimate', path))
        assert said['answers'] == '729,737,784: 364,868,892 samples, 2 views of each'
        assert 'C4' in said['of which data'], 'said, as it is a guess'
        return
    said = lines(written('estimate', path, '--format', '{name: top_k, k: 3}'))
    assert said['answers'] == '80: 40 samples, 2 views of each'
    assert said['time'].startswith('not measured: teachers[0].checkpoint: there is nothing at')


def test_teachers_one_in_turn_are_asked_less(tmp_path):
    recipe = digits(tmp_path)
    other = save_teacher(tmp_path / 'other.pt', recipe['model'], seed=3)
    kd = recipe['algorithms']['distillation']
    kd['teachers'] = [{**kd['teachers'][0], 'name': 'a'}, {'checkpoint': str(other), 'name': 'b'}]
    path = write(recipe, tmp_path)
    whole = estimate_store(prepare(load_recipe(path, []), 'a'), seconds=0.2)
    turns = estimate_store(prepare(load_recipe(path, ['algorithms.distillation.teachers_per_batch=1']), 'a'), seconds=0.2)
    assert (whole.asked, turns.asked) == (192, 96)
    assert whole.stored == turns.stored


def test_too_little_to_measure(recipe):
    told = refused('estimate', recipe, 'train_data.train_size=16', 'max_duration=1ep')
    assert told == 'error: estimate: 16 samples are too few to measure; there must be more than one batch of 16.'


# --- published sizes: k 10 of ImageNet 0.9 GB for 16 epochs and 5.1 GB for 90, dense 41 and 231 GB; k 8 of the masked
# tokens of the first 20 % of BERT's pre-training 35 GB, dense about 67 TB ---

def sizes(name, *changes, form=None, only=False):
    return estimate_size(load_recipe(str(ROOT / 'yamls' / name), changes), form, None, only, 'not here')


@pytest.mark.parametrize(('epochs', 'published', 'dense'), [(16, 0.9e9, 41e9), (90, 5.1e9, 231e9)])
def test_the_size_for_imagenet(epochs, published, dense):
    found = sizes('resnet50/baseline_kd.yaml', f'max_duration={epochs}ep', form={'name': 'top_k', 'k': 10})
    assert found.stored == epochs * 1_281_167
    assert found.bytes / found.stored == 54 <= found.form.bound == 2 * 10 * (2 + 2)
    assert published < found.bytes < 1.25 * published, 'a check and a place in the tables are 12 bytes'
    assert found.dense_bytes == pytest.approx(dense, rel=0.02)


def test_the_size_for_bert():
    found = sizes('bert/base_kd_20.yaml', form={'name': 'top_k', 'k': 8}, only=True)
    assert found.stored == found.asked == 0.2 * 286_720_000
    assert found.rows == pytest.approx(0.15 * 128, rel=1e-3)
    assert found.bytes / found.stored <= found.rows * found.form.bound
    assert found.bytes == pytest.approx(35e9, rel=0.1)
    assert found.dense_bytes == pytest.approx(67e12, rel=0.01)
    whole = sizes('bert/base_kd_20.yaml', form={'name': 'top_k', 'k': 8})
    assert (whole.stored, whole.asked) == (364_868_892, found.asked)
    assert whole.asked_bytes == found.bytes


def test_the_command_says_what_one_run_asks():
    said = lines(written('estimate', ROOT / 'yamls' / 'bert' / 'base_kd_20.yaml'))
    assert said['size of the store'] == '242 GB'
    assert said['asked for by one run'] == '57,344,000, which alone would take 38.1 GB (--only-asked)'
    said = lines(written('estimate', ROOT / 'yamls' / 'bert' / 'base_kd_20.yaml', '--only-asked'))
    assert said['size of the store'] == '38.1 GB'


@pytest.mark.parametrize('name', sorted(path.relative_to(ROOT / 'yamls').as_posix() for path in (ROOT / 'yamls').glob('*/*kd*.yaml')))
def test_every_recipe_with_a_teacher_has_a_size(name):
    settings = load_recipe(str(ROOT / 'yamls' / name), []).algorithms['distillation']
    heat = settings_with(settings, torch.nn.Identity()).fixed_temperature
    found = sizes(name, form=None if heat is not None else 'dense')
    assert found.stored == found.samples * found.views
    # of a causal model every token of C4 has an answer
    most = 1e14 if name.startswith(('gpt2/c4', 'llama')) else 1e12
    assert 0 < found.bytes < most or heat is None


# --- which batches ask ---

def batches(*changes, per_epoch=6, folder=None, **given):
    from tests.recipes.tiny import recipe
    made = recipe(Path('runs/none'), **dict(changes))
    return asked_batches(made, settings_with(given, torch.nn.Identity()), per_epoch).tolist()


@pytest.mark.parametrize(('duration', 'given', 'expected'), [
    ('2ep', {}, range(12)), ('2ep', {'start': '0.5dur'}, range(6, 12)), ('2ep', {'end': '100ba'}, range(12)),
    ('20ba', {'end': '0.25dur'}, range(5)), ('160sp', {}, range(10)), ('160sp', {'end': '0.25dur'}, range(3)),
    ('2ep', {'start': '33sp'}, range(3, 12)), ('2ep', {'interval': 5, 'start': '2ba'}, [2, 7]),
    ('4ep', {'interval': '2ep', 'start': '6ba'}, [*range(6, 12), *range(18, 24)]), ('2ep', {'start': '5ep'}, []),
])
def test_which_batches_ask(duration, given, expected):
    assert batches(('max_duration', duration), **given) == list(expected)


def test_batches_that_depend_on_tokens():
    from tests.recipes.tiny import recipe
    assert asked_batches(recipe(Path('runs/none'), max_duration='5000tok'), settings_with({}, torch.nn.Identity()), 6) is None


def test_probability_is_drawn_as_in_training():
    found = batches(('max_duration', '100ep'), probability=0.3)
    assert 0.25 < len(found) / 600 < 0.35
    assert found == batches(('max_duration', '100ep'), probability=0.3)
    assert found != batches(('max_duration', '100ep'), ('seed', 3), probability=0.3)
    assert found == batches(('max_duration', '100ep'), ('seed', 3), probability=0.3, seed=17)


def test_epochs_of_no_batches():
    assert epochs_of(np.empty(0, np.int64), 6) == []


def test_a_recipe_that_distils_on_nothing(recipe, tmp_path):
    told = refused(recipe, '--out', tmp_path / 'out', 'algorithms.distillation.start=50ep', 'algorithms.distillation.end=60ep')
    assert '--views: the recipe distils on no batch at all' in told
    assert math.isfinite(len(answers_of(recipe, tmp_path)))


def answers_of(recipe, tmp_path):
    written(recipe, '--out', tmp_path / 'some', '--views', 1, 'algorithms.distillation.start=50ep', 'algorithms.distillation.end=60ep')
    assert Store.open(tmp_path / 'some').samples == 100
    return answers(tmp_path / 'some')
