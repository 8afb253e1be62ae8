"""Beside Composer's own algorithms, in either order: the expected total loss, or a refusal at the start."""

import pytest
import torch
from composer import algorithms as ca
from composer.core import Event
from torch.nn import functional as F

from composer_kd import Distillation
from tests.common import Counting, Watch, classifier, network, trainer, weights

pytestmark = [
    pytest.mark.filterwarnings('ignore:Teacher .* no better than'),
    pytest.mark.filterwarnings('ignore::composer.algorithms.warnings.NotIntendedUseWarning'),
    pytest.mark.filterwarnings('ignore::composer.algorithms.warnings.NoEffectWarning'),
    pytest.mark.filterwarnings('ignore:SAM has known issues'),
    pytest.mark.filterwarnings('ignore:SWA has known issues'),
    pytest.mark.filterwarnings('ignore:Some targets have less than 1 total probability'),
    pytest.mark.filterwarnings('ignore:Cannot split tensor of length'),
]

SETS = {
    'label_smoothing': lambda: [ca.LabelSmoothing(0.1)],
    'mixup': lambda: [ca.MixUp(alpha=0.4)],
    'mixup, interpolated loss': lambda: [ca.MixUp(alpha=0.4, interpolate_loss=True)],
    'cutmix': lambda: [ca.CutMix(alpha=1.0)],
    'cutmix, interpolated loss': lambda: [ca.CutMix(alpha=1.0, interpolate_loss=True)],
    'sam': lambda: [ca.SAM(rho=0.05)],
    'selective_backprop': lambda: [ca.SelectiveBackprop(start=0.0, end=1.0, keep=0.5, interrupt=0)],
    'ema': lambda: [ca.EMA(half_life='2ba', update_interval='1ba')],
    'swa': lambda: [ca.SWA(swa_start='1ep', swa_end='2ep', update_interval='1ep')],
    'progressive_resizing': lambda: [ca.ProgressiveResizing(initial_scale=0.5, delay_fraction=0.5)],
    'blurpool': lambda: [ca.BlurPool(min_channels=8)],
    'channels_last': lambda: [ca.ChannelsLast()],
    'gradient_clipping': lambda: [ca.GradientClipping('norm', 0.1)],
    'all that go together': lambda: [
        ca.BlurPool(min_channels=8), ca.ChannelsLast(), ca.EMA(half_life='2ba'), ca.ProgressiveResizing(),
        ca.LabelSmoothing(0.1), ca.MixUp(alpha=0.2), ca.SAM(rho=0.05, interval=2), ca.GradientClipping('norm', 1.0),
    ],
}


def run(algorithms, batches='3ba'):
    """Train, and return every backward's (own loss, joined loss, outputs, input) and the trainer."""
    fit = trainer(algorithms, max_duration=batches)
    kd = [a for a in fit.state.algorithms if isinstance(a, Distillation)]

    def look(state):
        return state.loss.detach().clone(), state.outputs.detach().clone(), state.batch[0].detach().clone()
    before, after = Watch(Event.BEFORE_BACKWARD, look), Watch(Event.BEFORE_BACKWARD, look)
    if kd:
        assert fit.state.algorithms[-1] is kd[0], 'it belongs at the end of the list'
    fit.state.algorithms.insert(len(fit.state.algorithms) - len(kd), before)
    fit.state.algorithms.append(after)
    fit.fit()
    return before.seen, after.seen, fit


@pytest.mark.parametrize('first', [True, False], ids=['kd first', 'kd last'])
@pytest.mark.parametrize('name', SETS)
def test_the_expected_total_in_either_order(name, first):
    teacher = Counting(network(seed=9))
    kd = Distillation(teacher, loss={'name': 'kl_divergence', 'temperature': 2.0}, kd_loss_weight=0.6,
                      base_loss_weight=0.3)
    others = SETS[name]()
    before, after, _ = run([kd, *others] if first else [*others, kd])
    calls = teacher.calls
    plain, _, _ = run(SETS[name]())
    # the model's own loss is what it is without distillation: same weights and random numbers at the first backward
    torch.testing.assert_close(before[0][0], plain[0][0], rtol=0, atol=0)
    assert len(before) == len(after) == len(plain) == calls
    for own, joined in zip(before, after, strict=True):
        with torch.no_grad():
            target = teacher(joined[2])
        kl = F.kl_div(F.log_softmax(joined[1] / 2, -1), F.softmax(target / 2, -1), reduction='batchmean') * 4
        torch.testing.assert_close(joined[0], 0.3 * own[0] + 0.6 * kl, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ['ema', 'swa', 'sam', 'mixup, interpolated loss', 'selective_backprop'])
@pytest.mark.parametrize('first', [True, False])
def test_whole_trainings_do_not_depend_on_the_order(name, first):
    def train(algorithms):
        fit = trainer(algorithms)
        fit.fit()
        return weights(fit)
    kd = Distillation(network(seed=9))
    one = train([kd, *SETS[name]()] if first else [*SETS[name](), kd])
    other = train([*SETS[name](), Distillation(network(seed=9))])
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_second_one_is_refused():
    with pytest.raises(ValueError, match='2 Distillation algorithms in this trainer'):
        trainer([Distillation(network(seed=8)), ca.BlurPool(min_channels=8), Distillation(network(seed=9))])


def test_the_student_as_teacher_is_refused():
    model = classifier()
    with pytest.raises(ValueError, match='shares parameters with the student'):
        trainer(Distillation(model.module), model=model)


def test_used_again_in_another_trainer_is_refused():
    kd = Distillation(network(seed=9))
    trainer(kd).close()
    with pytest.raises(RuntimeError, match='served another trainer'):
        trainer(kd)
