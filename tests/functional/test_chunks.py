"""Losses a few rows at a time: the same numbers, in the memory of one gradient."""

import pytest
import torch

from composer_kd import functional
from composer_kd.functional import chunks
from composer_kd.functional.chunks import pieces_of

from .cases import CASES, PLAIN, Case, logits
from .memory import most_bytes


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(chunks, '_ELEMENTS_PER_THREAD', 40)


def both(case, monkeypatch, student, teacher, mask=None, weights=None):
    """Rows and gradient, as the formula is written and in chunks."""
    found = []
    for elements in (2**40, 40):
        monkeypatch.setattr(chunks, '_ELEMENTS_PER_THREAD', elements)
        leaf = student.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        rows = case.rows(leaf, teacher, mask=mask)
        (rows * (1 if weights is None else weights)).sum().backward()
        found += [rows.detach(), leaf.grad]
    return found


@pytest.mark.parametrize('case', CASES, ids=str)
@pytest.mark.parametrize('layout', ['rows', 'samples', 'long samples', 'classes moved', 'cut', 'teacher in another order'])
def test_whatever_the_layout_the_numbers_are_those_of_the_formula(case, layout, monkeypatch):
    shape = {'rows': (30, 7), 'long samples': (3, 50, 7), 'cut': (5, 9, 7)}.get(layout, (6, 4, 7))
    student, teacher = logits(*shape, dtype=torch.float32)
    if layout == 'classes moved':
        student, teacher = (z.movedim(-1, 1).contiguous().movedim(1, -1) for z in (student, teacher))
    elif layout == 'teacher in another order':
        teacher = teacher.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == 'cut':
        student, teacher = student[:, :-1], teacher[:, 1:]
    weights = torch.linspace(-1, 2, student.shape[:-1].numel()).reshape(student.shape[:-1])
    mask = weights > -0.4
    rows, gradient, rows_in_chunks, gradient_in_chunks = both(case, monkeypatch, student, teacher, mask, weights)
    torch.testing.assert_close(rows_in_chunks, rows, rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(gradient_in_chunks, gradient, rtol=2e-5, atol=2e-6)
    assert gradient_in_chunks.stride() == gradient.stride()


@pytest.mark.parametrize('shape', [(3, 7), (30, 7), (3, 50, 7), (2, 3, 50, 7), (5, 100), (2, 2, 100), (7,), (1, 41)], ids=str)
def test_every_row_is_in_one_piece(shape, small_chunks):
    seen = torch.zeros(shape)
    pieces = pieces_of(seen)
    for piece in pieces:
        seen[piece] += 1
        assert seen[piece].numel() <= 40 or seen[piece].numel() == shape[-1]
    assert (seen == 1).all()
    assert len(pieces) <= 2 * seen.numel() / min(40, shape[-1])


@pytest.mark.parametrize('case', PLAIN, ids=str)
def test_chunks_of_the_size_that_is_used(case):
    student, teacher = logits(700, 1000, dtype=torch.float32)
    assert len(pieces_of(student)) > 1
    mask = torch.arange(700) % 3 > 0
    leaf = student.clone().requires_grad_()
    loss = case.mean(leaf, teacher, mask=mask)
    loss.backward()
    assert len(pieces_of(student[:200])) == 1
    few = student[:200].clone().requires_grad_()
    part = (case.rows(few, teacher[:200]) * mask[:200]).sum() / mask.sum()
    part.backward()
    torch.testing.assert_close(leaf.grad[:200], few.grad, rtol=1e-5, atol=1e-9)
    expected = case.expected(student[mask][:20], teacher[mask][:20])
    torch.testing.assert_close(case.rows(student, teacher)[mask][:20].double().numpy(), expected, rtol=1e-5, atol=1e-5)


CHUNKS_AND_ROWS = 24 * 2**20
"""Bytes of a dozen tensors of a chunk, and of what there is one of a row."""


def many(dtype):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1024, 30522, generator=generator).to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ('name', 'dtype'), [('kl_divergence', torch.float32), ('kl_divergence', torch.bfloat16), ('reverse_kl', torch.float32)],
)
def test_no_more_than_the_gradient_is_kept(name, dtype):
    student = many(dtype)
    teacher = student.detach().flip(0)
    mask = torch.arange(1024) % 7 > 0
    size = student.numel() * student.element_size()
    kept = most_bytes(lambda: Case(name, {'temperature': 4.0}).mean(student, teacher, mask=mask).backward())
    assert kept <= size + CHUNKS_AND_ROWS
    assert kept > size  # or it is not seen by what measures here
    few, teacher = student.detach()[:256], teacher[:256]
    assert most_bytes(lambda: Case(name, {}).mean(few, teacher, mask=mask[:256])) <= CHUNKS_AND_ROWS


