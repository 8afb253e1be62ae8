"""Losses by name: settings, values and errors."""

import copy
import re

import pytest
import torch

from composer_kd import functional
from composer_kd.losses import LOSSES, Loss, LossSpec, make_loss

NAMES = ['binary_kl_divergence', 'forward_kl', 'hard_label', 'jensen_shannon', 'kl_divergence', 'mse', 'reverse_kl',
         'soft_cross_entropy']
FUNCTIONS = {name: getattr(functional, {'forward_kl': 'kl_divergence'}.get(name, name)) for name in NAMES}


def logits(*shape, seed=0):
    both = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed)) * 3
    return both[0], both[1]


def gradient(call, student):
    student = student.detach().clone().requires_grad_()
    call(student).sum().backward()
    return student.grad


def test_the_names():
    assert set(NAMES) <= set(LOSSES.names())


@pytest.mark.parametrize('name', NAMES)
def test_a_name_is_the_function_with_its_defaults(name):
    student, teacher = logits(2, 3, 5)
    mask = torch.tensor([[1.0, 0.0, 2.0], [0.5, 0.0, 0.0]])
    loss = make_loss(name)
    assert loss.name == name
    torch.testing.assert_close(loss.rows(student, teacher), FUNCTIONS[name](student, teacher, reduction='none'))
    torch.testing.assert_close(loss(student, teacher), FUNCTIONS[name](student, teacher))
    torch.testing.assert_close(loss(student, teacher, mask), FUNCTIONS[name](student, teacher, mask=mask))
    assert torch.equal(make_loss({'name': name}).rows(student, teacher), loss.rows(student, teacher))


@pytest.mark.parametrize('name', NAMES)
def test_what_a_loss_says_of_itself(name):
    loss = make_loss(name)
    softened = {'temperature': 1.0}
    assert loss.settings == {
        'hard_label': {}, 'mse': {'class_reduction': 'sum'}, 'jensen_shannon': {'beta': 0.5, 'temperature': 1.0},
    }.get(name, softened)
    assert loss.space == {'mse': 'logits', 'binary_kl_divergence': 'sigmoid'}.get(name, 'softmax')
    assert loss.has_temperature == (name not in ('mse', 'hard_label'))
    assert copy.deepcopy(loss) == loss


@pytest.mark.parametrize(
    'spec',
    [
        {'name': 'kl_divergence', 'temperature': 4},
        {'name': 'jensen_shannon', 'temperature': 2.5, 'beta': 0.2},
        {'name': 'mse', 'class_reduction': 'mean'},
    ],
    ids=lambda spec: spec['name'],
)
def test_settings_reach_the_function(spec):
    student, teacher = logits(3, 5)
    settings = {key: value for key, value in spec.items() if key != 'name'}
    before = dict(spec)
    loss = make_loss(spec)
    assert spec == before
    assert loss.settings == {**make_loss(spec['name']).settings, **settings}
    torch.testing.assert_close(loss(student, teacher), FUNCTIONS[spec['name']](student, teacher, **settings))


def test_temperature_given_at_the_call_comes_first():
    student, teacher = logits(3, 5)
    loss = make_loss({'name': 'kl_divergence', 'temperature': 4.0})
    expected = functional.kl_divergence(student, teacher, temperature=2.0)
    torch.testing.assert_close(loss(student, teacher, temperature=2.0), expected)
    assert loss.settings == {'temperature': 4.0}


@pytest.mark.parametrize('schedule', [{'linear': {'alpha_i': 4.0, 'alpha_f': 1.0}}, lambda state, ssr=1.0: 2.0],
                         ids=['mapping', 'callable'])
def test_a_schedule_is_left_to_the_caller(schedule):
    student, teacher = logits(3, 5)
    loss = make_loss({'name': 'kl_divergence', 'temperature': schedule})
    assert loss.settings['temperature'] is schedule
    with pytest.raises(ValueError, match="loss 'kl_divergence': its temperature follows a schedule"):
        loss(student, teacher)
    expected = functional.kl_divergence(student, teacher, temperature=3.0)
    torch.testing.assert_close(loss(student, teacher, temperature=3.0), expected)
    with pytest.raises(ValueError, match='temperature: expected a finite number above 0, got -3'):
        loss(student, teacher, temperature=-3.0)


def test_a_temperature_where_there_is_none():
    for loss in (make_loss('mse'), make_loss(torch.nn.MSELoss())):
        with pytest.raises(ValueError, match='it has no temperature, got 2'):
            loss(*logits(3, 5), temperature=2.0)


