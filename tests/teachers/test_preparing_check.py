"""A prepared teacher's first answers are held against the untouched one's: what is off is left out, or refused."""

import logging

import pytest
import torch
from composer.core import Precision
from torch import nn

from composer_kd.teachers.preparing import Prepared, Step, agreement, choose_steps, read_prepare, relative_error
from tests.teachers.preparing_models import TokensAsChannels, lived_in, pixels, prepared, small


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    torch.compiler.reset()  # of one piece of code torch compiles so many forms, and then runs it as it is


def rms(values):
    return values.square().mean().sqrt()


def test_the_error_is_a_share_of_the_spread_over_classes():
    torch.manual_seed(1)
    z, noise = torch.randn(4, 6, 5), 0.01 * torch.randn(4, 6, 5)
    expected = rms(noise) / rms(z - z.mean(-1, keepdim=True))
    assert relative_error(z + noise, z) == pytest.approx(float(expected), rel=1e-4)
    assert relative_error(z + noise + 100, z + 100) == pytest.approx(float(expected), rel=1e-3), 'a constant says nothing'
    labels = torch.zeros(4, 6, dtype=torch.long)
    turned = relative_error((z + noise).movedim(-1, 1), z.movedim(-1, 1), labels)
    assert turned == pytest.approx(float(expected), rel=1e-4), 'the classes may come second'
    assert relative_error(z, z) == 0
    assert relative_error(z[:2], z) == float('inf')
    assert relative_error(z[..., :1] + 0.1, z[..., :1]) == pytest.approx(0.1 / float(rms(z[..., :1])), rel=1e-4), 'a regression'
    assert relative_error(torch.zeros(3, 4), torch.zeros(3, 4)) == 0
    assert relative_error(torch.ones(3, 4), torch.zeros(3, 4)) == float('inf')
    assert relative_error(torch.zeros(0, 4), torch.zeros(0, 4)) == 0


@pytest.mark.parametrize('value', [float('nan'), float('inf'), float('-inf')])
def test_what_is_not_finite_counts_where_it_is_new(value):
    z = torch.randn(4, 5)
    broken = z.clone()
    broken[1, 2] = value
    assert relative_error(broken, z) == float('inf')
    assert relative_error(z, broken) == float('inf')
    assert relative_error(broken, broken) == 0
    off = broken.clone()
    off[0, 0] += 0.1
    assert 0 < relative_error(off, broken) < 0.2


def test_agreement():
    one, other = torch.tensor([[2.0, 0], [0, 1], [3, 0]]), torch.tensor([[2.0, 0], [1, 0], [3, 0]])
    same, divergence = agreement(one, other)
    p, q = other.softmax(-1), one.softmax(-1)
    assert same == pytest.approx(2 / 3)
    assert divergence == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)


def test_what_auto_does_and_is_off_is_left_out_and_the_rest_stays():
    model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), lived_in(TokensAsChannels()))
    teacher = prepared(model)
    assert teacher.prepared.labels == ['fold_batchnorm (1)', 'channels_last']
    with pytest.warns(UserWarning, match='and 0.001 is allowed. That is left out') as told:
        answer = teacher.outputs((pixels(), None))
    assert len(told) == 1
    assert relative_error(answer, model(pixels()).detach()) < 1e-5
    assert (teacher.told_of_preparation['prepared'], teacher.prepared.left_out) == (['channels_last'], ['fold_batchnorm'])
    assert teacher.prepared.error < 1e-5


def test_what_was_asked_for_and_is_off_is_refused():
    teacher = prepared(lived_in(TokensAsChannels()), {'fold_batchnorm': True, 'precision': 'bf16'})
    with pytest.raises(ValueError, match=r'prepare\.fold_batchnorm \(fold_batchnorm \(1\)\) takes its first answers .* and 0\.05 is allowed'):
        teacher.outputs((pixels(), None))


