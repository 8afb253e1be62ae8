"""Losses of other people's making: a function passed in, and losses added to the registry."""

import importlib.metadata
import re

import pytest
import torch

from composer_kd import functional, losses
from composer_kd.losses import LOSSES, LossSpec, make_loss
from composer_kd.names import Registry


def logits(*shape, seed=0):
    both = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) * 3
    return both[0], both[1]


def gradient(call, student):
    student = student.detach().clone().requires_grad_()
    call(student).sum().backward()
    return student.grad


@pytest.fixture
def registry(monkeypatch):
    """The losses, in a copy that a test may add to."""
    mine: Registry = Registry('loss', 'composer_kd.losses')
    for name in LOSSES.names():
        mine.register(name)(LOSSES.get(name))
    monkeypatch.setattr(losses, 'LOSSES', mine)
    return mine


def per_row(student, teacher):
    return (student - teacher).abs().sum(-1)


def as_mean(student, teacher):
    return (student - teacher).abs().sum(-1).mean()


class Module(torch.nn.Module):
    def forward(self, student, teacher):
        return as_mean(student, teacher)


OWN = [per_row, as_mean, Module(), lambda student, teacher: as_mean(student, teacher)]


@pytest.mark.parametrize('function', OWN)
@pytest.mark.parametrize('shape', [(6, 5), (2, 3, 5)], ids=str)
def test_a_users_function(function, shape):
    student, teacher = logits(*shape)
    rows = per_row(student, teacher)
    mask = torch.arange(6).reshape(shape[:-1]) % 3 != 1
    loss = make_loss(function)
    assert loss.settings == {}
    assert loss.space is None
    assert loss.has_temperature is False
    torch.testing.assert_close(loss(student, teacher), rows.mean())
    torch.testing.assert_close(loss(student, teacher, mask), rows[mask].mean())
    for weights in (None, mask):
        got = loss.rows(student, teacher, mask=weights)
        assert got.shape == shape[:-1]
        expected = gradient(lambda z, w=weights: functional.masked_mean(per_row(z, teacher), w), student)
        torch.testing.assert_close(gradient(lambda z, w=weights: loss(z, teacher, w), student), expected)


def test_the_name_of_a_users_function():
    assert [make_loss(f).name for f in OWN] == ['per_row', 'as_mean', 'Module', '<lambda>']


@pytest.mark.parametrize('function', [per_row, as_mean, torch.nn.MSELoss()], ids=['rows', 'scalar', 'module'])
def test_a_users_function_never_sees_what_does_not_count(function):
    student, teacher = logits(4, 5)
    student[1], teacher[3] = torch.nan, torch.inf
    mask = torch.tensor([True, False, True, False])
    loss = make_loss(function)
    assert loss(student, teacher, mask).isfinite()
    assert gradient(lambda z: loss(z, teacher, mask), student).isfinite().all()
    student.requires_grad_()
    empty = loss(student, teacher, torch.zeros(4))
    assert empty.item() == 0
    empty.backward()
    assert student.grad.count_nonzero() == 0
    assert loss(student[:0], teacher[:0]).item() == 0


def test_a_users_function_gets_float32_and_gives_it():
    seen = []

    def watch(student, teacher):
        seen.extend([student.dtype, teacher.dtype, teacher.requires_grad])
        return as_mean(student, teacher).bfloat16()

    student, teacher = logits(3, 5)
    value = make_loss(watch)(student.bfloat16(), teacher.bfloat16().requires_grad_())
    assert seen == [torch.float32, torch.float32, False]
    assert value.dtype == torch.float32


@pytest.mark.parametrize(
    ('function', 'part'),
    [
        (lambda s, t: (s - t) ** 2, 'got a tensor of shape (3, 5)'),
        (lambda s, t: 0.5, 'got float: 0.5'),
        (lambda s, t: None, 'got NoneType'),
    ],
)
def test_a_users_function_that_returns_something_else(function, part):
    with pytest.raises(ValueError, match=re.escape("loss '<lambda>': expected the function to return")) as raised:
        make_loss(function)(*logits(3, 5))
    assert part in str(raised.value)


def cubed(student_logits, teacher_logits, *, power=3, reduction='mean'):
    rows = (student_logits - teacher_logits).abs().pow(power).sum(-1)
    return rows if reduction == 'none' else rows.mean()


