import math

import pytest
import torch
from composer.algorithms import LabelSmoothing, MixUp
from composer.core import Event
from torch import nn
from torchvision.models.resnet import Bottleneck

from composer_kd.models import apply_surgery, build_model, torchvision_resnet
from tests.common import Watch, trainer

# Torchvision documents them for 1,000 classes.
PARAMETERS = {
    'resnet18': 11_689_512, 'resnet34': 21_797_672, 'resnet50': 25_557_032, 'resnet101': 44_549_160,
    'resnet152': 60_192_808,
}
HOT = {
    'blurpool': {}, 'channels_last': {},
    'stochastic_depth': {'target_layer_name': 'ResNetBottleneck', 'stochastic_method': 'sample',
                         'drop_distribution': 'linear', 'drop_rate': 0.1},
}


@pytest.mark.parametrize('name', PARAMETERS)
def test_architectures(name):
    with torch.device('meta'):
        model = torchvision_resnet(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert model.num_classes == 1000


def test_outputs_metrics_and_settings():
    model = build_model({'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 7})
    assert model((torch.zeros(2, 3, 64, 64), None)).shape == (2, 7)
    assert set(model.get_metrics(is_train=False)) == {'MulticlassAccuracy', 'CrossEntropy'}
    assert type(build_model('resnet').module.layer1[0]) is Bottleneck


def test_the_recipes_initialisation():
    module = torchvision_resnet('resnet18', num_classes=500).module
    for layer in (module.layer3[0].conv1, module.layer4[1].conv2):
        fan_in = layer.in_channels * 9
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
    assert float(module.fc.weight.std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    scales = torch.cat([m.weight for m in norms])
    assert 0 <= float(scales.min()) < 0.01
    assert 0.99 < float(scales.max()) <= 1
    assert float(scales.mean()) == pytest.approx(0.5, abs=0.02)
    assert all(m.bias.count_nonzero() == 0 for m in norms)
    assert module.fc.bias.count_nonzero() > 0


def test_binary_cross_entropy_starts_at_the_prior_and_sums_over_classes():
    model = torchvision_resnet('resnet18', num_classes=50, loss='binary_cross_entropy')
    assert torch.equal(model.module.fc.bias, torch.full((50,), -math.log(50)))
    logits, labels = torch.randn(6, 50), torch.randint(0, 50, (6,))
    hot = nn.functional.one_hot(labels, 50).float()
    p = logits.sigmoid()
    expected = -(hot * p.log() + (1 - hot) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(model.loss(logits, (None, labels)), expected)


def test_weights_follow_the_generator_alone():
    def weights():
        torch.manual_seed(3)
        return torchvision_resnet('resnet18', num_classes=4).module.fc.weight
    assert torch.equal(weights(), weights())


def test_binary_cross_entropy_goes_with_label_smoothing_and_mixup():
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    model, mixup = torchvision_resnet('resnet18', num_classes=4, loss='binary_cross_entropy'), MixUp(0.2)
    watch = Watch(Event.BEFORE_BACKWARD, lambda state: (state.outputs.detach().clone(), float(state.loss)))
    trainer([LabelSmoothing(0.1), mixup, watch], model, data, max_duration='1ba', lr=0.01).fit()
    (logits, loss), = watch.seen
    one, other = (nn.functional.one_hot(y, 4).float() for y in (labels, mixup.permuted_target))
    target = (1 - mixup.mixing) * (0.9 * one + 0.1 / 4) + mixup.mixing * other
    expected = nn.functional.binary_cross_entropy_with_logits(logits, target, reduction='none').sum(1).mean()
    assert loss == pytest.approx(float(expected), rel=1e-5)
    assert 0 < mixup.mixing < 1


def test_the_hot_recipes_surgery_is_done_again_for_an_earlier_run():
    torch.manual_seed(0)
    model = torchvision_resnet('resnet50', num_classes=4).eval()
    images = torch.randn(2, 3, 32, 32)
    plain = model((images, None)).detach()
    apply_surgery(model, HOT)
    rates = [float(m.drop_rate) for m in model.modules() if isinstance(m, Bottleneck)]
    assert rates == pytest.approx([0.1 * (i + 1) / 16 for i in range(16)])
    assert any('blur' in type(m).__name__.lower() for m in model.modules())
    assert model.module.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    rewritten = model.eval()((images, None)).detach()
    assert not torch.allclose(plain, rewritten)
    assert torch.equal(rewritten, model((images, None))), 'nothing is dropped in eval mode'
    again = apply_surgery(torchvision_resnet('resnet50', num_classes=4), HOT).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(rewritten, again((images, None)))


@pytest.mark.parametrize(('settings', 'told'), [
    ({'architecture': 'resnet51'}, r"architecture: expected one of 'resnet18', .*, got 'resnet51'. Did you mean 'resnet50'"),
    ({'num_classes': 1}, 'num_classes: expected a whole number of 2 or more, got 1'),
    ({'loss': 'bce'}, "loss: expected one of 'cross_entropy', 'binary_cross_entropy', got 'bce'"),
    ({'weights': 'IMAGENET1K_V3'}, "weights: unknown weights 'IMAGENET1K_V3' of resnet50. Did you mean 'IMAGENET1K_V[12]'"),
    ({'weights': 'DEFAULT', 'num_classes': 10}, 'weights: IMAGENET1K_V2 of resnet50 tells 1000 classes apart, and num_classes is 10'),
])
def test_bad_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        torchvision_resnet(**settings)
