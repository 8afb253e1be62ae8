"""Settings of Distillation: each refused in one paragraph, before there is a trainer."""

import pytest
from composer.optim import LinearScheduler
from torch import nn

from composer_kd import Distillation

pair = [nn.Linear(2, 2), nn.Linear(2, 2)]


@pytest.mark.parametrize(('settings', 'error', 'message'), [
    ({'loss': 'kl_divergance'}, ValueError, r"unknown loss 'kl_divergance'\. Did you mean 'kl_divergence'\?"),
    ({'loss': {'name': 'kl_divergence', 'temprature': 2}}, ValueError, "Did you mean 'temperature'"),
    ({'loss': {'name': 'kl_divergence', 'temperature': -1}}, ValueError, 'temperature.*-1'),
    ({'loss': {'name': 'kl_divergence', 'temperature': {'linaer': {}}}}, ValueError,
     r"loss\.temperature: unknown key 'linaer'\. Did you mean 'linear'"),
    ({'loss': {'name': 'kl_divergence', 'temperature': {'linear': {'alpha': 1}}}}, ValueError,
     r"loss\.temperature\.linear: unknown key 'alpha'\. Did you mean 'alpha_[if]'"),
    ({'loss': 7}, TypeError, 'loss: expected a name'),
    ({'kd_loss_weight': -0.1}, ValueError, r'kd_loss_weight: expected a finite number of 0 or more, got -0\.1'),
    ({'kd_loss_weight': 'lots'}, TypeError, "kd_loss_weight: expected a number, a Composer scheduler.*'lots'"),
    ({'kd_loss_weight': {'linear': {}, 'constant': {}}}, ValueError, 'expected a number or one scheduler'),
    ({'kd_loss_weight': float('nan')}, ValueError, 'kd_loss_weight'),
    ({'kd_loss_weight': 10**400}, ValueError, 'kd_loss_weight: expected a finite number'),
    ({'kd_loss_weight': {'linear': 0.5}}, TypeError, r"kd_loss_weight\.linear: expected a mapping of the scheduler's settings, got float"),
    ({'kd_loss_weight': {'linear': []}}, TypeError, r'kd_loss_weight\.linear: expected a mapping'),
    ({'base_loss_weight': 10**400}, ValueError, 'base_loss_weight: expected a finite number'),
    ({'loss': {'name': 'kl_divergence', 'temperature': 10**400}}, ValueError, 'temperature: expected a number that a float can hold'),
    ({'loss': {'name': ['kl_divergence']}}, TypeError, r'loss\.name: expected a string, got list'),
    ({'start': 'nandur'}, ValueError, "start: expected a Composer time string.*'nandur'"),
    ({'end': 'infba'}, ValueError, "end: expected a Composer time string.*'infba'"),
    ({'base_loss_weight': -1}, ValueError, 'base_loss_weight: expected a finite number of 0 or more, got -1'),
    ({'base_loss_weight': '1'}, ValueError, 'base_loss_weight'),
    ({'start': 'later'}, ValueError, "start: expected a Composer time string.*'later'"),
    ({'start': '0.6dur', 'end': '0.5dur'}, ValueError, "start: '0.6dur' lies after end '0.5dur'"),
    ({'interval': 0}, ValueError, 'interval: expected a number of batches or epochs of 1 or more.*got 0'),
    ({'probability': 0}, ValueError, 'probability: expected a number above 0 and at most 1, got 0'),
    ({'probability': 1.5}, ValueError, 'probability'),
    ({'teachers_per_batch': 3}, ValueError, 'teachers_per_batch: 3 teachers a batch of a pool of 2'),
    ({'teachers_per_batch': 0}, ValueError, 'teachers_per_batch: expected a whole number of 1 or more, got 0'),
    ({'sampling': 'randm'}, ValueError, r"sampling: expected 'random' or 'round_robin' or 'by_rank', got 'randm'\. Did you mean 'random'"),
    ({'combine': 'votes'}, ValueError, "combine: expected 'logits' or 'probabilities', got 'votes'"),
    ({'combine': 'probabilities', 'loss': 'mse'}, ValueError, "combine: 'probabilities'.*'mse' does not compare"),
    ({'ignore_index': None}, TypeError, 'ignore_index: expected a whole number'),
    ({'check_batches': -1}, ValueError, 'check_batches: expected a whole number of 0 or more, got -1'),
    ({'seed': -1}, ValueError, 'seed: expected a whole number of 0 or more, got -1'),
    ({'placement': 'shard'}, ValueError, r"placement: expected 'auto' or .*, got 'shard'\. Did you mean 'sharded'"),
    ({'placement': 'sharded', 'sampling': 'by_rank'}, ValueError, "placement: 'sharded' lays one teacher over all ranks"),
    ({'sampling': 'by_rank', 'teachers': [{'module': pair[0], 'weight': 2}, pair[1]]}, ValueError,
     "sampling: with 'by_rank' .* their weights must be equal, got 2, 1"),
    ({'teacher_microbatch_size': 0}, ValueError, 'teacher_microbatch_size: expected a whole number of 1 or more, got 0'),
    ({'teacher_microbatch_size': 2.5}, ValueError, 'teacher_microbatch_size'),
    ({'on_nonfinite': 'ignore'}, ValueError, "on_nonfinite: expected 'stop' or 'skip', got 'ignore'"),
    ({'on_change': 'allow'}, ValueError, "on_change: expected 'error' or 'warn', got 'allow'"),
])
def test_a_bad_setting_is_refused(settings, error, message):
    with pytest.raises(error, match=message) as raised:
        Distillation(**{'teachers': pair, **settings})
    assert '\n' not in str(raised.value)


