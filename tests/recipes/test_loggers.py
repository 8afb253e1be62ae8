"""The loggers people use show what distillation logs under the same names, at the same steps."""

import json
import math

import pytest
import torch
from composer.loggers import InMemoryLogger

from composer_kd.recipes import build_trainer, train
from tests.recipes.tiny import recipe

KD = {
    'loss/train/kd', 'loss/train/base', 'loss/train/total', 'kd/active', 'kd/weight', 'kd/temperature', 'kd/overhead',
    'kd/teacher_seconds', 'kd/teacher/teacher0',
}
BATCHES = 4


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('earlier')
    train(recipe(folder, max_duration='1ba', evaluators={}))
    return folder


def distilled(folder, earlier, loggers):
    return recipe(folder, max_duration=f'{BATCHES}ba', evaluators={}, loggers=loggers, callbacks={}, algorithms={
        'distillation': {'teachers': [{'run': str(earlier)}], 'end': '3ba', 'check_batches': 0},
    })


@pytest.fixture(scope='module')
def expected(earlier, tmp_path_factory):
    """What Composer's own logger in memory has: by name, value by step."""
    trainer = build_trainer(distilled(tmp_path_factory.mktemp('memory'), earlier, {}))
    memory = InMemoryLogger()
    trainer.logger.destinations = (*trainer.logger.destinations, memory)
    memory.init(trainer.state, trainer.logger)
    trainer.fit()
    trainer.close()
    steps = [int(time.batch) for time, _ in memory.data['kd/active']]
    assert steps == sorted(steps)
    return {name: [float(value) for _, value in memory.data[name]] for name in KD}


def same(found, expected):
    """``found``: by name, step to value."""
    assert set(found) >= KD
    for name in KD - {'kd/overhead', 'kd/teacher_seconds'}:  # these are measured
        values = [value for _, value in sorted(found[name].items())]
        assert values == pytest.approx(expected[name], rel=1e-5), name
    assert sorted(found['kd/active']) == sorted(found['loss/train/total']) == list(range(BATCHES))
    assert [found['kd/active'][step] for step in range(BATCHES)] == [1, 1, 1, 0]
    assert all(math.isfinite(value) and value >= 0 for value in found['kd/teacher_seconds'].values())


def test_tensorboard(tmp_path, earlier, expected):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(distilled(tmp_path / 'run', earlier, {'tensorboard': {'flush_interval': 1}}))
    found: dict[str, dict[int, float]] = {}
    for file in (tmp_path / 'run' / 'logs' / 'tensorboard').rglob('events.out.tfevents.*'):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()['scalars']:
            found.setdefault(tag, {}).update({event.step: event.value for event in events.Scalars(tag)})
    same(found, expected)


def test_the_file_logger(tmp_path, earlier):
    train(distilled(tmp_path / 'run', earlier, {'file': {'flush_interval': 1}}))
    text = (tmp_path / 'run' / 'logs' / 'start1-rank0.txt').read_text()
    assert all(f'{name}:' in text for name in KD - {'kd/overhead'})


def records(log):
    """The records of wandb's file: LevelDB's log format after a header of seven bytes."""
    at, whole = 7, b''
    while at + 7 <= len(log):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(log[at + 4:at + 6], 'little'), log[at + 6]
        whole += log[at + 7:at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b''


@pytest.mark.filterwarnings('default')  # wandb's own
def test_weights_and_biases_offline(tmp_path, earlier, expected, monkeypatch):
    wandb = pytest.importorskip('wandb')
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_SILENT', 'true')
    train(distilled(tmp_path / 'run', earlier, {'wandb': {'project': 'kd', 'init_kwargs': {'mode': 'offline'}}}))
    wandb.finish()
    file, = (tmp_path / 'run' / 'logs').rglob('*.wandb')
    found: dict[str, dict[int, float]] = {}
    for data in records(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        items = {item.key or '/'.join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        step = record.history.step.num
        for name, value in items.items():
            if name in KD:
                found.setdefault(name, {})[step] = float(value)
    same(found, expected)


@pytest.mark.filterwarnings('default')  # mlflow's own
def test_mlflow(tmp_path, earlier, expected, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.chdir(tmp_path)
    uri = f'sqlite:///{tmp_path}/mlflow.db'
    train(distilled(tmp_path / 'run', earlier, {'mlflow': {
        'tracking_uri': uri, 'experiment_name': 'kd', 'log_system_metrics': False, 'flush_interval': 1,
        'log_duplicated_metric_every_n_steps': 1,  # Composer's leaves out values that stay
    }}))
    client = mlflow.MlflowClient(uri)
    run, = client.search_runs([client.get_experiment_by_name('kd').experiment_id])
    same({
        name: {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)} for name in KD
    }, expected)
    assert any('distillation' in key for key in run.data.params)


def test_what_is_expected_is_no_constant(expected):
    assert torch.tensor(expected['loss/train/kd']).unique().numel() == 3
