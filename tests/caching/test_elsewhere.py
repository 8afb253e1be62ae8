"""A store at a URI: written to a folder, copied when it is whole, read by its URI alone."""

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from composer.utils.object_store import ObjectStore

from composer_kd.models.outside import PAUSES
from composer_kd.recipes import load_recipe, train
from tests.caching.made import answers, refused, save_teacher, written

URI = 's3://bucket/kd/answers'


class Bucket(ObjectStore):
    """A store over a folder that goes through a list of errors before it takes a file."""

    def __init__(self, root):
        self.root, self.errors, self.taken = Path(root), [], []

    def get_uri(self, object_name):
        return f's3://bucket/{object_name}'

    def list_objects(self, prefix=None):
        return [str(p.relative_to(self.root)) for p in self.root.rglob('*') if str(p.relative_to(self.root)).startswith(prefix or '')]

    def get_object_size(self, object_name):
        if not (self.root / object_name).is_file():
            raise FileNotFoundError(f'no object {object_name}')
        return (self.root / object_name).stat().st_size

    def download_object(self, object_name, filename, overwrite=False, callback=None):
        self.get_object_size(object_name)
        shutil.copy(self.root / object_name, filename)

    def upload_object(self, object_name, filename, callback=None):
        if self.errors:
            raise self.errors.pop(0)
        (self.root / object_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(filename, self.root / object_name)
        self.taken.append(object_name)


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    made = Bucket(tmp_path / 'bucket')
    made.root.mkdir()
    for place in ('composer_kd.caching.upload', 'composer_kd.teachers.fetch'):
        monkeypatch.setattr(f'{place}.maybe_create_object_store_from_uri', lambda uri: made)

    # what streaming fetches shards with is another library, told the same names
    import streaming.base.storage.download as download

    def from_bucket(self, remote, local, timeout):
        made.download_object(remote.removeprefix('s3://bucket/'), local)
    monkeypatch.setattr(download.S3Downloader, '_download_file_impl', from_bucket)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    (tmp_path / 'temporary').mkdir()
    return made


@pytest.fixture
def waits(monkeypatch):
    made = []
    monkeypatch.setattr('composer_kd.models.outside.time.sleep', made.append)
    return made


def test_the_manifest_is_copied_last_and_all_of_it_is_there(recipe, tmp_path, bucket, waits):
    result = written(recipe, '--out', URI, '--local', tmp_path / 'local')
    assert result.stdout.splitlines()[0].startswith(f'200 answers in {URI} ')
    assert result.stdout.splitlines()[2] == f'teachers: [{{cache: {URI}}}]'
    assert bucket.taken[-1] == 'kd/answers/manifest.json'
    assert sorted(bucket.taken) == sorted(f'kd/answers/{path.relative_to(tmp_path / "local")}' for path in (tmp_path / 'local').rglob('*') if path.is_file())
    assert answers(bucket.root / 'kd' / 'answers') == answers(tmp_path / 'local')
    assert waits == []


def test_it_is_asked_again_when_it_fails_and_the_command_goes_on_when_it_never_answers(recipe, tmp_path, bucket, waits, caplog):
    bucket.errors = [ConnectionResetError('gone')] * 2
    written(recipe, '--out', URI, '--local', tmp_path / 'local')
    assert waits == list(PAUSES[:2])
    assert f'{URI} could not be written (ConnectionResetError: gone). Try 1 of 5 failed' in caplog.text

    bucket.errors = [ConnectionResetError('gone')] * 9
    told = refused(recipe, '--out', URI, '--local', tmp_path / 'local', '--views', 3)
    assert f"could not be copied to '{URI}': ConnectionResetError: gone. The store lies whole in '{tmp_path / 'local'}'" in told
    bucket.errors = []
    result = written(recipe, '--out', URI, '--local', tmp_path / 'local', '--views', 3)
    assert ', 0 of them new' in result.stdout
    assert len(answers(bucket.root / 'kd' / 'answers')) == 300


def test_refused_at_once_where_nothing_will_help(recipe, tmp_path, bucket, waits):
    bucket.errors = [PermissionError('not yours')]
    assert 'PermissionError: not yours' in refused(recipe, '--out', URI, '--local', tmp_path / 'local')
    assert waits == []


def test_another_store_there_is_not_written_over(recipe, tmp_path, bucket):
    written(recipe, '--out', URI, '--local', tmp_path / 'local')
    before = {name: (bucket.root / name).read_bytes() for name in bucket.taken}
    other = save_teacher(tmp_path / 'other.pt', {'name': 'digits_resnet', 'width': 8}, seed=4)
    told = refused(recipe, '--out', URI, '--local', tmp_path / 'other', '--teacher', f'{{checkpoint: {other}}}')
    assert f"--out: '{URI}' holds other answers: teacher.digest is " in told
    assert not (tmp_path / 'other').exists(), 'told before the teacher was asked'
    assert {name: (bucket.root / name).read_bytes() for name in before} == before


def test_places_are_looked_at_before_anything_is_asked(recipe, tmp_path, bucket):
    assert 'Say which: --local DIR' in refused(recipe, '--out', URI)
    assert "'s3:/bucket/x' names no bucket. Write it as s3://BUCKET/PATH" in refused(recipe, '--out', 's3:/bucket/x', '--local', tmp_path / 'l')
    assert "nothing can be written to 'https://a.org/x'" in refused(recipe, '--out', 'https://a.org/x', '--local', tmp_path / 'l')
    assert 'is a file; give a folder' in refused(recipe, '--out', URI, '--local', recipe)
    assert not (tmp_path / 'l').exists()


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_a_training_reads_it_by_its_uri(recipe, tmp_path, bucket):
    written(recipe, '--out', URI, '--local', tmp_path / 'local', '--format', '{name: dense, dtype: float32}')
    shutil.rmtree(tmp_path / 'local')
    (tmp_path / 'teacher.pt').rename(tmp_path / 'kept.pt')
    live = train(load_recipe(recipe, [f'run_folder={tmp_path}/live', f"algorithms.distillation.teachers=[{{checkpoint: {tmp_path / 'kept.pt'}}}]"]))
    read = train(load_recipe(recipe, [f'run_folder={tmp_path}/read', f'algorithms.distillation.teachers=[{{cache: {{path: "{URI}", local: {tmp_path / "shards"}}}}}]']))
    import torch
    weights = [torch.load(folder.latest_checkpoint(), weights_only=False)['state']['model'] for folder in (live, read)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert list((tmp_path / 'shards').rglob('*.mds'))


def test_a_store_that_is_not_whole_yet_is_not_read(recipe, tmp_path, bucket, waits):
    written(recipe, '--out', URI, '--local', tmp_path / 'local')
    place = bucket.root / 'kd' / 'answers' / 'manifest.json'
    from composer_kd.answers.manifest import Manifest
    manifest = Manifest.read(place, 'test')
    Manifest(**{**manifest.__dict__, 'complete': False}).write(place.parent)
    assert json.loads(place.read_text())['complete'] is False
    with pytest.raises(ValueError, match='is not complete'):
        train(load_recipe(recipe, [f'algorithms.distillation.teachers=[{{cache: {{path: "{URI}", local: {tmp_path / "shards"}}}}}]']))
