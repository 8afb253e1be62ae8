"""Windows, intervals, probability and teacher choice in real trainings: counted forwards, resumed trainings."""

import functools

import pytest
import torch
from composer.core import Event
from composer.core.data_spec import DataSpec
from composer.optim import CosineAnnealingWithWarmupScheduler, LinearScheduler
from torch.utils.data import DataLoader

from composer_kd import Distillation
from tests.common import Counting, Watch, images, loader, network, same, trainer, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')


def batches_with_forward(duration='4ep', data=None, **kd):
    """The indices of the batches on which the teacher ran; 6 batches of 8 samples an epoch unless told otherwise."""
    teacher = Counting(network(seed=9))
    seen = Watch(Event.BATCH_END, lambda state: teacher.calls)
    trainer([Distillation(teacher, check_batches=0, **kd), seen], max_duration=duration, data=data).fit()
    calls = [0, *seen.seen]
    return [i for i in range(len(calls) - 1) if calls[i + 1] > calls[i]]


def tokens(samples=48):
    return DataSpec(DataLoader(images(samples), batch_size=8), get_num_tokens_in_batch=lambda batch: 3 * len(batch[1]))


@pytest.mark.parametrize(('kd', 'expected'), [
    ({}, range(24)),
    ({'end': '0.25dur'}, range(6)),
    ({'start': '0.1dur', 'end': '0.3dur'}, range(3, 8)),
    ({'start': '1ep', 'end': '2ep'}, range(6, 12)),
    ({'start': '5ba', 'end': '9ba'}, range(5, 9)),
    ({'start': '40sp', 'end': '64sp'}, range(5, 8)),
    ({'start': '25tok', 'end': '0.5dur'}, range(2, 12)),
    ({'interval': 4}, range(0, 24, 4)),
    ({'interval': '5ba', 'start': '3ba', 'end': '1dur'}, range(3, 24, 5)),
    ({'interval': '2ep'}, [*range(6), *range(12, 18)]),
    ({'interval': '3ba', 'start': '33sp', 'end': '90sp'}, [5, 8, 11]),
    ({'start': '8ba', 'interval': '2ep'}, [*range(8, 12), *range(18, 24)]),
])
def test_teachers_run_on_exactly_these_batches(kd, expected):
    assert batches_with_forward(data=tokens(), **kd) == list(expected)


@pytest.mark.parametrize('duration', ['24ba', '192sp', '576tok', '4ep'])
def test_a_share_of_any_kind_of_duration(duration):
    assert batches_with_forward(duration, data=tokens(), end='0.25dur') == list(range(6))


def test_probability_runs_as_the_schedule_says():
    from composer_kd.schedule import uniform
    expected = [b for b in range(24) if uniform(17, b, 'on') < 0.4]
    assert 0 < len(expected) < 24
    assert batches_with_forward(probability=0.4) == expected
    assert batches_with_forward(probability=0.4, seed=3) == [b for b in range(24) if uniform(3, b, 'on') < 0.4]


def test_looking_at_teachers_costs_a_forward_only_where_they_do_not_run_anyway():
    teacher = Counting(network(seed=9))
    trainer(Distillation(teacher, start='10ba', check_batches=3)).fit()
    assert teacher.calls == 3 + 2
    teacher = Counting(network(seed=9))
    trainer(Distillation(teacher, check_batches=3)).fit()
    assert teacher.calls == 12


