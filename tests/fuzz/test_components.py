"""Every setting of every component, given what it cannot use: refused by the component's path, or taken."""

from __future__ import annotations

import inspect
import warnings

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from composer_kd.callbacks import untouched
from composer_kd.components import ALGORITHMS, OPTIMIZERS, SCHEDULERS
from composer_kd.models import MODELS
from composer_kd.recipes.parts import check_component, construct
from composer_kd.recipes.tasks import DATA
from tests.fuzz import junk
from tests.fuzz.cases import cases
from tests.fuzz.told import begins_with, told

_SMALL = {
    'vocab_size': 16, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8,
    'max_position_embeddings': 8,
}
_BASES = {
    'digits_resnet': {'width': 4}, 'resnet_cifar': {'depth': 8, 'width': 4}, 'resnet': {'architecture': 'resnet18'},
    'bert_masked_lm': _SMALL, 'bert_classifier': _SMALL, 'llama': {**_SMALL, 'num_key_value_heads': 1},
    'gpt2': {key: value for key, value in _SMALL.items() if key != 'intermediate_size'},
}


def _no_loops(value):
    """Numbers of layers that would be made one by one for hours."""
    return not (isinstance(value, int) and value > 100)


def own(registry):
    """Without what other tests of this process have added."""
    known = ('composer_kd', 'composer', 'torch')
    return [name for name in registry.names() if registry.get(name).__module__.partition('.')[0] in known]


def settings_of(registry, *without):
    return st.sampled_from([
        (name, parameter) for name in own(registry) for parameter in inspect.signature(registry.get(name)).parameters
        if parameter not in without
    ])


def made(registry, name, settings, **given):
    with warnings.catch_warnings(), untouched(), torch.device('meta'):
        warnings.simplefilter('ignore')
        return construct(registry, name, settings, f'x.{name}', **given)


def checked(message, name):
    event('refused' if message else 'taken')
    assert message is None or begins_with(message, [f'x.{name}']), message


@cases(500)
@given(st.one_of(
    st.tuples(st.just(registry), settings_of(registry, 'params', 'kwargs')) for registry in (ALGORITHMS, OPTIMIZERS, SCHEDULERS)
), junk.values | junk.times)
def test_settings_of_algorithms_optimizers_and_schedulers(setting, value):
    registry, (name, parameter) = setting
    given = {'params': torch.nn.Linear(2, 2).parameters()} if registry is OPTIMIZERS else {}
    checked(told(lambda: made(registry, name, {parameter: value}, **given))[1], name)


@cases(150)
@given(settings_of(MODELS), junk.values.filter(_no_loops))
def test_settings_of_models(setting, value):
    name, parameter = setting
    checked(told(lambda: made(MODELS, name, {**_BASES[name], parameter: value}))[1], name)


@cases(300)
@given(settings_of(DATA, 'batch_size', 'seed', 'train'), junk.values)
def test_settings_of_data(setting, value):
    name, parameter = setting
    given = {'batch_size': 2, 'seed': 1, 'train': True}
    settings = {'path': 'no/such/folder', parameter: value}
    parameters = inspect.signature(DATA.get(name)).parameters
    settings = {key: item for key, item in settings.items() if key in parameters}
    checked(told(lambda: check_component(DATA.get(name), settings, f'x.{name}', given))[1], name)


def test_every_model_is_tried():
    assert set(_BASES) == set(own(MODELS))
    for name, settings in _BASES.items():
        assert made(MODELS, name, settings)
