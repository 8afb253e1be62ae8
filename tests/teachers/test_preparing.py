"""Teachers prepared for inference: what may be asked for, which steps are taken, and that each answers as before."""

import copy

import pytest
import torch
from composer.core import Precision
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import Distillation
from composer_kd.models import build_model
from composer_kd.models.surgery import apply_surgery
from composer_kd.teachers import Teacher, digest_of
from composer_kd.teachers.preparing import (
    AUTO,
    choose_steps,
    read_prepare,
    relative_error,
    sharing_copy,
    with_resolution,
)
from tests.answers.training import text_model
from tests.common import Counting, same, weights
from tests.integration.test_huggingface import bert, masked
from tests.teachers.preparing_models import CPU, lived_in, norms, pixels, prepared, small

CUDA = torch.device('cuda')


@pytest.fixture(autouse=True)
def _nothing_is_compiled():
    torch.compiler.reset()  # of one piece of code torch compiles so many forms, and then runs it as it is


@pytest.mark.parametrize(('said', 'error', 'message'), [
    ('atuo', ValueError, r"prepare: expected 'auto', 'none' or a mapping such as \{precision: bf16\}, got 'atuo'\. Did you mean 'auto'"),
    (True, TypeError, "prepare: expected 'auto', 'none' or a mapping .* got bool: True"),
    (None, TypeError, 'got NoneType'),
    ({'precison': 'bf16'}, ValueError, r"prepare: unknown key 'precison'\. Did you mean 'precision'"),
    ({'nothing': True}, ValueError, "prepare: unknown key 'nothing'"),
    ({'precision': 'bf61'}, ValueError, r"prepare\.precision: expected 'auto', 'run', 'bf16', 'fp16' or 'fp32', got 'bf61'\. Did you mean 'bf16'"),
    ({'precision': 16}, ValueError, r'prepare\.precision: .* got 16'),
    ({'channels_last': 'yes'}, ValueError, r"prepare\.channels_last: expected true, false or 'auto', got 'yes'"),
    ({'fold_batchnorm': 1}, ValueError, r"prepare\.fold_batchnorm: expected true, false or 'auto', got 1"),
    ({'compile': 'inductor'}, TypeError, r'prepare\.compile: expected true, false or arguments of torch\.compile such as'),
    ({'compile': {'bakend': 'x'}}, ValueError, r"prepare\.compile: unknown key 'bakend'\. Did you mean 'backend'"),
    ({'compile': {'backend': 'aot_eagre'}}, ValueError, r"prepare\.compile\.backend: .* got 'aot_eagre'\. Did you mean 'aot_eager'"),
    ({'compile': {'mode': 'max-autotun'}}, ValueError, r"prepare\.compile\.mode: .* Did you mean 'max-autotune'"),
    ({'compile': {'mode': 'default', 'options': {}}}, ValueError, r"prepare\.compile: 'mode' stands for a set of options"),
    ({'compile': {'backend': 'eager', 'mode': 'default'}}, ValueError, r"prepare\.compile: 'mode' and 'options' are inductor's"),
    ({'compile': {'options': 3}}, TypeError, r'prepare\.compile\.options: expected a mapping, got int'),
    ({'compile': {'dynamic': 'no'}}, TypeError, r"prepare\.compile\.dynamic: expected true or false, got 'no'"),
    ({'resolution': 0}, ValueError, r'prepare\.resolution: expected a number of pixels of 1 or more, got 0'),
    ({'resolution': True}, ValueError, r'prepare\.resolution'),
    ({'tolerance': -1}, ValueError, r'prepare\.tolerance: expected a finite number of 0 or more, got -1'),
    ({'tolerance': float('nan')}, ValueError, r'prepare\.tolerance'),
])
def test_what_is_refused(said, error, message):
    with pytest.raises(error, match=message) as raised:
        Distillation(small(), prepare=said)
    assert '\n' not in str(raised.value)
    if said is not None:  # of one teacher, nothing said is as all are
        with pytest.raises(error, match=r'^teachers\[0\]\.prepare'):
            Distillation({'module': small(), 'prepare': said})


