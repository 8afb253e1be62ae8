import pytest
import torch
from torch import nn
from transformers.modeling_outputs import MaskedLMOutput

from composer_kd.batches import call_module, classes_last, counting, find_logits, target_of, without_target

logits, loss = torch.zeros(2, 3), torch.tensor(1.0)


@pytest.mark.parametrize(('outputs', 'key'), [
    (logits, None), ({'logits': logits}, None), (MaskedLMOutput(loss=loss, logits=logits), None),
    ((loss, logits, torch.zeros(4, 4)), None), ([torch.zeros(2, 3).long(), logits], None),
    ({'main': {'x': logits}}, lambda o: o['main']['x']), ((1, logits), 1), ({'scores': logits}, 'scores'),
])
def test_logits_are_found(outputs, key):
    assert find_logits(outputs, key, 'student') is logits


@pytest.mark.parametrize(('outputs', 'key', 'message'), [
    ({'scores': logits}, None, 'student: expected logits.*in outputs of type dict; got NoneType.*logits_key'),
    (loss, None, r'got \(\) of torch.float32'), ((loss,), None, 'type tuple'), ('text', None, 'type str'),
    (torch.zeros(2, 3).long(), None, 'torch.int64'), ({'a': logits}, 'b', "logits_key='b' is not in outputs"),
])
def test_what_are_no_logits_is_said(outputs, key, message):
    with pytest.raises(TypeError, match=message):
        find_logits(outputs, key, 'student')


def test_targets_are_found_and_withheld_without_touching_the_batch():
    x, y = torch.zeros(2), torch.ones(2)
    for batch, key in (((x, y), None), ([x, y], None), ({'x': x, 'labels': y}, None), ({'x': x, 'y': y}, 'y'), ((y, x), 0)):
        assert target_of(batch, key) is y
        rest = without_target(batch, key)
        assert target_of(rest, key) is None
        assert target_of(batch, key) is y
        assert len(rest) == (1 if isinstance(batch, dict) else 2)
    assert target_of(x, None) is None
    assert without_target(x, None) is x


def test_a_module_is_called_on_what_it_takes():
    class Two(nn.Module):
        def forward(self, a, b=None):
            return a, b

    class Any(nn.Module):
        def forward(self, **kwargs):
            return kwargs
    batch = {'a': 1, 'b': 2, 'c': 3, 'labels': 4}
    assert call_module(Two(), batch, None, None) == (1, 2)
    assert call_module(Any(), batch, None, None) == {'a': 1, 'b': 2, 'c': 3}
    assert call_module(Two(), batch, 'c', None) == (3, None)
    assert call_module(Two(), (7, 8), None, None) == (7, None)
    assert call_module(Two(), (7, 8, 9), 2, None) == (9, None)


def test_classes_in_the_second_dimension_are_turned_round():
    assert classes_last(torch.zeros(2, 5, 3, 4), torch.zeros(2, 3, 4).long()).shape == (2, 3, 4, 5)
    assert classes_last(torch.zeros(2, 3, 4), torch.zeros(2, 3).long()).shape == (2, 3, 4)
    assert classes_last(torch.zeros(2, 4), torch.zeros(2).long()).shape == (2, 4)


def test_what_counts():
    labels = torch.tensor([[1, -100, 2]])
    assert counting(labels, -100, False).tolist() == [[True, False, True]]
    assert counting(labels, -100, True).tolist() == [[False, True, False]]
    assert counting(torch.rand(2, 3), -100, False) is None, 'soft labels'
    assert counting(None, -100, False) is None
