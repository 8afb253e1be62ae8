import json
import multiprocessing
import os
import signal
import time

import pytest
from streaming import StreamingDataset

from composer_kd.convert.writer import PROBES, write_mds
from composer_kd.recipes.tasks.mds import is_mds, read_index


class Numbers:
    """Samples of some 100 bytes; counts how often each was asked for, and fails where it is told to."""

    def __init__(self, count=100, salt='', fails_at=None, wait=0.0):
        self.count, self.salt, self.fails_at, self.wait = count, salt, fails_at, wait
        self.asked = []

    def __len__(self):
        return self.count

    def sample(self, index):
        # The first look, at samples here and there, is not what fails.
        if len(self.asked) >= PROBES and index == self.fails_at:
            raise KeyboardInterrupt
        self.asked.append(index)
        time.sleep(self.wait)
        return {'n': index, 'text': f'{self.salt}{index}' * 20}


COLUMNS = {'n': 'int', 'text': 'str'}


def convert(source, out, **settings):
    return write_mds(source, COLUMNS, out, **{'size_limit': 600, 'workers': 1, 'progress': False, **settings})


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read(folder, **settings):
    data = StreamingDataset(local=str(folder), batch_size=1, **settings)
    return [data[i] for i in range(data.size)]


@pytest.mark.filterwarnings('ignore:unclosed file.*zstd:ResourceWarning')  # streaming's own
@pytest.mark.parametrize('compression', [None, 'zstd:3'])
@pytest.mark.parametrize('workers', [1, 3])
def test_what_was_written_is_what_streaming_reads_in_order(tmp_path, compression, workers):
    index = convert(Numbers(), tmp_path / 'out', compression=compression, workers=workers)
    assert (index.samples, index.columns) == (100, COLUMNS)
    assert index.shards > 5
    rows = read(tmp_path / 'out', validate_hash='xxh3_64')
    assert [row['n'] for row in rows] == list(range(100))
    assert all(row['text'] == Numbers().sample(i)['text'] for i, row in enumerate(rows))
    raw = [shard['raw_data']['bytes'] for shard in json.loads((tmp_path / 'out' / 'index.json').read_text())['shards']]
    assert max(raw[:-1]) < 1100, 'about the size limit, and the header'


def test_nothing_but_shards_index_and_what_was_converted_is_left(tmp_path):
    convert(Numbers(), tmp_path / 'out')
    others = {path.name for path in (tmp_path / 'out').iterdir() if path.suffix != '.mds'}
    assert others == {'index.json', 'conversion.json'}


