"""The one-step contract: what is added to the loss, when, and what stays as it was."""

import copy

import pytest
import torch
from composer import Trainer
from composer.core import Event
from composer.loggers import InMemoryLogger, LoggerDestination
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Distillation
from tests.common import Counting, Watch, classifier, images, loader, network, same, trainer, weights

# the teachers here are not trained, and say so
pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')


def test_weight_zero_equals_no_plugin_bit_for_bit():
    plain = trainer()
    plain.fit()
    kd = trainer(Distillation(network(seed=9), kd_loss_weight=0, base_loss_weight=1))
    kd.fit()
    assert same(weights(plain), weights(kd))


def test_outside_the_window_the_base_loss_is_alone_and_unscaled():
    plain = trainer()
    plain.fit()
    with pytest.warns(UserWarning, match='never on'):
        kd = trainer(Distillation(network(seed=9), start='1dur', check_batches=0))
    kd.fit()
    assert same(weights(plain), weights(kd))


def test_the_total_is_the_weighted_sum():
    teacher = network(seed=9)
    seen = Watch(Event.BEFORE_BACKWARD, lambda s: (s.loss.detach().clone(), s.outputs.detach().clone(), s.batch))
    kd = Distillation(teacher, loss={'name': 'kl_divergence', 'temperature': 2.0}, kd_loss_weight=0.7, base_loss_weight=0.4)
    fit = trainer([kd, seen])
    # last in the list when the engine walks it, so this looks at the loss before it is joined ...
    before = Watch(Event.BEFORE_BACKWARD, lambda s: s.loss.detach().clone())
    fit.state.algorithms.insert(0, before)
    # ... and this after
    after = Watch(Event.BEFORE_BACKWARD, lambda s: s.loss.detach().clone())
    fit.state.algorithms.append(after)
    fit.fit(duration='1ba')
    outputs, (x, y) = seen.seen[0][1], seen.seen[0][2]
    base = F.cross_entropy(outputs, y)
    with torch.no_grad():
        target = teacher(x)
    kl = F.kl_div(F.log_softmax(outputs / 2, -1), F.softmax(target / 2, -1), reduction='batchmean') * 4
    torch.testing.assert_close(before.seen[0], base)
    torch.testing.assert_close(after.seen[0], 0.4 * base + 0.7 * kl)


@pytest.mark.parametrize('form', ['tensor', 'tuple', 'dict', 'dict with total'])
def test_every_form_of_loss_composer_takes(form):
    class Model(type(classifier())):
        def loss(self, outputs, batch):
            whole = super().loss(outputs, batch)
            parts = {'a': 0.25 * whole, 'b': 0.75 * whole}
            return {'tensor': whole, 'tuple': tuple(parts.values()), 'dict': parts,
                    'dict with total': {**parts, 'total': whole}}[form]

    model = Model(network(), num_classes=5)
    fit = trainer(Distillation(network(seed=9)), model=model, max_duration='3ba')
    fit.fit()
    reference = trainer(Distillation(network(seed=9)), max_duration='3ba')
    reference.fit()
    for name, value in weights(fit).items():
        torch.testing.assert_close(value, weights(reference)[name], rtol=1e-5, atol=1e-6)


def test_teacher_bits_stay_though_it_has_batchnorm_and_came_in_train_mode():
    teacher = network(seed=9).train()
    before = weights(teacher)
    flags = [p.requires_grad for p in teacher.parameters()]
    fit = trainer(Distillation(teacher))
    fit.fit()
    assert same(before, weights(teacher))
    assert flags == [p.requires_grad for p in teacher.parameters()]
    assert all(p.grad is None for p in teacher.parameters())


def test_a_teacher_put_back_in_train_mode_by_someone_else_still_answers_in_eval_mode():
    teacher = network(seed=9)
    disturb = Watch(Event.BEFORE_TRAIN_BATCH, lambda s: teacher.train())
    before = weights(teacher)
    trainer([Distillation(teacher), disturb]).fit()
    assert same(before, weights(teacher))


