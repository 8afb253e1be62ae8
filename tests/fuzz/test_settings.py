"""Settings of Distillation with a fault are refused by name; those that are taken make a schedule."""

from __future__ import annotations

import json
import warnings

import torch
from composer.core import Timestamp
from hypothesis import event, given
from hypothesis import strategies as st
from torch import nn

from composer_kd import Distillation
from composer_kd.decision import Plan
from composer_kd.losses import LOSSES, make_loss
from tests.fuzz import junk
from tests.fuzz.cases import cases
from tests.fuzz.course import Training, times
from tests.fuzz.mutate import changes
from tests.fuzz.told import begins_with, names, told

_MODULES = [nn.Linear(2, 3), nn.Linear(2, 3)]
_TRAININGS = [Training((4, 4, 3), 0, (4, 'ep')), Training((4, 4, 3), 5, (30, 'sp')), Training((2,), 0, (3, 'ba'), sized=False)]
_AGAINST = {
    'start': ['end'], 'end': ['start'], 'kd_loss_weight': ['base_loss_weight', 'kd_loss_weight'], 'base_loss_weight': ['kd_loss_weight'],
    'loss': ['combine'], 'teachers': ['teachers', 'teachers_per_batch', 'sampling'], 'sampling': ['placement'],
}


def whole():
    return {
        'teachers': [{'module': 0, 'name': 'a', 'weight': 1.0}, {'module': 1, 'name': 'b', 'weight': 1.0, 'logits_key': 0}],
        'loss': {'name': 'jensen_shannon', 'temperature': 4.0, 'beta': 0.5},
        'kd_loss_weight': {'linear': {'alpha_i': 0.9, 'alpha_f': 0.1}}, 'base_loss_weight': 0.1, 'start': '0ba', 'end': '0.5dur',
        'interval': 2, 'probability': 0.5, 'teachers_per_batch': 1, 'sampling': 'round_robin', 'combine': 'probabilities',
        'input_key': 0, 'target_key': 1, 'logits_key': None, 'ignore_index': -100, 'check_batches': 1, 'seed': 5,
        'placement': 'replicated', 'teacher_microbatch_size': 2,
        'prepare': {'precision': 'bf16', 'channels_last': False, 'fold_batchnorm': 'auto', 'compile': {'backend': 'aot_eager', 'dynamic': False},
                    'resolution': 64, 'tolerance': 0.1},
        'on_nonfinite': 'stop', 'on_change': 'error',
    }


def listed():
    """With several losses in place of one."""
    losses = [
        {'name': 'jensen_shannon', 'temperature': {'linear': {'alpha_i': 4.0}}, 'weight': 0.5, 'label': 'one', 'end': '0.25dur'},
        {'name': 'kl_divergence', 'weight': {'linear': {'alpha_i': 0.9}}, 'start': '1ba'},
        {'name': 'hint', 'student_layer': ['0', '1:input'], 'teacher_layer': ['0', '1'], 'projector': {'kind': 'mlp', 'hidden': 4}},
    ]
    prepare = {'precision': 'bf16', 'fold_batchnorm': False}
    return {**{key: value for key, value in whole().items() if key != 'loss'}, 'losses': losses, 'prepare': prepare}


def made(said):
    """The algorithm, with modules where numbers stand for them."""
    settings = dict(said)
    if isinstance(settings.get('teachers'), list):
        settings['teachers'] = [
            {**item, 'module': _MODULES[int(item['module'])]} if isinstance(item, dict) and item.get('module') in (0, 1) else item
            for item in settings['teachers']
        ]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of windows that never open
        return Distillation(**settings)


def followed(kd, training):
    plan = Plan(kd._s)
    plan.fit_start(training.state())
    states = [training.state(moment) for moment in training.batches]
    for state, moment in zip(states, training.batches, strict=True):  # Composer's schedulers ask more of a clock
        state.timestamp = Timestamp(epoch=moment.ep, batch=moment.ba, sample=moment.sp, token=moment.tok, batch_in_epoch=moment.in_epoch)
    return [plan.decide(state) for state in states]


def test_the_settings_are_all_there_are():
    assert set(whole()) | {'losses'} == set(made(whole()).settings) == set(listed()) | {'loss'}


@cases(1000)
@given(changes(whole()), st.sampled_from(_TRAININGS))
def test_a_changed_setting_is_taken_or_refused_by_name(change, training):
    if set(change.data) - set(whole()):  # Python itself refuses those
        return
    if 'teachers' not in change.data:
        return
    also = _AGAINST.get(change.path[0], ())
    kd, message = told(lambda: made(change.data))
    if message is None:
        decisions, message = told(lambda: followed(kd, training))
        event('taken' if message is None else 'refused as the training begins')
        if message is None:
            assert all(decision.kd_loss_weight >= 0 and len(decision.teachers) <= 3 for decision in decisions)
            return
    assert names(message, change.path, also), message


@cases(400)
@given(changes(listed()), st.sampled_from(_TRAININGS))
def test_a_changed_setting_of_several_losses_is_taken_or_refused_by_name(change, training):
    if set(change.data) - set(listed()) or 'teachers' not in change.data:
        return
    also = (*_AGAINST.get(change.path[0], ()), 'losses')
    kd, message = told(lambda: made(change.data))
    if message is None:
        decisions, message = told(lambda: followed(kd, training))
        if message is None:
            assert all(part.weight >= 0 for decision in decisions for part in decision.parts)
            return
    assert names(message, change.path, also), message


@cases(1000)
@given(st.sampled_from(LOSSES.names()), st.dictionaries(
    st.sampled_from(['temperature', 'beta', 'class_reduction', 'reduction', 'mask', 'student_logits', 'name']) | junk.keys,
    junk.values | st.sampled_from(['sum', 'mean', 0.5, 2.0]), max_size=2,
))
def test_a_loss_is_made_or_refused_by_name(name, settings):
    loss, message = told(lambda: make_loss({**settings, 'name': settings.get('name', name)}, 'x.loss'))
    if message is not None:
        assert begins_with(message, ['x.loss']), message
        assert any(f'{key}'.split() == [] or ' '.join(str(key).split()) in message for key in settings) or 'name' in settings, message
        return
    heat = loss.settings.get('temperature')
    if callable(heat) or isinstance(heat, dict):
        return
    rows = loss.rows(torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3), labels=torch.tensor([0, 2]))
    assert rows.shape == (2,)
    assert torch.isfinite(rows).all() or heat < 1e-30 or heat > 1e30


@cases(300)
@given(times(), times(), st.floats(0, 1), st.floats(0, 1))
def test_a_checkpoint_tells_two_windows_apart_where_they_differ_and_nowhere_else(one, other, weight, least):
    def books(end, share):
        return json.loads(made({**whole(), 'start': '0ba', 'end': str(end), 'base_loss_weight': share}).state_dict()['books'])['settings']

    here, there = books(one, weight), books(other, least)
    assert (here['end'] == there['end']) == ((one.value, one.unit) == (other.value, other.unit))
    assert (here['base_loss_weight'] == there['base_loss_weight']) == (weight == least)
