"""A finished store read from elsewhere, shard by shard, as mosaicml-streaming reads data."""

import dataclasses
import json
import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from streaming import StreamingDataset

from composer_kd.answers import Store, parts
from composer_kd.answers.keys import key_of, keys_of
from composer_kd.answers.parts import read_parts, read_segments, write_index
from composer_kd.teachers.stored import _local_for
from tests.answers.made import FORM, answer, fill, manifest, print_of
from tests.answers.training import data, keeper, live, stored, train, trained
from tests.common import same, weights

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length',
)


def finish(path):
    """What composer-kd cache does in the end."""
    write_index(path, read_parts(path, 'x'))
    dataclasses.replace(Store.open(path).manifest, complete=True).write(path)
    return path


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """A finished store of two epochs, in shards of a kilobyte, and the weights that training on it gives."""
    path = tmp_path_factory.mktemp('complete') / 'store'
    before, parts._SHARD = parts._SHARD, 1000
    try:
        torch.manual_seed(0)
        want = trained(live(path))
    finally:
        parts._SHARD = before
    return finish(path), want


def elsewhere(path, local):
    return {'cache': {'path': str(path), 'local': str(local)}}


@pytest.mark.parametrize('workers', [0, 2])
def test_training_bit_for_bit(complete, tmp_path, workers):
    path, want = complete
    fit = train(elsewhere(path, tmp_path / 'local'), spec=data(num_workers=workers))
    assert same(weights(fit), want)
    assert keeper(fit).read == 192
    fetched = list((tmp_path / 'local').rglob('*.mds'))
    assert len(fetched) == len(list(path.rglob('*.mds'))) > 3
    # and once more, from what was fetched
    shutil.copytree(path, tmp_path / 'copy')
    assert same(trained(elsewhere(path, tmp_path / 'local'), spec=data(num_workers=workers)), want)


def test_only_what_is_asked_for_is_fetched(complete, tmp_path):
    train(elsewhere(complete[0], tmp_path / 'local'), spec=data(train_size=16, views=1), duration='1ba')
    assert 0 < len(list((tmp_path / 'local').rglob('*.mds'))) < len(list(complete[0].rglob('*.mds')))


def test_it_is_read_where_it_lies_too(complete):
    assert same(trained(stored(complete[0])), complete[1])


def test_streaming_itself_reads_it(tmp_path):
    path = tmp_path / 'store'
    path.mkdir()
    fill(path, FORM, [(0, i) for i in range(30)])
    fill(path, FORM, [(1, i) for i in range(30)])
    finish(path)
    data = StreamingDataset(local=str(path), shuffle=False, batch_size=1)
    segments = read_segments(path / 'segments.npy', 'x')
    assert segments == [(0, 0, 30), (1, 0, 30)]
    assert [data[i]['answer'][4:] for i in range(60)] == [answer(view, index) for view, first, count in segments for index in range(first, first + count)]


@pytest.mark.parametrize('beside', [False, True], ids=['alone', 'beside the same in order'])
def test_scattered_answers_have_their_place(tmp_path, beside):
    path = tmp_path / 'store'
    path.mkdir()
    which = [(0, int(i)) for i in np.random.default_rng(0).permutation(50)]
    fill(path, FORM, which[::7] if beside else which)
    if beside:
        fill(path, FORM, sorted(which))
    finish(path)
    store = Store(Store.open(path).manifest, tmp_path / 'local', 'x', str(path), read_segments(path / 'segments.npy', 'x'), json.loads((path / 'index.json').read_text())['shards'])
    for view, index in which:
        row, = store.locate(keys_of(view, [index])).tolist()
        assert store.payload(row, key_of(view, index), print_of(view, index)) == answer(view, index)


def test_one_that_is_not_complete_is_not_read_from_elsewhere(complete, tmp_path):
    path = shutil.copytree(complete[0], tmp_path / 'store')
    dataclasses.replace(Store.open(path).manifest, complete=False).write(path)
    with pytest.raises(ValueError, match=r"teachers\[0\] \('teacher0'\)\.cache: the store at .* is not complete\. Go on with the 'composer-kd cache'"):
        train(elsewhere(path, tmp_path / 'local'))


def test_none_at_all(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match='manifest'):
        train(elsewhere(tmp_path / 'none', tmp_path / 'local'))