def test_a_store_alone_has_no_teacher_to_prepare(tmp_path):
    with pytest.raises(ValueError, match="unknown key 'prepare'"):
        Distillation({'cache': str(tmp_path), 'prepare': 'auto'})


def test_settings_as_they_are_logged():
    said = {'precision': 'fp32', 'compile': {'backend': 'aot_eager'}, 'resolution': 6, 'tolerance': 1}
    assert Distillation(small(), prepare=said).settings['prepare'] == said
    assert Distillation(small(), prepare={'compile': True}).settings['prepare'] == {'compile': True}
    assert [Distillation(small(), prepare=one).settings['prepare'] for one in ('auto', 'none', {}, {'compile': False})] == [
        'auto', 'none', 'auto', 'auto']


def steps(model, prepare='auto', device=CPU, precision='fp32', placement='replicated'):
    return [step.label for step in choose_steps(model, read_prepare(prepare), device, Precision(precision), placement, "Teacher 'a'")]


def resnet(**settings):
    return build_model({'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 5, **settings})


ARCHITECTURES = {
    'digits_resnet': (lambda: build_model('digits_resnet'), ['fold_batchnorm (7)', 'channels_last']),
    'resnet_cifar': (lambda: build_model({'name': 'resnet_cifar', 'depth': 8}), ['fold_batchnorm (7)', 'channels_last']),
    'resnet': (resnet, ['fold_batchnorm (20)', 'channels_last']),
    # what stands between a convolution and its BatchNorm keeps the two apart
    'blurpool': (lambda: apply_surgery(resnet(), {'blurpool': {}}), ['fold_batchnorm (14)', 'channels_last']),
    'squeeze_excite': (lambda: apply_surgery(resnet(), {'squeeze_excite': {}}), ['fold_batchnorm (7)', 'channels_last']),
    'factorize': (lambda: apply_surgery(resnet(), {'factorize': {'min_features': 64}}), ['fold_batchnorm (20)', 'channels_last']),
    'bert_masked_lm': (lambda: text_model(40), []),
    'bert_classifier': (lambda: build_model({
        'name': 'bert_classifier', 'num_labels': 3, 'vocab_size': 40, 'hidden_size': 16, 'num_hidden_layers': 1,
        'num_attention_heads': 2, 'intermediate_size': 32}), []),
    'linear': (lambda: nn.Linear(4, 3), []),
}


@pytest.mark.filterwarnings('ignore::composer.algorithms.warnings.NoEffectWarning')
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_auto_for_the_architectures_of_the_recipes(name):
    make, expected = ARCHITECTURES[name]
    model = lived_in(make())
    digest = digest_of(model)
    assert steps(model) == expected
    assert steps(model, 'none') == []
    assert steps(model, placement='host') == steps(model, placement='sharded') == [], 'weights there stay as they are'
    text = name.startswith('bert')
    weights_in = ['weights in bf16']
    assert steps(model, device=CUDA, precision='amp_bf16') == expected + weights_in
    assert steps(model, device=CUDA, precision='amp_fp16') == [*expected, 'weights in fp16']
    assert steps(model, device=CUDA) == steps(model, device=CUDA, precision='amp_fp8') == expected
    teacher = prepared(model)
    if not expected:
        assert teacher.prepared is None
        return
    assert not text
    batch = (pixels(4, 1 if name == 'digits_resnet' else 3, 8 if name == 'digits_resnet' else 32), torch.zeros(4))
    with torch.no_grad():
        plain = model((batch[0], None))
    assert relative_error(teacher.outputs(batch), plain) < 1e-5
    assert teacher.told_of_preparation['prepared'] == expected
    assert norms(teacher.module) < norms(model)
    assert digest_of(model) == digest == teacher.digest


@pytest.mark.parametrize('architecture', ['mobilenet_v3_small', 'efficientnet_b0', 'densenet121', 'googlenet', 'inception_v3', 'vit_b_16'])
def test_auto_for_architectures_of_torchvision(architecture):
    from torchvision.models import get_model
    side = {'inception_v3': 75, 'vit_b_16': 224}.get(architecture, 64)
    model = lived_in(get_model(architecture, num_classes=7, **({'init_weights': False} if 'cept' in architecture or 'goo' in architecture else {})))
    expected = {'mobilenet_v3_small': 34, 'efficientnet_b0': 49, 'densenet121': 59, 'googlenet': 57, 'inception_v3': 94}
    folded = [f'fold_batchnorm ({expected[architecture]})'] if architecture in expected else []
    teacher, batch = prepared(ComposerClassifier(model, num_classes=7)), (pixels(2, 3, side), None)
    with torch.no_grad():
        plain = model(batch[0])
    assert relative_error(teacher.outputs(batch), plain) < 1e-5
    assert teacher.told_of_preparation['prepared'] == [*folded, 'channels_last']


STEPS = {
    'channels_last': ({'channels_last': True, 'fold_batchnorm': False}, 1e-5),
    'fold_batchnorm': ({'channels_last': False, 'fold_batchnorm': True}, 1e-5),
    'bf16': ({'precision': 'bf16'}, 0.03),
    'fp16': ({'precision': 'fp16'}, 0.01),
    'fp32': ({'precision': 'fp32'}, 1e-5),
    'aot_eager': ({'compile': {'backend': 'aot_eager'}}, 1e-5),
    'inductor': ({'compile': True}, 1e-5),
}


@pytest.mark.parametrize('name', STEPS)
def test_each_step_answers_as_the_untouched_teacher(name):
    said, tolerance = STEPS[name]
    # the C++ of convolutions takes a minute to compile
    model = lived_in(nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5))) if name == 'inductor' else small()
    teacher, x = prepared(model, said), pixels()
    with torch.no_grad():
        plain = model(x)
    for batch in ((x, None), (x[:5], None)):  # the second is not checked, and of another size
        answer = teacher.outputs(batch)
        assert relative_error(answer.float(), plain[:len(batch[0])]) < tolerance
        assert not answer.requires_grad
    if name in ('bf16', 'fp16'):
        assert answer.dtype == {'bf16': torch.bfloat16, 'fp16': torch.float16}[name]
        assert relative_error(answer.float(), plain[:5]) > 1e-5
    assert teacher.prepared.error <= teacher.prepared._tolerance


