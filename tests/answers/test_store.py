"""Answers are found by view and sample, whatever order and parts they were written in, by any number of processes."""

import errno
import json
import multiprocessing
import os
import pickle
import signal
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd.answers import Format, Manifest, Store, parts
from composer_kd.answers.keys import check_of, fingerprints, key_of, keys_of, split_key
from composer_kd.answers.parts import remove_unfinished
from tests.answers.made import FORM, answer, fill, manifest, print_of, rows_for


def read(store, view, index):
    row, = store.locate(keys_of(view, [index])).tolist()
    return None if row < 0 else store.payload(row, key_of(view, index), print_of(view, index))


def assert_holds(store, which, said=answer):
    which = list(which)
    order = np.random.default_rng(1).permutation(len(which))
    for place in order.tolist():
        view, index = which[place]
        assert read(store, view, index) == said(view, index), (view, index)


SOME = {
    'one part in order': [[(0, i) for i in range(50)]],
    'one part, views and all': [[(2, i) for i in range(20, 60)]],
    'several in order': [[(0, i) for i in range(20)], [(1, i) for i in range(20)], [(0, i) for i in range(20, 33)]],
    'scattered': [[(0, i) for i in (5, 3, 99, 4, 0)]],
    'scattered over views': [[(3, 5), (0, 3), (1, 2**39), (0, 0)], [(2, 5), (0, 7)]],
    'both': [[(0, i) for i in range(10)], [(0, 77), (1, 3)], [(1, i) for i in range(4, 9)], [(0, 10), (0, 12)]],
    'one sample': [[(0, 7)]],
    'the largest': [[(2**23 - 1, 2**40 - 1), (2**23 - 1, 0), (0, 2**40 - 1)]],
}


@pytest.mark.parametrize('name', SOME)
def test_every_answer_is_found_and_no_other(tmp_path, name):
    for part in SOME[name]:
        fill(tmp_path, FORM, part)
    store = Store.open(tmp_path)
    there = {one for part in SOME[name] for one in part}
    assert_holds(store, there)
    assert store.samples == len(there)
    near = {(view + dv, index + di) for view, index in there for dv in (-1, 0, 1) for di in (-1, 0, 1)} - there
    for view, index in near:
        if 0 <= view < 2**23 and 0 <= index < 2**40:
            assert read(store, view, index) is None
    missing = store.missing(0, np.arange(120))
    assert missing.tolist() == [i for i in range(120) if (0, i) not in there]


def test_an_empty_store(tmp_path):
    manifest().write(tmp_path)
    store = Store.open(tmp_path)
    assert store.samples == 0
    assert store.locate(keys_of(0, [0, 1, 2**30])).tolist() == [-1] * 3
    assert store.missing(3, np.arange(3)).tolist() == [0, 1, 2]
    assert store.locate(keys_of(0, [])).tolist() == []


def test_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^teachers\[0\]: there is no manifest\.json in .*fill: true"):
        Store.open(tmp_path / 'none', 'teachers[0]')


def test_answers_written_twice(tmp_path):
    """By ranks or runs that met the same sample: one of the two is read, and both are right."""
    fill(tmp_path, FORM, [(0, i) for i in (3, 1, 2)])
    fill(tmp_path, FORM, [(0, i) for i in (2, 3, 9)])
    fill(tmp_path, FORM, [(0, i) for i in range(2, 6)])
    fill(tmp_path, FORM, [(0, i) for i in range(4, 8)])
    assert_holds(Store.open(tmp_path), [(0, i) for i in (1, 2, 3, 4, 5, 6, 7, 9)])


@pytest.mark.parametrize('other', [range(40, 60), range(90, 130), range(100)], ids=str)
def test_ranges_that_lie_over_one_another(tmp_path, other):
    """By two runs at once: a short range within a long one hides nothing of what comes after it."""
    fill(tmp_path, FORM, [(0, i) for i in range(100)])
    fill(tmp_path, FORM, [(0, i) for i in other])
    store = Store.open(tmp_path)
    there = [(0, i) for i in {*range(100), *other}]
    assert_holds(store, there)
    assert store.missing(0, np.arange(200)).tolist() == sorted({*range(200)} - {i for _, i in there})


