"""Which rows of token logits a loss is given, and that the gradient is the same whichever way."""

import pytest
import torch

from composer_kd.answers import Format
from composer_kd.batches import counting
from composer_kd.losses import make_loss
from composer_kd.term import rows_that_count


def tokens(share, shape=(4, 8), classes=6, moved=False):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, *shape, classes, generator=generator)
    if moved:
        student, teacher = (z.movedim(-1, 1).contiguous() for z in (student, teacher))
    labels = torch.where(torch.rand(shape, generator=generator) < share, 1, -100)
    return student, teacher, labels, counting(labels, -100, False)


def asked(mask):
    return lambda: mask.flatten().nonzero().squeeze(1)


@pytest.mark.parametrize('moved', [False, True], ids=['classes last', 'classes second'])
@pytest.mark.parametrize('shape', [(4, 8), (2, 4, 4)], ids=str)
@pytest.mark.parametrize('share', [0.15, 0.9])
@pytest.mark.parametrize('known', [True, False])
def test_the_loss_and_its_gradient_are_those_of_the_rows_that_count(share, known, shape, moved):
    student, teacher, labels, mask = tokens(share, shape, moved=moved)
    loss = make_loss('kl_divergence')
    last = [z.movedim(1, -1) if moved else z for z in (student, teacher)]
    expected = last[0].detach().clone().requires_grad_()
    loss(expected[mask], last[1][mask]).backward()
    student.requires_grad_()
    rows = rows_that_count(student, [teacher], labels, mask, asked(mask) if known else lambda: None)
    loss(rows.student, rows.teachers[0], rows.mask).backward()
    got = student.grad.movedim(1, -1) if moved else student.grad
    torch.testing.assert_close(got, expected.grad)
    assert rows.counted


def test_few_rows_are_copied_out_and_most_are_left_where_they_are():
    student, teacher, labels, mask = tokens(0.15)
    few = rows_that_count(student, [teacher], labels, mask, asked(mask))
    assert few.mask is None
    assert torch.equal(few.student, student[mask])
    assert torch.equal(few.teachers[0], teacher[mask])
    student, teacher, labels, mask = tokens(0.9)
    most = rows_that_count(student, [teacher], labels, mask, asked(mask))
    assert most.student is student
    assert most.teachers[0] is teacher
    assert torch.equal(most.mask, mask)


def test_stored_answers_are_those_of_the_rows_that_count():
    student, teacher, labels, mask = tokens(0.9)
    form = Format('top_k', 6, 'float32', 2)
    stored = form.unpack(form.pack(teacher[mask]))
    rows = rows_that_count(student, [stored], labels, mask, asked(mask))
    assert rows.mask is None
    assert torch.equal(rows.student, student[mask])
    assert rows.teachers == [stored]


def test_places_are_not_asked_for_where_there_is_one_row_a_sample():
    student, teacher, labels, mask = (z.flatten(0, 1) for z in tokens(0.5))

    def never():
        raise AssertionError('asked')
    rows = rows_that_count(student, [teacher], labels, mask, never)
    assert torch.equal(rows.mask, mask)
    assert rows.student is student