def test_channels_last_lays_weights_and_images_so():
    model = small()
    seen = []
    teacher = prepared(model, {'channels_last': True})
    inner = teacher.prepared.model
    for part in (inner[0], inner[3]):
        part.register_forward_pre_hook(lambda module, args: seen.append(args[0].is_contiguous(memory_format=torch.channels_last)))
    teacher.outputs((pixels(side=8), None))
    assert seen == [True, True] * 2, 'of the check, and of the answer'
    assert inner[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[3].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('make', [small, lambda: bert(hidden_size=32), lambda: bert(kind='BertForSequenceClassification')], ids=['convolutions', 'tied weights', 'classifier'])
def test_weights_kept_in_16_bits_give_the_bits_that_autocast_gives(make, dtype):
    model = make().eval()
    if isinstance(model, nn.Sequential):
        batch = (pixels(), None)
    else:
        batch = {key: torch.stack([item[key] for item in masked(12)]) for key in ('input_ids', 'attention_mask')}
    said = {'precision': 'bf16' if dtype is torch.bfloat16 else 'fp16', 'channels_last': False, 'fold_batchnorm': False}
    teacher = prepared(model, {**said, 'tolerance': 0.5})
    with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
        plain = model(batch[0]) if isinstance(batch, tuple) else model(**batch).logits
    assert torch.equal(teacher.outputs(batch), plain)
    kept = {type(part) for part in teacher.module.modules() for p in part.parameters(recurse=False) if p.dtype is dtype}
    assert kept
    assert kept <= {nn.Linear, nn.Conv2d}
    assert not any(p.dtype is dtype for p in model.parameters())


def test_weights_that_layers_share_are_kept_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Embedding(4, 4))
    model[1].weight = model[2].weight = model[0].weight
    made = prepared(model, {'precision': 'bf16'}).prepared.model
    assert made[0].weight is made[1].weight
    assert (made[0].weight.dtype, made[2].weight.dtype) == (torch.bfloat16, torch.float32)


