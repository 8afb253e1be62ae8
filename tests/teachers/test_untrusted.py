"""Teachers' files that would run code if they were read as Python's pickles are: refused, and the code not run."""

import io
import json
import pickle
import tarfile

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torchvision
import yaml
from safetensors.torch import save_file
from torch.distributed.checkpoint import metadata as records

from composer_kd.models.outside import only_weights
from composer_kd.models.published import file_of, load_published, published_weights
from composer_kd.runs import RunFolder
from composer_kd.teachers import model_of_run, read_weights
from composer_kd.teachers.safe import safely
from tests.common import same
from tests.teachers.bombs import Bomb, poison_bytes

pytestmark = pytest.mark.filterwarnings('ignore:torch.distributed is disabled', 'ignore:TypedStorage is deprecated')

WEIGHTS = {'layer.weight': torch.arange(6.0).reshape(2, 3), 'layer.bias': torch.ones(2)}


@pytest.fixture
def bomb(tmp_path):
    """A bomb that works, and has not gone off."""
    made = Bomb(tmp_path / 'mark')
    pickle.loads(pickle.dumps(made))
    made.mark.rmdir()
    return made


def refused(path, bomb, told='holds more than tensors and plain values'):
    with pytest.raises(ValueError, match=told) as error:
        read_weights(str(path))
    assert str(path) in str(error.value)
    assert not bomb.mark.exists()
    return str(error.value)


@pytest.mark.parametrize('zipped', [True, False])
def test_a_bomb_beside_the_weights(tmp_path, bomb, zipped):
    path = tmp_path / 'teacher.pt'
    torch.save({'state': {'model': WEIGHTS, 'callbacks': bomb}}, path, _use_new_zipfile_serialization=zipped)
    assert 'it asks for posix.mkdir' in refused(path, bomb)


def test_a_bare_pickle(tmp_path, bomb):
    (tmp_path / 'teacher.pt').write_bytes(pickle.dumps(bomb))
    refused(tmp_path / 'teacher.pt', bomb)


def test_a_bomb_in_an_archive(tmp_path, bomb):
    torch.save({'state': {'model': WEIGHTS, 'callbacks': bomb}}, tmp_path / 'states')
    with tarfile.open(tmp_path / 'teacher.tar', 'w') as archive:
        archive.add(tmp_path / 'states', 'composer_states.pt')
    refused(tmp_path / 'teacher.tar', bomb)


def test_an_archive_writes_nothing_outside_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    torch.save(WEIGHTS, tmp_path / 'states')
    with tarfile.open(tmp_path / 'teacher.tar', 'w') as archive:
        archive.add(tmp_path / 'states', '../escaped')
        archive.add(tmp_path / 'states', './composer_states.pt')
    assert same(read_weights(str(tmp_path / 'teacher.tar')), WEIGHTS)
    assert {path.name for path in tmp_path.iterdir()} == {'states', 'teacher.tar'}
    with tarfile.open(tmp_path / 'other.tar', 'w') as archive:
        archive.add(tmp_path / 'states', 'states.pt')
    with pytest.raises(ValueError, match=r'other\.tar cannot be unpacked.*no file composer_states\.pt'):
        read_weights(str(tmp_path / 'other.tar'))


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / 'ep1-ba3'
    dcp.save({'state': {'model': WEIGHTS, 'run_name': 'mine'}}, checkpoint_id=folder, no_dist=True)
    assert same(read_weights(str(folder)), WEIGHTS)
    return folder


def rewrite(folder, change):
    path = folder / '.metadata'
    found = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps(change(found) or found))


@pytest.mark.parametrize('place', ['instead', 'planner_data', 'storage_data'])
def test_a_bomb_in_the_table_of_contents(sharded, bomb, place):
    def put(found):
        if place == 'instead':
            return bomb
        getattr(found, place)['more'] = bomb
        return None
    rewrite(sharded, put)
    assert 'it asks for posix.mkdir' in refused(sharded, bomb)


def test_a_table_of_contents_that_would_change_torch(sharded, bomb):
    class Change:
        def __reduce__(self):
            return records.StorageMeta, (), (None, {'checkpoint_id': 'x'})

    rewrite(sharded, lambda found: setattr(found, 'storage_meta', Change()))
    read_weights(str(sharded))  # a record may be filled

    name = 'torch.distributed.checkpoint.metadata'
    # pushes the class StorageMeta, and gives it an attribute
    code = f'c{name}\nStorageMeta\n'.encode() + b'(N}VTAKEN\nI1\nstb.'
    pickle.loads(code)
    assert records.StorageMeta.TAKEN == 1
    del records.StorageMeta.TAKEN
    (sharded / '.metadata').write_bytes(code)
    assert 'it changes' in refused(sharded, bomb)
    assert not hasattr(records.StorageMeta, 'TAKEN')


@pytest.mark.parametrize('name', ['../other/__0_0.distcp', '/etc/passwd', 'deeper/__0_0.distcp'])
def test_a_table_of_contents_that_names_other_places(sharded, bomb, name):
    def put(found):
        next(iter(found.storage_data.values())).relative_path = name
    rewrite(sharded, put)
    assert f'a file outside its folder, {name!r}' in refused(sharded, bomb)