def test_a_bare_function_in_the_registry(registry):
    registry.register('cubed')(cubed)
    student, teacher = logits(4, 5)
    student[2] = torch.nan
    mask = torch.tensor([True, True, False, True])
    loss = make_loss({'name': 'cubed', 'power': 2})
    assert (loss.space, loss.has_temperature, loss.settings) == (None, False, {'power': 2})
    torch.testing.assert_close(loss(student, teacher, mask), functional.mse(student, teacher, mask=mask))
    with pytest.raises(ValueError, match="Did you mean 'power'"):
        make_loss({'name': 'cubed', 'powr': 2})


def test_what_a_registered_function_is_spared(registry):
    """It need not cut the teacher from its graph, nor check a temperature."""
    def softened(s, t, *, temperature=1.0, reduction='mean'):
        return cubed(s / temperature, t / temperature, reduction=reduction)

    registry.register('softened')(softened)
    student, teacher = (z.requires_grad_() for z in logits(4, 5))
    make_loss('softened')(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None
    with pytest.raises(ValueError, match="'softened': temperature: expected a finite number above 0, got -1"):
        make_loss({'name': 'softened', 'temperature': -1})
    with pytest.raises(ValueError, match='temperature: expected a finite number above 0, got -1'):
        make_loss('softened')(student, teacher, temperature=-1)


def test_a_spec_with_its_own_checks(registry):
    def even(value):
        if value % 2:
            raise ValueError(f'power: expected an even number, got {value}; take the next one.')

    registry.register('even')(LossSpec(cubed, 'logits', {'power': even}))
    assert make_loss({'name': 'even', 'power': 4}).space == 'logits'
    with pytest.raises(ValueError, match=r"^loss 'even': power: expected an even number, got 3; take the next one.$"):
        make_loss({'name': 'even', 'power': 3})


def test_a_loss_from_an_installed_package(registry, monkeypatch):
    point = importlib.metadata.EntryPoint('installed', 'tests_of_losses:cubed', 'composer_kd.losses')
    monkeypatch.setattr(importlib.metadata.EntryPoint, 'load', lambda self: cubed)
    points = {'composer_kd.losses': [point]}
    monkeypatch.setattr('composer_kd.names.entry_points', lambda group: points.get(group, []))
    assert 'installed' in registry.names()
    student, teacher = logits(4, 5)
    torch.testing.assert_close(make_loss('installed')(student, teacher), cubed(student, teacher))


def test_a_registered_function_must_be_of_the_agreed_form(registry):
    registry.register('no_reduction')(per_row)
    with pytest.raises(ValueError, match=r"'no_reduction': .*give it a keyword 'reduction'"):
        make_loss('no_reduction')
    registry.register('a_class')(Module)
    with pytest.raises(TypeError, match='got the class Module'):
        make_loss('a_class')
    registry.register('scalar')(lambda s, t, *, reduction='mean': as_mean(s, t))
    with pytest.raises(ValueError, match=r"'scalar': expected reduction='none' to give a tensor of shape \(4,\)"):
        make_loss('scalar').rows(*logits(4, 5))
    registry.register('needs')(lambda s, t, *, rank, reduction='mean': cubed(s, t, reduction=reduction))
    with pytest.raises(ValueError, match="'needs': missing 'rank'"):
        make_loss('needs')
    assert make_loss({'name': 'needs', 'rank': 3}).settings == {'rank': 3}


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="already a loss named 'mse'"):
        registry.register('mse')(cubed)


def test_a_registered_function_with_a_mask_is_told_which_rows_count_and_spared_a_copy(registry):
    seen = []

    def masked(student, teacher, *, mask=None, reduction='mean'):
        seen.append((student, teacher, mask))
        return functional.mse(student, teacher, mask=mask, reduction=reduction)
    registry.register('masked')(masked)
    student, teacher = logits(3, 5)
    student[1] = torch.nan
    mask = torch.tensor([True, False, True])
    loss = make_loss('masked')
    assert loss.settings == {}
    assert torch.equal(loss.rows(student, teacher, mask=mask), functional.mse(student, teacher, mask=mask, reduction='none'))
    assert seen[0][0] is student
    assert seen[0][1].data_ptr() == teacher.data_ptr()
    assert seen[0][2] is mask
    assert loss(student[:1], teacher[:1]).isfinite()
    assert seen[1][2] is None
