"""What hooks capture of modules' outputs."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

from composer_kd.layers import Tap, Taps, Watch, find_module
from composer_kd.layers.taps import pick

ONE, OTHER = torch.zeros(2, 3), torch.ones(2, 4)
SQUARE = torch.zeros(2, 3, 5, 5)


@pytest.mark.parametrize(('said', 'output', 'found'), [
    ('a', ONE, ONE), ('a', (ONE, OTHER), ONE), ('a:1', (ONE, OTHER), OTHER), ('a:2', (ONE, OTHER), None),
    ('a', (torch.tensor(1.0), torch.arange(3), OTHER), OTHER), ('a', {'x': OTHER}, OTHER),
    ('a', BaseModelOutput(last_hidden_state=ONE, attentions=(OTHER,)), ONE),
    ('a', OrderedDict(loss=torch.tensor(1.0), x=OTHER), OTHER), ('a', None, None), ('a', torch.arange(4), None),
    ('a:input', OTHER, ONE), ('a:0', (torch.arange(3), ONE), None),
])
def test_the_tensor_that_is_taken(said, output, found):
    assert pick(Tap.read(said), (ONE,), output) is found


def test_attention_is_the_first_square_of_four_dimensions():
    assert pick(Tap.read('a', attention=True), (), (ONE, torch.zeros(2, 3, 5, 4), SQUARE)) is SQUARE
    assert pick(Tap.read('a', attention=True), (), (ONE, None)) is None


@pytest.mark.parametrize('said', ['a:', 'a:x', 'a:-1', 'a:1:2'])
def test_an_item_is_an_index_or_the_input(said):
    with pytest.raises(ValueError, match="'PATH:INDEX' or 'PATH:input'"):
        Tap.read(said, 'x')


@pytest.mark.parametrize('said', [3, None, '', ':1'])
def test_a_path_is_text(said):
    with pytest.raises(TypeError, match=r'^x: expected a module'):
        Tap.read(said, 'x')


def test_the_name_of_what_is_wrapped_may_be_left_out_and_the_whole_name_goes_first():
    model = nn.ModuleDict({'module': nn.Sequential(nn.Linear(3, 3), nn.ReLU()), '1': nn.Tanh()})
    assert isinstance(find_module(model, '1', 'the student', 'x'), nn.Tanh)
    assert isinstance(find_module(model, 'module.1', 'the student', 'x'), nn.ReLU)
    assert isinstance(find_module(model, '0', 'the student', 'x'), nn.Linear)
    with pytest.raises(ValueError, match=r"x: the student has no module 'modul.1'. Did you mean 'module.1'"):
        find_module(model, 'modul.1', 'the student', 'x')


def test_an_evaluation_leaves_nothing_and_a_forward_without_gradients_in_between_is_passed_over():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    taps = Taps(model, [Tap('0')], 'the student')
    model(ONE)
    assert not taps._found
    taps.open()
    with torch.no_grad():
        model(ONE[:1])
    model(ONE)
    with torch.no_grad():
        model(ONE[:1])
    found, = taps.take().values()
    assert found.shape == (2, 4)
    assert found.requires_grad
    model(ONE)
    assert not taps._found
    taps.remove()
    assert taps.removed
    assert not model[0]._forward_hooks


def test_a_layer_that_did_not_run_is_named():
    taps = Taps(nn.Sequential(nn.Linear(3, 4)), [Tap('0')], 'the student')
    taps.open()
    with pytest.raises(ValueError, match="module '0' of the student did not give a tensor of floating point"):
        taps.take()


def test_a_watch_sees_whichever_copy_is_asked_and_leaves_no_hook():
    one, other = (nn.Sequential(nn.Linear(3, width), nn.ReLU()) for width in (4, 5))
    watch = Watch([Tap('1')], "teacher 'a'")
    for model, width in ((one, 4), (other, 5)):
        with watch(model):
            model(ONE)
        assert watch.take()[Tap('1')].shape == (2, width)
        assert not model[1]._forward_hooks
    assert watch.take() == {}