def test_a_bomb_among_the_weights_of_a_sharded_checkpoint_is_left_where_it_is(tmp_path, bomb):
    folder = tmp_path / 'ep1-ba3'
    dcp.save({'state': {'model': {**WEIGHTS, 'extra': 'a plain value'}}}, checkpoint_id=folder, no_dist=True)
    poison_bytes(folder, 'state.model.extra', bomb)
    assert same(read_weights(str(folder)), WEIGHTS)
    assert not bomb.mark.exists()


def test_the_names_that_python_3_11_0_gave_enumerations(sharded):
    class Old:
        def __reduce__(self):
            return getattr, (records._MEM_FORMAT_ENCODING, 'TORCH_CONTIGUOUS_FORMAT')

    rewrite(sharded, lambda found: found.planner_data.update(more=Old()))
    assert same(read_weights(str(sharded)), WEIGHTS)


def test_getattr_reaches_nothing_else(sharded, bomb):
    class Reach:
        def __reduce__(self):
            return getattr, (records.Metadata, '__init__')

    rewrite(sharded, lambda found: found.planner_data.update(more=Reach()))
    assert 'it asks for builtins.getattr' in refused(sharded, bomb)


def test_safetensors_before_pickles(tmp_path, bomb):
    save_file(WEIGHTS, tmp_path / 'model.safetensors')
    torch.save(bomb, tmp_path / 'pytorch_model.bin')
    assert same(read_weights(str(tmp_path)), WEIGHTS)
    (tmp_path / 'model.safetensors').unlink()
    refused(tmp_path, bomb, told=r'without \.metadata, .* and without model\.safetensors')


def test_safetensors_in_several_files(tmp_path, bomb):
    index = {}
    for number, (name, value) in enumerate(WEIGHTS.items(), 1):
        index[name] = f'model-0000{number}-of-00002.safetensors'
        save_file({name: value}, tmp_path / index[name])
    table = tmp_path / 'model.safetensors.index.json'
    table.write_text(json.dumps({'metadata': {}, 'weight_map': index}))
    assert same(read_weights(str(tmp_path)), WEIGHTS)
    table.write_text(json.dumps({'weight_map': {'layer.weight': '../other.safetensors'}}))
    refused(tmp_path, bomb, told='names files outside the folder')


def test_published_weights(tmp_path, bomb, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    weights = published_weights('shufflenet_v2_x0_5')
    file = file_of(weights)
    file.parent.mkdir(parents=True)
    state = torchvision.models.shufflenet_v2_x0_5().state_dict()
    torch.save({**state, 'extra': bomb}, file)
    with pytest.raises(ValueError, match='cannot be read as .* it holds more than tensors') as error:
        load_published('shufflenet_v2_x0_5', weights, 'teachers[0]')
    assert str(file) in str(error.value)
    assert not bomb.mark.exists()
    torch.save(state, file)
    load_published('shufflenet_v2_x0_5', weights, 'teachers[0]')


def test_what_a_strangers_recipe_says_stays_text(tmp_path, monkeypatch):
    monkeypatch.setenv('SECRET', '4')
    folder = RunFolder(tmp_path / 'run')
    folder.checkpoints.mkdir(parents=True)
    torch.save(WEIGHTS, folder.checkpoints / 'latest-rank0.pt')
    folder.recipe_path.write_text(yaml.safe_dump(
        {'model': {'name': 'digits_resnet', 'width': '${oc.env:SECRET}'}, 'description': '${oc.env:SECRET}'},
    ))
    assert folder.read_recipe()['description'] == '${oc.env:SECRET}'
    with pytest.raises(ValueError, match=r'\$\{oc\.env:SECRET\}'):
        model_of_run(str(folder.path))


@pytest.mark.parametrize('name', ['recipe_path', 'record_path'])
def test_a_strangers_recipe_and_record_make_no_objects(tmp_path, bomb, name):
    folder = RunFolder(tmp_path)
    said = f"model: !!python/object/apply:os.mkdir ['{bomb.mark}']\n"
    yaml.unsafe_load(said)
    bomb.mark.rmdir()
    getattr(folder, name).write_text(said)
    with pytest.raises(ValueError, match=r'is not valid YAML|Cannot read the record'):
        folder.read_recipe() if name == 'recipe_path' else folder.read_record()
    assert not bomb.mark.exists()


def test_torch_is_as_it_was_afterwards(tmp_path, bomb, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    torch.save(bomb, tmp_path / 'bomb.pt')
    safe = torch.serialization.get_safe_globals()
    for context in (only_weights, safely):
        with pytest.raises(pickle.UnpicklingError), context():
            torch.load(tmp_path / 'bomb.pt', weights_only=False)
        assert not bomb.mark.exists()
    assert set(map(str, torch.serialization.get_safe_globals())) == set(map(str, safe))
    assert dcp.filesystem.pickle is pickle
    torch.load(io.BytesIO((tmp_path / 'bomb.pt').read_bytes()), weights_only=False)
    assert bomb.mark.exists()