@pytest.mark.parametrize('microbatch', [8, 3])
def test_one_forward_for_each_microbatch(microbatch):
    teacher = Counting(network(seed=9))
    trainer(Distillation(teacher, end='2ba', check_batches=0), device_train_microbatch_size=microbatch).fit()
    assert teacher.calls == 2 * -(-8 // microbatch)


def test_one_of_several_teachers_runs():
    teachers = [Counting(network(seed=s)) for s in (1, 2, 3)]
    trainer(Distillation(teachers, teachers_per_batch=1, check_batches=0)).fit()
    assert sum(t.calls for t in teachers) == 12
    assert all(t.calls for t in teachers)


@pytest.mark.parametrize('combine', ['logits', 'probabilities'])
def test_several_teachers_are_averaged_by_weight(combine):
    from torch.nn import functional as F
    teachers = [network(seed=s) for s in (1, 2)]
    last = Watch(Event.AFTER_FORWARD, lambda s: (s.outputs.detach().clone(), s.batch[0]))
    kd = Distillation(
        [{'module': teachers[0], 'weight': 3.0, 'name': 'a'}, {'module': teachers[1], 'name': 'b'}], combine=combine,
        loss={'name': 'kl_divergence', 'temperature': 2.0}, kd_loss_weight=1.0, base_loss_weight=0.0,
    )
    fit = trainer([last, kd], max_duration='1ba')
    fit.fit()
    outputs, x = last.seen[0]
    with torch.no_grad():
        answers = [t.eval()(x) for t in teachers]
    if combine == 'logits':
        target = F.softmax((0.75 * answers[0] + 0.25 * answers[1]) / 2, -1)
    else:
        target = 0.75 * F.softmax(answers[0] / 2, -1) + 0.25 * F.softmax(answers[1] / 2, -1)
    expected = 4 * F.kl_div(F.log_softmax(outputs / 2, -1), target, reduction='batchmean')
    assert fit.state.total_loss_dict['loss/train/total'] == pytest.approx(float(expected), rel=1e-5)


RESUMABLE = {
    'sampled teachers, probability': {'teachers_per_batch': 1, 'probability': 0.7},
    'round robin, interval in an observed window': {
        'teachers_per_batch': 1, 'sampling': 'round_robin', 'interval': 2, 'start': '9sp'},
    'scheduled weight and temperature': {
        'kd_loss_weight': {'linear': {'alpha_i': 0.9, 'alpha_f': 0.1}},
        'loss': {'name': 'kl_divergence', 'temperature': {'cosine_annealing': {'alpha_f': 0.5}}}},
    'window': {'start': '0.2dur', 'end': '0.7dur', 'interval': '3ba'},
}


@pytest.mark.parametrize('save_at', [2, 7])
@pytest.mark.parametrize('kd', RESUMABLE.values(), ids=RESUMABLE)
def test_resumed_equals_uninterrupted(tmp_path, kd, save_at):
    def make(**kwargs):
        algorithm = Distillation([network(seed=s) for s in (1, 2, 3)], **kd)
        data = loader(shuffle=False)
        return algorithm, trainer(algorithm, data=data, **kwargs)
    whole, straight = make(save_folder=str(tmp_path), save_interval=f'{save_at}ba', save_filename='ba{batch}.pt')
    straight.fit()
    rest, resumed = make(load_path=str(tmp_path / f'ba{save_at}.pt'), seed=99)
    assert int(resumed.state.timestamp.batch) == save_at
    resumed.fit()
    assert same(weights(straight), weights(resumed))
    counts = [(s['active_batches'], [t['batches'] for t in s['teachers']]) for s in (whole.summary(), rest.summary())]
    assert counts[0] == counts[1]


def test_an_extended_training_keeps_the_window_it_had(caplog):
    teacher = Counting(network(seed=9))
    fit = trainer(Distillation(teacher, end='0.5dur', check_batches=0), max_duration='2ep')
    fit.fit()
    assert teacher.calls == 6
    with caplog.at_level('WARNING'):
        fit.fit(duration='2ep')
    assert teacher.calls == 6
    assert 'keeps the window it had' in caplog.text


def test_a_scheduled_weight_is_what_the_scheduler_says():
    kd = Distillation(network(seed=9), kd_loss_weight={'linear': {'alpha_i': 1.0, 'alpha_f': 0.0, 't_max': '6ba'}})
    seen = Watch(Event.BATCH_END, lambda s: kd._now.kd_loss_weight)
    trainer([kd, seen], max_duration='8ba').fit()
    assert seen.seen == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0, 0])


def test_composers_scheduler_objects_do_too():
    from composer.optim import ConstantScheduler
    kd = Distillation(network(seed=9), kd_loss_weight=ConstantScheduler(0.25))
    seen = Watch(Event.BATCH_END, lambda s: kd._now.kd_loss_weight)
    trainer([kd, seen], max_duration='2ba').fit()
    assert seen.seen == [0.25, 0.25]
    assert kd.settings['kd_loss_weight'] == 'ConstantScheduler'


def _resumed(tmp_path, first, second, **settings):
    """Train ten batches, save at five, and make the trainer that is to go on from there with other distillation."""
    fit = trainer(Distillation(**first), max_duration='10ba', save_folder=str(tmp_path), save_interval='5ba',
                  save_filename='ba{batch}.pt')
    fit.fit()
    return trainer(Distillation(**second), load_path=str(tmp_path / 'ba5.pt'), **{'max_duration': '20ba', **settings})


PLAIN = {'teachers': network(seed=9), 'check_batches': 0}


