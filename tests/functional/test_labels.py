"""Cross-entropy with labels is torch's, a few rows at a time."""

import pytest
import torch
from torch.nn import functional as F

from composer_kd.functional import cross_entropy

from .memory import most_bytes


def both(dtype=torch.float32, shape=(5, 3), classes=7):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(*shape, classes, generator=generator, dtype=torch.float64) * 3).to(dtype)
    labels = torch.randint(0, classes, shape, generator=generator)
    labels[0] = -100
    return logits.requires_grad_(), labels


@pytest.mark.usefixtures('whole_or_in_chunks')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize('shape', [(5,), (5, 3)], ids=str)
def test_it_is_torchs(dtype, shape):
    logits, labels = both(dtype, shape)
    weights = torch.linspace(-1, 1, labels.numel())
    rows = cross_entropy(logits, labels)
    assert rows.shape == shape
    found, = torch.autograd.grad((rows.flatten() * weights).sum(), logits)
    exact = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(exact.flatten(0, -2), labels.flatten(), reduction='none')
    torch.testing.assert_close(rows.flatten().double(), expected.detach(), rtol=2e-6, atol=2e-6)
    wanted, = torch.autograd.grad((expected * weights).sum(), exact)
    rtol = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-5)
    torch.testing.assert_close(found.double(), wanted, rtol=rtol, atol=1e-6)
    assert found[0].count_nonzero() == 0
    with torch.no_grad():
        assert torch.equal(cross_entropy(logits, labels), rows)


@pytest.mark.usefixtures('whole_or_in_chunks')
def test_another_label_may_be_the_one_that_does_not_count_and_none_may():
    logits, labels = both()
    labels = labels.clamp_min(0)
    rows = cross_entropy(logits, labels, ignore_index=0)
    assert torch.equal(rows == 0, labels == 0)
    nothing = cross_entropy(logits, torch.full_like(labels, -100)).sum()
    nothing.backward()
    assert nothing == 0
    assert logits.grad.count_nonzero() == 0


@pytest.mark.usefixtures('whole_or_in_chunks')
def test_no_rows_at_all():
    logits = torch.zeros(0, 7, requires_grad=True)
    cross_entropy(logits, torch.zeros(0, dtype=torch.int64)).sum().backward()
    assert logits.grad.shape == (0, 7)


def test_one_row_alone():
    assert cross_entropy(torch.zeros(4), torch.tensor(1)) == torch.tensor(4.0).log()


def test_no_more_than_the_gradient_is_kept():
    logits = torch.randn(512, 30522, requires_grad=True)
    labels = torch.arange(512)
    kept = most_bytes(lambda: cross_entropy(logits, labels).sum().backward())
    assert logits.numel() * 4 < kept < logits.numel() * 4 + 24 * 2**20


@pytest.mark.parametrize('labels', [torch.zeros(4, dtype=torch.int64), torch.zeros(5, 1, dtype=torch.int64), torch.zeros(5)], ids=str)
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match=r'labels: expected shape \(5,\) int64, .* got'):
        cross_entropy(torch.zeros(5, 7), labels)
