"""Teachers from servers and stores that fail: asked again where that may help, and no part taken for the whole."""

import errno
import gzip
import io
import logging
import os
import tarfile
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from composer.utils.object_store import ObjectStore, ObjectStoreTransientError
from safetensors.torch import save, save_file

from composer_kd.models.outside import PAUSES, EndsEarly, check_size, retried
from composer_kd.models.published import file_of, load_published, published_weights
from composer_kd.teachers import read_weights
from tests.common import same
from tests.server import serving

pytestmark = [
    pytest.mark.filterwarnings('ignore:torch.distributed is disabled', 'ignore:TypedStorage is deprecated'),
    pytest.mark.usefixtures('nothing_is_left_behind'),
]

WEIGHTS = {'layer.weight': torch.arange(6000.0).reshape(2, 3000), 'layer.bias': torch.ones(2)}


def packed():
    file = io.BytesIO()
    torch.save(WEIGHTS, file)
    return file.getvalue()


WHOLE = packed()


@pytest.fixture
def waits(monkeypatch):
    """The pauses that were made, shortened to nothing."""
    made = []
    monkeypatch.setattr('composer_kd.models.outside.time.sleep', made.append)
    return made


@pytest.fixture(scope='module')
def server():
    with serving() as made:
        yield made


@pytest.fixture
def web(server):
    server.plans.clear()
    server.asked.clear()
    return server


def test_a_server_that_fails_for_a_while_is_asked_again(web, waits, caplog):
    web.plans['/teacher.pt'] = [503, 500, WHOLE]
    with caplog.at_level(logging.WARNING, 'composer_kd'):
        assert same(read_weights(web.url('/teacher.pt')), WEIGHTS)
    assert web.asked == ['/teacher.pt'] * 3
    assert waits == list(PAUSES[:2])
    first, second = (record.getMessage() for record in caplog.records)
    for told, status, number in ((first, 503, 1), (second, 500, 2)):
        assert web.url('/teacher.pt') in told
        assert f'HTTP Error {status}' in told
        assert f'Try {number} of {len(PAUSES) + 1} failed; the next follows in {PAUSES[number - 1]:g} s' in told


def test_pauses_grow_and_come_to_an_end(web, waits):
    web.plans['/teacher.pt'] = [503]
    with pytest.raises(ValueError, match=r'teacher\.pt could not be fetched: HTTPError: HTTP Error 503.*Check the address'):
        read_weights(web.url('/teacher.pt'))
    assert len(web.asked) == len(PAUSES) + 1
    assert waits == list(PAUSES) == sorted(set(PAUSES))


@pytest.mark.parametrize(('status', 'error', 'told'), [
    (404, FileNotFoundError, 'There is no checkpoint at'), (410, FileNotFoundError, 'There is no checkpoint at'),
    (403, ValueError, 'HTTP Error 403'), (401, ValueError, 'HTTP Error 401'),
])
def test_what_will_never_work_is_not_asked_again(web, waits, status, error, told):
    web.plans['/teacher.pt'] = [status]
    with pytest.raises(error, match=told) as raised:
        read_weights(web.url('/teacher.pt'))
    assert web.url('/teacher.pt') in str(raised.value)
    assert web.asked == ['/teacher.pt']
    assert waits == []


@pytest.mark.parametrize('status', [408, 425, 429])
def test_what_the_server_asks_to_be_repeated_is(web, waits, status):
    web.plans['/teacher.pt'] = [status, WHOLE]
    assert same(read_weights(web.url('/teacher.pt')), WEIGHTS)


def test_a_server_that_is_down(waits):
    with serving() as gone:
        url = gone.url('/teacher.pt')
    with pytest.raises(ValueError, match='Connection refused'):
        read_weights(url)
    assert waits == list(PAUSES)


def archive():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w') as made:
        info = tarfile.TarInfo('composer_states.pt')
        info.size = len(WHOLE)
        made.addfile(info, io.BytesIO(WHOLE))
    return file.getvalue()