@pytest.mark.parametrize(('changed', 'told'), [
    ({'end': '15ba'}, 'end was 1dur and is 15ba'),
    ({'teachers': {'module': network(seed=9), 'logits_key': 'other'}}, 'logits_key was None and is other'),
    ({'kd_loss_weight': LinearScheduler(0.9, 0.1)}, 'kd_loss_weight was 0.9 and is LinearScheduler {'),
    ({'start': '1ba'}, 'start was 0dur and is 1ba'),
    ({'interval': 2}, 'interval was 1ba and is 2ba'),
    ({'loss': 'mse'}, 'loss was kl_divergence {temperature: 1.0} and is mse {class_reduction: sum}'),
    ({'loss': {'name': 'kl_divergence', 'temperature': 2.0}}, '{temperature: 2.0}'),
    ({'kd_loss_weight': 0.5}, 'kd_loss_weight was 0.9 and is 0.5'),
    ({'base_loss_weight': 0.5}, 'base_loss_weight was 0.1 and is 0.5'),
    ({'probability': 0.5}, 'probability was 1.0 and is 0.5'),
    ({'seed': 4}, 'seed was None and is 4'),
    ({'teachers': [network(seed=9), network(seed=8)]}, 'there were 1 teachers (teacher0) and are 2 (teacher0, teacher1)'),
    ({'teachers': {'module': network(seed=9), 'weight': 2}}, "teacher 'teacher0' had the weight 1 and has 2"),
    ({'teachers': network(seed=8)}, "teacher 'teacher0' (module:Sequential) had the digest "),
])
def test_resuming_with_other_distillation_is_refused_with_the_difference(tmp_path, changed, told):
    with pytest.raises(ValueError, match='made with other distillation') as error:
        _resumed(tmp_path, PLAIN, {**PLAIN, **changed})
    assert told in str(error.value)
    assert "on_change='warn'" in str(error.value)


def test_or_goes_on_as_set_now_where_asked_to(tmp_path, caplog):
    teacher = Counting(network(seed=9))
    with caplog.at_level('WARNING'):
        second = _resumed(tmp_path, {**PLAIN, 'end': '6ba'}, {
            **PLAIN, 'teachers': {'module': teacher, 'name': 'b'}, 'end': '15ba', 'on_change': 'warn'})
    assert 'other distillation: end was 6ba and is 15ba' in caplog.text
    assert 'had the digest' in caplog.text, 'it counts, so it is another module'
    second.fit()
    assert teacher.calls == 10


def picked(number, outputs):
    return outputs[number]


@pytest.mark.parametrize(('first', 'second'), [
    ({'interval': 4}, {'interval': '4ba'}), ({'loss': 'forward_kl'}, {'loss': 'kl_divergence'}),
    ({'loss': {'name': 'kl_divergence', 'temperature': 4}}, {'loss': {'name': 'kl_divergence', 'temperature': 4.0}}),
    ({'kd_loss_weight': 1}, {'kd_loss_weight': 1.0}), ({'end': '0.50dur'}, {'end': '0.5dur'}),
    ({'logits_key': functools.partial(picked, 1)}, {'logits_key': functools.partial(picked, 1)}),
    ({'kd_loss_weight': LinearScheduler(0.9, 0.1)}, {'kd_loss_weight': LinearScheduler(0.9, 0.1)}),
    ({'kd_loss_weight': CosineAnnealingWithWarmupScheduler('2ba')}, {'kd_loss_weight': CosineAnnealingWithWarmupScheduler('2ba')}),
])
def test_another_spelling_is_no_change(first, second):
    one, other = (Distillation(network(seed=9), **settings)._told() for settings in (first, second))
    assert one['settings'] == other['settings']
    assert ' at 0x' not in str(one)


def test_what_changes_nothing_about_the_training_may_change(tmp_path):
    moved = {'module': network(seed=9), 'name': 'elsewhere'}
    _resumed(tmp_path, PLAIN, {
        'teachers': moved, 'check_batches': 2, 'placement': 'host', 'teacher_microbatch_size': 3, 'on_nonfinite': 'skip',
    }).fit()


def test_an_extended_training_keeps_its_window_and_says_so(tmp_path, caplog):
    teacher = Counting(network(seed=9))
    first = {**PLAIN, 'teachers': teacher, 'end': '0.8dur'}
    with caplog.at_level('WARNING'):
        second = _resumed(tmp_path, first, first)
        teacher.calls = 0
        second.fit()
    assert teacher.calls == 3, 'batches 5 to 7: eight tenths of the ten it began with'
    assert "keeps the window it had when this training began ({'start': '0 ba', 'end': '8 ba'})" in caplog.text


@pytest.mark.parametrize(('duration', 'start', 'end'), [('192sp', '0.9dur', '100sp'), ('4ep', '3ep', '5ba')])
def test_a_start_after_the_end_is_refused_in_whatever_units(duration, start, end):
    fit = trainer(Distillation(network(seed=9), start=start, end=end), max_duration=duration)
    with pytest.raises(ValueError, match='after end'):
        fit.fit()


def test_a_start_beyond_the_training_is_said(caplog):
    with caplog.at_level('WARNING'):
        trainer(Distillation(network(seed=9), start='50ba', end='60ba', check_batches=0), max_duration='2ep').fit()
    assert 'never on: start=50ba' in caplog.text
