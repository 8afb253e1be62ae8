"""Teachers from MLflow: artifacts of runs and registered models, fetched as from any other store."""

import sys

import pytest
import torch

from composer_kd.models import build_model
from composer_kd.teachers import build_teachers, parse_teachers, read_weights

MODEL = {'name': 'digits_resnet', 'width': 4}


def test_without_mlflow_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mlflow', None)
    monkeypatch.setitem(sys.modules, 'mlflow.artifacts', None)
    with pytest.raises(ValueError, match=r"it takes mlflow: pip install 'composer_kd\[mlflow\]'"):
        read_weights('runs:/abc/checkpoints/ep1.pt')


@pytest.mark.parametrize('uri', ['runs:/abc/checkpoints/ep1.pt', 'models:/teacher/3', 's3://bucket/runs/a'])
def test_a_run_elsewhere_is_a_checkpoint(uri):
    with pytest.raises(ValueError, match=rf"teachers\[0\].run: expected the folder .* \{{checkpoint: '{uri}'\}}"):
        parse_teachers({'run': uri})


@pytest.fixture
def server(tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f'sqlite:///{tmp_path}/mlflow.db')
    yield mlflow
    mlflow.set_tracking_uri(before)


@pytest.fixture
def logged(server, tmp_path):
    """A model's weights among the artifacts of a run, and as a version of a registered model with an alias."""
    torch.manual_seed(3)
    model = build_model(MODEL)
    torch.save({'state': {'model': model.state_dict()}}, tmp_path / 'ep1-ba9-rank0.pt')
    with server.start_run() as run:
        server.log_artifact(str(tmp_path / 'ep1-ba9-rank0.pt'), 'checkpoints')
    return model, run.info.run_id, server


@pytest.mark.filterwarnings('default')  # mlflow's own
def test_an_artifact_of_a_run(logged):
    model, run, _ = logged
    teacher, = build_teachers(
        parse_teachers({'checkpoint': f'runs:/{run}/checkpoints/ep1-ba9-rank0.pt', 'model': MODEL}), build_model(MODEL),
    )
    own = model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in teacher.module.state_dict().items())
    assert teacher.origin == f'checkpoint:runs:/{run}/checkpoints/ep1-ba9-rank0.pt'


@pytest.mark.filterwarnings('default')
def test_a_registered_model(logged, tmp_path):
    from safetensors.torch import save_file

    model, _, mlflow = logged
    folder = tmp_path / 'model'
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / 'model.safetensors')
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(folder), 'model')
    client = mlflow.MlflowClient()
    client.create_registered_model('digits')
    version = client.create_model_version('digits', f'{run.info.artifact_uri}/model', run.info.run_id).version
    client.set_registered_model_alias('digits', 'champion', version)
    for uri in (f'models:/digits/{version}', 'models:/digits@champion'):
        found = read_weights(uri)
        assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings('default')
@pytest.mark.parametrize('uri', ['runs:/0123456789abcdef0123456789abcdef/a.pt', 'models:/nobody/1'])
def test_nothing_there(server, uri):
    with pytest.raises((FileNotFoundError, ValueError), match=uri.split('/')[1]):
        read_weights(uri)