def test_a_student_on_stored_classes_takes_no_more_either():
    student = many(torch.bfloat16)
    classes = torch.arange(16).expand(1024, 16) * torch.arange(1, 1025).unsqueeze(1)
    target = torch.zeros(1024, 17)

    def work():
        seen = functional.on_outcomes(student, classes, None, 2.0)
        functional.kl_divergence(seen, target, temperature=2.0).backward()
    assert most_bytes(work) <= 2 * student.numel() + CHUNKS_AND_ROWS


@pytest.mark.parametrize('name', ['kl_divergence', 'reverse_kl'])
def test_float16_keeps_the_gradients_of_classes_that_are_hardly_likely(name, small_chunks):
    """As they are before the loss is scaled, most of them are below the smallest number of float16."""
    student, teacher = logits(4, 30522, dtype=torch.float16, scale=2.0)
    leaf = student.clone().requires_grad_()
    loss = Case(name, {}).rows(leaf, teacher).sum()
    (loss * 2.0**10).backward()
    exact = student.double().requires_grad_()
    Case(name, {}).rows(exact, teacher.double()).sum().backward()
    unlikely = exact.grad.abs() < 1e-6
    assert unlikely.float().mean() > 0.05
    error = (leaf.grad.double() / 2**10 - exact.grad)[unlikely].abs().sum() / exact.grad[unlikely].abs().sum()
    assert error < 1e-3


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_graph_that_is_kept_gives_the_same_again(dtype, small_chunks):
    student, teacher = logits(30, 7, dtype=dtype)
    student.requires_grad_()
    loss = functional.kl_divergence(student, teacher, temperature=3.0)
    first, = torch.autograd.grad(loss * 5, student, retain_graph=True)
    kept = first.clone()
    second, = torch.autograd.grad(loss * 5, student, retain_graph=True)
    third, = torch.autograd.grad(loss * 10, student)
    assert torch.equal(second, kept)
    assert torch.equal(first, kept)
    torch.testing.assert_close(third, kept * 2)
    with pytest.raises(RuntimeError, match='backward through the graph a second time'):
        torch.autograd.grad(loss, student)


def test_second_derivatives_of_few_rows_and_a_word_where_there_are_none(small_chunks):
    for name in ('kl_divergence', 'reverse_kl', 'soft_cross_entropy', 'binary_kl_divergence', 'mse', 'hard_label'):
        case = Case(name, {})
        student, teacher = logits(3, 5)
        assert torch.autograd.gradgradcheck(lambda z, c=case, t=teacher: c.rows(z, t), student.requires_grad_())
        student, teacher = logits(30, 5)
        loss = case.mean(student.requires_grad_(), teacher)
        with pytest.raises(RuntimeError, match='A second derivative .* 40 logits on a CPU'):
            torch.autograd.grad(loss, student, create_graph=True)


def test_only_what_asks_for_a_gradient_gets_a_graph(small_chunks):
    student, teacher = logits(30, 7)
    assert not functional.kl_divergence(student, teacher.requires_grad_()).requires_grad
    with torch.no_grad():
        assert not functional.kl_divergence(student.requires_grad_(), teacher).requires_grad
    assert functional.kl_divergence(student, teacher).requires_grad


def test_rows_that_are_left_out_later_send_nothing_back(small_chunks):
    """A hook on a view of the student's logits may clear the gradient of rows whose loss is not finite."""
    student, teacher = logits(30, 7)
    teacher[4] = torch.nan
    student.requires_grad_()
    view = student.view_as(student)
    rows = functional.kl_divergence(view, teacher, reduction='none')
    bad = ~rows.isfinite()
    view.register_hook(lambda grad: grad.masked_fill(bad.unsqueeze(-1), 0))
    rows.masked_fill(bad, 0).sum().backward()
    assert bad.nonzero().flatten().tolist() == [4]
    assert student.grad.isfinite().all()
    assert student.grad[4].count_nonzero() == 0


@pytest.mark.parametrize('name', ['kl_divergence', 'jensen_shannon', 'mse'])
def test_a_compiler_sees_one_graph(name, small_chunks):
    """Many rows or few: parts that it cannot follow would end it."""
    function = getattr(functional, name)
    student, teacher = logits(30, 7, dtype=torch.float32)
    found = []
    for called in (function, torch.compile(function, backend='eager', fullgraph=True)):
        leaf = student.detach().clone().requires_grad_()
        value = called(leaf, teacher)
        value.backward()
        found.append((value.detach(), leaf.grad))
    torch.testing.assert_close(found[1], found[0], rtol=2e-5, atol=2e-6)
