"""What copying, disks and people do to a store: named, never read as if it were right."""

import json
import shutil

import numpy as np
import pytest

from composer_kd.answers import Format, Store, parts
from composer_kd.answers.keys import key_of, keys_of
from tests.answers.made import FORM, answer, fill, manifest, print_of

INDEX = [(0, i) for i in range(60)]
LOOSE = [(1, int(i)) for i in np.random.default_rng(0).permutation(60)]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole') / 'store'
    folder.mkdir()
    before, parts._SHARD = parts._SHARD, 1000
    try:
        fill(folder, FORM, INDEX)
        fill(folder, FORM, LOOSE)
    finally:
        parts._SHARD = before
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / 'store')


def read_all(folder):
    """Every answer, or what is wrong: by key what came, and all that was said of others."""
    try:
        store = Store.open(folder, 'teachers[0].cache')
    except (ValueError, OSError) as error:
        return {}, [str(error)]
    found, said = {}, []
    for view, index in (*INDEX, *LOOSE):
        row, = store.locate(keys_of(view, [index])).tolist()
        if row < 0:
            continue
        try:
            found[view, index] = store.payload(row, key_of(view, index), print_of(view, index))
        except ValueError as error:
            said.append(str(error))
    return found, said


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*') if path.is_file())


def test_as_it_was_written(whole):
    found, said = read_all(whole)
    assert said == []
    assert len(found) == 120
    assert sum(name.endswith('.mds') for name in files(whole)) >= 6


def kinds(folder):
    """One file of each kind, and a shard of each part."""
    some = {}
    for name in files(folder):
        part = name.split('/')[1].split('-')[0] if name.startswith('parts') else ''
        some[part, name.split('/')[-1].split('.')[-1] if name.endswith('.mds') else name.split('/')[-1]] = name
    return sorted(some.values())


def test_a_byte_flipped_anywhere(whole, tmp_path):
    """Every file, every fifth byte, all bits or the lowest: every answer that comes is right, whatever is missing is
    told with the file's name, and a byte that nothing reads changes nothing.
    """
    folder = shutil.copytree(whole, tmp_path / 'store')
    seen = 0
    names = kinds(folder)
    assert {name.split('/')[-1] for name in names} >= {'manifest.json', 'part.json', 'index.json', 'keys.npy'}
    for name in names:
        path = folder / name
        raw = path.read_bytes()
        stride = 1 if len(raw) < 300 else 5
        for place in range(0, len(raw), stride):
            flipped = bytearray(raw)
            flipped[place] ^= 0xFF if place % 2 else 0x01
            path.write_bytes(flipped)
            found, said = read_all(folder)
            for (view, index), payload in found.items():
                assert payload == answer(view, index), (name, place)
            if not name.endswith('.mds'):
                assert said, (name, place)
                assert not found, (name, place)
            elif len(found) < 120:
                assert len(found) + len(said) == 120, (name, place)
                seen += 1
            for text in said:
                part = name if name.endswith(('.mds', 'manifest.json')) else name.rsplit('/', 1)[0]
                assert text.startswith('teachers[0].cache: '), text
                assert part in text, (name, place, text)
        path.write_bytes(raw)
    assert seen > 60
    assert read_all(folder)[1] == []


@pytest.mark.parametrize('region', ['check', 'answer', 'table'])
def test_the_regions_of_a_shard_that_are_read(copy, region):
    """Layout of mosaicml-streaming: number of samples, table of offsets, columns, and of each sample size, check, answer."""
    shard = sorted(copy.glob('parts/0*/*.mds'))[1]
    raw = bytearray(shard.read_bytes())
    count = int.from_bytes(raw[:4], 'little')
    offsets = np.frombuffer(bytes(raw[4:8 + 4 * count]), np.uint32)
    begin = {'check': offsets[3] + 4, 'answer': offsets[3] + 8, 'table': 4 + 4 * 3}[region]
    for place in range(begin, begin + 4):
        for bit in range(8):
            raw[place] ^= 1 << bit
            shard.write_bytes(raw)
            found, said = read_all(copy)
            assert len(found) in (118, 119)
            assert all(payload == answer(*key) for key, payload in found.items())
            assert all(f"'{shard}' is damaged: its bytes are not those that were written" in text for text in said), said
            assert 'Copy the store anew' in said[0]
            raw[place] ^= 1 << bit


