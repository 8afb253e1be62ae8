"""Weights out of every file they come in, and what is said of files that are none."""

import functools
import http.server
import io
import pickle
import shutil
import tarfile
import threading
from pathlib import Path

import pytest
import torch
from composer import algorithms as ca
from composer.utils.object_store import ObjectStore
from safetensors.torch import save_file
from torch import nn

from composer_kd import Distillation
from composer_kd.teachers import digest_of, read_weights
from composer_kd.teachers.fitting import load_weights
from tests.common import classifier, network, same, trainer, weights

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than', 'ignore:torch.distributed is disabled', 'ignore:TypedStorage is deprecated',
)


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A Composer checkpoint and the weights in it."""
    folder = tmp_path_factory.mktemp('checkpoints')
    fit = trainer(save_folder=str(folder), max_duration='3ba', save_filename='last.pt')
    fit.fit()
    return folder / 'last.pt', weights(fit)


def test_a_composer_checkpoint(saved):
    assert same(read_weights(str(saved[0])), saved[1])


def test_a_composer_checkpoint_in_a_tar_archive(saved, tmp_path):
    with tarfile.open(tmp_path / 'last.tar.gz', 'w:gz') as archive:
        archive.add(saved[0], arcname='composer_states.pt')
    assert same(read_weights(str(tmp_path / 'last.tar.gz')), saved[1])


def test_a_state_dict_as_file_and_under_the_key_other_tools_use(saved, tmp_path):
    torch.save(saved[1], tmp_path / 'plain.pt')
    torch.save({'state_dict': saved[1], 'epoch': 3}, tmp_path / 'nested.pt')
    torch.save(saved[1], tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
    for name in ('plain', 'nested', 'old'):
        assert same(read_weights(str(tmp_path / f'{name}.pt')), saved[1])


def test_safetensors(saved, tmp_path):
    save_file(saved[1], tmp_path / 'model.safetensors')
    assert same(read_weights(str(tmp_path / 'model.safetensors')), saved[1])


def test_a_sharded_checkpoint(saved, tmp_path):
    import torch.distributed.checkpoint as dcp
    state = torch.load(saved[0], weights_only=False)
    dcp.save({'state': {'model': saved[1], 'optimizers': {'big': torch.zeros(3)}}, 'rng': [state['rng'][0]['torch']]},
             checkpoint_id=tmp_path / 'ep1-ba3', no_dist=True)
    assert same(read_weights(str(tmp_path / 'ep1-ba3')), saved[1])
    (tmp_path / 'ep1-ba3' / '.metadata').unlink()
    with pytest.raises(ValueError, match='no complete sharded checkpoint'):
        read_weights(str(tmp_path / 'ep1-ba3'))


@pytest.fixture
def web(saved):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), functools.partial(Quiet, directory=str(saved[0].parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()


def test_over_http(saved, web):
    assert same(read_weights(f'{web}/last.pt'), saved[1])
    with pytest.raises((FileNotFoundError, ValueError), match='missing.pt'):
        read_weights(f'{web}/missing.pt')


class Store(ObjectStore):
    """An object store over a folder, with the methods of Composer's that are used."""

    def __init__(self, root):
        self.root = Path(root)

    def upload_object(self, object_name, filename, callback=None):
        raise AssertionError('nothing is written')

    def get_object_size(self, object_name):
        return (self.root / object_name).stat().st_size

    def get_uri(self, object_name):
        return f's3://bucket/{object_name}'

    def list_objects(self, prefix=None):
        names = (str(p.relative_to(self.root)) for p in self.root.rglob('*') if p.is_file())
        return [name for name in names if name.startswith(prefix or '')]

    def download_object(self, object_name, filename, overwrite=False, callback=None):
        if not (self.root / object_name).exists():
            raise FileNotFoundError(f'no object {object_name}')
        shutil.copy(self.root / object_name, filename)


@pytest.fixture
def store(tmp_path, monkeypatch):
    made = Store(tmp_path / 'bucket')
    monkeypatch.setattr('composer_kd.teachers.fetch.maybe_create_object_store_from_uri', lambda uri: made)
    made.root.mkdir()
    return made


def test_one_file_in_an_object_store(saved, store):
    (store.root / 'runs').mkdir()
    shutil.copy(saved[0], store.root / 'runs' / 'last.pt')
    assert same(read_weights('s3://bucket/runs/last.pt'), saved[1])
    with pytest.raises(FileNotFoundError, match=r's3://bucket/runs/none\.pt'):
        read_weights('s3://bucket/runs/none.pt')


def test_a_sharded_checkpoint_in_an_object_store(saved, store):
    import torch.distributed.checkpoint as dcp
    dcp.save({'state': {'model': saved[1]}}, checkpoint_id=store.root / 'runs' / 'ep1-ba3', no_dist=True)
    assert same(read_weights('s3://bucket/runs/ep1-ba3'), saved[1])


def test_averages_of_ema_are_taken_where_the_checkpoint_keeps_them_apart(tmp_path):
    fit = trainer(ca.EMA(half_life='4ba', update_interval='1ba'), max_duration='5ba')
    fit.fit()
    raw = weights(fit)
    averages = fit.state.algorithms[0].ema_model.named_parameters_dict
    path = fit.save_checkpoint(str(tmp_path / 'by_hand.pt'))
    read = read_weights(str(path))
    assert all(torch.equal(read[name], averages[name]) for name in averages)
    assert not same(read, raw)


