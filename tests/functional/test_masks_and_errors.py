"""Rows that do not count, and arguments that are refused."""

import numpy as np
import pytest
import torch

from composer_kd.functional import kl_divergence, masked_mean
from composer_kd.functional.reduction import reduce_rows

from .cases import CASES, PLAIN, Case, gradient, logits

pytestmark = pytest.mark.usefixtures('whole_or_in_chunks')


def poisoned(dtype=torch.float32):
    """Logits of four rows, the last two of which hold what a padded position may hold."""
    student, teacher = logits(4, 5, dtype=dtype)
    student[2], teacher[2] = torch.nan, torch.inf
    student[3], teacher[3] = -torch.inf, torch.nan
    return student, teacher


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize('kind', [torch.bool, torch.float32, torch.int64], ids=str)
def test_rows_that_do_not_count_may_hold_anything(case, dtype, kind):
    student, teacher = poisoned(dtype)
    mask = torch.tensor([1, 1, 0, 0]).to(kind)
    torch.testing.assert_close(case.mean(student, teacher, mask=mask), case.mean(student[:2], teacher[:2]))
    rows = case.rows(student, teacher, mask=mask)
    assert rows[2:].tolist() == [0, 0]
    torch.testing.assert_close(rows[:2], case.rows(student[:2], teacher[:2]))
    for reduced in (case.mean, case.rows):
        got = gradient(reduced, student, teacher, mask=mask)
        torch.testing.assert_close(got[:2], gradient(reduced, student[:2], teacher[:2]))
        assert got[2:].count_nonzero() == 0


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('mask', [torch.zeros(4, dtype=torch.bool), torch.zeros(4)], ids=['bool', 'float'])
def test_an_empty_mask_gives_a_zero_with_a_graph(case, mask):
    student, teacher = poisoned()
    student = student.requires_grad_()
    loss = case.mean(student, teacher, mask=mask)
    assert loss.item() == 0
    loss.backward()
    assert student.grad.count_nonzero() == 0


@pytest.mark.parametrize('case', PLAIN, ids=str)
def test_no_rows_at_all(case):
    student, teacher = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, 5)
    for mask in (None, torch.zeros(0)):
        loss = case.mean(student, teacher, mask=mask)
        assert loss.item() == 0
        loss.backward()


def test_weights_weigh():
    student, teacher = logits(3, 5)
    weights = torch.tensor([0.5, 2.0, 0.0])
    for case in CASES:
        rows = case.expected(student, teacher)
        expected = (0.5 * rows[0] + 2 * rows[1]) / 2.5
        np.testing.assert_allclose(case.mean(student, teacher, mask=weights).item(), expected, rtol=1e-9)


def test_small_weights_are_weights_too():
    assert masked_mean(torch.tensor([2.0, 4.0]), torch.tensor([1e-3, 3e-3])).item() == pytest.approx(3.5)


def test_masked_mean():
    rows = torch.tensor([1.0, torch.inf, 5.0], requires_grad=True)
    mean = masked_mean(rows, torch.tensor([True, False, True]))
    assert mean.item() == 3
    mean.backward()
    assert rows.grad.tolist() == [0.5, 0, 0.5]
    half = torch.full((5000,), 3.0, dtype=torch.bfloat16)  # a bf16 sum would stop growing at 256 steps of one
    assert masked_mean(half, torch.ones(5000, dtype=torch.bfloat16)).item() == 3
    assert masked_mean(half).dtype == torch.float32
    assert masked_mean(half.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ('student', 'teacher', 'more', 'error', 'parts'),
    [
        (torch.zeros(4, 10), torch.zeros(4, 100), {}, ValueError, ['(4, 10)', '(4, 100)', 'same batch']),
        (torch.zeros(4, 10), torch.zeros(8, 10), {}, ValueError, ['(4, 10)', '(8, 10)']),
        (torch.zeros(()), torch.zeros(()), {}, ValueError, ['at least one class', '()']),
        (torch.zeros(4, 0), torch.zeros(4, 0), {}, ValueError, ['at least one class', '(4, 0)']),
        (torch.zeros(4, 2).long(), torch.zeros(4, 2), {}, ValueError, ['student_logits', 'int64', 'labels']),
        (torch.zeros(4, 2), torch.zeros(4, 2).bool(), {}, ValueError, ['teacher_logits', 'bool']),
        (torch.zeros(4, 2), [0.0, 0.0], {}, TypeError, ['teacher_logits', 'list']),
        (torch.zeros(4, 2), torch.zeros(4, 2), {'mask': torch.ones(4, 2)}, ValueError, ['mask', '(4,)', '(4, 2)']),
        (torch.zeros(4, 2), torch.zeros(4, 2), {'mask': torch.ones(3)}, ValueError, ['mask', '(4,)', '(3,)']),
        (torch.zeros(4, 2), torch.zeros(4, 2), {'mask': [1, 1, 1, 1]}, TypeError, ['mask', 'list', 'convert']),
        (torch.zeros(4, 2), torch.zeros(4, 2), {'reduction': 'sum'}, ValueError, ['reduction', "'none'", "'sum'"]),
    ],
)
def test_what_does_not_fit_is_refused(student, teacher, more, error, parts):
    for case in PLAIN:
        with pytest.raises(error) as raised:
            case.mean(student, teacher, **more)
        for part in parts:
            assert part in str(raised.value)


@pytest.mark.parametrize(
    ('value', 'error'),
    [(0, ValueError), (-1.0, ValueError), (float('nan'), ValueError), (float('inf'), ValueError), ('4', TypeError),
     (True, TypeError), (None, TypeError), (torch.tensor(2.0), TypeError)],
)
def test_temperature_is_a_finite_number_above_zero(value, error):
    for name in ('kl_divergence', 'reverse_kl', 'jensen_shannon', 'soft_cross_entropy', 'binary_kl_divergence'):
        with pytest.raises(error, match=r'temperature: expected a .*number above 0, got'):
            Case(name, {}).mean(*logits(2, 3), temperature=value)


def test_numpy_numbers_are_numbers():
    student, teacher = logits(2, 3)
    assert kl_divergence(student, teacher, temperature=np.float32(2)) == kl_divergence(student, teacher, temperature=2)


@pytest.mark.parametrize(('value', 'error'), [(0, ValueError), (1.0, ValueError), (-0.1, ValueError),
                                              (float('nan'), ValueError), ('half', TypeError), (True, TypeError)])
def test_beta_is_between_zero_and_one(value, error):
    with pytest.raises(error, match='beta: expected a number between 0 and 1'):
        Case('jensen_shannon', {}).mean(*logits(2, 3), beta=value)


def test_class_reduction_is_one_of_two():
    with pytest.raises(ValueError, match="class_reduction: expected 'sum' or 'mean', got 'batchmean'"):
        Case('mse', {}).mean(*logits(2, 3), class_reduction='batchmean')


def test_reduce_rows_checks_the_mask():
    for reduction in ('mean', 'none'):
        with pytest.raises(ValueError, match=r'expected shape \(3,\)'):
            reduce_rows(torch.zeros(3), torch.ones(2), reduction)