@pytest.mark.parametrize(
    ('spec', 'error', 'parts'),
    [
        ('kl_divergense', ValueError, ["unknown loss 'kl_divergense'", "Did you mean 'kl_divergence'?", 'mse']),
        ({'name': 'mean_squared'}, ValueError, ['unknown loss', 'mse']),
        ({'temperature': 4.0}, ValueError, ["the key 'name'", "'temperature'"]),
        ({}, ValueError, ['an empty mapping']),
        ({'name': 'kl_divergence', 'temprature': 4}, ValueError, ['temprature', "Did you mean 'temperature'?"]),
        ({'name': 'mse', 'temperature': 4}, ValueError, ["'mse'", "'temperature'", 'class_reduction']),
        ({'name': 'hard_label', 'beta': 4}, ValueError, ["'hard_label'", "'beta'", 'none']),
        ({'name': 'kl_divergence', 'reduction': 'none'}, ValueError, ["'reduction'"]),
        ({'name': 'kl_divergence', 'mask': None}, ValueError, ["'mask'"]),
        ({'name': 'kl_divergence', 'student_logits': 1}, ValueError, ["'student_logits'"]),
        ({'name': 'kl_divergence', 'temperature': 0}, ValueError, ["'kl_divergence'", 'above 0, got 0']),
        ({'name': 'kl_divergence', 'temperature': -4.0}, ValueError, ['above 0, got -4.0']),
        ({'name': 'kl_divergence', 'temperature': float('nan')}, ValueError, ['above 0, got nan']),
        ({'name': 'kl_divergence', 'temperature': '4'}, TypeError, ["'kl_divergence'", "str '4'"]),
        ({'name': 'kl_divergence', 'temperature': None}, TypeError, ['NoneType']),
        ({'name': 'kl_divergence', 'temperature': True}, TypeError, ['bool']),
        ({'name': 'jensen_shannon', 'beta': 1}, ValueError, ["'jensen_shannon'", 'beta', 'got 1']),
        ({'name': 'jensen_shannon', 'beta': {'linear': {}}}, TypeError, ['beta', 'dict']),
        ({'name': 'mse', 'class_reduction': 'max'}, ValueError, ["'sum' or 'mean'", "'max'"]),
        (None, TypeError, ['expected a name', 'NoneType', 'kl_divergence']),
        (4.0, TypeError, ['float: 4.0']),
        (['kl_divergence'], TypeError, ['list']),
        (torch.nn.MSELoss, TypeError, ['the class MSELoss']),
        (LossSpec(functional.mse), TypeError, ['LossSpec']),
    ],
)
def test_what_is_refused(spec, error, parts):
    with pytest.raises(error) as raised:
        make_loss(spec)
    message = str(raised.value)
    assert message.startswith('loss')
    assert '\n' not in message
    for part in parts:
        assert part in message


def test_the_message_says_where():
    with pytest.raises(ValueError, match=re.escape("algorithms.distillation.loss 'mse': unknown key 'x'")):
        make_loss({'name': 'mse', 'x': 1}, 'algorithms.distillation.loss')


def test_a_loss_is_returned_as_it_is():
    loss = make_loss('mse')
    assert isinstance(loss, Loss)
    assert make_loss(loss) is loss


@pytest.mark.parametrize('name', NAMES)
def test_rows_that_do_not_count_may_hold_anything(name):
    student, teacher = logits(4, 5)
    student[1], teacher[1], teacher[3] = torch.nan, torch.inf, torch.nan
    mask = torch.tensor([True, False, True, False])
    loss = make_loss(name)
    rows = loss.rows(student, teacher, mask=mask)
    torch.testing.assert_close(rows[mask], loss.rows(student[mask], teacher[mask]))
    assert rows[~mask].tolist() == [0, 0]
    got = gradient(lambda z: loss(z, teacher, mask), student)
    torch.testing.assert_close(got[mask], gradient(lambda z: loss(z, teacher[mask]), student[mask]))
    assert got[~mask].count_nonzero() == 0


@pytest.mark.parametrize('spec', ['kl_divergence', torch.nn.MSELoss()], ids=['ours', 'own'])
def test_arguments_are_checked(spec):
    loss = make_loss(spec)
    with pytest.raises(ValueError, match=re.escape('(3, 5) and (3, 6)')):
        loss.rows(torch.zeros(3, 5), torch.zeros(3, 6))
    with pytest.raises(ValueError, match=re.escape('mask: expected shape (3,)')):
        loss.rows(torch.zeros(3, 5), torch.zeros(3, 5), mask=torch.ones(3, 5))
    with pytest.raises(TypeError, match='teacher_logits: expected a tensor'):
        loss.rows(torch.zeros(3, 5), None)


def test_a_registered_loss_waits_for_nothing():
    """On the meta device tensors hold nothing, so reading one in a Python condition raises."""
    student = torch.zeros(4, 6, device='meta', requires_grad=True)
    for name in NAMES:
        make_loss(name)(student, torch.zeros(4, 6, device='meta'), torch.ones(4, device='meta')).backward()