def test_the_student_is_clean(tmp_path):
    student = classifier()
    names, parameters = set(student.state_dict()), sum(p.numel() for p in student.parameters())
    fit = trainer(Distillation(network(seed=9)), model=student, save_folder=str(tmp_path))
    fit.fit()
    assert set(fit.state.model.state_dict()) == names
    assert sum(p.numel() for group in fit.state.optimizers[0].param_groups for p in group['params']) == parameters
    saved = torch.load(tmp_path / 'latest-rank0.pt', weights_only=False)
    assert set(saved['state']['model']) == names
    kept = dict(saved['state']['algorithms'])['Distillation']

    def plain(value):
        if isinstance(value, dict):
            return all(plain(k) and plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (int, float, str))
    assert plain(kept)
    # and it loads where nothing of ours is
    fresh = trainer(load_path=str(tmp_path / 'latest-rank0.pt'))
    assert same(weights(fresh), weights(fit))


def _gradients(microbatch, data, teacher, model, **kd):
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters()})
    fit = trainer([Distillation(teacher, check_batches=0, **kd), seen], model=model, data=data, max_duration='1ba',
                  device_train_microbatch_size=microbatch)
    fit.fit()
    return seen.seen[0]


def _no_batchnorm(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 5))


@pytest.mark.parametrize('microbatch', [4, 5, 7])
@pytest.mark.parametrize('loss', ['kl_divergence', 'mse', lambda s, t: ((s - t) ** 2).sum(-1).mean()])
def test_gradients_do_not_depend_on_microbatches(microbatch, loss):
    def student():
        return classifier(loss_fn=F.cross_entropy).__class__(_no_batchnorm(0), num_classes=5)
    data = DataLoader(images(16), batch_size=16)
    one, many = (_gradients(size, data, _no_batchnorm(1), student(), loss=loss) for size in (16, microbatch))
    for name in one:
        torch.testing.assert_close(one[name], many[name], rtol=1e-6, atol=1e-6)


def test_labels_that_do_not_count_are_left_out_over_uneven_microbatches():
    x, y = images(16).tensors
    y = y.clone()
    y[[0, 1, 2, 9]] = -100
    data = DataLoader(TensorDataset(x, y), batch_size=16)

    def student():
        return classifier().__class__(_no_batchnorm(0), num_classes=5, loss_fn=F.cross_entropy)
    grads = [_gradients(size, data, _no_batchnorm(1), student(), base_loss_weight=0.0) for size in (16, 5)]
    for name in grads[0]:
        torch.testing.assert_close(grads[0][name], grads[1][name], rtol=1e-6, atol=1e-6)
    keep = y != -100
    reference, teacher = student(), _no_batchnorm(1)
    kl = F.kl_div(F.log_softmax(reference((x[keep], None)), -1), F.softmax(teacher(x[keep]), -1), reduction='batchmean')
    (0.9 * kl).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(grads[0][name], parameter.grad, rtol=1e-5, atol=1e-6)


def test_the_teacher_is_given_back_when_the_window_has_closed():
    teacher = Counting(network(seed=9))
    kd = Distillation(teacher, end='4ba', check_batches=0)
    fit = trainer(kd)
    held = Watch(Event.BATCH_END, lambda s: not kd.teachers[0].released)
    fit.state.algorithms.insert(0, held)
    fit.fit()
    assert teacher.calls == 4
    assert held.seen == [True] * 4 + [False] * 8


def test_a_released_teacher_is_freed():
    import gc
    import weakref
    kd = Distillation([{'module': copy.deepcopy(network(seed=9))}], end='2ba')
    gone = weakref.ref(kd._s.specs[0].source)
    fit = trainer(kd)
    fit.fit()
    gc.collect()
    assert gone() is None


def test_training_again_after_the_release_is_refused():
    kd = Distillation(network(seed=9), end='2ba')
    fit = trainer(kd)
    fit.fit()
    with pytest.raises(RuntimeError, match='released'):
        fit.fit(duration='1ep', reset_time=True)


