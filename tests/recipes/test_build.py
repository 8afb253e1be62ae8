import gc

import pytest
import torch
import yaml
from composer.core import Callback
from composer.loggers import FileLogger
from composer.models import ComposerClassifier

from composer_kd.components import CALLBACKS
from composer_kd.recipes import build_trainer, check_recipe, recipe_digest, train
from composer_kd.runs import RunFolder
from tests.recipes.tiny import plain, recipe

CLIP = {'clipping_type': 'norm', 'clipping_threshold': 1.0}


class Stop(RuntimeError):
    """The power cut of these tests."""


@CALLBACKS.register('cut_in_tests')
class Cut(Callback):
    """Raises at the end of a batch, if a test says so."""

    at = None

    def batch_end(self, state, logger):
        if int(state.timestamp.batch) == Cut.at:
            raise Stop


@pytest.fixture
def cut(monkeypatch):
    def at(batch):
        monkeypatch.setattr(Cut, 'at', batch)
    return at


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    """Two finished runs, to be teachers."""
    root = tmp_path_factory.mktemp('earlier')
    return [train(recipe(root / str(seed), seed=seed)).path for seed in (1, 2)]


def weights(folder):
    return torch.load(RunFolder(folder).latest_checkpoint(), weights_only=False)['state']['model']


def test_a_recipe_becomes_a_run(earlier):
    folder = RunFolder(earlier[0])
    record = folder.read_record()
    assert record.status == 'finished'
    assert (record.epochs, record.batches, record.samples) == (2, 12, 192)
    assert record.seed == 1
    assert [e.batch for e in record.evaluations] == [6, 12]
    assert set(record.evaluations[-1].metrics['test']) == {'MulticlassAccuracy', 'CrossEntropy'}
    assert folder.latest_checkpoint().name == 'ep2-ba12-rank0.pt'
    said = yaml.safe_load(folder.recipe_path.read_text())
    assert said == plain(run_folder=str(earlier[0]), seed=1)
    assert record.recipe_digest == recipe_digest(said)


def test_everything_in_the_recipe_reaches_the_trainer(tmp_path):
    trainer = build_trainer(recipe(
        tmp_path / 'a', algorithms={'gradient_clipping': CLIP, 'ema': {'half_life': '5ba'}},
        callbacks={'lr_monitor': {}}, loggers={'file': {'flush_interval': 1}, 'in_memory': {}},
        evaluators={'test': {
            'data': {'name': 'digits', 'split': 'test'}, 'metric_names': ['CrossEntropy'], 'interval': '2ep',
            'subset_num_batches': 3, 'device_eval_microbatch_size': 8,
        }},
        scheduler=[{'name': 'linear', 'alpha_f': 0.5}], device_train_microbatch_size=4, max_duration='7ba',
        train_subset_num_batches=5, save_num_checkpoints_to_keep=1, python_log_level='warning', scale_schedule_ratio=2.0,
        algorithm_passes=[{'name': 'set_filo_order', 'index': 0}],
    ))
    state = trainer.state
    assert [type(a).__name__ for a in state.algorithms] == ['GradientClipping', 'EMA']
    assert {'LRMonitor', 'FileLogger', 'InMemoryLogger', 'RunRecorder', 'CheckpointSaver'} <= {
        type(c).__name__ for c in state.callbacks
    }
    assert state.max_duration.to_timestring() == '14ba'
    assert state.device_train_microbatch_size == 4
    assert state.dataloader_len == 5
    evaluator, = state.evaluators
    assert (evaluator.label, evaluator.metric_names, evaluator.subset_num_batches) == ('test', ['CrossEntropy'], 3)
    assert evaluator.device_eval_microbatch_size == 8
    assert evaluator.dataloader.dataloader.batch_size == 16, "the training batch's by default"
    assert trainer._checkpoint_saver.num_checkpoints_to_keep == 1
    trainer.fit()
    trainer.close()
    log, = (tmp_path / 'a' / 'logs').iterdir()
    assert log.name == 'start1-rank0.txt'
    assert 'loss/train/total' in log.read_text()
    assert [c for c in state.callbacks if isinstance(c, FileLogger)]