@pytest.mark.parametrize(('said', 'blamed'), [
    ({'precision': 'bf16'}, r'prepare\.precision \(precision bf16\)'),
    ({'precision': 'bf16', 'fold_batchnorm': True, 'tolerance': 1e-5}, r'prepare\.precision \(precision bf16\)'),
    ({'compile': {'backend': 'aot_eager'}, 'precision': 'fp16', 'tolerance': 1e-5}, r'prepare\.precision \(precision fp16\)'),
])
def test_the_step_to_blame_is_named(said, blamed):
    teacher = prepared(small(), {'tolerance': 1e-6, **said})
    with pytest.raises(ValueError, match=rf"Teacher 'a' \(module\): {blamed} takes .* Leave that out, or give prepare\.tolerance a larger"):
        teacher.outputs((pixels(), None))


def test_a_tolerance_of_zero_allows_the_same_bits_alone():
    model = small()
    teacher = prepared(model, {'tolerance': 0, 'channels_last': False})
    with pytest.warns(UserWarning, match='fold_batchnorm'):
        answer = teacher.outputs((pixels(), None))
    assert torch.equal(answer, model(pixels()).detach())
    assert teacher.module is model


class Disabled(nn.Module):
    """A layer that does without autocast, on its own."""

    def __init__(self):
        super().__init__()
        self.body, self.head = small(), nn.Linear(5, 5)

    def forward(self, x):
        y = self.body(x)
        with torch.autocast('cpu', enabled=False):
            return self.head(y.float())


def test_a_step_that_cannot_run_is_refused_with_the_reason():
    teacher = prepared(Disabled(), {'precision': 'bf16'})
    with pytest.raises(ValueError, match=r'prepare\.precision \(precision bf16\) fails: .*must have the same dtype'):
        teacher.outputs((pixels(), None))


def test_a_model_that_does_not_compile_is_refused():
    def backend(graph, inputs):
        raise RuntimeError('no such instruction')
    teacher = prepared(small(), {'compile': {'backend': backend}})
    with pytest.raises(ValueError, match=r"Teacher 'a' \(module\): prepare\.compile \(compile \(backend\)\) fails: .*no such instruction"):
        teacher.outputs((pixels(), None))