class Steps(LoggerDestination):
    def __init__(self):
        self.metrics = {}
        self.hyperparameters = {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            self.metrics.setdefault(name, {})[step] = value

    def log_hyperparameters(self, hyperparameters):
        self.hyperparameters.update(hyperparameters)


def test_what_is_logged_and_at_which_step():
    log = Steps()
    teachers = [{'module': network(seed=s), 'name': f't{s}'} for s in (3, 4)]
    kd = Distillation(teachers, loss={'name': 'kl_divergence', 'temperature': 2.0}, interval=2, teachers_per_batch=1,
                      sampling='round_robin', kd_loss_weight=0.5, base_loss_weight=0.5)
    trainer(kd, loggers=[log], max_duration='6ba', device_train_microbatch_size=3).fit()
    assert log.metrics['kd/active'] == {0: 1, 1: 0, 2: 1, 3: 0, 4: 1, 5: 0}
    assert log.metrics['kd/teacher/t3'] == {0: 1, 1: 0, 2: 0, 3: 0, 4: 1, 5: 0}
    assert log.metrics['kd/teacher/t4'] == {0: 0, 1: 0, 2: 1, 3: 0, 4: 0, 5: 0}
    assert log.metrics['kd/weight'] == {0: 0.5, 1: 0, 2: 0.5, 3: 0, 4: 0.5, 5: 0}
    assert log.metrics['kd/temperature'] == {0: 2.0, 2: 2.0, 4: 2.0}
    assert set(log.metrics['loss/train/kd']) == set(log.metrics['loss/train/base']) == {0, 2, 4}
    for step in (0, 2, 4):
        joined = 0.5 * log.metrics['loss/train/base'][step] + 0.5 * log.metrics['loss/train/kd'][step]
        assert joined == pytest.approx(log.metrics['loss/train/total'][step], rel=1e-5)
        assert log.metrics['kd/teacher_seconds'][step] > 0
    assert log.metrics['kd/teacher_seconds'][3] == 0
    assert set(log.metrics['kd/overhead']) == {0, 2, 4}
    assert all(value > 0 for value in log.metrics['kd/overhead'].values())
    assert kd.summary()['overhead'] == log.metrics['kd/overhead'][4]
    assert log.hyperparameters['distillation'] == kd.settings
    import inspect
    assert set(kd.settings) == set(inspect.signature(Distillation.__init__).parameters) - {'self'}


def test_metrics_of_training_still_see_the_students_outputs():
    log = InMemoryLogger()
    fit = trainer(Distillation(network(seed=9)), loggers=[log])
    fit.fit()
    assert 'metrics/train/MulticlassAccuracy' in log.data
    assert isinstance(fit, Trainer)


def test_the_summary_counts():
    teachers = [{'module': network(seed=s), 'name': f't{s}', 'weight': s} for s in (3, 4)]
    kd = Distillation(teachers, interval=3, end='1ep', check_batches=0)
    trainer(kd).fit()
    summary = kd.summary()
    assert summary['active_batches'] == 2
    assert [(t['name'], t['batches'], t['samples'], t['weight']) for t in summary['teachers']] == [
        ('t3', 2, 16, 3.0), ('t4', 2, 16, 4.0)]
    assert summary['kd_seconds'] == pytest.approx(summary['teacher_seconds'] + summary['loss_seconds'])
    assert len({t['digest'] for t in summary['teachers']}) == 2


def test_flops_of_a_teacher_per_sample():
    fit = trainer(kd := Distillation({'module': _no_batchnorm(1), 'name': 't'}), data=loader(8))
    fit.fit(duration='1ba')
    assert kd.teacher_flops(next(iter(loader(8)))) == {'t': 2 * (64 * 16 + 16 * 5)}


def test_labels_that_are_not_one_a_row_leave_a_plain_mean():
    """Several class numbers a sample: the rows of the logits are samples, and all count."""
    class Pairs(type(classifier())):
        def loss(self, outputs, batch):
            return F.cross_entropy(outputs, batch[1][:, 0])

        def get_metrics(self, is_train=False):
            return {}
    x, y = images(16).tensors
    data = DataLoader(TensorDataset(x, torch.stack([y, y], 1)), batch_size=16)
    got = _gradients(16, data, _no_batchnorm(1), Pairs(_no_batchnorm(0), num_classes=5), base_loss_weight=0.0)
    reference, teacher = _no_batchnorm(0), _no_batchnorm(1)
    kl = F.kl_div(F.log_softmax(reference(x), -1), F.softmax(teacher(x), -1), reduction='batchmean')
    (0.9 * kl).backward()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(got[f'module.{name}'], parameter.grad, rtol=1e-5, atol=1e-6)
