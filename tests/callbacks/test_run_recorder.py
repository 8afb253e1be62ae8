from __future__ import annotations

import json
import math
import re

import pytest
import torch
from composer import Evaluator
from composer.models import ComposerClassifier
from torch import nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from composer_kd.callbacks import RunRecorder
from composer_kd.runs import RunFolder
from tests.callbacks.tiny import BATCH, CLASSES, WIDTH, FakeDistillation, classifier, data, fit, trainer

# --- what is written ---

def test_record_of_a_finished_run(tmp_path):
    recorder = RunRecorder(tmp_path, recipe_digest='d' * 64, seed=5, tags={'method': 'baseline'})
    fit(recorder=recorder, run_name='tiny')
    record = RunFolder(tmp_path).read_record()
    assert (record.version, record.status, record.run_name, record.seed) == (4, 'finished', 'tiny', 5)
    assert record.tags == {'method': 'baseline'}
    assert record.recipe_digest == 'd' * 64
    assert (record.batches, record.epochs, record.samples) == (8, 2, 64)
    assert (record.max_duration, record.world_size, record.kd, record.teachers) == ('2ep', 1, None, [])
    assert 0 < record.train_seconds <= record.wall_seconds
    assert {'python', 'composer_kd', 'mosaicml', 'torch'} <= set(record.packages)
    assert record.hardware.cpu
    assert record.hardware.cpu_cores >= 1
    assert (record.hardware.gpu, record.hardware.gpu_count) == (None, 0)
    assert re.fullmatch(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ', record.started_at)
    assert [e.batch for e in record.evaluations] == [4, 8]
    assert [e.epoch for e in record.evaluations] == [1, 2]
    assert [e.sample for e in record.evaluations] == [32, 64]
    assert record.evaluations[0].train_seconds < record.evaluations[1].train_seconds == record.train_seconds
    assert [p.name for p in tmp_path.iterdir()] == ['record.json']


def test_flops_are_counted(tmp_path):
    fit(tmp_path)
    flops = RunFolder(tmp_path).read_record().flops
    forward = 2 * (WIDTH * 16 + 16 * CLASSES)
    assert flops.student_forward_per_sample == forward
    assert flops.total == 3 * forward * 64
    assert 'FlopCounterMode' in flops.method
    assert RunFolder(tmp_path).read_record().evaluations[0].flops == 3 * forward * 32


def test_weights_are_bit_equal_with_and_without(tmp_path):
    with_recorder = fit(tmp_path, recorder=RunRecorder(tmp_path, interval=1e-9), algorithms=[FakeDistillation()])
    without = fit(algorithms=[FakeDistillation()])
    one, other = with_recorder.state.model.state_dict(), without.state.model.state_dict()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert torch.equal(
        with_recorder.state.eval_metrics['eval']['MulticlassAccuracy'].compute(),
        without.state.eval_metrics['eval']['MulticlassAccuracy'].compute(),
    )


def test_two_evaluators_with_the_same_metrics(tmp_path):
    evaluators = [
        Evaluator(label='near', dataloader=data(0)),
        Evaluator(label='far', dataloader=data(7), eval_interval='3ba'),
    ]
    made = fit(tmp_path, eval_dataloader=evaluators, eval_interval='4ba', max_duration='8ba')
    record = RunFolder(tmp_path).read_record()
    # 4 and 8: both at the end, far alone at 3 and 6.
    assert [(e.batch, sorted(e.metrics)) for e in record.evaluations] == [
        (3, ['far']), (4, ['near']), (6, ['far']), (8, ['far', 'near']),
    ]
    last = record.evaluations[-1].metrics
    for label in ('near', 'far'):
        assert set(last[label]) == {'MulticlassAccuracy', 'CrossEntropy'}
        assert last[label]['CrossEntropy'] == made.state.eval_metrics[label]['CrossEntropy'].compute().item()
    assert last['near']['CrossEntropy'] != last['far']['CrossEntropy']


def test_evaluations_of_one_moment_are_one_entry(tmp_path):
    evaluators = [
        Evaluator(label='a', dataloader=data(0), eval_interval='4ba'),
        Evaluator(label='b', dataloader=data(7), eval_interval='1ep'),
    ]
    made = trainer(tmp_path, eval_dataloader=evaluators, max_duration='2ep')
    made.fit()
    made.eval(Evaluator(label='test', dataloader=data(9), metric_names=['MulticlassAccuracy']))
    made.close()
    record = RunFolder(tmp_path).read_record()
    assert [(e.batch, e.epoch, sorted(e.metrics)) for e in record.evaluations] == [
        (4, 1, ['a', 'b']), (8, 2, ['a', 'b', 'test']),
    ]
    assert record.status == 'finished'


def test_metrics_that_are_no_single_number(tmp_path):
    model = ComposerClassifier(
        nn.Linear(WIDTH, CLASSES), num_classes=CLASSES,
        val_metrics=MetricCollection({
            'PerClass': MulticlassAccuracy(CLASSES, average='none'), 'Mean': MulticlassAccuracy(CLASSES),
        }),
    )
    fit(tmp_path, model=model, max_duration='1ep')
    assert RunFolder(tmp_path).read_record().evaluations[0].metrics['eval'].keys() == {'Mean'}


def test_diverged_run_is_recorded(tmp_path):
    model = classifier()
    fit(tmp_path, model=model, optimizers=torch.optim.SGD(model.parameters(), lr=math.inf))
    record = RunFolder(tmp_path).read_record()
    assert math.isnan(record.evaluations[-1].metrics['eval']['CrossEntropy'])
    on_disk = json.loads((tmp_path / 'record.json').read_text())
    assert on_disk['evaluations'][-1]['metrics']['eval']['CrossEntropy'] == 'NaN'


# --- distillation ---

def test_kd_figures(tmp_path):
    fit(tmp_path, algorithms=[FakeDistillation()])
    record = RunFolder(tmp_path).read_record()
    assert record.kd is not None
    assert record.kd.model_dump() == {
        'active_batches': 8, 'kd_seconds': 4.0, 'teacher_seconds': 3.2, 'loss_seconds': pytest.approx(0.8),
        'load_seconds': 2.0, 'overhead': 0.25, 'skipped_rows': 0, 'store_seconds': 0.0, 'store_outside_seconds': 0.0,
    }
    assert [(t.name, t.batches, t.samples) for t in record.teachers] == [('last', 8, 64)]
    assert [e.kd_seconds for e in record.evaluations] == [2.0, 4.0]
    student = record.flops.student_forward_per_sample
    assert student is not None
    assert record.flops.teacher_forward_per_sample == {'last': 10.0}
    assert record.flops.total == 3 * student * 64 + 10 * 64


def test_teachers_get_two_samples_on_the_device_once(tmp_path):
    algorithm = FakeDistillation()
    fit(tmp_path, algorithms=[algorithm])
    (batch,) = algorithm.asked
    assert [len(part) for part in batch] == [2, 2]


def test_uncountable_flops_stop_nothing(tmp_path):
    fit(tmp_path / 'teacher', algorithms=[FakeDistillation(flops=RuntimeError('no such\nlayer'))])
    flops = RunFolder(tmp_path / 'teacher').read_record().flops
    assert flops.total is None
    assert flops.student_forward_per_sample is not None
    assert 'RuntimeError: no such layer' in flops.method

    class Full(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) != BATCH:
                raise ValueError('takes whole batches alone')
            return super().forward(x)

    model = ComposerClassifier(Full(WIDTH, CLASSES), num_classes=CLASSES)
    fit(tmp_path / 'student', model=model)
    record = RunFolder(tmp_path / 'student').read_record()
    assert record.status == 'finished'
    assert record.flops.student_forward_per_sample is None
    assert 'takes whole batches alone' in record.flops.method
    assert record.evaluations[-1].flops is None
