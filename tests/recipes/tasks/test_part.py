"""A part of data: parts that meet neither overlap nor leave a sample out, and samples stay what they are in the whole."""

import runpy
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streaming import MDSWriter

from composer_kd.convert import convert_cifar
from composer_kd.recipes import train
from composer_kd.recipes.tasks import DATA, SHAPES
from composer_kd.recipes.tasks.part import choose, pick, window
from composer_kd.recipes.tasks.sampling import make_loader
from tests.models.words import tokenizer_folder
from tests.recipes.tasks.images.pictures import write_folder
from tests.recipes.tasks.test_sampling import Numbers, indices
from tests.recipes.tiny import plain, recipe

SHARES = st.lists(st.floats(0, 1), max_size=4, unique=True).map(lambda inner: sorted({0.0, *inner, 1.0}))


# --- which samples ---

@given(SHARES, st.integers(1, 1000))
def test_parts_that_meet_hold_every_sample_once(shares, count):
    found = []
    for part in pairwise(shares):
        places = round(part[1] * count) - round(part[0] * count)
        if places:
            found += choose(part, count)
        else:
            with pytest.raises(ValueError, match='none at all'):
                choose(part, count)
    assert found == list(range(count))


@given(SHARES, st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_of_classes_too(shares, labels):
    labels = np.array(labels)
    whole = []
    for part in pairwise(shares):
        try:
            found = choose(part, len(labels), labels)
        except ValueError:
            continue
        assert len(found) == len(window(part, len(labels)))
        assert list(found) == sorted(found)
        whole += found.tolist()
    assert sorted(whole) == list(range(len(labels)))


def test_every_class_gives_its_share_and_its_samples_follow_one_another():
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    for part in ([0, 0.5], [0.5, 1], [0.2, 0.4]):
        found = choose(part, 100, labels)
        share = part[1] - part[0]
        assert np.bincount(labels[found]).tolist() == [round(share * size) for size in (60, 30, 10)]
        for label in range(3):
            assert set(np.diff(found[labels[found] == label])) <= {1}
    assert choose(None, 100, labels) == range(100)
    assert pick(range(3, 9), np.array([0, 2])).tolist() == [3, 5]


@pytest.mark.parametrize('part', [[], [0.5], [0, 0.5, 1], [0.5, 0.5], [0.6, 0.5], [-0.1, 0.5], [0, 1.1], [0, float('nan')]])
def test_what_is_no_part(part):
    with pytest.raises(ValueError, match=r'part: expected \[start, end\], shares of the samples with 0 <= start < end'):
        window(part, 10)


# --- loaders ---

def test_the_loader_shuffles_the_part_and_evaluates_in_order():
    found = list(chain(*indices(make_loader(Numbers(), 5, 17, True, part=[0.25, 0.75]))))
    assert sorted(found) == list(range(5, 15))
    assert found != list(range(5, 15))
    loader = make_loader(Numbers(), 4, 17, False, part=[0.25, 0.75])
    assert list(chain(*indices(loader))) == list(range(5, 15))
    assert len(loader) == 3
    assert len(loader.sampler.dataset) == 10, 'what Composer takes the padding of uneven ranks by'
    with pytest.raises(ValueError, match='an epoch has 10 samples, fewer than one global batch of 11'):
        make_loader(Numbers(), 11, 17, True, part=[0, 0.5])


def test_a_part_is_resumed_in_the_middle_of_an_epoch():
    whole = indices(make_loader(Numbers(), 2, 17, True, part=[0.5, 1]))
    data = Numbers()
    data.load_state_dict({'samples_in_epoch': 6})
    assert indices(make_loader(data, 2, 17, True, part=[0.5, 1])) == whole[3:]
    assert data.made == 4


# --- each kind of data ---

@pytest.fixture(scope='module')
def settings(tmp_path_factory):
    """Every kind of data by a name for it, and settings that read some of it."""
    folder = tmp_path_factory.mktemp('data')
    write_folder(folder / 'pictures', classes=3, each=8)
    words = str(tokenizer_folder(folder / 'tokenizer'))
    with MDSWriter(out=str(folder / 'text' / 'train'), columns={'text': 'str'}) as shards:
        for n in range(24):
            shards.write({'text': 'the cat ' * (n + 1)})
    (folder / 'glue').mkdir()
    lines = ['sentence\tlabel', *(f"{'the cat ' * (n + 1)}\t{n % 2}" for n in range(24))]
    (folder / 'glue' / 'train.tsv').write_text('\n'.join(lines) + '\n')
    text = {'tokenizer': words, 'max_seq_len': 64}
    images = {'path': str(folder / 'pictures'), 'crop_size': 24, 'num_classes': 3, 'num_workers': 0}
    return {
        'digits': {'noise': 0.3, 'shift': 1, 'split': 'train'},
        'imagenet': {**images, 'split': 'train'},
        'masked_text': {**text, 'path': str(folder / 'text'), 'split': 'train'},
        'glue': {**text, 'path': str(folder / 'glue'), 'task': 'sst2', 'split': 'train'},
    }


def by_index(name, settings, train, part=None):
    """Every sample of an epoch by its index in the whole data."""
    loader = DATA.get(name)(1, 17, train, **settings, part=part).dataloader
    loader.sampler.set_epoch(2)
    keys = list(loader.sampler)
    return {key[1]: batch for key, batch in zip(keys, loader, strict=True)}


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', ['digits', 'imagenet', 'masked_text', 'glue'])
def test_halves_are_the_whole_and_samples_keep_their_random_numbers(settings, name, training):
    whole = by_index(name, settings[name], training)
    halves = [by_index(name, settings[name], training, part) for part in ([0, 0.5], [0.5, 1])]
    assert not halves[0].keys() & halves[1].keys()
    assert halves[0].keys() | halves[1].keys() == whole.keys()
    for half, part in zip(halves, ([0, 0.5], [0.5, 1]), strict=True):
        assert SHAPES[name](training, **settings[name], part=part).samples == len(half) == len(whole) // 2
        assert all(same(batch, whole[index]) for index, batch in half.items())
        if name == 'imagenet':
            assert np.bincount([int(labels) for _, labels in half.values()]).tolist() == [4, 4, 4]
    assert SHAPES[name](training, **settings[name]).samples == len(whole)


@pytest.mark.parametrize('name', ['digits', 'imagenet', 'masked_text', 'glue'])
def test_what_is_no_part_is_refused_before_anything_is_read(settings, name):
    for call in (lambda **given: SHAPES[name](True, **given), lambda **given: DATA.get(name)(1, 17, True, **given)):
        with pytest.raises(ValueError, match='part: expected'):
            call(**settings[name], part=[0.5, 0.2])


def test_cifars_files_and_shards(tmp_path):
    sample_data = runpy.run_path(str(Path(__file__).parents[3] / 'scripts' / 'sample_data' / 'images.py'))
    sample_data['write_cifar10'](tmp_path / 'cifar-10-batches-py')
    convert_cifar(tmp_path, tmp_path / 'mds', size_limit='1mb', workers=1, progress=False)
    for path in (tmp_path, tmp_path / 'mds'):
        given = {'path': str(path), 'num_workers': 0, 'split': 'test'}
        whole = by_index('cifar', given, True)
        part = by_index('cifar', given, True, [0.2, 0.4])
        assert sorted(part) == list(window([0.2, 0.4], len(whole)))
        assert all(same(batch, whole[index]) for index, batch in part.items())
        assert SHAPES['cifar'](True, **given, part=[0.2, 0.4]).samples == len(part)
    assert SHAPES['cifar'](True, path='none', part=[0, 0.5]).samples == 25_000


@pytest.mark.filterwarnings('ignore:unclosed file.*zstd:ResourceWarning')  # streaming's own
def test_shards_that_are_read_in_streamings_order(settings, tmp_path):
    def told(why, **changes):
        for call in (lambda **given: SHAPES['masked_text'](True, **given),
                     lambda **given: DATA.get('masked_text')(1, 17, True, **given)):
            with pytest.raises(ValueError, match=f'part: needs shards that can be read at random, and {why}'):
                call(**{**settings['masked_text'], **changes}, part=[0, 0.5])

    told('remote is given', remote=settings['masked_text']['path'], path=str(tmp_path / 'cache'))
    told('streaming is given', streaming={'predownload': 8})
    with MDSWriter(out=str(tmp_path / 'packed' / 'train'), columns={'text': 'str'}, compression='zstd') as shards:
        for _ in range(8):
            shards.write({'text': 'the cat'})
    told("those in '.*packed/train' are compressed", path=str(tmp_path / 'packed'))
    # An evaluator asks for its samples one by one.
    given = {**settings['masked_text'], 'path': str(tmp_path / 'packed')}
    assert sorted(by_index('masked_text', given, False, [0.5, 1])) == [4, 5, 6, 7]


def test_digits_take_part_or_train_size():
    for call in (lambda **given: SHAPES['digits'](True, **given), lambda **given: DATA.get('digits')(8, 17, True, **given)):
        with pytest.raises(ValueError, match='train_size: says how many images, and so does part'):
            call(train_size=100, part=[0, 0.5])


# --- in a recipe ---

def test_training_on_windows_of_growing_data(tmp_path):
    data = {'name': 'digits', 'batch_size': 16, 'noise': 0.2}
    for part, batches in (([0, 0.1], 12), ([0.1, 0.3], 26)):
        folder = train(recipe(
            tmp_path / str(part[1]), train_data={**data, 'part': part},
            evaluators={'test': {'data': {'name': 'digits', 'split': 'test', 'part': [0, 0.25]}}},
        ))
        record = folder.read_record()
        assert (record.status, record.batches) == ('finished', batches)
        assert record.evaluations[-1].metrics['test']['MulticlassAccuracy'] >= 0


@pytest.mark.parametrize(('part', 'error', 'told'), [
    (0.5, TypeError, 'train_data.part: expected a list of a number or null, got float: 0.5'),
    ('half', TypeError, 'train_data.part: expected'),
    ([0.5, 0.1], ValueError, r'train_data.*part: expected \[start, end\]'),
    ([0, 0.001], ValueError, 'train_data.*fewer than one global batch'),
])
def test_what_a_recipe_may_not_say(tmp_path, part, error, told):
    with pytest.raises(error, match=told):
        train(recipe(tmp_path, train_data={**plain()['train_data'], 'train_size': None, 'part': part}))