@pytest.mark.parametrize('name', ['segments.npy', 'index.json', 'manifest.json'])
@pytest.mark.parametrize('how', ['flipped', 'cut', 'missing'])
def test_files_that_are_not_as_they_were_written(complete, tmp_path, name, how):
    path = shutil.copytree(complete[0], tmp_path / 'store')
    raw = bytearray((path / name).read_bytes())
    places = range(0, len(raw), max(1, len(raw) // 5)) if how == 'flipped' else [0]
    for place in places:
        changed = bytearray(raw)
        if how == 'flipped':
            changed[place] ^= 2
        (path / name).write_bytes(changed[:len(raw) // 2] if how == 'cut' else changed)
        if how == 'missing':
            (path / name).unlink()
        with pytest.raises((ValueError, FileNotFoundError), match=r'\.(npy|json)') as caught:
            train(elsewhere(path, tmp_path / 'local'))
        assert str(path) in str(caught.value)


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('how', ['flipped', 'missing'])
def test_shards_that_are_damaged_there(complete, tmp_path, how, workers):
    path = shutil.copytree(complete[0], tmp_path / 'store')
    shards = sorted(path.rglob('*.mds'))
    for shard in shards:
        raw = bytearray(shard.read_bytes())
        raw[-1] ^= 1
        shard.write_bytes(raw)
        if how == 'missing':
            shard.unlink()
    for _ in range(2):  # what was fetched the first time is not taken for whole the second
        with pytest.raises(ValueError, match=rf"teachers\[0\] \('teacher0'\)\.cache: '{path}/parts/.*\.mds' is damaged or cannot be fetched") as caught:
            train(elsewhere(path, tmp_path / 'local'), spec=data(num_workers=workers))
        assert 'Traceback' not in str(caught.value)


def test_a_shard_that_was_damaged_after_it_was_fetched(complete, tmp_path):
    local = tmp_path / 'local'
    train(elsewhere(complete[0], local))
    for shard in local.rglob('*.mds'):
        raw = bytearray(shard.read_bytes())
        raw[-1] ^= 1
        shard.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"'{local}/.*\.mds' is damaged: its bytes are not those that were written"):
        train(elsewhere(complete[0], local))
    for shard in local.rglob('*.mds'):
        shard.write_bytes(shard.read_bytes()[:-1])  # cut short, as by a full disk: fetched anew
    assert same(trained(elsewhere(complete[0], local)), complete[1])
    assert [path.name for path in local.rglob('*.part')] == []


def _read_all(path, local, begin, out):
    begin.wait()
    store = Store(Store.open(path).manifest, local, 'x', str(path), read_segments(path / 'segments.npy', 'x'), json.loads((path / 'index.json').read_text())['shards'])
    out.put([store.payload(int(store.locate(keys_of(0, [i]))[0]), key_of(0, i), print_of(0, i)) for i in range(300)])


def test_several_processes_that_fetch_the_same_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, '_SHARD', 500)
    path = tmp_path / 'store'
    path.mkdir()
    fill(path, FORM, [(0, i) for i in range(300)])
    finish(path)
    context = multiprocessing.get_context('fork')
    begin, out = context.Event(), context.Queue()
    readers = [context.Process(target=_read_all, args=(path, tmp_path / 'local', begin, out)) for _ in range(4)]
    for reader in readers:
        reader.start()
    begin.set()
    assert [out.get(timeout=60) for _ in readers] == [[answer(0, i) for i in range(300)]] * 4
    for reader in readers:
        reader.join()


def test_no_shard_of_an_earlier_store_of_the_same_teacher_is_taken(tmp_path):
    """Hardware may round otherwise, and its shards are as long: what writing took tells them apart."""
    one, other = (manifest(complete=True, cost={'seconds': seconds}) for seconds in (1.0, 2.0))
    assert _local_for(str(tmp_path), one) != _local_for(str(tmp_path), other)
    assert _local_for(str(tmp_path), one) == _local_for(str(tmp_path), dataclasses.replace(one))


def test_a_store_written_anew_at_the_same_place_is_fetched_anew(complete, tmp_path):
    """By another teacher, to the same samples in the same views: only the manifest tells."""
    path, local = tmp_path / 'store', tmp_path / 'local'
    shutil.copytree(complete[0], path)
    assert same(trained(elsewhere(path, local)), complete[1])
    shutil.rmtree(path)
    want = trained(live(path, seed=2))
    finish(path)
    assert not same(want, complete[1])
    assert same(trained(elsewhere(path, local)), want)
    assert manifest().identity != Store.open(path).manifest.identity
