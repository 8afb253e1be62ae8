from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from composer_kd.callbacks import forward_flops_per_sample, untouched
from composer_kd.callbacks.flops import first_samples


def test_first_samples_of_every_structure():
    x, y = torch.arange(12.0).reshape(4, 3), torch.arange(4)
    small, count = first_samples((x, y), 2)
    assert isinstance(small, tuple)
    assert count == 2
    assert torch.equal(small[0], x[:2])
    assert torch.equal(small[1], y[:2])
    batch = {'a': x, 'nested': {'b': y}, 'scalar': torch.tensor(3.0), 'table': torch.zeros(7, 2), 'text': [*'abcd']}
    batch['n'] = 5
    small, count = first_samples(batch, 3)
    assert count == 3
    assert len(small['a']) == len(small['nested']['b']) == len(small['text']) == 3
    assert len(small['table']) == 7
    assert small['n'] == 5
    assert small['scalar'].item() == 3.0
    assert first_samples([x[:1], y[:1]], 2)[1] == 1


def test_first_samples_are_copies():
    x = torch.zeros(4, 3)
    first_samples(x, 2)[0].add_(1)
    assert x.sum() == 0


def test_batch_without_samples():
    with pytest.raises(ValueError, match='a tensor of samples'):
        first_samples({'a': 'text'}, 2)


class Restless(nn.Module):
    """Changes everything a forward pass may change."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 3, bias=False)
        self.norm = nn.BatchNorm1d(3)
        self.frozen = nn.Dropout()
        self.frozen.eval()
        self.register_buffer('calls', torch.zeros(()))
        self.register_buffer('seen', torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen = self.seen + x.sum()
        random.random()
        np.random.rand()
        x.mul_(2)
        return self.norm(self.linear(x + torch.rand_like(x)))


def test_count_leaves_no_trace():
    model, batch = Restless(), torch.randn(16, 8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    batch_before, buffers = batch.clone(), [id(b) for b in model.buffers()]
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert forward_flops_per_sample(model, batch) == 2 * 8 * 3
    assert [module.training for module in model.modules()] == modes
    assert [id(b) for b in model.buffers()] == buffers
    assert torch.equal(batch, batch_before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert all(p.grad is None for p in model.parameters())


def test_failure_leaves_no_trace_either():
    model = Restless()

    def fail() -> None:
        model.calls += 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), untouched(model):
        fail()
    assert model.calls == 0
    assert model.training
    assert not model.frozen.training


def test_count_of_a_convolution_is_the_formula():
    model = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert forward_flops_per_sample(model, torch.zeros(4, 3, 8, 8)) == 2 * 5 * 8 * 8 * 3 * 9


def test_compiled_model_is_counted_eagerly_and_not_compiled_anew():
    calls = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        calls.append(inputs)
        return graph.forward

    model = nn.Linear(8, 3, bias=False)
    compiled = torch.compile(model, backend=backend)
    compiled(torch.zeros(16, 8))
    assert forward_flops_per_sample(compiled, torch.zeros(16, 8)) == 2 * 8 * 3
    compiled(torch.zeros(16, 8))
    assert len(calls) == 1