@pytest.mark.parametrize('how', ['cut', 'endless'])
@pytest.mark.parametrize(('name', 'body'), [
    ('teacher.pt', WHOLE), ('teacher.safetensors', save(WEIGHTS)), ('teacher.tar', archive()),
    ('teacher.tar.gz', gzip.compress(archive())),
])
def test_a_download_that_ends_early_is_noticed_and_made_again(web, waits, caplog, name, body, how):
    web.plans[f'/{name}'] = [(body, how), (body, 'unannounced' if how == 'endless' else '')]
    assert same(read_weights(web.url(f'/{name}')), WEIGHTS)
    assert web.asked == [f'/{name}'] * 2
    assert waits == [PAUSES[0]]
    assert 'bytes came' in caplog.text


def test_the_address_may_have_a_query(web, waits):
    web.plans['/teacher.safetensors?download=true'] = [save(WEIGHTS)]
    assert same(read_weights(web.url('/teacher.safetensors?download=true')), WEIGHTS)


def test_a_file_that_is_broken_where_it_lies_is_fetched_once(web, waits):
    web.plans['/teacher.pt'] = [WHOLE[:-500]]
    with pytest.raises(ValueError, match='may be truncated'):
        read_weights(web.url('/teacher.pt'))
    assert web.asked == ['/teacher.pt']


def test_published_weights_are_asked_for_again(web, waits, tmp_path, monkeypatch):
    import hashlib

    import torchvision
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    body = io.BytesIO()
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), body)
    name = f'/shuffle-{hashlib.sha256(body.getvalue()).hexdigest()[:8]}.pth'
    weights = published_weights('shufflenet_v2_x0_5')
    before = weights.url
    object.__setattr__(weights.value, 'url', web.url(name))  # frozen
    web.plans[name] = [503, (body.getvalue(), 'cut'), b'another file', body.getvalue()]
    try:
        load_published('shufflenet_v2_x0_5', weights, 'teachers[0]')
        assert len(web.asked) == 4
        assert [path.name for path in file_of(weights).parent.iterdir()] == [name[1:]]
    finally:
        object.__setattr__(weights.value, 'url', before)


