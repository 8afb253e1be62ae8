import math

import pytest
import torch
from torch import nn

from composer_kd.models import apply_surgery, build_model, cifar_resnet


def size(**settings):
    with torch.device('meta'):
        return sum(p.numel() for p in build_model({'name': 'resnet_cifar', **settings}).parameters())


@pytest.mark.parametrize(('depth', 'millions'), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_those_of_the_paper(depth, millions):
    assert round(size(depth=depth) / 1e6, 2 if depth < 100 else 1) == millions


def test_it_is_as_deep_as_it_says():
    for depth in (20, 56):
        layers = [m for m in cifar_resnet(depth=depth, width=2).modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert len(layers) == depth


@pytest.mark.parametrize('width', [3, 16])
def test_outputs_and_widths_follow_the_settings(width):
    model = cifar_resnet(depth=8, num_classes=100, width=width)
    assert model((torch.zeros(2, 3, 32, 32), None)).shape == (2, 100)
    assert model((torch.zeros(2, 3, 9, 12), None)).shape == (2, 100), 'any size of image'
    assert {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)} == {width, 2 * width, 4 * width}
    assert set(model.get_metrics(is_train=False)) == {'MulticlassAccuracy', 'CrossEntropy'}


def test_shortcuts_have_no_weights_and_keep_what_is_there():
    block = cifar_resnet(depth=8, width=4).module.blocks[1].eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 4, 8, 8)
    y = block(x)
    assert y.shape == (2, 8, 4, 4)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert y[:, :2].count_nonzero() == y[:, 6:].count_nonzero() == 0


def test_binary_cross_entropy_starts_at_the_prior():
    bias = cifar_resnet(depth=8, num_classes=100, loss='binary_cross_entropy').module.head.bias
    assert torch.equal(bias, torch.full((100,), -math.log(100)))
    assert cifar_resnet(depth=8).module.head.bias.unique().numel() == 10


def test_the_recipes_initialisation():
    module = cifar_resnet(depth=8, width=64).module
    assert float(module.blocks[2].conv2.weight.std()) == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.02)
    scale = module.blocks[2].norm2.weight
    assert 0.4 < float(scale.mean()) < 0.6
    assert float(scale.min()) < 0.1 < 0.9 < float(scale.max()) < 1


def test_every_parameter_learns_and_the_loss_falls():
    model = cifar_resnet(depth=8, width=8)
    data = torch.randn(32, 3, 16, 16), torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = model.loss(model(data), data)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 2


def test_blurpool_finds_convolutions_to_replace():
    model = apply_surgery(cifar_resnet(depth=8), {'blurpool': {}})
    assert sum('Blur' in type(m).__name__ for m in model.modules()) == 2


@pytest.mark.parametrize(('settings', 'told'), [
    ({'depth': 57}, r'depth: expected 6n \+ 2 layers \(20, 32, 44, 56, 110\), got 57; the nearest is 56'),
    ({'depth': 2}, 'depth: expected a whole number of 8 or more, got 2'),
    ({'width': 0}, 'width: expected a whole number of 1 or more, got 0'),
    ({'num_classes': 1}, 'num_classes: expected'),
    ({'loss': 'mse'}, 'loss: expected one of'),
])
def test_bad_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        cifar_resnet(**settings)