class Moody(nn.Module):
    """Another answer each time."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = small(), 0

    def forward(self, x):
        self.calls += type(x) is torch.Tensor  # and no symbol
        return self.body(x) * (-1) ** self.calls


def test_a_teacher_that_answers_otherwise_each_time_is_noticed():
    model = Moody()
    teacher = prepared(model, {'precision': 'fp32', 'channels_last': False, 'fold_batchnorm': False})
    with pytest.raises(ValueError, match='it gives other answers each time it is asked'):
        teacher.outputs((pixels(), None))


def test_out_of_memory_is_left_to_composer_and_the_check_comes_again():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.room = small(), [0]

        def __deepcopy__(self, memo):
            new = Large()
            new.body, new.room = self.body, self.room
            return new

        def forward(self, x):
            self.room[0] -= 1
            if self.room[0] == 0:
                raise RuntimeError('CUDA out of memory. Tried to allocate')
            return self.body(x)
    for room in (1, 2, 3):  # in the untouched model, in the prepared one, in the answer
        model = Large()
        teacher = prepared(model, {'channels_last': True})
        model.room[0] = room
        with pytest.raises(RuntimeError, match='out of memory'):
            teacher.outputs((pixels(), None))
        assert teacher.prepared.untouched is model
        assert relative_error(teacher.outputs((pixels(4), None)), model(pixels(4)).detach()) < 1e-5
        assert teacher.prepared.untouched is None


def test_the_untouched_model_is_let_go_and_asked_once_about_few_samples():
    import gc
    import weakref
    asked = []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()

        def forward(self, x):
            if type(x) is torch.Tensor:  # and no symbol
                asked.append((len(x), isinstance(self.body[1], nn.Identity)))
            return self.body(x)
    teacher = prepared(Model())
    gone = weakref.ref(teacher.module)
    for _ in range(2):
        teacher.outputs((pixels(), None))
    assert asked == [(8, False), (8, True), (12, True), (12, True)]
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize('samples', [3, 8, 12, 70])
@pytest.mark.parametrize('said', [{'precision': 'bf16', 'tolerance': 0.5}, {'precision': 'bf16', 'tolerance': 1e-6}, {'resolution': 6}], ids=str)
def test_ranks_that_have_to_ask_together_ask_equally_often(said, samples):
    calls = []
    model = small()
    model.register_forward_hook(lambda *_: calls.append(1))
    steps = choose_steps(model, read_prepare(said), torch.device('cpu'), Precision.FP32, 'sharded', 'a')
    one = Prepared(model, steps, 'a', said.get('tolerance', 1e-3), lambda model, batch, positions: model(batch[0]).detach(), together=True)
    one.answer((pixels(samples),), None, None)
    assert len(calls) == 3
    assert (one.failed is not None) == (said.get('tolerance') == 1e-6)
    if one.failed is not None:
        assert one.failed.startswith('a: prepare.precision (precision bf16) takes its first answers')


def test_what_was_left_out_before_is_left_out_again():
    teacher = prepared(small())
    teacher.prepared.leave_out(['fold_batchnorm'])
    teacher.outputs((pixels(), None))
    assert (teacher.told_of_preparation['prepared'], teacher.prepared.left_out) == (['channels_last'], ['fold_batchnorm'])


def test_copies_of_answers_where_the_next_forward_writes_over_them():
    memory = torch.zeros(12, 5)

    def ask(model, batch, positions):
        return memory.copy_(model(batch[0]))
    model = small()
    for clones in (False, True):
        one = Prepared(model, [Step('compile', 'compile', True, clones=clones)], 'a', 1.0, lambda *args: ask(*args).detach())
        first = one.answer((pixels(),), None, None)
        one.answer((pixels(seed=2),), None, None)
        assert torch.equal(first, model(pixels()).detach()) == clones


def test_a_smaller_resolution():
    model = small()
    seen = []
    model.register_forward_pre_hook(lambda module, args: seen.append(tuple(args[0].shape)))
    teacher, x = prepared(model, {'resolution': 6}), pixels(20)
    answer = teacher.outputs((x, None))
    smaller = nn.functional.interpolate(x, (6, 6), mode='bilinear', antialias=True)
    with torch.no_grad():
        at_full, at_six = model(x), model(smaller)
    assert torch.equal(answer, at_six)
    assert not torch.equal(answer, at_full)
    assert teacher.prepared.error == 0, 'the tolerance is for the same images'
    same, divergence = agreement(at_six, at_full)
    assert teacher.prepared.agreement == pytest.approx((same, divergence), rel=1e-4)
    assert teacher.told_of_preparation == {'prepared': ['resolution 6'], 'resolution_agreement': pytest.approx(same)}
    seen.clear()
    teacher.outputs((pixels(20), None))
    assert seen == [(20, 1, 6, 6)], 'full size was for the first answer'
    teacher.outputs((pixels(3, side=5), None))
    assert seen[-1] == (3, 1, 5, 5), 'what is small already stays'
    teacher.outputs((torch.randn(3, 1, 8, 12), None))
    assert seen[-1] == (3, 1, 6, 9), 'the shorter side counts'


def test_a_smaller_resolution_with_the_other_steps(caplog):
    caplog.set_level(logging.INFO, 'composer_kd')
    model = lived_in(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))
    teacher = prepared(model, {'resolution': 6})
    answer = teacher.outputs((pixels(), None))
    smaller = nn.functional.interpolate(pixels(), (6, 6), mode='bilinear', antialias=True)
    assert relative_error(answer, model(smaller).detach()) < 1e-5
    assert teacher.told_of_preparation['prepared'] == ['resolution 6', 'fold_batchnorm (1)', 'channels_last']
    assert "Teacher 'a' (module) makes the same first choice at resolution 6 as at full size for" in caplog.text
    assert 'is prepared (resolution 6, fold_batchnorm (1), channels_last); its first answers are off by' in caplog.text


@pytest.mark.parametrize(('model', 'batch', 'message'), [
    (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), (pixels(), None), r'it cannot take images at prepare\.resolution: mat1 and mat2 shapes'),
    (lambda: nn.Conv2d(1, 5, 3), (pixels(), None), r'at prepare\.resolution its answers are of the shape \(5, 4, 4\) a sample, and at full size \(5, 6, 6\)'),
    (lambda: nn.Linear(64, 5), (torch.randn(12, 64), None), r'prepare\.resolution makes images smaller, and its batches hold none'),
])
def test_a_resolution_that_cannot_be(model, batch, message):
    teacher = prepared(model(), {'resolution': 6})
    with pytest.raises(ValueError, match=rf"Teacher 'a' \(module\): {message}"):
        teacher.outputs(batch)
