"""Values that are not finite, from a teacher or in the KD term: stopped and named, or skipped and counted."""

import pytest
import torch
from composer.core import Event
from torch import nn
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.guard import Guard
from tests.common import Watch, classifier, images, network, same, trainer, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')


class Breaks(nn.Module):
    """Gives ``value`` in some rows of its ``at``-th answer."""

    def __init__(self, inner, value=float('nan'), at=3, rows=(1, 4)):
        super().__init__()
        self.inner, self.value, self.at, self.rows, self.calls = inner, value, at, rows, 0

    def forward(self, x):
        self.calls += 1
        logits = self.inner(x)
        if self.calls == self.at:
            logits = logits.clone()
            logits[list(self.rows), 2] = self.value
        return logits


def make(teacher, loss='kl_divergence', duration='5ba', **settings):
    kd = Distillation(teacher, loss, check_batches=0, **settings)
    grads = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters()})
    return trainer([kd, grads], model=classifier(), max_duration=duration), kd, grads


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_stops_with_batch_and_teacher_before_any_checkpoint(tmp_path, value):
    kd = Distillation([network(seed=8), {'module': Breaks(network(seed=9), value), 'name': 'bad'}], check_batches=0)
    fit = trainer(kd, max_duration='5ba', save_folder=str(tmp_path), save_interval='1ba', save_filename='ba{batch}.pt')
    with pytest.raises(RuntimeError, match=r'stopped at batch 2 .* from teacher .bad. \(module:Breaks\) on rank 0\. ') as told:
        fit.fit()
    assert 'teacher0' not in str(told.value)
    assert "on_nonfinite='skip'" in str(told.value)
    assert {path.name for path in tmp_path.glob('ba*.pt')} == {'ba1.pt', 'ba2.pt'}


@pytest.mark.parametrize('loss', ['reverse_kl', 'mse'])
def test_a_forbidden_class_stops_a_loss_that_it_breaks(loss):
    fit, _, _ = make(Breaks(network(seed=9), -float('inf')), loss)
    with pytest.raises(RuntimeError, match=r"stopped at batch 2 .*teacher 'teacher0'"):
        fit.fit()


def test_and_not_one_that_knows_it():
    fit, _, _ = make(Breaks(network(seed=9), -float('inf')))
    fit.fit()


def test_a_term_that_overflows_by_itself_is_named_as_such():
    def overflows(student, teacher):
        return (student - teacher).square().sum(-1) * (float('inf') if overflows.calls == 2 else 1)
    overflows.calls = -1

    def loss(student, teacher):
        overflows.calls += 1
        return overflows(student, teacher)
    fit, _, _ = make(network(seed=9), loss)
    with pytest.raises(RuntimeError, match=r"a KD term that is not finite on rank 0, though no teacher's logits were"):
        fit.fit()


@pytest.mark.parametrize('loss', ['kl_divergence', 'reverse_kl', 'mse', 'hard_label', 'jensen_shannon', 'soft_cross_entropy'])
@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_skip_leaves_those_rows_out_and_nothing_else(loss, value):
    """The gradient of the batch with two broken rows is that of the same batch with weight zero on these two."""
    finite = value == -float('inf') and loss in ('kl_divergence', 'hard_label', 'jensen_shannon', 'soft_cross_entropy')
    fit, kd, grads = make(Breaks(network(seed=9), value, at=1), loss, '1ba', on_nonfinite='skip')
    fit.fit()
    assert kd.summary()['skipped_rows'] == (0 if finite else 2)
    assert all(bool(torch.isfinite(g).all()) for g in grads.seen[0].values())
    if finite:
        return
    kept = torch.ones(8, dtype=torch.bool)
    kept[[1, 4]] = False
    plain = Distillation(network(seed=9), loss, check_batches=0)

    def masked(student, teacher):
        return plain._s.entries[0].loss.rows(student, teacher) * kept
    expected, _, other = make(network(seed=9), masked, '1ba')
    expected.fit()
    for name, gradient in other.seen[0].items():
        torch.testing.assert_close(grads.seen[0][name], gradient, rtol=1e-5, atol=1e-6)


def test_skip_with_a_function_that_returns_its_mean_leaves_out_the_microbatch(caplog):
    fit, kd, grads = make(Breaks(network(seed=9), at=2), lambda s, t: (s - t).square().mean(), '3ba', on_nonfinite='skip')
    with caplog.at_level('WARNING'):
        fit.fit()
    assert kd.summary()['skipped_rows'] == 8
    assert "from teacher 'teacher0' (module:Breaks) on rank 0 at batch 1; 8 samples" in caplog.text
    assert all(bool(torch.isfinite(g).all()) for seen in grads.seen for g in seen.values())


def test_with_nothing_to_skip_the_training_is_bit_for_bit_the_same():
    trained = []
    for mode in ('stop', 'skip'):
        fit, kd, _ = make(network(seed=9), on_nonfinite=mode)
        fit.fit()
        assert kd.summary()['skipped_rows'] == 0
        trained.append(weights(fit))
    assert same(*trained)


def test_a_teacher_that_is_only_looked_at_is_watched_too():
    kd = Distillation(Breaks(network(seed=9), at=1), on_nonfinite='skip')
    trainer(kd, max_duration='2ba').fit()
    assert kd.summary()['skipped_rows'] == 2
    for window in ({}, {'start': '3ba'}):
        with pytest.raises(RuntimeError, match=r"stopped at batch 0 .*from teacher 'teacher0' \(module:Breaks\) on rank 0"):
            trainer(Distillation(Breaks(network(seed=9), at=1), **window), max_duration='5ba').fit()


@pytest.mark.parametrize('mode', ['stop', 'skip'])
def test_rows_that_do_not_count_are_none_of_its_business(mode):
    data = images(48)
    data.tensors[1][[1, 4]] = -100
    kd = Distillation(Breaks(network(seed=9), at=1), check_batches=0, on_nonfinite=mode)
    trainer(kd, data=DataLoader(data, batch_size=8), max_duration='2ba').fit()
    assert kd.summary()['skipped_rows'] == 0


def test_the_count_is_saved_and_goes_on(tmp_path):
    fit, kd, _ = make(Breaks(network(seed=9), at=1), duration='2ba', on_nonfinite='skip')
    fit.fit()
    other = Distillation(Breaks(network(seed=9)), on_nonfinite='skip', check_batches=0)
    trainer(other)
    other.load_state_dict(kd.state_dict())
    assert other.summary()['skipped_rows'] == 2


def test_nothing_waits_for_the_device_within_a_step(monkeypatch):
    """The guard keeps tensors; it turns none into a number before the batch is over."""
    guard = Guard('skip', ['a'], forbidden=True)

    def wait(self, *_):
        raise AssertionError('read from the device')
    for name in ('item', 'tolist', 'cpu', '__bool__', '__float__', '__int__'):
        monkeypatch.setattr(torch.Tensor, name, wait)
    guard.open_batch()
    guard.teacher(0, torch.zeros(2, 3))
    guard.rows(torch.zeros(2), torch.zeros(2, 3))
    guard.counts(torch.zeros(1))