@pytest.mark.parametrize('fails_at', [0, 37, 99])
def test_a_stopped_conversion_goes_on_and_gives_the_same_bytes(tmp_path, fails_at):
    convert(Numbers(), tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        convert(Numbers(fails_at=fails_at), tmp_path / 'out')
    assert not is_mds(tmp_path / 'out'), 'nothing takes it for complete'
    done = [int(path.stem) for path in (tmp_path / 'out' / '.parts').glob('*.json')]
    again = Numbers()
    convert(again, tmp_path / 'out')
    assert files(tmp_path / 'out') == files(tmp_path / 'whole')
    per_shard = json.loads((tmp_path / 'out' / 'conversion.json').read_text())['samples_per_shard']
    assert set(done) >= set(range(fails_at // per_shard))
    kept = {index for shard in done for index in range(shard * per_shard, (shard + 1) * per_shard)}
    assert sorted(again.asked[PROBES:]) == [index for index in range(100) if index not in kept], 'nothing is made twice'


def test_a_killed_conversion_goes_on(tmp_path):
    convert(Numbers(), tmp_path / 'whole')
    out = tmp_path / 'out'
    process = multiprocessing.get_context('fork').Process(target=convert, args=(Numbers(wait=0.01), out))
    process.start()
    limit = time.monotonic() + 30
    while not (out / '.parts' / '00003.json').is_file() and time.monotonic() < limit:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_mds(out)
    convert(Numbers(), out)
    assert files(out) == files(tmp_path / 'whole')


def test_a_shard_that_was_lost_meanwhile_is_made_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        convert(Numbers(fails_at=60), tmp_path)
    (tmp_path / 'shard.00000.mds').unlink()
    (tmp_path / 'shard.00001.mds').write_bytes(b'short')
    convert(Numbers(), tmp_path)
    assert [row['n'] for row in read(tmp_path)] == list(range(100))


@pytest.mark.filterwarnings('ignore:unclosed file.*zstd:ResourceWarning')
@pytest.mark.parametrize('compression', [None, 'zstd'])
def test_a_shard_that_is_not_read_back_as_written_is_told_and_made_again(tmp_path, compression):
    with pytest.raises(KeyboardInterrupt):
        convert(Numbers(fails_at=60), tmp_path, compression=compression)
    shard = next(tmp_path.glob('shard.00001*'))
    if compression:
        record = tmp_path / '.parts' / '00001.json'
        said = json.loads(record.read_text())
        record.write_text(json.dumps({**said, 'content': 'another'}))
    else:
        data = bytearray(shard.read_bytes())
        data[-3] ^= 1
        shard.write_bytes(data)
    with pytest.raises(ValueError, match=r'shard.00001.* was not read back as it was written .* same command'):
        convert(Numbers(), tmp_path, compression=compression)
    assert not is_mds(tmp_path)
    convert(Numbers(), tmp_path, compression=compression)
    assert [row['n'] for row in read(tmp_path)] == list(range(100))


def test_a_finished_folder_is_recognised(tmp_path):
    first = convert(Numbers(), tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    source = Numbers()
    assert convert(source, tmp_path, workers=2) == first
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert len(source.asked) <= 64


def test_stopped_between_index_and_cleaning_up(tmp_path):
    convert(Numbers(), tmp_path)
    (tmp_path / '.parts').mkdir()
    (tmp_path / '.parts' / '00000.json').write_text('{}')
    convert(Numbers(), tmp_path)
    assert not (tmp_path / '.parts').exists()
    assert read_index(tmp_path).samples == 100


@pytest.mark.parametrize(('source', 'settings', 'told'), [
    (Numbers(salt='x'), {}, 'another content'),
    (Numbers(count=90), {}, 'samples 100 instead of 90'),
    (Numbers(), {'compression': 'zstd'}, "compression None instead of 'zstd'"),
    (Numbers(), {'size_limit': 700}, 'size_limit 600 instead of 700'),
])
@pytest.mark.parametrize('finished', [True, False])
def test_another_conversion_in_the_same_folder_is_refused(tmp_path, source, settings, told, finished):
    if finished:
        convert(Numbers(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            convert(Numbers(fails_at=60), tmp_path)
    before = files(tmp_path)
    with pytest.raises(ValueError, match=f'holds another conversion: .*{told}'):
        convert(source, tmp_path, **settings)
    assert files(tmp_path) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    with pytest.raises(ValueError, match='is not empty and holds no conversion'):
        convert(Numbers(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']


@pytest.mark.parametrize(('settings', 'told'), [
    ({'workers': 0}, 'workers: expected 1'),
    ({'compression': 'zip'}, 'compression: expected one that streaming knows'),
    ({'size_limit': '3gb'}, 'size_limit: expected above 0 and below 2 GiB'),
    ({'size_limit': 0}, 'size_limit: expected'),
])
def test_bad_settings(tmp_path, settings, told):
    with pytest.raises(ValueError, match=told):
        convert(Numbers(), tmp_path / 'out', **settings)
    assert not (tmp_path / 'out').exists()


def test_nothing_to_convert(tmp_path):
    with pytest.raises(ValueError, match='nothing to convert'):
        convert(Numbers(count=0), tmp_path / 'out')


def test_samples_larger_than_a_shard_get_one_each(tmp_path):
    assert convert(Numbers(count=5), tmp_path, size_limit=1).shards == 5
