"""Every loss in training: nothing waits for the device, microbatches change nothing where rows stand alone, labels arrive."""

import pytest
import torch
from composer.algorithms import CutMix, LabelSmoothing, MixUp

from composer_kd import Distillation
from composer_kd.features import FEATURE_LOSSES
from tests.common import loader, same, trainer, weights
from tests.integration.test_features import flat, student
from tests.integration.test_no_waiting import fit, watched, without_waiting

__all__ = ['watched']
pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Some targets have less')
OF_LOGITS = ['decoupled_kd', 'dist', 'standardized_kl', 'cosine', 'total_variation']
OF_LAYERS = sorted(name for name, spec in FEATURE_LOSSES._items.items()
                   if spec.function.__module__.startswith('composer_kd') and spec.takes in ('any', 'map'))


def distil(name, **settings):
    layers = {'student_layer': 'module.3', 'teacher_layer': '3'} if name in OF_LAYERS else {}
    return Distillation(flat(9, 24), losses=[{'name': name, **layers}], check_batches=0, **settings)


@pytest.mark.parametrize('name', OF_LOGITS + OF_LAYERS)
def test_it_learns_and_nothing_waits(watched, name):
    model = student()
    before = weights(model)
    fit(distil(name, base_loss_weight=0.0), without_waiting(model), loader(batch_size=16), device_train_microbatch_size=8)
    after = weights(model)
    assert all(value.isfinite().all() for value in after.values())
    assert not same(before, after)


@pytest.mark.parametrize('name', ['decoupled_kd', 'standardized_kl', 'cosine', 'total_variation'])
def test_microbatches_change_nothing_where_rows_stand_alone(name):
    found = []
    for size in (16, 5):
        model = student()
        trainer(distil(name), model=model, data=loader(batch_size=16), max_duration='2ba',
                device_train_microbatch_size=size).fit()
        found.append(torch.cat([value.detach().flatten().float() for value in model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('algorithm', [
    lambda: LabelSmoothing(0.1), MixUp, CutMix, lambda: MixUp(interpolate_loss=True),
], ids=['label_smoothing', 'mixup', 'cutmix', 'mixup, interpolated loss'])
def test_labels_are_there_beside_algorithms_that_mix_them_for_the_students_own_loss(algorithm):
    kd = distil('decoupled_kd')
    trainer([algorithm(), kd], model=student(), data=loader(batch_size=16), max_duration='2ba').fit()
    assert kd.summary()['active_batches'] == 2


def test_soft_labels_in_the_batch_are_refused():
    pixels, labels = loader(batch_size=16).dataset.tensors
    soft = torch.nn.functional.one_hot(labels, 5).float()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pixels, soft), batch_size=16)
    with pytest.raises(ValueError, match="loss 'decoupled_kd': it needs a label for each row.*got none"):
        trainer(distil('decoupled_kd'), model=student(), data=data, max_duration='2ba').fit()