def test_a_copy_shares_what_no_step_changes():
    model = nn.Sequential(small(), nn.Linear(5, 5))
    model[1].register_buffer('table', torch.ones(3))
    made = sharing_copy(model)
    assert all(a.data_ptr() == b.data_ptr() and a is not b for a, b in zip(
        (*model.parameters(), *model.buffers()), (*made.parameters(), *made.buffers()), strict=True))
    assert all(p.requires_grad for p in model.parameters())
    made[1].weight.data = torch.zeros(5, 5)
    assert model[1].weight.abs().sum() > 0


def test_the_users_module_is_left_alone():
    model = small()
    kept, flags = copy.deepcopy(weights(model)), [p.requires_grad for p in model.parameters()]
    x = pixels()
    with torch.no_grad():
        plain = model(x)
    teacher = prepared(model, {'precision': 'bf16', 'compile': {'backend': 'aot_eager'}}, borrowed=True)
    teacher.outputs((x, None))
    assert teacher.module is not model
    with torch.no_grad():
        assert torch.equal(model(x), plain)
    assert same(weights(model), kept)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [type(part) for part in model][:2] == [nn.Conv2d, nn.BatchNorm2d]


def test_a_model_with_hooks_is_left_as_it_is_unless_it_is_asked_for(caplog):
    caplog.set_level('DEBUG', 'composer_kd')
    counting = Counting(small())
    assert steps(counting) == []
    assert "'auto' leaves it as it is, as its module '' has hooks" in caplog.text
    assert steps(counting, {'channels_last': True, 'precision': 'fp32'}) == ['channels_last', 'precision fp32']


def test_a_model_that_cannot_be_copied(caplog):
    class Locked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = small()

        def __deepcopy__(self, memo):
            raise TypeError('cannot be copied')

        def forward(self, x):
            return self.inner(x)

    caplog.set_level('DEBUG', 'composer_kd')
    teacher = prepared(Locked())
    x = pixels()
    with torch.no_grad():
        assert torch.equal(teacher.outputs((x, None)), teacher.module.inner(x))
    assert teacher.told_of_preparation['prepared'] == []
    assert 'cannot be copied' in caplog.text
    with pytest.raises(ValueError, match=r"Teacher 'a' \(module\): prepare\.channels_last fails: cannot be copied"):
        prepared(Locked(), {'channels_last': True})


@pytest.mark.parametrize(('model', 'said', 'message'), [
    (lambda: nn.Linear(64, 5), {'channels_last': True}, r"prepare\.channels_last: the teacher has no two-dimensional convolutions"),
    (lambda: nn.Conv2d(1, 1, 1), {'fold_batchnorm': True}, r'prepare\.fold_batchnorm: nothing can be folded, as it has no BatchNorm'),
])
def test_what_cannot_be_is_refused_before_training_and_by_validate(model, said, message):
    from tests.common import classifier, trainer
    for where, teacher, more in (('', {'module': model()}, {'prepare': said}), ('', {'module': model(), 'prepare': said}, {})):
        with pytest.raises(ValueError, match=where + message):
            trainer(Distillation(teacher, **more))
        with pytest.raises(ValueError, match=r"teachers\[0\] \('teacher0'\)\." + message):
            Distillation(teacher, **more).check_teachers(classifier())