def test_the_same_range_written_twice_is_there_once(tmp_path):
    one = fill(tmp_path, FORM, [(0, i) for i in range(16)])
    assert fill(tmp_path, FORM, [(0, i) for i in range(16)]) == one
    store = Store.open(tmp_path)
    assert store.samples == 16
    assert_holds(store, [(0, i) for i in range(16)])
    assert [path.name for path in (tmp_path / 'parts').iterdir()] == [one.name]


def test_parts_with_the_same_first_sample_and_size_but_other_gaps(tmp_path):
    one = [(0, i) for i in (*range(20), *range(40, 60))]
    other = [(0, i) for i in (*range(20), *range(80, 100))]
    assert fill(tmp_path, FORM, one) != fill(tmp_path, FORM, other)
    store = Store.open(tmp_path)
    assert_holds(store, [*one, *other])
    assert len(store.missing(0, np.arange(100))) == 40
    assert list(tmp_path.rglob('keys.npy')) == [], 'both are told in segments'


def test_a_part_without_answers_leaves_nothing(tmp_path):
    manifest().write(tmp_path)
    assert parts.PartWriter(tmp_path).close() is None
    assert list((tmp_path / 'parts').iterdir()) == []
    dropped = parts.PartWriter(tmp_path)
    dropped.write(1, 1, b'abcd')
    dropped.drop()
    assert list((tmp_path / 'parts').iterdir()) == []


@pytest.mark.parametrize('order', ['in order', 'scattered'])
def test_several_shards_in_a_part(tmp_path, monkeypatch, order):
    monkeypatch.setattr(parts, '_SHARD', 2000)
    which = [(0, i) for i in (range(500) if order == 'in order' else np.random.default_rng(0).permutation(500).tolist())]
    path = fill(tmp_path, FORM, which)
    assert len(list(path.glob('*.mds'))) > 5
    store = Store.open(tmp_path)
    assert_holds(store, which)


def test_answers_of_any_number_of_rows(tmp_path):
    """As of texts with none, one or many words to predict."""
    form = Format('top_k', 1000, k=3)
    counts = np.random.default_rng(0).integers(0, 40, 200)
    counts[:3] = 0

    def said(view, index):
        return rows_for(form, int(counts[index]), index)
    fill(tmp_path, form, [(0, i) for i in range(200)], said)
    assert_holds(Store.open(tmp_path), [(0, i) for i in range(200)], said)


def test_an_answer_to_another_input_is_refused(tmp_path):
    fill(tmp_path, FORM, [(0, i) for i in range(5)])
    store = Store.open(tmp_path, 'teachers[1].cache')
    row, = store.locate(keys_of(0, [3])).tolist()
    for key, fingerprint in ((key_of(0, 3), print_of(0, 3) ^ 1), (key_of(0, 2), print_of(0, 3)), (key_of(1, 3), print_of(0, 3)),
                             (key_of(0, 3), 0), (key_of(0, 2), print_of(0, 2))):
        view, index = split_key(key)
        with pytest.raises(ValueError, match=rf'^teachers\[1\]\.cache: the stored answer to sample {index}, view {view}, was given to another input'):
            store.payload(row, key, fingerprint)


def test_a_swap_of_two_answers_is_seen(tmp_path):
    """Both whole and in one shard, with the shard's hash made to fit: each is bound to its own sample."""
    path = fill(tmp_path, FORM, [(0, i) for i in range(4)])
    shard, = path.glob('*.mds')
    raw = bytearray(shard.read_bytes())
    one, other = (raw.index(answer(0, i)) for i in (1, 2))
    raw[one - 4:one + 16], raw[other - 4:other + 16] = raw[other - 4:other + 16], raw[one - 4:one + 16]
    shard.write_bytes(raw)
    store = Store.open(tmp_path)
    assert read(store, 0, 0) == answer(0, 0)
    for index in (1, 2):
        with pytest.raises(ValueError, match='shard'):
            read(store, 0, index)