def test_a_start_after_the_end_in_other_units_is_refused_before_training():
    from tests.common import network, trainer
    fit = trainer(Distillation(network(seed=9), start='2ep', end='3ba'))
    with pytest.raises(ValueError, match="start: '2ep' is batch 12 of this training, after end '3ba', which is batch 3"):
        fit.fit()


def test_a_scheduler_that_leaves_the_range_is_refused_before_training():
    from tests.common import network, trainer
    fit = trainer(Distillation(network(seed=9), kd_loss_weight=LinearScheduler(alpha_i=1.0, alpha_f=-1.0)))
    with pytest.raises(ValueError, match=r'kd_loss_weight: expected a finite number of 0 or more, got -.*LinearScheduler'):
        fit.fit()
    assert int(fit.state.timestamp.batch) == 0


def test_a_value_at_the_very_end_is_not_looked_at_as_no_batch_has_it():
    from tests.common import network, trainer
    heat = {'name': 'kl_divergence', 'temperature': {'linear': {'alpha_i': 4.0, 'alpha_f': 0.0}}}
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        trainer(Distillation(network(seed=9), loss=heat)).fit()


def test_settings_in_plain_types():
    kd = Distillation(pair, loss={'name': 'kl_divergence', 'temperature': {'linear': {'alpha_i': 4.0, 'alpha_f': 1.0}}},
                      logits_key=max, kd_loss_weight=LinearScheduler())
    assert kd.settings['loss'] == {'name': 'kl_divergence', 'temperature': {'linear': {'alpha_i': 4.0, 'alpha_f': 1.0}}}
    assert kd.settings['logits_key'] == 'max'
    assert kd.settings['kd_loss_weight'] == 'LinearScheduler'
    assert kd.settings['teachers'] == ['teacher0 = module:Linear (weight 1)', 'teacher1 = module:Linear (weight 1)']


@pytest.mark.parametrize(('parallel', 'told'), [
    ({'auto_microbatching': True}, "device_train_microbatch_size='auto'"),
    ({'tp_config': object()}, 'tensor parallelism'),
])
def test_a_training_that_cannot_shard_teachers_says_so(parallel, told):
    from types import SimpleNamespace

    from composer_kd.teachers.placement import choose_placements
    state = SimpleNamespace(**{'auto_microbatching': False, 'tp_config': None, **parallel})
    teacher = SimpleNamespace(module=pair[0], name='a')
    message = rf"placement: teacher 'a' cannot be 'sharded', as .*{told}.*Use 'host', 'replicated' or 'auto'"
    with pytest.raises(ValueError, match=message):
        choose_placements('sharded', [teacher], state, by_rank=False)


def test_a_teacher_that_fsdp_cannot_shard_is_named():
    import torch

    from tests.common import network, trainer
    odd = network(seed=9)
    odd.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"placement: teacher 'teacher0' cannot be 'sharded', as it has parameters without"):
        trainer(Distillation(odd, placement='sharded'))
    with pytest.raises(ValueError, match="'teacher0' cannot be 'sharded', as its parameters are of several types"):
        trainer(Distillation(nn.Sequential(network(seed=9), nn.Linear(5, 5).double()), placement='sharded'))


def test_a_checkpoint_tells_long_times_apart():
    books = [Distillation(nn.Linear(2, 2), end=end).state_dict()['books'] for end in ('1234567ba', '1234568ba')]
    assert '1234567ba' in books[0]
    assert books[0] != books[1]
