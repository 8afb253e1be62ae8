"""Losses on layers in trainings: what is compared, what learns, and what is left of it afterwards."""

import copy

import pytest
import torch
from composer import Trainer
from composer.algorithms import EMA, SAM, ChannelsLast, MixUp
from composer.core import Event
from composer.loggers import InMemoryLogger
from composer.models import ComposerClassifier
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from composer_kd import Distillation
from composer_kd.features import FEATURE_LOSSES, make_feature_loss
from tests.common import Counting, Watch, classifier, images, loader, network, same, trainer, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')
HINT = {'name': 'hint', 'student_layer': 'module.4', 'teacher_layer': '4'}


def _takes(name):
    return make_feature_loss(name).takes


def flat(seed=0, width=16):
    """Without BatchNorm, which would make microbatches differ."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, stride=2), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5),
        )


def student(seed=0):
    return ComposerClassifier(flat(seed), num_classes=5)


def hint(layer=3, **more):
    return {'name': 'hint', 'student_layer': f'module.{layer}', 'teacher_layer': f'{layer}', **more}


def distil(*losses, teacher=None, **settings):
    return Distillation(flat(9, 24) if teacher is None else teacher, losses=list(losses), **settings)


def projectors(fit):
    learner = fit.state.algorithms[-1]._teaching.tapping._learner
    return {name: value.detach().clone() for name, value in learner.modules.state_dict().items()}


def test_the_term_is_the_loss_of_the_projected_features():
    teacher = flat(9, 24)
    kd = distil(hint(weight=0.5), teacher=teacher, kd_loss_weight=1.0, base_loss_weight=0.0)
    fit = trainer(kd, model=student(), max_duration='1ba', loggers=[log := InMemoryLogger()])
    before = copy.deepcopy(fit.state.model.module)
    project = copy.deepcopy(kd._teaching.tapping._learner.modules['loss0_layer0_teacher0'])
    fit.fit()
    x = images().tensors[0][:8]
    with torch.no_grad():
        expected = F.mse_loss(project(before[:4](x)), teacher[:4](x))
    told = {name: float(values[0][1]) for name, values in log.data.items()}
    assert told['loss/train/kd/hint'] == pytest.approx(float(expected), rel=1e-5)
    assert told['loss/train/kd'] == pytest.approx(0.5 * float(expected), rel=1e-5)


def test_gradients_are_those_of_the_same_loss_written_by_hand():
    teacher = flat(9, 24)
    kd = distil(hint(), 'kl_divergence', teacher=teacher, kd_loss_weight=0.7, base_loss_weight=0.3)
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: [p.grad.clone() for p in s.model.parameters()])
    fit = trainer([kd, seen], model=student(), max_duration='1ba')
    own = copy.deepcopy(fit.state.model.module)
    project = copy.deepcopy(kd._teaching.tapping._learner.modules['loss0_layer0_teacher0'])
    fit.fit()
    x, y = (tensor[:8] for tensor in images().tensors)
    features, target = own[:4](x), teacher[:4](x).detach()
    logits, answer = own[4:](features), teacher(x).detach()
    kl = F.kl_div(logits.log_softmax(-1), answer.softmax(-1), reduction='batchmean')
    (0.7 * (F.mse_loss(project(features), target) + kl) + 0.3 * F.cross_entropy(logits, y)).backward()
    for got, expected in zip(seen.seen[0], own.parameters(), strict=True):
        torch.testing.assert_close(got, expected.grad, rtol=1e-4, atol=1e-6)
    # and plain SGD has moved the projector as it would move the student
    moved = projectors(fit)['loss0_layer0_teacher0.weight']
    torch.testing.assert_close(moved, (project.weight - 0.1 * project.weight.grad).detach(), rtol=1e-4, atol=1e-6)


def test_one_forward_of_the_teacher_serves_all_losses():
    teacher = Counting(flat(9, 24))
    losses = [hint(layer, label=str(layer), teacher_layer=f'inner.{layer}') for layer in (1, 3)]
    kd = distil(*losses, 'kl_divergence', teacher=teacher, check_batches=0)
    trainer(kd, model=student(), max_duration='4ba').fit()
    assert teacher.calls == 4 + 1, 'and one on a sample, to see how wide its layers are'


@pytest.mark.parametrize('size', [2, 3])
def test_microbatches_make_no_difference(size):
    def train(microbatch):
        kd = distil(hint(), 'mse', check_batches=0)
        seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: [p.grad.clone() for p in s.model.parameters()])
        fit = trainer([kd, seen], model=student(), max_duration='2ba', device_train_microbatch_size=microbatch)
        fit.fit()
        return seen.seen[-1], projectors(fit)
    (one, mine), (many, theirs) = train(8), train(size)
    for a, b in zip(one, many, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-6)


def test_weight_zero_equals_no_plugin_bit_for_bit():
    plain = trainer(model=student(), max_duration='4ba')
    plain.fit()
    kd = trainer(distil(hint(), kd_loss_weight=0, base_loss_weight=1), model=student(), max_duration='4ba')
    kd.fit()
    assert same(weights(plain), weights(kd))


def test_resumed_equals_uninterrupted_and_the_student_holds_nothing_of_it(tmp_path):
    def fit(**settings):
        model = student()
        kd = distil(hint(projector='mlp'), {'name': 'attention_transfer', 'student_layer': '1', 'end': '6ba'})
        return trainer(kd, model=model, max_duration='8ba', optimizers=torch.optim.AdamW(model.parameters(), lr=0.01),
                       **settings)
    whole = fit(save_folder=str(tmp_path), save_interval='4ba', save_filename='{batch}.pt')
    start = projectors(whole)
    whole.fit()
    resumed = fit(load_path=str(tmp_path / '4.pt'))
    resumed.fit()
    assert same(weights(whole), weights(resumed))
    assert same(projectors(whole), projectors(resumed))
    assert not same(start, projectors(whole))
    one, other = (t.state.algorithms[-1].state_dict()['projectors'] for t in (whole, resumed))
    assert one == other, 'the optimizer of the projectors too'
    saved = torch.load(tmp_path / '8.pt', weights_only=False)
    assert set(saved['state']['model']) == set(student().state_dict())
    fresh = trainer(model=student(), load_path=str(tmp_path / '8.pt'), max_duration='9ba')
    assert same(weights(fresh), weights(whole))


def test_projectors_begin_alike_and_disturb_no_random_number():
    before = torch.random.get_rng_state()
    one, other = (trainer(distil(hint()), model=student(), data=loader(shuffle=True)) for _ in range(2))
    assert same(projectors(one), projectors(other))
    plain = trainer(model=student(), data=loader(shuffle=True), max_duration='2ba')
    plain.fit()
    kd = trainer(distil(hint(), kd_loss_weight=0, base_loss_weight=1), model=student(), data=loader(shuffle=True),
                 max_duration='2ba')
    kd.fit()
    assert same(weights(plain), weights(kd))
    torch.random.set_rng_state(before)


def test_compiled_equals_eager():
    def train(**settings):
        fit = trainer(distil(hint(), 'kl_divergence', end='3ba'), model=student(), max_duration='5ba', **settings)
        fit.fit()
        return fit
    torch._dynamo.reset()
    eager, compiled = train(), train(compile_config={'backend': 'aot_eager'})
    for name, value in weights(eager.state.model).items():
        other = weights(compiled.state.model)
        torch.testing.assert_close(value, other.get(name, other.get(f'_orig_mod.{name}')), rtol=1e-4, atol=1e-6)
    for name, value in projectors(eager).items():
        torch.testing.assert_close(value, projectors(compiled)[name], rtol=1e-4, atol=1e-6)


class Checkpointed(nn.Module):
    """Its layers run again in the backward pass."""

    def __init__(self, reentrant):
        super().__init__()
        self.inner, self.reentrant = flat(), reentrant

    def forward(self, x):
        x = self.inner[0](x)
        return self.inner[4:](checkpoint(self.inner[1:4], x, use_reentrant=self.reentrant))


def test_activation_checkpointing_gives_the_features_of_the_forward():
    def train(module, path, teacher='3'):
        kd = distil({'name': 'hint', 'student_layer': path, 'teacher_layer': teacher})
        fit = trainer(kd, model=ComposerClassifier(module, num_classes=5), max_duration='3ba')
        fit.fit()
        assert not kd._teaching.tapping._student._found
        return fit
    plain, saved = train(flat(), '3'), train(Checkpointed(False), 'inner.3')
    for (_, one), (_, other) in zip(weights(plain).items(), weights(saved).items(), strict=True):
        torch.testing.assert_close(one, other)
    with pytest.raises(ValueError, match='use_reentrant'):
        train(Checkpointed(True), 'inner.2', '2')


def test_a_frozen_layer_is_refused():
    model = student()
    model.module[0].requires_grad_(False)
    with pytest.raises(ValueError, match="layer 'module.1' carries no gradient"):
        trainer(distil(hint(1)), model=model).fit()


@pytest.mark.filterwarnings('ignore:SAM has known issues')
@pytest.mark.parametrize('algorithm', [
    lambda: SAM(rho=0.05), lambda: MixUp(alpha=0.2), lambda: EMA(half_life='2ba'), ChannelsLast,
], ids=['SAM', 'MixUp', 'EMA', 'ChannelsLast'])
def test_beside_other_algorithms(algorithm):
    fit = trainer([algorithm(), distil(hint(), 'kl_divergence')], model=student(), max_duration='4ba')
    start = projectors(fit)
    fit.fit()
    assert all(torch.isfinite(value).all() for value in projectors(fit).values())
    assert not same(start, projectors(fit))
    learner = fit.state.algorithms[-1]._teaching.tapping._learner
    states = learner._optimizer.state_dict()['state']
    assert len(states) == 2, 'one step of momentum each'


def test_several_teachers_have_their_own_projectors_and_their_weights():
    teachers = [{'module': flat(8, 20), 'weight': 3.0}, {'module': flat(9, 24)}]
    kd = Distillation(teachers, losses=[hint()], check_batches=0)
    fit = trainer(kd, model=student(), max_duration='1ba', loggers=[log := InMemoryLogger()])
    own, modules = copy.deepcopy(fit.state.model.module), copy.deepcopy(kd._teaching.tapping._learner.modules)
    models = [copy.deepcopy(teacher.module) for teacher in kd.teachers]
    fit.fit()
    x = images().tensors[0][:8]
    with torch.no_grad():
        parts = [F.mse_loss(modules[f'loss0_layer0_teacher{i}'](own[:4](x)), models[i][:4](x)) for i in (0, 1)]
    assert float(log.data['loss/train/kd'][0][1]) == pytest.approx(float(3 * parts[0] + parts[1]) / 4, rel=1e-5)


def test_lists_of_layers_are_pairs_and_their_mean():
    two, apart = (
        trainer(distil(*losses, check_batches=0), model=student(), max_duration='1ba', loggers=[InMemoryLogger()])
        for losses in (
            [{'name': 'attention_transfer', 'student_layer': ['1', '3'], 'teacher_layer': ['1', '3']}],
            [{'name': 'attention_transfer', 'student_layer': one, 'label': one, 'weight': 0.5} for one in '13'],
        )
    )
    two.fit()
    apart.fit()
    first, second = (float(t.logger.destinations[0].data['loss/train/kd'][0][1]) for t in (two, apart))
    assert first == pytest.approx(second, rel=1e-6)


def test_the_hooks_are_gone_when_the_window_has_closed():
    kd = distil(hint(), end='2ba')
    fit = trainer(kd, model=student(), max_duration='4ba')
    assert fit.state.model.module[3]._forward_hooks
    fit.fit()
    assert not fit.state.model.module[3]._forward_hooks
    assert not kd._teaching.tapping._student._found


def test_a_learning_rate_that_moves_moves_the_projectors_too():
    from composer.optim import LinearScheduler
    kd = distil(hint())
    fit = trainer(kd, model=student(), max_duration='4ba', schedulers=LinearScheduler(alpha_f=0.0))
    twin = kd._teaching.tapping._learner._optimizer
    rates = []
    for optimizer in (fit.state.optimizers[0], twin):
        optimizer.register_step_pre_hook(lambda one, *_: rates.append(one.param_groups[0]['lr']))
    fit.fit()
    assert rates[::2] == rates[1::2]
    assert len(set(rates)) > 2


def test_without_data_to_look_at_the_widths_are_asked_for():
    def built(**more):
        model = student()
        return Trainer(model=model, algorithms=distil(hint(**more)), progress_bar=False, max_duration='2ba',
                       optimizers=torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ValueError, match=r'losses.hint.projector: its widths .* student_width'):
        built()
    fit = built(projector={'kind': 'linear', 'student_width': 16, 'teacher_width': 24}, student_layer='5',
                teacher_layer='5')
    fit.fit(train_dataloader=loader())


@pytest.mark.parametrize(('losses', 'settings', 'told'), [
    ([hint(student_layer='module.33')], {}, r"the student has no module 'module.33'. Did you mean 'module.3'"),
    ([hint(teacher_layer='inner.3')], {}, 'has no module'),
    ([hint(student_layer='module.6')], {}, r'Name layers of one kind'),
    ([{'name': 'attention_transfer', 'student_layer': '5'}], {}, r'takes feature maps \(N, C, H, W\)'),
    ([{'name': 'attention_mse', 'student_layer': '6'}], {}, 'attn_implementation: eager'),
    ([hint()], {'teacher_microbatch_size': 16, 'microbatch': 4}, 'teacher_microbatch_size: 16'),
])
def test_what_cannot_be_had_is_refused_at_the_start(losses, settings, told):
    microbatch = settings.pop('microbatch', 8) if 'microbatch' in settings else 8
    with pytest.raises(ValueError, match=told):
        trainer(distil(*losses, **settings), model=student(), device_train_microbatch_size=microbatch).fit()


@pytest.mark.parametrize(('losses', 'settings', 'told'), [
    ([{'name': 'hint'}], {}, r"losses\[0\]: 'hint' compares layers, and student_layer is missing"),
    ([{'name': 'mse', 'student_layer': '3'}], {}, r"losses\[0\].student_layer: 'mse' compares logits"),
    ([hint(projector='conv')], {}, r"losses\[0\].projector: expected 'linear'"),
    ([hint(projector={'kind': 'mlp', 'hiden': 3})], {}, "Did you mean 'hidden'"),
    ([hint(student_layer=['1', '3'])], {}, '2 layers of the student and 1 of the teacher'),
    ([{'name': 'hnt', 'student_layer': '3'}], {}, "Did you mean 'hint'"),
    ([{'name': 'attention_mse', 'student_layer': '3', 'projector': 'linear'}], {}, 'attention has no width'),
    ([hint(student_layer='3:x')], {}, "'PATH:INDEX'"),
    ([hint(wieght=3)], {}, r"losses\[0\].*Did you mean 'weight'"),
    ([hint()], {'prepare': {'fold_batchnorm': True}}, 'prepare.fold_batchnorm: losses compare layers'),
    ([hint()], {'prepare': {'compile': True}}, 'prepare.compile'),
])
def test_what_makes_no_sense_is_refused_at_once(losses, settings, told):
    with pytest.raises(ValueError, match=told):
        distil(*losses, **settings)


def test_stored_answers_hold_no_layers(tmp_path):
    with pytest.raises(ValueError, match='stored answers hold logits alone'):
        Distillation({'module': flat(9), 'cache': {'path': str(tmp_path), 'fill': True}}, losses=[hint()])


def test_a_teacher_is_prepared_but_for_what_changes_its_layers():
    kd = Distillation(network(seed=9), losses=[HINT])
    fit = trainer(kd, model=classifier(), max_duration='3ba')
    fit.fit()
    assert not any('BatchNorm' in label for label in kd.teachers[0].told_of_preparation['prepared'])


def test_a_module_that_runs_twice_is_refused():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(64, 64), nn.Linear(64, 5)

        def forward(self, x):
            return self.head(self.body(self.body(x.flatten(1))))
    kd = Distillation(Twice(), losses=[{'name': 'hint', 'student_layer': 'body'}])
    with pytest.raises(ValueError, match="'body' of the student is called 2 times"):
        trainer(kd, model=ComposerClassifier(Twice(), num_classes=5))


def test_rows_that_are_not_finite_are_left_out_and_teach_nothing():
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = flat(9)
            self.layer = nn.Identity()

        def forward(self, x):
            features = self.inner[:4](x).clone()
            features[0] = float('nan')
            return self.inner[4:](self.layer(features)).nan_to_num()
    kd = distil(hint(teacher_layer='layer'), teacher=Breaks(), on_nonfinite='skip', prepare='none')
    fit = trainer(kd, model=student(), max_duration='3ba')
    fit.fit()
    assert kd.summary()['skipped_rows'] == 3
    assert all(torch.isfinite(value).all() for value in {**weights(fit), **projectors(fit)}.values())
    with pytest.raises(RuntimeError, match="a loss 'hint' that is not finite"):
        trainer(distil(hint(teacher_layer='layer'), teacher=Breaks(), prepare='none'), model=student()).fit()


@pytest.mark.parametrize('name', [name for name in FEATURE_LOSSES.names() if _takes(name) in ('any', 'map')])
def test_every_loss_of_pictures_trains(name):
    entry = {'name': name, 'student_layer': '3', 'teacher_layer': '3'}
    fit = trainer(distil(entry, kd_loss_weight=1.0, base_loss_weight=0.0), model=student(), max_duration='3ba',
                  loggers=[log := InMemoryLogger()])
    start = weights(fit)
    fit.fit()
    values = [float(value) for _, value in log.data['loss/train/kd']]
    assert all(0 < value < float('inf') for value in values)
    assert not torch.equal(start['module.0.weight'], weights(fit)['module.0.weight'])


def test_a_teacher_of_another_task_will_do_where_layers_alone_are_compared():
    class Other(ComposerClassifier):
        pass
    teacher = Other(network(classes=7, width=24, seed=9), num_classes=7)
    kd = Distillation(teacher, losses=[{**HINT, 'teacher_layer': 'module.4'}], prepare='none')
    fit = trainer(kd, max_duration='3ba')
    fit.fit()
    assert kd.summary()['active_batches'] == 3
    with pytest.raises(ValueError, match='has 7 outputs and the student 5'):
        trainer(Distillation(teacher, losses=[{**HINT, 'teacher_layer': 'module.4'}, 'mse']))


def test_a_teacher_without_layers_is_refused():
    teacher = flat(9)
    teacher.opaque = True
    with pytest.raises(ValueError, match='has no layers that can be captured'):
        trainer(distil(hint(), teacher=teacher), model=student())


def test_fsdp1_and_tensor_parallelism_are_refused():
    from types import SimpleNamespace

    from composer.utils.parallelism import FSDPConfig

    from composer_kd.tapping.start import refuse_impossible
    for settings, told in (({'fsdp_config': FSDPConfig()}, 'FSDP1'), ({'tp_config': object()}, 'tensor parallelism')):
        with pytest.raises(ValueError, match=told):
            refuse_impossible(SimpleNamespace(**settings), SimpleNamespace(teachers=[]))