def _read_there(store, which, out):
    out.put([read(store, *one) for one in which])


def test_processes_that_the_store_is_handed_to(tmp_path):
    which = [(v, i) for v in (0, 1) for i in range(30)]
    fill(tmp_path, FORM, [*which[:30]])
    fill(tmp_path, FORM, [*reversed(which[30:])])
    store = Store.open(tmp_path)
    assert_holds(store, which)  # shards are open now; the others open their own
    context = multiprocessing.get_context('fork')
    out = context.Queue()
    processes = [context.Process(target=_read_there, args=(store, which[k::2], out)) for k in range(2)]
    for process in processes:
        process.start()
    found = sorted(answer for _ in processes for answer in out.get(timeout=60))
    for process in processes:
        process.join(60)
    assert found == sorted(answer(*one) for one in which)


def test_a_pickled_store_holds_no_open_files(tmp_path):
    fill(tmp_path, FORM, [(0, i) for i in range(30)])
    store = Store.open(tmp_path)
    assert_holds(store, [(0, i) for i in range(30)])
    again = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 20_000
    assert_holds(again, [(0, i) for i in range(30)])
    assert_holds(store, [(0, i) for i in range(30)])


class _ByWorkers(torch.utils.data.Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return torch.frombuffer(bytearray(read(self.store, 0, index)), dtype=torch.float32)


def test_workers_of_a_loader(tmp_path):
    fill(tmp_path, FORM, [(0, i) for i in np.random.default_rng(0).permutation(60).tolist()])
    data = _ByWorkers(Store.open(tmp_path))
    for workers in (0, 1, 2):
        found = torch.cat(list(DataLoader(data, batch_size=7, num_workers=workers)))
        assert found[:, 1].tolist() == list(range(60))


# a writer that is killed

def _write_on_and_on(folder, order, out):
    begin = 0
    while True:
        part = parts.PartWriter(folder)
        for i in range(begin, begin + 400):
            index = i if order == 'in order' else i ^ 1
            part.write(key_of(0, index), print_of(0, index), answer(0, index))
        part.close()
        begin += 400
        out.send(begin)


@pytest.mark.parametrize('order', ['in order', 'scattered'])
def test_a_writer_killed_at_any_moment_leaves_whole_parts_alone(tmp_path, order, monkeypatch):
    """Killed outright, many times: of what can be opened every answer is right, and no more is missing than one part."""
    monkeypatch.setattr(parts, '_SHARD', 3000)
    random, context, torn = np.random.default_rng(0), multiprocessing.get_context('fork'), 0
    for start in range(12):
        folder = tmp_path / f'store{start}'
        folder.mkdir()
        manifest().write(folder)
        said, out = context.Pipe(duplex=False)
        process = context.Process(target=_write_on_and_on, args=(folder, order, out))
        process.start()
        time.sleep(float(random.uniform(0.02, 0.3)))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        out.close()
        done = 0
        while said.poll():
            try:
                done = said.recv()
            except EOFError:
                break
        said.close()
        store = Store.open(folder)
        assert store.samples in (done, done + 400), 'it was renamed, or it was not'
        assert_holds(store, [(0, i) for i in range(0, store.samples, 7)])
        left = [path for path in (folder / 'parts').iterdir() if path.name.startswith('.')] if (folder / 'parts').exists() else []
        assert remove_unfinished(folder) == len(left) <= 1
        torn += len(left)
        assert Store.open(folder).samples == store.samples
        # and the rest can be written as if nothing had been
        fill(folder, FORM, [(0, i) for i in range(store.samples, store.samples + 10)])
        assert_holds(Store.open(folder), [(0, i) for i in range(0, store.samples + 10, 7)])
    assert torn > 3, 'some were killed in the middle'


def test_what_another_writer_is_at_is_left_alone(tmp_path):
    manifest().write(tmp_path)
    mine = parts.PartWriter(tmp_path)
    mine.write(key_of(0, 1), print_of(0, 1), answer(0, 1))
    assert remove_unfinished(tmp_path) == 0
    elsewhere = tmp_path / 'parts' / '.unfinished-0123abcd-1-77777777'  # another machine's, whatever its number
    elsewhere.mkdir()
    assert remove_unfinished(tmp_path) == 0
    assert Store.open(tmp_path).samples == 0
    mine.close()
    assert Store.open(tmp_path).samples == 1
    assert elsewhere.exists()


# a manifest

def test_a_manifest_comes_back(tmp_path):
    said = manifest(Format('top_k', 1000, k=9, temperature=4.0), cost={'seconds': 3.5}, complete=True, view={'seed': 3, 'sizes': [1, 2], 'x': None})
    said.write(tmp_path)
    assert Manifest.read(tmp_path / 'manifest.json', 'x') == said


def test_a_store_is_begun_once(tmp_path):
    manifest().write(tmp_path, begin=True)
    manifest(Format('dense', 5)).write(tmp_path, begin=True)
    assert Store.open(tmp_path).format == FORM
    assert [path.name for path in tmp_path.iterdir()] == ['manifest.json']
    manifest(Format('dense', 5)).write(tmp_path)
    assert Store.open(tmp_path).format.classes == 5


def test_a_store_is_begun_once_where_files_have_one_name_each(tmp_path, monkeypatch):
    def link(*_):
        raise OSError(errno.EOPNOTSUPP, 'Operation not supported')
    monkeypatch.setattr(os, 'link', link)
    test_a_store_is_begun_once(tmp_path)


def test_a_part_belongs_to_the_store_that_its_writer_knows(tmp_path):
    manifest().write(tmp_path)
    known = Store.open(tmp_path).manifest.identity
    manifest(view={'seed': 18}).write(tmp_path)
    with pytest.raises(OSError, match='another store was begun at the same place meanwhile'):
        parts.PartWriter(tmp_path, known)
    assert not (tmp_path / 'parts').exists()
    parts.PartWriter(tmp_path, Store.open(tmp_path).manifest.identity).close()


@pytest.mark.parametrize('version', [0, 2, '1', None])
def test_a_manifest_of_another_version(tmp_path, version):
    manifest().write(tmp_path)
    said = json.loads((tmp_path / 'manifest.json').read_text())
    (tmp_path / 'manifest.json').write_text(json.dumps({**said, 'version': version}))
    with pytest.raises(ValueError, match=rf'^cache: .*manifest\.json.* is of version {version!r}, and this composer_kd knows 1\.'):
        Store.open(tmp_path)


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{}', '3', '{"version": 1}', '{"version": 1, "format": 3}', '\0' * 100, '"version"'])
def test_what_is_no_manifest(tmp_path, text):
    (tmp_path / 'manifest.json').write_text(text)
    with pytest.raises(ValueError, match=r'^cache: .*manifest\.json. is not the manifest of stored answers'):
        Store.open(tmp_path)


def test_a_setting_changed_by_hand_is_seen(tmp_path):
    """As the temperature or the number of classes kept: read with it, answers would be others."""
    manifest(Format('top_k', 1000, k=9, temperature=4.0)).write(tmp_path)
    path = tmp_path / 'manifest.json'
    for one, other in (('"k": 9', '"k": 8'), ('"temperature": 4.0', '"temperature": 2.0'), ('"seed": 17', '"seed": 18'), ('"digest": "ab', '"digest": "ac')):
        whole = path.read_text()
        assert one in whole
        path.write_text(whole.replace(one, other))
        with pytest.raises(ValueError, match=r'manifest\.json.*not as it was written'):
            Store.open(tmp_path)
        path.write_text(whole)
    Store.open(tmp_path)


def test_differences_name_both_sides():
    kept = manifest(data={'name': 'digits', 'content': 'a' * 100})
    other = {'teacher': {'digest': 'x'}, 'data': {'name': 'digits', 'content': 'b' * 100}, 'view': {'seed': 17, 'shift': 1},
             'rows': {'ignore_index': 0, 'shift': False}, 'format': Format('dense', 5, 'float32').plain()}
    found = kept.differences(other)
    assert [line.split()[0] for line in found] == ['teacher.digest', 'data.content', 'view.noise', 'view.shift', 'rows.ignore_index', 'format.classes']
    assert 'rows.ignore_index is -100 in the store and 0 in this training' in found
    assert 'format.classes is 4 in the store and 5 in this training' in found
    assert all(len(line) < 250 for line in found)
    assert kept.differences({'data': kept.data, 'view': {'noise': 0.5, 'seed': 17}, 'teacher': {'digest': 'ab' * 32}}) == []
    assert kept.differences({}) == []
    # whatever JSON makes of it
    assert manifest(view={'size': (1, 2)}).differences({'view': {'size': [1, 2]}}) == []


# keys and fingerprints

def test_keys():
    assert keys_of(3, [0, 17]).tolist() == [key_of(3, 0), key_of(3, 17)]
    assert split_key(key_of(2**23 - 1, 2**40 - 1)) == (2**23 - 1, 2**40 - 1)
    assert keys_of(np.array([0, 1]), np.array([5, 5])).tolist() == [key_of(0, 5), key_of(1, 5)]


def test_a_fingerprint_follows_from_every_bit():
    x, y = torch.randn(3, 2, 4), torch.tensor([1, 2, 3])
    before = fingerprints((x, y))
    assert len(set(before.tolist())) == 3
    changed = x.clone()
    changed.view(torch.int32)[1, 1, 3] ^= 1  # the last bit of one number
    assert (fingerprints((changed, y)) != before).tolist() == [False, True, False]
    assert (fingerprints((x, torch.tensor([1, 0, 3]))) != before).tolist() == [False, True, False]
    assert (fingerprints((y, x)) != before).all(), 'in another order'
    assert (fingerprints((x, y.int())) != before).all(), 'of another type'
    assert (fingerprints((x.flatten(1).contiguous(), y)) == before).all()
    strided = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert (fingerprints([strided, y]) == before).all(), 'however it lies in memory'
    alone = np.concatenate([fingerprints((x[i:i + 1], y[i:i + 1])) for i in range(3)])
    assert (alone == before).all(), 'whatever it is together with'


@pytest.mark.parametrize('dtype', [torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_fingerprints_of_any_type(dtype):
    x = torch.tensor([[0, 1], [1, 0], [1, 1]]).to(dtype)
    assert len(set(fingerprints({'x': x}).tolist())) == 3


def test_of_a_text_what_padding_adds_is_nothing():
    ids, mask = torch.tensor([[5, 6, 0, 0], [7, 8, 9, 1]]), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    whole = fingerprints({'input_ids': ids, 'attention_mask': mask, 'labels': torch.tensor([0, 1])})
    short = fingerprints({'input_ids': ids[:1, :2], 'attention_mask': mask[:1, :2], 'labels': torch.tensor([0])})
    assert whole[0] == short[0]
    hidden = ids.clone()
    hidden[0, 3] = 9
    assert (fingerprints({'input_ids': hidden, 'attention_mask': mask, 'labels': torch.tensor([0, 1])}) == whole).all()
    shown = mask.clone()
    shown[0, 2] = 1
    assert fingerprints({'input_ids': ids, 'attention_mask': shown, 'labels': torch.tensor([0, 1])})[0] != whole[0]


def test_masked_positions_are_left_out_for_they_count_through_the_batch():
    batch = {'input_ids': torch.tensor([[1, 2], [3, 4]])}
    with_positions = {**batch, 'masked_positions': torch.tensor([0, 3])}
    assert (fingerprints(with_positions) == fingerprints(batch)).all()


def test_a_check_binds_the_answer_to_the_sample_and_the_input():
    told = [
        (b'abc', 1, 2, 'a'), (b'abd', 1, 2, 'a'), (b'abc', 2, 2, 'a'), (b'abc', 1, 3, 'a'), (b'', 1, 2, 'a'), (b'abc', 1, 2, 'b'),
    ]
    assert len({check_of(*one) for one in told}) == 6
    assert 0 <= check_of(b'', 2**63 - 1, 2**64 - 1, 'f' * 16) < 2**32