@pytest.mark.parametrize('name', ['manifest.json', 'part.json', 'index.json', 'keys.npy', 'mds'])
@pytest.mark.parametrize('how', ['cut in half', 'empty', 'longer', 'missing', 'of zeros'])
def test_half_copied(copy, name, how):
    path = sorted(path for path in copy.rglob(f'*{name}') if path.is_file())[-1]
    raw = path.read_bytes()
    path.unlink()
    if how != 'missing':
        path.write_bytes({'cut in half': raw[:len(raw) // 2], 'empty': b'', 'longer': raw + b'\0', 'of zeros': bytes(len(raw))}[how])
    found, said = read_all(copy)
    assert said
    if name == 'mds' and how == 'of zeros':  # as long as it should be: met where it is read
        assert 100 < len(found) < 120
        assert all(str(path) in text for text in said)
        assert all(payload == answer(*key) for key, payload in found.items())
        return
    assert not found
    assert 'teachers[0].cache' in said[0]
    if (name, how) == ('manifest.json', 'missing'):
        assert f"there is no manifest.json in '{copy}'" in said[0]
        return
    assert str(path if name in ('mds', 'manifest.json') else path.parent) in said[0]
    if name == 'mds':
        assert ('is missing' if how == 'missing' else 'bytes: the store was not copied whole') in said[0]
        assert 'Copy it anew, or remove the folder' in said[0]


def test_a_part_that_was_not_copied_is_missing_and_no_more(copy):
    shutil.rmtree(next(copy.glob('parts/filled-*')))
    store = Store.open(copy)
    assert store.missing(0, np.arange(60)).tolist() == []
    assert store.missing(1, np.arange(60)).tolist() == list(range(60))
    # and can be written again
    fill(copy, FORM, LOOSE)
    assert Store.open(copy).missing(1, np.arange(60)).tolist() == []


def test_the_files_of_one_part_in_the_folder_of_another(copy):
    one, other = sorted(path for path in (copy / 'parts').iterdir())
    for name in ('part.json', 'index.json'):
        file = (one / name).read_bytes()
        (one / name).write_bytes((other / name).read_bytes())
        found, said = read_all(copy)
        assert not found
        assert one.name in said[0]
        (one / name).write_bytes(file)
    shards = sorted(one.glob('*.mds'))
    a, b = (shard.read_bytes() for shard in shards[:2])
    assert len(a) == len(b)
    shards[0].write_bytes(b)
    shards[1].write_bytes(a)
    found, said = read_all(copy)
    assert all(payload == answer(*key) for key, payload in found.items())
    assert said
    assert all('is damaged' in text for text in said)


@pytest.mark.parametrize('change', [
    {'samples': 59}, {'samples': 61}, {'segments': [[0, 1, 60]]}, {'segments': [[1, 0, 60]]}, {'segments': 'x'},
    {'samples': None}, {'files': {}}, {'of': 'x'},
], ids=str)
def test_a_part_that_says_something_else_of_itself(copy, change):
    path = next(copy.glob('parts/0*/part.json'))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found, said = read_all(copy)
    assert not found
    assert path.parent.name in said[0]
    assert 'Copy it anew, or remove it' in said[0]


@pytest.mark.parametrize('text', ['', '[]', 'null', '3', '{}', '{"shards": 3}', '{"shards": [3]}', '{"shards": [{}]}'])
@pytest.mark.parametrize('name', ['part.json', 'index.json'])
def test_what_is_none_at_all(copy, name, text):
    path = next(copy.glob(f'parts/0*/{name}'))
    path.write_text(text)
    found, said = read_all(copy)
    assert not found
    assert path.parent.name in said[0]


@pytest.mark.parametrize('other', [
    {'teacher': {'name': 'teacher0', 'origin': 'run:runs/a', 'digest': 'cd' * 32}}, {'view': {'seed': 18, 'noise': 0.5}},
    {'data': {'name': 'digits', 'split': 'test'}}, {'rows': {'ignore_index': -1, 'shift': False}}, {'form': Format('dense', 8, 'float16')},
], ids=lambda other: next(iter(other)))
def test_a_part_of_another_store_is_not_taken_for_one_of_this(copy, other):
    """Its samples and inputs are the same: only what is said of the store tells that the answers are not."""
    (copy / 'manifest.json').unlink()
    manifest(**other).write(copy)
    found, said = read_all(copy)
    assert not found
    assert 'was written for another store' in said[0]
    assert next((copy / 'parts').iterdir()).parent.name in said[0]


def test_parts_of_equal_stores_go_together(copy, tmp_path):
    (tmp_path / 'other').mkdir()
    more = fill(tmp_path / 'other', FORM, [(2, 5), (2, 9)])
    shutil.copytree(more, copy / 'parts' / more.name)
    store = Store.open(copy)
    assert store.samples == 122
    assert store.missing(2, np.arange(10)).tolist() == [0, 1, 2, 3, 4, 6, 7, 8]


def test_keys_of_another_kind_are_not_unpickled(copy):
    path = next(copy.glob('parts/filled-*/keys.npy'))
    np.save(path, np.array([{'a': 1}], dtype=object), allow_pickle=True)
    found, said = read_all(copy)
    assert not found
    assert path.parent.name in said[0]


def test_a_shard_of_the_same_size_from_another_teacher(tmp_path):
    """Same samples, same inputs, as many bytes: nothing but the answers says that they are another's."""
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    for folder, digest in ((ours, 'ab'), (theirs, 'cd')):
        folder.mkdir()
        manifest(teacher={'name': 'teacher0', 'origin': 'run:runs/a', 'digest': digest * 32}).write(folder)
        fill(folder, FORM, INDEX, lambda view, index, digest=digest: answer(view, index + (digest == 'cd')))
    assert read_all(ours)[0][0, 3] != read_all(theirs)[0][0, 3]
    mine, other = (next((folder / 'parts').rglob('*.mds')) for folder in (ours, theirs))
    assert mine.stat().st_size == other.stat().st_size
    shutil.copy(other, mine)
    found, said = read_all(ours)
    assert not found
    assert all('is damaged: its bytes are not those that were written' in one for one in said)
    # nor where the index that knows its digest came along
    shutil.rmtree(ours / 'parts')
    shutil.copytree(theirs / 'parts', ours / 'parts')
    part, = (ours / 'parts').iterdir()
    plain = json.loads((part / 'part.json').read_text())
    plain.pop('check')
    plain['of'] = manifest(teacher={'name': 'teacher0', 'origin': 'run:runs/a', 'digest': 'ab' * 32}).identity
    (part / 'part.json').write_text(json.dumps({**plain, 'check': parts.digest(plain)}))
    found, said = read_all(ours)
    assert not found
    assert all('was given to another input' in one for one in said)