def test_the_seed_sets_the_weights_whatever_happened_before(tmp_path):
    one = check_recipe(recipe(tmp_path)).model.state_dict()
    torch.rand(5)
    again, other = (check_recipe(recipe(tmp_path, seed=seed)).model.state_dict() for seed in (17, 18))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def distilling(earlier):
    return {'gradient_clipping': CLIP, 'distillation': {
        'teachers': [{'run': str(path)} for path in earlier], 'teachers_per_batch': 1, 'probability': 0.7,
        'check_batches': 0,  # these two are no better than chance
        'kd_loss_weight': {'linear': {'alpha_i': 0.9, 'alpha_f': 0.1}},
    }}


@pytest.mark.parametrize('kd', [False, True], ids=['baseline', 'kd'])
def test_a_run_cut_in_the_middle_of_an_epoch_ends_as_if_it_was_not(tmp_path, earlier, cut, kd):
    settings = {
        'max_duration': '3ep', 'save_interval': '3ba', 'eval_interval': '1ep', 'callbacks': {'cut_in_tests': {}},
        'algorithms': distilling(earlier) if kd else {}, 'loggers': {'file': {}},
    }
    cut(None)
    whole = train(recipe(tmp_path / 'whole', **settings))
    cut(10)
    with pytest.raises(Stop):
        train(recipe(tmp_path / 'cut', **settings))
    folder = RunFolder(tmp_path / 'cut')
    assert folder.latest_checkpoint().name == 'ep1-ba9-rank0.pt'
    assert folder.read_record().status == 'unfinished'
    cut(None)
    # Names, folders and what is printed do not make another run of it; overwrite does not throw its work away.
    train(recipe(tmp_path / 'cut', **settings, description='again', tags={'a': 'b'}, overwrite=True, log_traces=True))

    one, other = weights(tmp_path / 'whole'), weights(tmp_path / 'cut')
    assert all(torch.equal(one[name], other[name]) for name in one)
    records = whole.read_record(), folder.read_record()
    assert [(e.batch, e.metrics) for e in records[0].evaluations] == [(e.batch, e.metrics) for e in records[1].evaluations]
    assert records[1].status == 'finished'
    assert records[1].batches == records[0].batches == 18
    if kd:
        assert records[0].kd.active_batches == records[1].kd.active_batches > 0
        assert [t.batches for t in records[0].teachers] == [t.batches for t in records[1].teachers]
    assert sorted(path.name for path in folder.logs.iterdir()) == ['start1-rank0.txt', 'start2-rank0.txt']


def test_what_cannot_be_divided_over_ranks_is_refused_with_a_number_that_can(tmp_path, monkeypatch):
    monkeypatch.setattr('composer.utils.dist.get_world_size', lambda: 3)
    with pytest.raises(ValueError, match=r'train_data.batch_size: 16 samples .* 3 ranks; .* for instance 15\.'):
        check_recipe(recipe(tmp_path))


def test_nothing_is_written_for_a_recipe_that_is_refused(tmp_path):
    for changes in ({'model': {'name': 'digits_resnet', 'widht': 3}},
                    {'train_data': {'name': 'digits', 'batch_size': 16, 'train_size': 3}},
                    {'evaluators': {'a': {'data': {'name': 'digits', 'split': 'tests'}}}}):
        with pytest.raises(ValueError, match=r'widht|train_size|tests'):
            build_trainer(recipe(tmp_path / 'a', **changes))
    assert not (tmp_path / 'a').exists()


def test_a_run_is_not_its_own_teacher(earlier):
    with pytest.raises(ValueError, match=r'algorithms.distillation.teachers\[0\].run: .* itself is written to'):
        check_recipe(recipe(earlier[0], overwrite=True, algorithms=distilling(earlier)))
    assert RunFolder(earlier[0]).latest_checkpoint().exists()


def test_a_process_that_trains_again_and_again_keeps_no_model(tmp_path):
    def models():
        gc.collect()
        return sum(type(thing) is ComposerClassifier for thing in gc.get_objects())
    before = models()
    for index in range(2):
        train(recipe(tmp_path / str(index), max_duration='2ba'))
    assert models() == before
