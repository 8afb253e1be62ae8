"""Values against the float64 reference: shapes, precisions, extremes, forbidden classes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from . import reference
from .cases import CASES, PLAIN, SOFT, Case, forbid, logits

pytestmark = pytest.mark.usefixtures('whole_or_in_chunks')

BOUNDED = ['kl_divergence', 'reverse_kl', 'jensen_shannon', 'binary_kl_divergence', 'mse']
"""Losses that are zero for equal inputs and never below."""


def agree(got, expected, rtol, atol=0.0):
    np.testing.assert_allclose(got.double().numpy(), expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('shape', [(7,), (5, 7), (2, 3, 7), (4, 1), (2, 2, 2, 3)], ids=str)
def test_float64_is_the_paper(case, shape):
    student, teacher = logits(*shape)
    rows = case.rows(student, teacher)
    assert rows.dtype == torch.float64
    assert rows.shape == shape[:-1]
    agree(rows, case.expected(student, teacher), rtol=1e-9, atol=1e-12)
    agree(case.mean(student, teacher), case.expected(student, teacher).mean(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_is_calculated_in_float32(case, dtype):
    student, teacher = logits(64, 50, dtype=dtype)
    rows = case.rows(student, teacher)
    assert rows.dtype == torch.float32
    agree(rows, case.expected(student, teacher), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize('case', PLAIN, ids=str)
def test_mixed_precision_takes_the_higher(case):
    student, teacher = logits(4, 5, dtype=torch.bfloat16)
    agree(case.rows(student, teacher.float()), case.expected(student, teacher), rtol=2e-5, atol=1e-6)
    assert case.rows(student.double(), teacher).dtype == torch.float64


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_logits_of_ten_thousand(case, dtype):
    student = torch.tensor([[1e4, -1e4, 0], [1e4, 1e4, -1e4], [-1e4, -1e4, 1e4], [1e4, 9e3, 20]], dtype=dtype)
    teacher = torch.tensor([[-1e4, 1e4, 0], [1e4, 1e4, -1e4], [-1e4, 1e4, 1e4], [1e4, 8e3, 10]], dtype=dtype)
    rows = case.rows(student, teacher)
    assert rows.isfinite().all()
    agree(rows, case.expected(student, teacher), rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64], ids=str)
def test_a_class_forbidden_in_both_adds_nothing(case, dtype):
    student, teacher = forbid(*logits(4, 6, dtype=dtype))
    rows = case.rows(student, teacher)
    assert rows.isfinite().all()
    agree(rows, case.expected(student, teacher), rtol=1e-9 if dtype == torch.float64 else 2e-5, atol=1e-6)
    if case.settings.get('class_reduction') != 'mean':  # the number of classes is its divisor
        allowed = [0, 2, 3, 4, 5]
        without = case.rows(student[..., allowed], teacher[..., allowed])
        torch.testing.assert_close(rows, without)


@pytest.mark.parametrize(
    ('name', 'student_finite', 'teacher_finite'),
    [
        # whether it stays finite where the student alone, the teacher alone forbids a class
        ('kl_divergence', False, True),
        ('reverse_kl', True, False),
        ('jensen_shannon', True, True),
        ('soft_cross_entropy', False, True),
        ('binary_kl_divergence', False, True),
        ('mse', False, False),
    ],
)
def test_a_class_forbidden_in_one_is_what_the_formula_says(name, student_finite, teacher_finite):
    case = Case(name, {})
    student, teacher = logits(3, 5)
    without = torch.zeros(3, 5, dtype=torch.float64)
    without[:, 2] = -torch.inf
    for s, t, finite in ((student + without, teacher, student_finite), (student, teacher + without, teacher_finite)):
        rows = case.rows(s, t)
        if finite:
            agree(rows, case.expected(s, t), rtol=1e-9)
        else:
            assert (rows == torch.inf).all()


def test_a_nan_is_not_hidden():
    student, teacher = logits(3, 5)
    student[1, 2] = torch.nan
    for case in PLAIN:
        assert case.rows(student, teacher).isnan().tolist() == [False, True, False], case


@pytest.mark.parametrize('name', BOUNDED)
@pytest.mark.parametrize('temperature', [0.3, 1.0, 7.0])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_of_itself_is_exactly_zero(name, temperature, dtype):
    more = {} if name == 'mse' else {'temperature': temperature}
    same, _ = logits(16, 100, dtype=dtype)
    wild, _ = forbid(same * 3e3, same)
    for z in (same, wild):
        assert Case(name, more).rows(z, z.clone()).count_nonzero() == 0
    if name == 'jensen_shannon':
        for beta in (0.01, 0.3, 0.99):
            assert Case(name, {'beta': beta, **more}).rows(same, same.clone()).count_nonzero() == 0


def test_soft_cross_entropy_is_kl_plus_the_teachers_entropy():
    student, teacher = logits(6, 9)
    entropy = torch.distributions.Categorical(logits=teacher / 3).entropy()
    softened = {'temperature': 3.0}
    kl = Case('kl_divergence', softened).rows(student, teacher)
    torch.testing.assert_close(Case('soft_cross_entropy', softened).rows(student, teacher), kl + 9 * entropy)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_a_constant_on_the_logits(case):
    student, teacher = logits(5, 7)
    rows = case.rows(student, teacher)
    for moved in (case.rows(student + 11, teacher), case.rows(student, teacher - 5)):
        if case.name in ('mse', 'binary_kl_divergence'):  # these compare the level too
            assert not torch.isclose(moved, rows, rtol=1e-3).any()
        else:
            torch.testing.assert_close(moved, rows)


@pytest.mark.parametrize('beta', [0.2, 0.5])
def test_jensen_shannon_changes_sides_with_beta(beta):
    student, teacher = logits(5, 7)
    one = Case('jensen_shannon', {'beta': beta, 'temperature': 2.0}).rows(student, teacher)
    other = Case('jensen_shannon', {'beta': 1 - beta, 'temperature': 2.0}).rows(teacher, student)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert (one <= 4 * np.log(2)).all()


def test_jensen_shannon_tends_to_the_two_divergences():
    student, teacher = logits(5, 7, scale=1)
    small = 1e-6
    for beta, name in ((small, 'kl_divergence'), (1 - small, 'reverse_kl')):
        rows = Case('jensen_shannon', {'beta': beta}).rows(student, teacher)
        torch.testing.assert_close(rows / small, Case(name, {}).rows(student, teacher), rtol=1e-3, atol=0)


def test_mse_of_classes_averaged_is_torchs():
    student, teacher = logits(5, 7)
    expected = torch.nn.MSELoss()(student, teacher)
    torch.testing.assert_close(Case('mse', {'class_reduction': 'mean'}).mean(student, teacher), expected)
    torch.testing.assert_close(Case('mse', {}).mean(student, teacher), 7 * expected)


def test_kl_is_torchs_where_torchs_is_right():
    student, teacher = logits(5, 7)
    expected = 16 * torch.nn.functional.kl_div(
        (student / 4).log_softmax(-1), (teacher / 4).log_softmax(-1), log_target=True, reduction='batchmean',
    )
    torch.testing.assert_close(Case('kl_divergence', {'temperature': 4.0}).mean(student, teacher), expected)


def test_hard_label_is_cross_entropy_with_the_teachers_class():
    student, teacher = logits(5, 7)
    expected = torch.nn.functional.cross_entropy(student, teacher.argmax(-1))
    torch.testing.assert_close(Case('hard_label', {}).mean(student, teacher), expected)


@pytest.mark.parametrize('case', CASES, ids=str)
def test_autocast_changes_nothing(case):
    student, teacher = logits(8, 9, dtype=torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        inside = case.rows(student, teacher)
    assert torch.equal(inside, case.rows(student, teacher))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=6, max_size=6),
    temperature=st.floats(0.25, 16),
    beta=st.floats(0.01, 0.99),
    name=st.sampled_from([*SOFT, 'mse']),
)
def test_any_logits(values, temperature, beta, name):
    student, teacher = torch.tensor(values, dtype=torch.float64).reshape(2, 1, 3)
    more = {'jensen_shannon': {'beta': beta}}.get(name, {}) | ({} if name == 'mse' else {'temperature': temperature})
    case = Case(name, more)
    rows = case.rows(student, teacher)
    agree(rows, case.expected(student, teacher), rtol=1e-9, atol=1e-11)
    assert name not in BOUNDED or rows.item() >= -1e-11


def test_the_reference_itself():
    """Two values worked out by hand: a fair coin against one of three to one."""
    fair, biased = np.zeros((1, 2)), np.array([[np.log(3.0), 0.0]])
    assert reference.kl_divergence(fair, biased) == pytest.approx(0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert reference.reverse_kl(fair, biased) == pytest.approx(0.5 * np.log(2 / 3) + 0.5 * np.log(2))
