"""Beside every algorithm that Composer has: the expected total loss, or a refusal that says why. The table in the README."""

import re
from pathlib import Path

import composer.algorithms as ca
import pytest
import torch
import torchvision
from composer.core import Event
from composer.models import ComposerClassifier
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.components import ALGORITHMS
from tests.common import Watch, loader, network, trainer
from tests.integration.test_huggingface import LENGTH, composer_model, masked
from tests.integration.test_interactions import SETS

pytestmark = [
    pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length'),
    pytest.mark.filterwarnings('ignore::UserWarning:composer'),
    pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning"),  # Pillow's, of Composer
    pytest.mark.filterwarnings('ignore::composer.algorithms.warnings.NotIntendedUseWarning'),
    pytest.mark.filterwarnings('ignore::composer.algorithms.warnings.NoEffectWarning'),
]
ROOT = Path(__file__).parents[2]

IMAGES = {
    'colout': lambda: ca.ColOut(p_row=0.2, p_col=0.2),
    'cutout': lambda: ca.CutOut(length=0.5),
    'factorize': lambda: ca.Factorize(min_channels=8, latent_channels=4),
    'ghost_batchnorm': lambda: ca.GhostBatchNorm(ghost_batch_size=4),
    'gyro_dropout': lambda: ca.GyroDropout(),
    'layer_freezing': lambda: ca.LayerFreezing(freeze_start=0.0, freeze_level=0.5),
    'squeeze_excite': lambda: ca.SqueezeExcite(min_channels=8),
    'stochastic_depth': lambda: ca.StochasticDepth('ResNetBottleneck', drop_rate=0.5),
    'weight_standardization': lambda: ca.WeightStandardization(),
}
PICTURES = {
    'augmix': lambda: ca.AugMix(severity=1),
    'randaugment': lambda: ca.RandAugment(severity=4, depth=1),
}
TEXT = {
    'alibi': lambda: ca.Alibi(max_sequence_length=16),
    'gated_linear_units': lambda: ca.GatedLinearUnits(),
    'seq_length_warmup': lambda: ca.SeqLengthWarmup(duration=0.8, min_seq_length=4, max_seq_length=LENGTH, step_size=2),
}
ELSEWHERE = {'no_op_model', 'low_precision_layernorm', 'low_precision_groupnorm'}


def bottlenecks():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [2, 1, 1, 1], num_classes=5)


def three_channels(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


def totals(algorithm, teacher, model=None, data=None, length='3ba'):
    """Of every backward: the joined loss, the model's own, the student's logits, and the input the teacher should see."""
    kd = Distillation(teacher, loss={'name': 'kl_divergence', 'temperature': 2.0}, kd_loss_weight=0.6, base_loss_weight=0.3,
                      check_batches=0, prepare='none')
    fit = trainer([kd, algorithm], model=model, data=data, max_duration=length)

    def look(state):
        return state.loss.detach().clone(), state.outputs, state.batch
    before, after = Watch(Event.BEFORE_BACKWARD, look), Watch(Event.BEFORE_BACKWARD, look)
    fit.state.algorithms.insert(len(fit.state.algorithms) - 1, before)
    fit.state.algorithms.append(after)
    fit.fit()
    assert len(before.seen) == len(after.seen) >= 3
    return [(joined[0], own[0], joined[1], joined[2]) for own, joined in zip(before.seen, after.seen, strict=True)]


def kl(student, teacher):
    return F.kl_div(F.log_softmax(student / 2, -1), F.softmax(teacher / 2, -1), reduction='batchmean') * 4


@pytest.mark.parametrize('name', IMAGES)
def test_images(name):
    teacher, model = network(seed=9), None
    if name == 'stochastic_depth':
        model = ComposerClassifier(nn.Sequential(nn.Conv2d(1, 3, 1), bottlenecks()), num_classes=5)
    for joined, own, logits, batch in totals(IMAGES[name](), teacher, model):
        with torch.no_grad():
            expected = 0.3 * own + 0.6 * kl(logits.detach(), teacher(batch[0]))
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', PICTURES)
def test_pictures(name):
    data = torchvision.datasets.FakeData(size=24, image_size=(3, 8, 8), num_classes=5, transform=torchvision.transforms.ToTensor())
    teacher = three_channels(9)
    model = ComposerClassifier(three_channels(1), num_classes=5)
    for joined, own, logits, batch in totals(PICTURES[name](), teacher, model, DataLoader(data, batch_size=8)):
        with torch.no_grad():
            expected = 0.3 * own + 0.6 * kl(logits.detach(), teacher(batch[0]))
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', TEXT)
def test_text(name):
    teacher, data = composer_model(seed=1), DataLoader(masked(24), batch_size=8)
    if name == 'alibi':
        try:
            trainer(TEXT[name](), composer_model(), data, max_duration='1ba').fit()
        except TypeError as alone:  # Composer's own does not know every version of transformers
            with pytest.raises(TypeError, match=re.escape(str(alone))):
                totals(TEXT[name](), teacher, composer_model(), data)
            return
    for joined, own, outputs, batch in totals(TEXT[name](), teacher, composer_model(), data, '2ep'):
        keep = batch['labels'] != -100
        with torch.no_grad():
            theirs = teacher({key: value for key, value in batch.items() if key != 'labels'})['logits']
            expected = 0.3 * own + 0.6 * kl(outputs['logits'].detach()[keep], theirs[keep])
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_does_nothing_has_no_logits_to_compare():
    with pytest.raises(TypeError, match='expected logits, a floating-point tensor of two or more dimensions'):
        totals(ca.NoOpModel(), network(seed=9), data=loader())


@pytest.mark.parametrize('algorithm', [ca.LowPrecisionLayerNorm, ca.LowPrecisionGroupNorm])
def test_low_precision_norms_are_of_the_student_alone(algorithm):
    # they replace layers where the training is in bf16 or fp16, which takes a GPU; here they find nothing to do
    teacher = network(seed=9)
    try:
        trainer(algorithm(), max_duration='1ba').fit()
    except Exception as alone:
        with pytest.raises(type(alone), match=re.escape(str(alone)[:60])):
            totals(algorithm(), teacher)
        return
    for joined, own, logits, batch in totals(algorithm(), teacher):
        with torch.no_grad():
            expected = 0.3 * own + 0.6 * kl(logits.detach(), teacher(batch[0]))
        torch.testing.assert_close(joined, expected, rtol=1e-5, atol=1e-6)


def test_every_algorithm_is_tried_and_in_the_table():
    tried = {*IMAGES, *PICTURES, *TEXT, *ELSEWHERE, *(name.split(',')[0] for name in SETS if name != 'all that go together')}
    theirs = {name for name in ALGORITHMS.names() if ALGORITHMS.get(name, 'algorithms').__module__.startswith('composer.')}
    assert tried == theirs
    table = (ROOT / 'README.md').read_text().split("### Beside Composer's other algorithms")[1].split('\n## ')[0]
    assert set(re.findall(r'`([a-z_]+)`', table.split('The order')[0])) >= theirs
