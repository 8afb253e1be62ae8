"""Losses that need labels: handed over where there are class numbers, refused where there are none."""

import pytest
import torch

from composer_kd.answers import Format
from composer_kd.batches import counting
from composer_kd.guard import Guard
from composer_kd.losses import LOSSES, LossSpec, make_loss
from composer_kd.term import Rows, Share, check_formats, kd_term, rows_that_count


@pytest.fixture
def of_labels(monkeypatch):
    """A loss that gives each row its label."""
    def function(student_logits, teacher_logits, *, labels, mask=None, reduction='mean'):
        return labels.float() + 0 * student_logits.sum(-1)
    monkeypatch.setitem(LOSSES._items, 'of_labels', LossSpec(function, 'softmax'))
    return make_loss('of_labels')


def test_rows_are_given_their_labels(of_labels):
    assert of_labels.needs_labels
    assert of_labels.settings == {}
    student = torch.zeros(3, 4)
    assert of_labels.rows(student, student, labels=torch.tensor([2, 0, 3])).tolist() == [2, 0, 3]
    mask = torch.tensor([True, True, False])
    assert of_labels(student, student, mask, labels=torch.tensor([2, 0, -100])).item() == 1
    assert not make_loss('mse').needs_labels


@pytest.mark.parametrize('labels', [
    None, torch.zeros(3, 4), torch.zeros(3), torch.zeros(2).long(), torch.zeros(3).bool(), [0, 1, 2],
], ids=lambda labels: str(getattr(labels, 'shape', labels)))
def test_what_are_no_class_numbers_is_refused(of_labels, labels):
    with pytest.raises(ValueError, match=r"loss 'of_labels': it needs a label for each row.* got .*target_key"):
        of_labels.rows(torch.zeros(3, 4), torch.zeros(3, 4), labels=labels)


@pytest.mark.parametrize('known', [True, False])
@pytest.mark.parametrize('shift', [True, False])
@pytest.mark.parametrize('some', [True, False], ids=['a few count', 'all count'])
def test_tokens_get_the_label_their_logits_answer_for(of_labels, known, shift, some):
    labels = torch.arange(12).reshape(2, 6)
    if some:
        labels[:, 1:5] = -100
    mask = counting(labels, -100, shift)
    student = torch.zeros(2, 6, 12)
    rows = rows_that_count(
        student, [student], labels, mask, lambda: mask.flatten().nonzero().squeeze(1) if known else None, shift,
    )
    values = of_labels.rows(rows.student, rows.teachers[0], mask=rows.mask, labels=rows.labels)
    moved = labels.roll(-1, -1) if shift else labels
    assert values[values > 0].tolist() == [x for x in moved[mask].tolist() if x > 0]


def test_a_term_hands_them_over(of_labels):
    student = torch.zeros(3, 4)
    share = Share(None, -100)
    guard = Guard('stop', ['t'], True)
    rows = Rows(student, [student], None, True, torch.tensor([1, 2, 3]))
    assert kd_term(of_labels, rows, [1.0], 'logits', None, share, None, guard).item() == 2
    with pytest.raises(ValueError, match='Soft labels'):
        kd_term(of_labels, Rows(student, [student], None, False), [1.0], 'logits', None, share, None, guard)


def test_stored_answers_of_some_classes_are_refused(of_labels):
    form = Format('top_k', 100, k=8)
    with pytest.raises(ValueError, match="'of_labels' asks for all logits"):
        check_formats([form], 1, of_labels, 'logits', None)
