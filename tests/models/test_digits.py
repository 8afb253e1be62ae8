import math

import pytest
import torch
from composer.algorithms import BlurPool
from composer.core import Event
from torch import nn

from composer_kd.models import MODELS, build_model, digits_resnet


def batch(samples=8):
    return torch.randn(samples, 1, 8, 8), torch.randint(0, 10, (samples,))


@pytest.mark.parametrize('width', [1, 8, 16])
@pytest.mark.parametrize('blocks', [1, 2, 3, 5, 6])
def test_outputs_and_size_follow_the_settings(width, blocks):
    model = digits_resnet(width=width, blocks=blocks, num_classes=7)
    assert model((torch.zeros(2, 1, 8, 8), None)).shape == (2, 7)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 1 + 2 * blocks
    assert all(m.out_channels == width for m in convolutions)
    assert sum(m.stride == (2, 2) for m in convolutions) == min(blocks, 2)


def test_every_parameter_learns_and_the_loss_falls():
    model = digits_resnet(width=8)
    data = batch(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(20):
        loss = model.loss(model(data), data)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 3


def test_binary_cross_entropy_starts_at_the_prior():
    model = digits_resnet(width=8, num_classes=5, loss='binary_cross_entropy')
    assert torch.allclose(model.module.head.bias, torch.tensor(-math.log(5)))
    images, labels = torch.randn(6, 1, 8, 8), torch.randint(0, 5, (6,))
    logits = model((images, labels)).detach()
    hot = torch.nn.functional.one_hot(labels, 5).float()
    p = logits.sigmoid()
    expected = -(hot * p.log() + (1 - hot) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(model.loss(logits, (images, labels)), expected)
    cross = digits_resnet(width=8).loss(logits, (images, labels))
    torch.testing.assert_close(cross, torch.nn.functional.cross_entropy(logits, labels))


def test_metrics():
    assert set(digits_resnet().get_metrics(is_train=False)) == {'MulticlassAccuracy', 'CrossEntropy'}


def test_blurpool_finds_convolutions_to_replace(monkeypatch):
    from composer_kd.models import apply_surgery

    model = apply_surgery(digits_resnet(width=16), {'blurpool': {}})
    assert sum('Blur' in type(m).__name__ for m in model.modules()) == 2
    assert BlurPool().match(Event.INIT, None)


@pytest.mark.parametrize(('settings', 'told'), [
    ({'width': 0}, 'width: expected a whole number of 1 or more, got 0'),
    ({'blocks': True}, 'blocks: expected'),
    ({'num_classes': 1}, 'num_classes: expected a whole number of 2 or more'),
    ({'loss': 'mse'}, "loss: expected one of 'cross_entropy', 'binary_cross_entropy', got 'mse'"),
])
def test_bad_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        digits_resnet(**settings)


def test_models_are_built_by_name():
    assert build_model('digits_resnet').num_classes == 10
    with pytest.raises(ValueError, match="student: unknown model 'digit_resnet'. Did you mean 'digits_resnet'"):
        build_model({'name': 'digit_resnet'}, 'student')
    with pytest.raises(ValueError, match="model: unknown key 'widht'. Did you mean 'width'"):
        build_model({'name': 'digits_resnet', 'widht': 3})
    with pytest.raises(TypeError, match='expected a name or a mapping'):
        build_model(3)


def test_third_parties_add_models(monkeypatch):
    monkeypatch.setattr(MODELS, '_items', dict(MODELS._items))

    @MODELS.register('theirs')
    def theirs(size: int = 2):
        return digits_resnet(width=size)

    @MODELS.register('no_model')
    def no_model():
        return nn.Linear(2, 2)

    assert build_model({'name': 'theirs', 'size': 3}).module.head.in_features == 3
    with pytest.raises(ValueError, match='has to return a ComposerModel, it returned Linear'):
        build_model('no_model')


def test_models_are_found_in_installed_packages(monkeypatch):
    class Point:
        name = 'installed'

        @staticmethod
        def load():
            return lambda: digits_resnet(width=2)

    monkeypatch.setattr(MODELS, '_items', dict(MODELS._items))
    monkeypatch.setattr('composer_kd.names.entry_points', lambda group: [Point] if group == 'composer_kd.models' else [])
    assert 'installed' in MODELS.names()
    assert build_model('installed').module.head.in_features == 2
