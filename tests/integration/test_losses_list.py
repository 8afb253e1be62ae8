"""Several losses at once: their sum, their schedules and what is told of them."""

import pytest
from composer.loggers import InMemoryLogger

from composer_kd import Distillation
from composer_kd.entries import read_entries
from tests.common import network, same, trainer, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')
TWO = [{'name': 'kl_divergence', 'temperature': 2.0, 'weight': 0.5}, {'name': 'mse', 'weight': 0.25}]


def logged(kd, **settings):
    logger = InMemoryLogger()
    fit = trainer(kd, loggers=[logger], **settings)
    fit.fit()
    return {name: [float(value) for _, value in values] for name, values in logger.data.items()}, fit


def test_one_in_the_list_is_that_one_bit_for_bit():
    one = trainer(Distillation(network(seed=9), loss={'name': 'kl_divergence', 'temperature': 2.0}), max_duration='4ba')
    other = trainer(Distillation(network(seed=9), losses=[{'name': 'kl_divergence', 'temperature': 2.0}]),
                    max_duration='4ba')
    one.fit()
    other.fit()
    assert same(weights(one), weights(other))


def test_the_term_is_the_weighted_sum_and_each_has_its_metric():
    both, _ = logged(Distillation(network(seed=9), losses=TWO), max_duration='1ba')
    for one in TWO:
        loss = {key: value for key, value in one.items() if key != 'weight'}
        alone, _ = logged(Distillation(network(seed=9), loss=loss), max_duration='1ba')
        assert both[f"loss/train/kd/{one['name']}"] == pytest.approx(alone['loss/train/kd'], rel=1e-6)
        assert f"loss/train/kd/{one['name']}" not in alone
    total = sum(one['weight'] * both[f"loss/train/kd/{one['name']}"][0] for one in TWO)
    assert both['loss/train/kd'][0] == pytest.approx(total, rel=1e-6)
    assert both['kd/weight/mse'] == [0.25]


def test_each_begins_and_ends_where_it_says_and_no_teacher_runs_between():
    losses = [{'name': 'kl_divergence', 'end': '2ba'}, {'name': 'mse', 'start': '4ba', 'label': 'late'}]
    told, _ = logged(Distillation(network(seed=9), losses=losses, end='6ba'), max_duration='8ba')
    assert told['kd/active'][:7] == [1, 1, 0, 0, 1, 1, 0]
    assert len(told['loss/train/kd/kl_divergence']) == len(told['loss/train/kd/late']) == 2
    assert told['kd/weight/late'][:6] == [0, 0, 0, 0, 1, 1]


def test_the_window_closes_when_the_last_loss_has_ended():
    kd = Distillation(network(seed=9), losses=[{'name': 'mse', 'end': '2ba'}])
    trainer(kd, max_duration='5ba').fit()
    assert kd.teachers[0].released
    assert kd.summary()['active_batches'] == 2


def test_a_weight_follows_a_scheduler():
    losses = [{'name': 'mse', 'weight': {'linear': {'alpha_i': 1.0, 'alpha_f': 0.0}}}]
    told, _ = logged(Distillation(network(seed=9), losses=losses), max_duration='4ba')
    assert told['kd/weight/mse'] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert told['loss/train/kd'][1] == pytest.approx(0.75 * told['loss/train/kd/mse'][1])


def test_resumed_goes_on_in_the_same_windows_and_another_list_is_refused(tmp_path):
    def kd(**more):
        return Distillation(network(seed=9), losses=[{'name': 'mse', 'end': '0.75dur', **more}, 'kl_divergence'])
    whole = trainer(kd(), max_duration='8ba', save_folder=str(tmp_path), save_interval='4ba', save_filename='{batch}.pt')
    whole.fit()
    half = str(tmp_path / '4.pt')
    second = trainer(kd(), max_duration='8ba', load_path=half)
    second.fit()
    assert same(weights(whole), weights(second))
    with pytest.raises(ValueError, match=r'loss was mse .* to 0.75dur \+ kl_divergence .* and is 3'):
        trainer(kd(weight=3), max_duration='8ba', load_path=half)
    longer = trainer(kd(), max_duration='12ba', load_path=half)
    longer.fit()
    assert longer.state.algorithms[-1]._plan._own[0].end.value == 6, 'as resolved when the training began'


