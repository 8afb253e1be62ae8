"""Decoupled KD, DIST, standardised KL, cosine, total variation: as the other losses, and what each alone promises."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd import functional
from composer_kd.losses import make_loss

from . import reference
from .cases import gradient, logits

pytestmark = pytest.mark.usefixtures('whole_or_in_chunks')

CASES = [
    ('decoupled_kd', {}), ('decoupled_kd', {'temperature': 4.0, 'alpha': 2.0, 'beta': 0.5}),
    ('decoupled_kd', {'standardize': True, 'temperature': 2.0}),
    ('dist', {}), ('dist', {'temperature': 4.0, 'beta': 2.0, 'gamma': 0.5}),
    ('standardized_kl', {}), ('standardized_kl', {'temperature': 1.0}),
    ('cosine', {}), ('total_variation', {}), ('total_variation', {'temperature': 3.0}),
]
each = pytest.mark.parametrize(('name', 'settings'), CASES, ids=lambda x: x if isinstance(x, str) else str(x))


def labels_of(shape: Any, classes: int) -> Tensor:
    return torch.randint(0, classes, tuple(shape), generator=torch.Generator().manual_seed(3))


def calculate(name: str, student: Tensor, teacher: Tensor, labels: Tensor | None = None, **more: Any) -> Tensor:
    if name == 'decoupled_kd':
        more['labels'] = labels_of(student.shape[:-1], student.shape[-1]) if labels is None else labels
    return getattr(functional, name)(student, teacher, **more)


def expected(name: str, student: Tensor, teacher: Tensor, **settings: Any) -> np.ndarray:
    s, t = (x.detach().double().numpy() for x in (student, teacher))
    if name == 'decoupled_kd':
        settings['labels'] = labels_of(s.shape[:-1], s.shape[-1]).numpy()
    return getattr(reference, name)(s, t, **settings)


@each
@pytest.mark.parametrize('shape', [(7,), (5, 7), (2, 3, 7), (1, 4)], ids=str)
def test_float64_is_the_paper(name, settings, shape):
    student, teacher = logits(*shape, scale=2)
    rows = calculate(name, student, teacher, reduction='none', **settings)
    assert rows.shape == shape[:-1]
    np.testing.assert_allclose(rows, expected(name, student, teacher, **settings), rtol=1e-9, atol=1e-12)
    mean = calculate(name, student, teacher, **settings)
    np.testing.assert_allclose(mean, expected(name, student, teacher, **settings).mean(), rtol=1e-9, atol=1e-12)


@each
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_is_calculated_in_float32(name, settings, dtype):
    student, teacher = logits(16, 30, dtype=dtype)
    rows = calculate(name, student, teacher, reduction='none', **settings)
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows, expected(name, student, teacher, **settings), rtol=5e-5, atol=5e-5)


@each
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_logits_of_ten_thousand(name, settings, dtype):
    student = torch.tensor([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, 1e4], [1e4, 9e3, 20]], dtype=dtype)
    teacher = torch.tensor([[-1e4, 1e4, 0], [1e4, 1e4, -1e4], [-1e4, 1e4, 1e4], [1e4, 8e3, 10]], dtype=dtype)
    rows = calculate(name, student, teacher, reduction='none', **settings)
    np.testing.assert_allclose(rows, expected(name, student, teacher, **settings), rtol=1e-5, atol=1e-5)
    slope = gradient(lambda z: calculate(name, z, teacher, **settings), student)
    assert slope.dtype == dtype
    assert slope.isfinite().all()


@each
def test_gradcheck(name, settings):
    student, teacher = logits(3, 5, scale=2)
    mask = torch.tensor([1.0, 0.25, 0.0], dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: calculate(name, z, teacher, reduction='none', **settings), student)
    assert torch.autograd.gradcheck(lambda z: calculate(name, z, teacher, mask=mask, **settings), student)


@each
def test_rows_that_do_not_count_may_hold_anything(name, settings):
    student, teacher = logits(4, 5, dtype=torch.float32)
    labels = torch.tensor([1, 4, -100, 77])
    clean = calculate(name, student[:2], teacher[:2], labels[:2], **settings)
    student[2], teacher[2] = torch.nan, torch.inf
    student[3], teacher[3] = -torch.inf, torch.nan
    mask = torch.tensor([True, True, False, False])
    torch.testing.assert_close(calculate(name, student, teacher, labels, mask=mask, **settings), clean)
    assert calculate(name, student, teacher, labels, mask=mask, reduction='none', **settings)[2:].tolist() == [0, 0]
    slope = gradient(lambda z: calculate(name, z, teacher, labels, mask=mask, **settings), student)
    assert slope.isfinite().all()
    assert slope[2:].count_nonzero() == 0
    student.requires_grad_()
    nothing = calculate(name, student, teacher, labels, mask=torch.zeros(4), **settings)
    nothing.backward()
    assert nothing.item() == 0
    assert student.grad.count_nonzero() == 0


@each
def test_of_itself_is_exactly_zero(name, settings):
    same, _ = logits(16, 40, dtype=torch.float32)
    for z in (same, same * 3e3, same.bfloat16(), torch.ones(2, 5), torch.zeros(2, 5)):
        leaf = z.clone().requires_grad_()
        rows = calculate(name, leaf, z, reduction='none', **settings)
        assert rows.count_nonzero() == 0
        rows.sum().backward()
        assert leaf.grad.isfinite().all()


@each
def test_a_class_forbidden_in_both_adds_nothing(name, settings):
    student, teacher = logits(4, 6)
    labels = torch.tensor([0, 2, 3, 0])
    barred = [z.index_fill(-1, torch.tensor([5]), -torch.inf) for z in (student, teacher)]
    rows = calculate(name, *barred, labels, reduction='none', **settings)
    without = calculate(name, student[:, :5], teacher[:, :5], labels, reduction='none', **settings)
    if name == 'dist':  # the mean over classes, and a row's correlation, count it as one of probability zero
        without = torch.from_numpy(expected(name, *barred, **settings))
    torch.testing.assert_close(rows, without)
    assert gradient(lambda z: calculate(name, z, barred[1], labels, **settings), barred[0]).isfinite().all()


@pytest.mark.parametrize(('name', 'student_fine', 'teacher_fine'), [
    ('decoupled_kd', False, True), ('dist', True, True), ('standardized_kl', False, True), ('cosine', False, False),
    ('total_variation', True, True),
])
def test_a_class_forbidden_in_one(name, student_fine, teacher_fine):
    student, teacher = logits(3, 5)
    one = torch.zeros(3, 5, dtype=torch.float64).index_fill(1, torch.tensor([2]), -torch.inf)
    labels = torch.tensor([0, 1, 3])
    for s, t, fine in ((student + one, teacher, student_fine), (student, teacher + one, teacher_fine)):
        rows = calculate(name, s, t, labels, reduction='none')
        assert rows.isfinite().all() if fine else (rows == torch.inf).all()


def test_decoupled_kd_put_together_is_kl():
    student, teacher = logits(6, 5)
    labels = labels_of((6,), 5)
    others = 1 - (teacher / 3).softmax(-1).gather(-1, labels[:, None]).squeeze(-1)
    softened = {'labels': labels, 'temperature': 3.0, 'reduction': 'none'}
    target = functional.decoupled_kd(student, teacher, alpha=1.0, beta=0.0, **softened)
    rest = functional.decoupled_kd(student, teacher, alpha=0.0, beta=1.0, **softened)
    kl = functional.kl_divergence(student, teacher, temperature=3.0, reduction='none')
    torch.testing.assert_close(target + others * rest, kl)


def test_decoupled_kd_where_nothing_but_the_label_is_allowed():
    student, teacher = logits(2, 4)
    only = torch.tensor([-torch.inf, 0, -torch.inf, -torch.inf])
    labels = torch.tensor([1, 1])
    assert functional.decoupled_kd(student + only, teacher + only, labels=labels).item() == 0
    slope = gradient(lambda z: functional.decoupled_kd(z, teacher + only, labels=labels), student)
    assert slope.isfinite().all()
    with pytest.raises(ValueError, match='two classes or more, got 1'):
        functional.decoupled_kd(torch.zeros(2, 1), torch.zeros(2, 1), labels=torch.zeros(2).long())


def test_standardised_logits_forget_level_and_spread():
    student, teacher = logits(4, 6)
    rows = functional.standardized_kl(student, teacher, reduction='none')
    torch.testing.assert_close(functional.standardized_kl(7 * student - 4, 0.1 * teacher + 9, reduction='none'), rows)
    constant = functional.standardized_kl(torch.full((1, 3), 0.1), torch.tensor([[1.0, 2.0, 3.0]]))
    assert constant.isfinite()


def test_cosine_of_nothing():
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert [functional.cosine(*both).item() for both in ((zero, zero), (zero, one), (one, zero))] == [0, 1, 1]
    assert functional.cosine(1e-25 * one, one).item() == 0


@pytest.mark.parametrize(('name', 'setting', 'value', 'error'), [
    ('decoupled_kd', 'alpha', -1, ValueError), ('decoupled_kd', 'beta', '8', TypeError),
    ('decoupled_kd', 'standardize', 1, TypeError), ('decoupled_kd', 'temperature', 0, ValueError),
    ('dist', 'beta', float('nan'), ValueError), ('dist', 'gamma', None, TypeError), ('dist', 'temperature', 0, ValueError),
    ('standardized_kl', 'temperature', -1, ValueError), ('total_variation', 'temperature', 0, ValueError),
])
def test_settings_are_checked_before_anything_runs(name, setting, value, error):
    with pytest.raises(error, match=rf"loss '{name}': {setting}: expected"):
        make_loss({'name': name, setting: value})


@each
def test_by_name_it_is_the_function(name, settings):
    student, teacher = logits(4, 5)
    labels = labels_of((4,), 5)
    mask = torch.tensor([1.0, 0.5, 0.0, 2.0])
    got = make_loss({'name': name, **settings})(student, teacher, mask, labels=labels)
    torch.testing.assert_close(got, calculate(name, student, teacher, labels, mask=mask, **settings))
    assert make_loss(name).all_classes == (name in ('decoupled_kd', 'dist', 'standardized_kl'))
