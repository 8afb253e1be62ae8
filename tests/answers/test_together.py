"""Several writers at one store, and readers beside them, as ranks and runs that fill the same store are."""

import multiprocessing
import shutil
import threading

import numpy as np
import pytest

from composer_kd.answers import Format, Store, parts
from composer_kd.answers.keys import key_of, keys_of
from tests.answers.made import FORM, answer, fill, manifest, print_of


def _write(folder, seed, count, begin):
    begin.wait()
    random = np.random.default_rng(seed)
    manifest().write(folder, begin=True)
    for _ in range(count):
        fill(folder, FORM, [(int(v), int(i)) for v, i in zip(random.integers(0, 3, 40), random.integers(0, 200, 40), strict=True)])
        first = int(random.integers(0, 150))
        fill(folder, FORM, [(3, i) for i in range(first, first + 24)])


def check(store):
    found = 0
    for view in range(4):
        rows = store.locate(keys_of(view, np.arange(200)))
        for index in np.flatnonzero(rows >= 0)[::5].tolist():
            assert store.payload(int(rows[index]), key_of(view, index), print_of(view, index)) == answer(view, index)
            found += 1
    return found


def test_writers_side_by_side_and_a_reader_who_looks_in_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, '_SHARD', 500)
    context = multiprocessing.get_context('fork')
    begin = context.Event()
    writers = [context.Process(target=_write, args=(tmp_path, seed, 10, begin)) for seed in range(3)]
    for writer in writers:
        writer.start()
    begin.set()
    seen, samples = 0, 0
    while any(writer.is_alive() for writer in writers) or not seen:
        try:
            store = Store.open(tmp_path)
        except FileNotFoundError:
            continue  # nobody has begun
        assert store.samples >= samples, 'what was there stays there'
        samples = store.samples
        seen += check(store) > 0
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen > 1
    assert check(Store.open(tmp_path)) > 100
    assert [path.name for path in (tmp_path / 'parts').iterdir() if path.name.startswith('.')] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ['manifest.json', 'parts']


def _begin(folder, form, begin, out):
    begin.wait()
    manifest(form).write(folder, begin=True)
    out.put(Store.open(folder).format.classes)


def test_of_many_who_begin_a_store_at_once_one_does(tmp_path):
    """All find the same one there, whoever was first."""
    context = multiprocessing.get_context('fork')
    for turn in range(10):
        folder = tmp_path / str(turn)
        folder.mkdir()
        begin, out = context.Event(), context.SimpleQueue()
        all_of_them = [context.Process(target=_begin, args=(folder, Format('dense', n), begin, out)) for n in (3, 4, 5)]
        for process in all_of_them:
            process.start()
        begin.set()
        for process in all_of_them:
            process.join()
        assert len({out.get() for _ in all_of_them}) == 1
        assert [path.name for path in folder.iterdir()] == ['manifest.json']


def test_a_store_that_grows_while_it_is_read(tmp_path):
    """A store shows what was there when it was opened."""
    fill(tmp_path, FORM, [(0, i) for i in range(20)])
    store = Store.open(tmp_path)
    fill(tmp_path, FORM, [(1, i) for i in range(20)])
    assert store.samples == 20
    assert store.missing(1, np.arange(20)).tolist() == list(range(20))
    assert check(store) == 4
    assert Store.open(tmp_path).samples == 40


def test_the_size_of_a_store_that_grows(tmp_path):
    """A file that has its final name by the time it is looked at stops no training."""
    fill(tmp_path, FORM, [(0, 0)])
    store, begun = Store.open(tmp_path), Store.open(tmp_path).bytes
    writer = threading.Thread(target=lambda: [fill(tmp_path, FORM, [(0, 3 * i), (0, 3 * i + 2)]) for i in range(150)])
    writer.start()
    while writer.is_alive():
        assert store.bytes >= begun
    writer.join()
    assert store.bytes == sum(path.stat().st_size for path in tmp_path.rglob('*') if path.is_file()) > begun


def test_a_store_removed_while_it_is_read(tmp_path):
    """What is open can be read on; what is not says which file is gone."""
    (tmp_path / 'a').mkdir()
    fill(tmp_path / 'a', FORM, [(0, i) for i in range(20)])
    open_one, other = Store.open(tmp_path / 'a'), Store.open(tmp_path / 'a', 'teachers[0].cache')
    assert check(open_one) == 4
    shutil.rmtree(tmp_path / 'a')
    assert check(open_one) == 4
    with pytest.raises(OSError, match=r'shard.*\.mds'):
        check(other)
