"""Gradients: right, finite, to the student only, and the same however a batch is cut."""

import numpy as np
import pytest
import torch

from . import reference
from .cases import CASES, PLAIN, Case, forbid, gradient, logits

pytestmark = pytest.mark.usefixtures('whole_or_in_chunks')


@pytest.mark.parametrize('case', CASES, ids=str)
def test_gradcheck(case):
    student, teacher = logits(3, 5, scale=2)
    mask = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: case.rows(z, teacher), student)
    assert torch.autograd.gradcheck(lambda z: case.mean(z, teacher, mask=mask), student)


def closed_form(case, student, teacher):
    """The gradient of the rows' sum, from the papers or by hand."""
    temperature = case.settings.get('temperature', 1.0)
    s, t = student.double().numpy() / temperature, teacher.double().numpy() / temperature
    if case.name == 'binary_kl_divergence':
        return temperature * (reference.sigmoid(s) - reference.sigmoid(t))
    if case.name == 'mse':
        with np.errstate(invalid='ignore'):
            squared = np.where(np.isneginf(s) & np.isneginf(t), 0, 2 * (s - t))
        return squared / (s.shape[-1] if case.settings.get('class_reduction') == 'mean' else 1)
    p_s, p_t = reference.softmax(s), reference.softmax(t)
    if case.name in ('kl_divergence', 'soft_cross_entropy'):
        return temperature * (p_s - p_t)
    if case.name == 'hard_label':
        return p_s - np.eye(s.shape[-1])[t.argmax(-1)]
    if case.name == 'reverse_kl':
        with np.errstate(invalid='ignore'):
            score = np.where(p_s > 0, reference.log_softmax(s) - reference.log_softmax(t), 0)
        return temperature * p_s * (score - (p_s * score).sum(-1, keepdims=True))
    beta = case.settings.get('beta', 0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        score = np.where(p_s > 0, np.log(p_s / (beta * p_t + (1 - beta) * p_s)), 0)
    return (1 - beta) * temperature * p_s * (score - (p_s * score).sum(-1, keepdims=True))


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('scale', [2.0, 1e4], ids=['usual', 'large'])
@pytest.mark.parametrize('forbidden', [False, True], ids=['allowed', 'forbidden'])
def test_gradient_is_the_closed_form(case, dtype, scale, forbidden):
    student, teacher = logits(4, 6, scale=scale, dtype=dtype)
    if forbidden:
        student, teacher = forbid(student, teacher)
    got = gradient(case.rows, student, teacher)
    assert got.dtype == dtype
    assert got.isfinite().all()
    rtol, atol = {torch.bfloat16: (1e-2, 1e-5), torch.float32: (1e-4, 1e-5), torch.float64: (1e-8, 1e-10)}[dtype]
    np.testing.assert_allclose(got.double().numpy(), closed_form(case, student, teacher), rtol, atol)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_the_teacher_gets_no_gradient_and_nothing_is_changed(case):
    student, teacher = logits(4, 6)
    before = student.clone(), teacher.clone()
    student.requires_grad_()
    teacher.requires_grad_()
    case.mean(student, teacher, mask=torch.tensor([True, False, True, True])).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert torch.equal(student, before[0])
    assert torch.equal(teacher, before[1])


@pytest.mark.parametrize('name', ['kl_divergence', 'reverse_kl', 'jensen_shannon', 'binary_kl_divergence'])
def test_temperature_squared_keeps_the_size_of_the_gradient(name):
    student, teacher = logits(32, 10, scale=1)
    sizes = [
        gradient(Case(name, {'temperature': temperature}).rows, student, teacher).norm().item()
        for temperature in (4.0, 8.0, 16.0, 64.0)
    ]
    assert max(sizes) / min(sizes) < 1.2


@pytest.mark.parametrize('name', ['kl_divergence', 'soft_cross_entropy'])
def test_at_high_temperature_the_gradient_is_that_of_logit_matching(name):
    """Hinton et al. 2015, equation 4: (z_s - z_t) / C for logits of zero mean."""
    student, teacher = (z - z.mean(-1, keepdim=True) for z in logits(4, 10, scale=1))
    got = gradient(Case(name, {'temperature': 1e4}).rows, student, teacher)
    torch.testing.assert_close(got, (student - teacher) / 10, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_one_microbatch_or_several(case):
    student, teacher = logits(12, 4, 7, seed=3)
    mask = torch.rand(12, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    parts = [slice(0, 5), slice(5, 6), slice(6, 12)]
    whole = gradient(case.mean, student, teacher, mask=mask)
    together = student.clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for part in parts:
        loss = case.rows(together[part], teacher[part], mask=mask[part]).sum() / mask.sum()
        loss.backward()
        total += loss.detach()
    torch.testing.assert_close(total, case.mean(student, teacher, mask=mask), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(together.grad, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('case', PLAIN, ids=str)
def test_nothing_waits_for_the_device(case):
    """On the meta device tensors hold nothing, so reading one in a Python condition raises."""
    student = torch.randn(4, 6, device='meta', dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.randn(4, 6, device='meta', dtype=torch.bfloat16)
    mask = torch.ones(4, device='meta')
    loss = case.mean(student, teacher, mask=mask)
    loss.backward()
    assert loss.dtype == torch.float32
    assert student.grad is not None
    assert case.rows(student, teacher, mask=mask).shape == (4,)