def test_a_checkpoint_made_with_numpy_1(saved, tmp_path):
    import zipfile
    with zipfile.ZipFile(saved[0]) as old, zipfile.ZipFile(tmp_path / 'old.pt', 'w') as new:
        for item in old.infolist():
            data = old.read(item)
            if item.filename.endswith('data.pkl'):
                assert b'cnumpy._core.multiarray\n' in data
                data = data.replace(b'cnumpy._core.multiarray\n', b'cnumpy.core.multiarray\n')
            new.writestr(item, data)
    assert same(read_weights(str(tmp_path / 'old.pt')), saved[1])


def test_missing():
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at nowhere\.pt'):
        read_weights('nowhere.pt')


@pytest.mark.parametrize('kind', ['pt', 'safetensors'])
def test_truncated(saved, tmp_path, kind):
    path = tmp_path / f'cut.{kind}'
    whole = io.BytesIO()
    if kind == 'pt':
        torch.save(saved[1], whole)
        path.write_bytes(whole.getvalue()[:-200])
    else:
        save_file(saved[1], path)
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match='may be truncated'):
        read_weights(str(path))


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path('exploded'),))


def test_a_file_that_could_run_code_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'state': {'model': {'w': torch.zeros(1)}, 'extra': Bomb()}}, 'bomb.pt')
    Path('plain.pkl').write_bytes(pickle.dumps(Bomb()))
    for name in ('bomb.pt', 'plain.pkl'):
        with pytest.raises(ValueError, match='could run code|cannot be read'):
            read_weights(name)
    assert not Path('exploded').exists()


def test_a_text_file(tmp_path):
    (tmp_path / 'notes.pt').write_text('hello')
    with pytest.raises(ValueError, match='cannot be read as a checkpoint|is no checkpoint'):
        read_weights(str(tmp_path / 'notes.pt'))


def test_not_a_state_dict(tmp_path):
    torch.save({'epoch': 3, 'lr': 0.1}, tmp_path / 'other.pt')
    with pytest.raises(ValueError, match='expected a Composer checkpoint or a state dict'):
        read_weights(str(tmp_path / 'other.pt'))


@pytest.mark.parametrize('prefix', ['', 'module.', 'model.', '_orig_mod.', 'module.module.'])
def test_prefixes_of_wrappers(prefix):
    source, target = network(seed=1), classifier(seed=2)
    load_weights(target, {prefix + k: v for k, v in source.state_dict().items()}, 't', 'file')
    assert same(weights(source), weights(target.module))


def test_tied_weights_may_be_stored_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
            self.head.weight = self.embed.weight
    source, target = Tied(), Tied()
    load_weights(target, {'embed.weight': source.embed.weight.detach()}, 't', 'file')
    assert torch.equal(target.head.weight, source.embed.weight)


def test_weights_that_do_not_fit_name_the_first_few():
    state = weights(network())
    state['extra.weight'] = state.pop('7.weight')
    with pytest.raises(ValueError, match=r"missing 1: 7\.weight; unexpected 1: extra\.weight.*set 'model'"):
        load_weights(network(), state, 'teachers[0]', 'file.pt')
    with pytest.raises(ValueError, match=r'7\.bias is \(9,\) there and \(5,\) here'):
        load_weights(network(), weights(network(classes=9)), 'teachers[0]', 'file.pt')


def test_the_digest_is_of_names_shapes_and_bits():
    one = network(seed=1)
    same_again, other = network(seed=1), network(seed=2)
    assert digest_of(one) == digest_of(same_again) != digest_of(other)
    with torch.no_grad():
        same_again[7].bias[0] += 1e-7
    assert digest_of(one) != digest_of(same_again)
    assert len(digest_of(nn.Linear(2, 2).bfloat16())) == 64


def test_a_checkpoint_teaches_the_students_own_architecture_after_surgery(tmp_path):
    surgery = [ca.BlurPool(min_channels=8), ca.ChannelsLast()]
    first = trainer(surgery, save_folder=str(tmp_path), max_duration='3ba')
    first.fit()
    kd = Distillation({'checkpoint': str(tmp_path / 'latest-rank0.pt')})
    second = trainer([kd, ca.BlurPool(min_channels=8), ca.ChannelsLast()], max_duration='1ba')
    assert same(weights(kd.teachers[0].module), weights(first))
    second.fit()
    with pytest.raises(ValueError, match=r'teachers\[0\].*do not fit the architecture.*missing 2: module\.3'):
        trainer(Distillation({'checkpoint': str(tmp_path / 'latest-rank0.pt')}))


def test_a_checkpoint_with_another_architecture(tmp_path):
    from composer_kd.models import build_model
    from composer_kd.models.surgery import apply_surgery
    from tests.common import loader
    spec = {'name': 'digits_resnet', 'width': 16, 'num_classes': 5}
    model = apply_surgery(build_model(spec), {'blurpool': {'min_channels': 8}})
    torch.save(model.state_dict(), tmp_path / 'other.pt')
    kd = Distillation({'checkpoint': str(tmp_path / 'other.pt'), 'model': spec,
                       'algorithms': {'blurpool': {'min_channels': 8}}, 'name': 'other', 'prepare': 'none'})
    fit = trainer(kd, data=loader(), max_duration='1ba')
    fit.fit()
    assert same(weights(model), weights(kd.teachers[0].module))