class Flaky(ObjectStore):
    """A store over a folder that goes through a list of errors before it answers; ``'cut'`` gives half a file."""

    def __init__(self, root, errors):
        self.root, self.errors, self.asked = Path(root), list(errors), []

    def get_uri(self, object_name):
        return f's3://bucket/{object_name}'

    def upload_object(self, object_name, filename, callback=None):
        raise AssertionError('nothing is written')

    def list_objects(self, prefix=None):
        return [str(p.relative_to(self.root)) for p in self.root.rglob('*') if str(p.relative_to(self.root)).startswith(prefix)]

    def get_object_size(self, object_name):
        if not (self.root / object_name).exists():
            raise FileNotFoundError(f'no object {object_name}')
        return (self.root / object_name).stat().st_size

    def download_object(self, object_name, filename, overwrite=False, callback=None):
        self.asked.append(object_name)
        body = (self.root / object_name).read_bytes()
        error = self.errors.pop(0) if self.errors else None
        if isinstance(error, Exception):
            raise error
        Path(filename).write_bytes(body[:len(body) // 2] if error == 'cut' else body)


@pytest.fixture
def store(tmp_path, monkeypatch):
    def make(errors=(), failing=()):
        made = Flaky(tmp_path / 'bucket', errors)
        made.root.mkdir()
        (made.root / 'teacher.pt').write_bytes(WHOLE)
        left = list(failing)

        def create(uri):
            if left:
                raise left.pop(0)
            return made
        monkeypatch.setattr('composer_kd.teachers.fetch.maybe_create_object_store_from_uri', create)
        return made
    return make


def client_error(status, code):
    from botocore.exceptions import ClientError
    return ClientError({'Error': {'Code': code}, 'ResponseMetadata': {'HTTPStatusCode': status}}, 'GetObject')


class WithCode(Exception):
    """As Google's library raises them."""

    def __init__(self, code):
        super().__init__(f'status {code}')
        self.code = code


PASSING = [
    ObjectStoreTransientError('busy'), ConnectionResetError('gone'), TimeoutError('slow'), 'cut', RuntimeError('unknown'),
    client_error(503, 'SlowDown'), client_error(500, 'InternalError'), WithCode(429), WithCode(503),
]


@pytest.mark.parametrize('error', PASSING, ids=repr)
def test_a_store_that_fails_twice_and_then_answers(store, waits, error):
    made = store([error, error])
    assert same(read_weights('s3://bucket/teacher.pt'), WEIGHTS)
    assert made.asked == ['teacher.pt'] * 3
    assert waits == list(PAUSES[:2])


def test_a_store_that_cannot_be_reached_at_first(store, waits):
    store(failing=[ConnectionError('no route')])
    assert same(read_weights('s3://bucket/teacher.pt'), WEIGHTS)
    assert waits == [PAUSES[0]]


def final():
    from botocore.exceptions import NoCredentialsError
    return [
        client_error(404, 'NoSuchBucket'), client_error(403, 'AccessDenied'), NoCredentialsError(), WithCode(403),
        PermissionError('not yours'), NotImplementedError('no such backend'), ImportError('no boto3'),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ]


@pytest.mark.parametrize('error', final(), ids=repr)
def test_a_store_whose_answer_will_not_change(store, waits, error):
    made = store([error])
    with pytest.raises(ValueError, match=r's3://bucket/teacher\.pt could not be fetched'):
        read_weights('s3://bucket/teacher.pt')
    assert made.asked == ['teacher.pt']
    assert waits == []


def test_an_object_that_is_not_there(store, waits):
    store()
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at s3://bucket/none\.pt'):
        read_weights('s3://bucket/none.pt')
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at s3://bucket/runs/none'):
        read_weights('s3://bucket/runs/none')
    assert waits == []


def test_composers_own_links_in_a_store_are_followed(store, waits):
    made = store()
    (made.root / 'latest-rank0.pt.symlink').write_text('teacher.pt')
    assert same(read_weights('s3://bucket/latest-rank{rank}.pt'), WEIGHTS)


def test_a_folder_of_shards_begins_anew(store, waits):
    made = store([None, ConnectionResetError('gone'), None, 'cut'])
    dcp.save({'state': {'model': WEIGHTS}}, checkpoint_id=made.root / 'ep1-ba3', no_dist=True)
    assert same(read_weights('s3://bucket/ep1-ba3'), WEIGHTS)
    assert waits == list(PAUSES[:2])


def test_of_a_folder_only_what_is_read_is_fetched(store, waits):
    made = store()
    folder = made.root / 'model'
    (folder / 'deeper').mkdir(parents=True)
    save_file(WEIGHTS, folder / 'model.safetensors')
    for name in ('pytorch_model.bin', 'deeper/model.safetensors'):
        (folder / name).write_bytes(b'not for us')
    assert same(read_weights('s3://bucket/model'), WEIGHTS)
    assert made.asked == ['model/model.safetensors']


def test_a_compressed_checkpoint_is_unpacked_elsewhere(tmp_path):
    folder = tmp_path / 'kept'
    folder.mkdir()
    (folder / 'teacher.pt.gz').write_bytes(gzip.compress(WHOLE))
    assert same(read_weights(str(folder / 'teacher.pt.gz')), WEIGHTS)
    assert [path.name for path in folder.iterdir()] == ['teacher.pt.gz']


def test_what_it_returned_is_returned(waits):
    tries = []

    def fetch():
        tries.append(len(tries))
        if len(tries) < 3:
            raise EndsEarly('short')
        return 'all'
    assert retried(fetch, 'there') == 'all'
    with pytest.raises(EndsEarly, match='0 of 5 bytes'):
        check_size(Path(os.devnull), 5)
