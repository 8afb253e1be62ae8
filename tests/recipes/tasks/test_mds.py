"""MDS: what is looked at before training, and samples that know their epoch, whoever asks and however often it stops."""

import json
import os

import pytest
import torch
from streaming import MDSWriter

from composer_kd.recipes.tasks.mds import is_mds, mds_loader, read_index


def write(folder, samples=40, **settings):
    with MDSWriter(out=str(folder), columns={'x': 'int', 't': 'str'}, size_limit=600, **settings) as writer:
        for index in range(samples):
            writer.write({'x': index, 't': 'word ' * 5})
    return folder


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('mds')
    write(folder / 'train')
    write(folder / 'val', 7)
    return folder


def sample(raw, epoch, index):
    return torch.tensor([raw['x'], epoch, index])


def loader(path, split='train', batch_size=8, train=True, workers=0, seed=17, columns=('x',), remote=None, **settings):
    return mds_loader(str(path), remote, split, columns, sample, torch.stack, batch_size, seed, train, workers, **settings)


def epoch(loading, number):
    if hasattr(loading.sampler, 'set_epoch'):  # as Composer does; a streamed dataset counts by itself
        loading.sampler.set_epoch(number)
    return list(loading)


def test_the_index_says_what_is_there(data):
    index = read_index(data / 'train')
    assert (index.samples, index.columns) == (40, {'t': 'str', 'x': 'int'})
    assert index.bytes == sum(path.stat().st_size for path in (data / 'train').glob('*.mds'))
    assert index.shards == len(list((data / 'train').glob('*.mds'))) > 1
    assert is_mds(data / 'train')
    assert not is_mds(data)


@pytest.mark.filterwarnings('ignore:unclosed file.*zstd:ResourceWarning')  # streaming's own
def test_compressed_shards_are_fine(tmp_path):
    write(tmp_path / 'train', compression='zstd')
    assert read_index(tmp_path / 'train').samples == 40
    assert sum(len(batch) for batch in loader(tmp_path)) == 40


def test_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'path: expected MDS shards with an index\.json'):
        read_index(tmp_path)


def test_a_truncated_shard_is_named_with_its_sizes(tmp_path):
    write(tmp_path)
    shard = tmp_path / 'shard.00001.mds'
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"truncated.*shard\.00001\.mds' has 100 of {size} bytes"):
        read_index(tmp_path)
    with pytest.raises(ValueError, match='truncated'):
        loader(tmp_path.parent, split=tmp_path.name)


def test_an_empty_shard_and_a_missing_one(tmp_path):
    write(tmp_path)
    shard = tmp_path / 'shard.00000.mds'
    shard.write_bytes(b'')
    with pytest.raises(ValueError, match='has 0 of'):
        read_index(tmp_path)
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=r"shard\.00000\.mds' that index\.json names is missing"):
        read_index(tmp_path)


@pytest.mark.parametrize('text', ['{"shards": [{"samples": 3}]}', '[]', '{"version": 2', '{"shards": 3}'])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / 'index.json').write_text(text)
    with pytest.raises(ValueError, match='is not the index of MDS shards'):
        read_index(tmp_path)


def test_no_samples(tmp_path):
    (tmp_path / 'index.json').write_text(json.dumps({'version': 2, 'shards': []}))
    with pytest.raises(ValueError, match='hold no samples'):
        read_index(tmp_path)


def test_a_missing_column_and_an_unknown_argument(data):
    with pytest.raises(ValueError, match=r'have the columns t, x; expected x and pixels \(pixels is missing\)'):
        loader(data, columns=('x', 'pixels'))
    with pytest.raises(ValueError, match="streaming.*cach_limit.*'cache_limit'"):
        loader(data, streaming={'cach_limit': '1gb'})


def test_too_few_samples_for_a_batch(data):
    with pytest.raises(ValueError, match='an epoch has 7 samples, fewer than one global batch of 8'):
        loader(data, split='val')


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('streaming', [{}, {'shuffle_algo': 'py1e'}], ids=['local', 'streamed'])
def test_every_sample_once_an_epoch_and_each_knows_its_epoch(data, workers, streaming):
    loading = loader(data, workers=workers, streaming=streaming)
    seen = [torch.cat(epoch(loading, number)) for number in range(3)]
    for number, samples in enumerate(seen):
        assert sorted(samples[:, 0].tolist()) == list(range(40))
        assert samples[:, 1].unique().tolist() == [number]
        assert torch.equal(samples[:, 0], samples[:, 2])
    assert not torch.equal(seen[0][:, 0], seen[1][:, 0])
    assert torch.equal(seen[0], torch.cat(list(loader(data, streaming=streaming))))
    assert not torch.equal(seen[0], torch.cat(list(loader(data, seed=18, streaming=streaming))))


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('streaming', [{}, {'shuffle_algo': 'py1e'}], ids=['local', 'streamed'])
def test_it_resumes_in_the_middle_and_between_epochs(data, workers, streaming):
    loading = loader(data, workers=workers, streaming=streaming)
    first = epoch(loading, 0)
    middle, end = loading.dataset.state_dict(16, True), loading.dataset.state_dict(0, True)
    second = epoch(loading, 1)
    for number, state, expected in ((0, middle, first[2:]), (1, end, second)):
        other = loader(data, workers=workers, streaming=streaming)
        other.dataset.load_state_dict(state)
        assert torch.equal(torch.cat(epoch(other, number)), torch.cat(expected))


def test_local_shards_keep_no_file_open(data):
    def files():
        return len(os.listdir('/proc/self/fd'))
    before = files()
    for _ in range(3):
        list(loader(data))
        list(loader(data, split='val', train=False, batch_size=4))
    assert files() <= before


def test_evaluation_goes_through_all_in_order(data):
    loading = loader(data, split='val', batch_size=4, train=False)
    assert [batch[:, 0].tolist() for batch in loading] == [[0, 1, 2, 3], [4, 5, 6]]
    assert len(loading.dataset) == 7


def test_shards_without_a_split_folder(data):
    assert len(loader(data / 'val', split='val', train=False, batch_size=7)) == 1


def test_from_a_remote_folder_into_a_cache(data, tmp_path):
    loading = loader(tmp_path / 'cache', remote=str(data))
    assert sorted(torch.cat(list(loading))[:, 0].tolist()) == list(range(40))
    assert is_mds(tmp_path / 'cache' / 'train')


def test_attributes_are_set_for_training_and_evaluation(data):
    assert loader(data, attributes={'num_classes': 3}).dataset.num_classes == 3
    assert loader(data, split='val', train=False, attributes={'vocabulary': 'v'}).dataset.vocabulary == 'v'


def test_pickled_columns_are_refused_unread(tmp_path):
    with MDSWriter(out=str(tmp_path / 'train'), columns={'x': 'pkl'}) as writer:
        writer.write({'x': {1: 2}})
    with pytest.raises(ValueError, match='hold pickled columns, which run code of whoever made them'):
        read_index(tmp_path / 'train')