@pytest.mark.parametrize('placement', ['host', 'sharded'])
def test_weights_that_lie_elsewhere_stay_as_they_are(placement):
    for said, names in (({'channels_last': True}, r'prepare\.channels_last'), ({'fold_batchnorm': True, 'compile': True},
                                                                              r'prepare\.fold_batchnorm and prepare\.compile')):
        with pytest.raises(ValueError, match=rf"Teacher 'a': {names} cannot be had where its weights are '{placement}'"):
            steps(small(), said, placement=placement)
    assert steps(small(), {'precision': 'bf16', 'resolution': 4}, placement=placement) == ['resolution 4', 'precision bf16']


def test_fp8_is_composers():
    with pytest.raises(ValueError, match=r"Teacher 'a': prepare\.precision is 'bf16', and the run's is amp_fp8"):
        steps(small(), {'precision': 'bf16'}, device=CUDA, precision='amp_fp8')


def test_flops_are_those_of_the_eager_model():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)).eval()
    batch = (pixels(), None)
    for said in ('none', 'auto', {'compile': {'backend': 'aot_eager'}}, {'precision': 'bf16'}):
        teacher = prepared(model, said)
        assert teacher.flops(batch) == 2 * (64 * 16 + 16 * 5)
        assert teacher.prepared is None or teacher.prepared.error is None, 'counting checks nothing'
        teacher.outputs(batch)
        assert teacher.flops(batch) == 2 * (64 * 16 + 16 * 5)


@pytest.mark.parametrize('make', [small, lambda: ComposerClassifier(small(), num_classes=5), lambda: bert().eval()], ids=['sequential', 'composer', 'mapping'])
def test_what_is_compiled_is_compiled(make):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward
    model = make()
    mapping = {key: torch.stack([item[key] for item in masked(12)]) for key in ('input_ids', 'attention_mask')}
    batch = mapping if hasattr(model, 'config') else (pixels(), None)
    plain = Teacher(model, 'b').outputs(batch)
    teacher = prepared(model, {'compile': {'backend': backend}})
    assert relative_error(teacher.outputs(batch), plain) < 1e-5
    assert graphs
    assert teacher.told_of_preparation['prepared'][-1] == 'compile (backend)'
    assert model.forward.__func__ is type(model).forward


def test_masked_positions_are_checked_and_answered():
    model = text_model(40, seed=1)
    batch = {key: torch.stack([item[key] for item in masked(12)]) for key in masked(1)[0]}
    positions = (batch['labels'].flatten() != -100).nonzero().squeeze(1)
    plain = Teacher(model, 'b').outputs(batch, positions)
    for said in ({'precision': 'bf16'}, {'compile': {'backend': 'aot_eager'}}):
        teacher = prepared(model, said)
        answer = teacher.outputs(batch, positions)
        assert answer.shape == (len(positions), 40)
        assert 0 <= teacher.prepared.error <= relative_error(answer.float(), plain) + 0.05
        assert relative_error(answer.float(), plain) < 0.05


def test_a_digest_is_that_of_the_untouched_weights_but_for_another_resolution():
    model = small()
    teachers = []
    for said in ('none', 'auto', {'precision': 'bf16'}, {'resolution': 6}):
        kd = Distillation({'module': model, 'prepare': said})
        from tests.common import trainer
        trainer(kd)
        teachers += kd.teachers
    own = digest_of(model)
    assert [teacher.digest for teacher in teachers] == [own] * 3 + [with_resolution(own, 6)]
    for pinned in (own, with_resolution(own, 6)):
        trainer(Distillation({'module': model, 'prepare': {'resolution': 6}, 'digest': pinned[:12]}))
    assert AUTO.plain == 'auto'
