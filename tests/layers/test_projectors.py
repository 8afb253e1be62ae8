"""Projectors, the sample by which they are measured, and the optimizer that teaches them."""

import random
from types import SimpleNamespace

import composer.optim
import numpy as np
import pytest
import torch
from composer.core import DataSpec, Precision
from composer.devices import DeviceCPU
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from composer_kd.layers import Learner, Projector, build_projector, read_projector, sample_of
from composer_kd.layers.learner import twin_of
from composer_kd.recipes.tasks import digits
from tests.common import images


@pytest.mark.parametrize(('shapes', 'kind', 'made'), [
    (((2, 4, 3, 3), (2, 6, 5, 5)), 'linear', nn.Conv2d), (((2, 7, 4), (2, 7, 6)), 'linear', nn.Linear),
    (((2, 4), (2, 6)), 'mlp', nn.Sequential), (((2, 4, 3, 3), (2, 6, 3, 3)), 'mlp', nn.Sequential),
])
def test_the_width_is_the_teachers(shapes, kind, made):
    module = build_projector(Projector(kind), shapes, 'seed')
    assert isinstance(module, made)
    out = module(torch.zeros(shapes[0]))
    assert (out.shape[1] if out.dim() == 4 else out.shape[-1]) == 6


def test_weights_depend_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, same, other = (build_projector(Projector('linear'), ((2, 4), (2, 6)), seed).weight for seed in ('a', 'a', 'b'))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_said_widths_must_be_those_that_are_seen():
    asked = read_projector({'kind': 'linear', 'student_width': 4, 'teacher_width': 5}, False, 'x')
    with pytest.raises(ValueError, match='of 4 to 5 was asked for, and the layers are 4 and 6 wide'):
        build_projector(asked, ((2, 4), (2, 6)), 'seed')


@pytest.mark.parametrize(('said', 'told'), [
    ('conv', "x: expected 'linear', 'mlp', 'none'"), ({'kind': 'linear', 'hidden': 3}, r'x\.hidden'),
    ({'kind': 'mlp', 'hidden': 0}, r'x\.hidden'), ({'student_width': 3}, 'go together'),
])
def test_what_makes_no_sense_is_refused(said, told):
    with pytest.raises(ValueError, match=told):
        read_projector(said, True, 'x')


class Stream(IterableDataset):
    def __iter__(self):
        raise AssertionError('it was begun')


def test_a_sample_begins_no_loader_and_moves_no_random_number():
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            random.random(), np.random.rand(), torch.rand(1)
            return super().__getitem__(index)
    data = DataLoader(Noisy(*images(8).tensors), batch_size=4, shuffle=True)
    x, y = sample_of(data)
    assert (x.shape, y.shape) == ((2, 1, 8, 8), (2,))
    doubled = sample_of(DataSpec(data, batch_transforms=lambda batch: (batch[0] * 2, batch[1])))
    assert torch.equal(doubled[0], 2 * x)
    assert sample_of({'dataloader': data})[0].shape == x.shape
    assert sample_of([(x, y)])[0].shape == x.shape
    assert sample_of(digits(batch_size=8, seed=1, train=True))[0].shape == (2, 1, 8, 8)
    assert sample_of(DataLoader(Stream(), batch_size=4)) is None
    assert sample_of(None) is None
    assert states[0] == random.getstate()
    assert (states[1] == np.random.get_state()[1]).all()
    assert torch.equal(states[2], torch.random.get_rng_state())


@pytest.mark.parametrize('make', [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.AdamW(p, lr=0.1, betas=(0.8, 0.9)),
    lambda p: composer.optim.DecoupledAdamW(p, lr=0.1, weight_decay=0.01),
    lambda p: composer.optim.DecoupledSGDW(p, lr=0.1, weight_decay=0.01), lambda p: torch.optim.RMSprop(p, lr=0.1),
    lambda p: torch.optim.Adam([{'params': p, 'lr': 0.3, 'weight_decay': 0.2}], lr=0.1),
])
def test_a_twin_makes_the_same_steps(make):
    one, other = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = make([one])
    twin = twin_of(optimizer, [other])
    assert type(twin) is type(optimizer)
    for _ in range(3):
        one.grad, other.grad = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0])
        optimizer.step()
        twin.step()
    assert torch.equal(one, other)


class Odd(torch.optim.SGD):
    def __init__(self, params, lr, needed):
        super().__init__(params, lr)


def test_an_optimizer_that_cannot_be_made_again_is_refused():
    with pytest.raises(ValueError, match='Odd cannot be made again'):
        twin_of(Odd([nn.Parameter(torch.ones(3))], 0.1, 3), [nn.Parameter(torch.ones(3))])


def state(scaler=None):
    student = nn.Linear(2, 2)
    return SimpleNamespace(
        optimizers=[torch.optim.SGD(student.parameters(), lr=0.5)], device=DeviceCPU(), scaler=scaler,
        precision=Precision.FP32 if scaler is None else Precision.AMP_FP16,
    )


@pytest.mark.parametrize('overflow', [False, True])
def test_a_loss_scale_is_taken_out_again_and_what_overflowed_makes_no_step(overflow):
    def step(training, scale):
        learner = Learner({'a': build_projector(Projector('linear'), ((2, 3), (2, 4)), 'seed')}, training)
        learner.open_batch()
        (scale * learner.modules['a'](torch.ones(2, 3)).square().sum()).backward()
        learner.reduce(training, {'a'})
        learner.step()
        return learner.modules['a'].weight.detach()
    scaler = SimpleNamespace(is_enabled=lambda: True, get_scale=lambda: 1024.0)
    plain, scaled = step(state(), 1.0), step(state(scaler), float('inf') if overflow else 1024.0)
    start = build_projector(Projector('linear'), ((2, 3), (2, 4)), 'seed').weight.detach()
    torch.testing.assert_close(scaled, start if overflow else plain)
    assert not torch.equal(start, plain)


def test_a_batch_that_used_none_makes_no_step_and_other_projectors_are_refused():
    training = state()
    learner = Learner({'a': nn.Linear(3, 4), 'b': nn.Linear(3, 4)}, training)
    learner.open_batch()
    learner.modules['a'](torch.ones(2, 3)).sum().backward()
    before = learner.modules['b'].weight.detach().clone()
    learner.reduce(training, {'a'})
    learner.step()
    learner.step()  # a second time has nothing to do
    assert torch.equal(before, learner.modules['b'].weight)
    text = learner.state_text()
    with pytest.raises(ValueError, match='projectors are other ones'):
        Learner({'a': nn.Linear(3, 5), 'b': nn.Linear(3, 4)}, training).load_text(text)