@pytest.mark.parametrize(('settings', 'told'), [
    ({'loss': 'mse', 'losses': ['mse']}, 'both given'),
    ({'losses': []}, 'one loss or more'),
    ({'losses': ['mse', 'mse']}, "called 'mse'"),
    ({'losses': ['mse', {'name': 'msee'}]}, r"losses\[1\].*'mse'"),
    ({'losses': [{'name': 'mse', 'wieght': 1}]}, r"losses\[0\].*Did you mean 'weight'"),
    ({'losses': [{'name': 'kl_divergence', 'temprature': 1}]}, r"losses\[0\].*'temperature'"),
    ({'losses': [{'name': 'mse', 'weight': -1}]}, r'losses\[0\].weight'),
    ({'losses': [{'name': 'mse', 'start': '5ba', 'end': '3ba'}]}, r'losses\[0\]: start'),
    ({'losses': [{'name': 'mse', 'start': 'soon'}]}, r'losses\[0\].start'),
    ({'losses': [{'weight': 1}]}, "expected the key 'name'"),
    ({'losses': ['kl_divergence', 'mse'], 'combine': 'probabilities'}, 'does not compare probabilities'),
    ({'losses': [{'name': 'mse', 'weight': 0}], 'base_loss_weight': 0}, 'nothing to learn'),
])
def test_what_makes_no_sense_is_refused_at_once(settings, told):
    with pytest.raises(ValueError, match=told):
        Distillation(network(), **settings)


@pytest.mark.parametrize('losses', ['mse', {'name': 'mse'}, 3])
def test_a_list_is_a_list(losses):
    with pytest.raises(TypeError, match='expected a list'):
        Distillation(network(), losses=losses)


def test_a_loss_that_is_not_finite_is_named():
    def broken(student, teacher):
        return (student - teacher).sum(-1) * float('nan')
    kd = Distillation(network(seed=9), losses=['kl_divergence', {'name': broken}])
    with pytest.raises(RuntimeError, match="a loss 'broken' that is not finite on rank 0"):
        trainer(kd, max_duration='2ba').fit()


def test_a_loss_that_is_not_finite_is_left_out_and_the_other_is_not():
    def broken(student, teacher):
        return (student - teacher).sum(-1) * float('nan')
    kd = Distillation(network(seed=9), losses=['kl_divergence', {'name': broken}], on_nonfinite='skip')
    one = trainer(kd, max_duration='3ba')
    one.fit()
    other = trainer(Distillation(network(seed=9), on_nonfinite='skip'), max_duration='3ba')
    other.fit()
    assert same(weights(one), weights(other))
    assert kd.summary()['skipped_rows'] == 24


def test_probabilities_are_averaged_at_each_losses_own_temperature():
    teachers = [network(seed=8), network(seed=9)]
    losses = [{'name': 'kl_divergence', 'temperature': 2.0}, {'name': 'reverse_kl', 'temperature': 3.0}]
    both, _ = logged(Distillation(teachers, losses=losses, combine='probabilities'), max_duration='1ba')
    for loss in losses:
        alone, _ = logged(Distillation(teachers, loss=loss, combine='probabilities'), max_duration='1ba')
        assert both[f"loss/train/kd/{loss['name']}"] == pytest.approx(alone['loss/train/kd'], rel=1e-6)


def test_settings_are_told_in_plain_types():
    kd = Distillation(network(), losses=TWO)
    assert kd.settings['loss'] is None
    assert kd.settings['losses'][1] == {
        'label': 'mse', 'weight': 0.25, 'start': None, 'end': None, 'name': 'mse', 'class_reduction': 'sum'}
    assert read_entries('mse', None)[0].canonical == read_entries(None, ['mse'])[0].canonical
