"""BatchNorm folded into the layer before it, where that is right and nowhere else."""

import pytest
import torch
from torch import nn

from composer_kd.teachers.preparing import (
    find_pairs,
    fold,
    read_prepare,
    refuse_impossible,
    relative_error,
    sharing_copy,
)
from tests.teachers.preparing_models import (
    ByValue,
    CalledTwice,
    NormFirst,
    PartlyByValue,
    ReadTwice,
    SharedNorm,
    TokensAsChannels,
    WeightsRead,
    lived_in,
    norms,
    pixels,
    prepared,
    small,
)


def folded(model):
    made = sharing_copy(model)
    fold(made, find_pairs(model).names)
    return made


@pytest.mark.parametrize(('layer', 'norm', 'inputs'), [
    (nn.Linear(6, 4), nn.BatchNorm1d(4), (3, 6)),
    (nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, affine=False), (3, 6)),
    (nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), (3, 6, 9)),
    (nn.Conv2d(6, 4, 3, padding=1, groups=2, bias=False), nn.BatchNorm2d(4, eps=0.1), (3, 6, 9, 9)),
    (nn.Conv2d(6, 4, 3, padding=1, padding_mode='reflect', dilation=2), nn.SyncBatchNorm(4), (3, 6, 9, 9)),
    (nn.Conv3d(6, 4, 3, stride=2), nn.BatchNorm3d(4), (3, 6, 9, 9, 9)),
    (nn.Conv2d(6, 4, 3).double(), nn.BatchNorm2d(4).double(), (3, 6, 9, 9)),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else '')
def test_every_kind_of_layer(layer, norm, inputs):
    model = lived_in(nn.Sequential(layer, norm, nn.ReLU()))
    x = torch.randn(inputs).to(layer.weight)
    made = folded(model)
    assert [type(part) for part in made] == [type(layer), nn.Identity, nn.ReLU]
    torch.testing.assert_close(made(x), model(x).detach(), rtol=1e-5, atol=1e-5)
    assert not made[0].weight.requires_grad


@pytest.mark.parametrize('model', [CalledTwice, ReadTwice, SharedNorm, NormFirst, WeightsRead, ByValue])
def test_a_batchnorm_that_is_not_alone_with_its_layer_stays(model):
    model = lived_in(model())
    assert find_pairs(model).names == ()
    with pytest.raises(ValueError, match='nothing can be folded, as'):
        refuse_impossible(model, read_prepare({'fold_batchnorm': True}), 'teachers[0]')
    teacher = prepared(model)
    plain = model(pixels()).detach()
    assert relative_error(teacher.outputs((pixels(), None)), plain) < 1e-5
    assert norms(teacher.module) == norms(model)


def test_folding_such_a_pair_would_be_wrong():
    """So the tests above say something."""
    for model in (CalledTwice, ReadTwice, SharedNorm, WeightsRead):
        model = lived_in(model())
        made = sharing_copy(model)
        layer = 'one' if isinstance(model, SharedNorm) else 'conv'
        fold(made, ((layer, 'norm'),))
        assert relative_error(made(pixels()).detach(), model(pixels()).detach()) > 1e-2


@pytest.mark.parametrize('change', [
    lambda model: model[1].train(),
    lambda model: model[0].register_forward_hook(lambda *_: None),
    lambda model: model[1].register_forward_pre_hook(lambda *_: None),
    lambda model: nn.utils.parametrizations.weight_norm(model[0]),
    lambda model: setattr(model[1], 'running_mean', None) or setattr(model[1], 'running_var', None),
], ids=['train mode', 'hook on the layer', 'hook on the BatchNorm', 'weight normalised', 'no running statistics'])
def test_a_pair_that_is_more_than_that_stays(change):
    model = small()
    assert find_pairs(model).names == (('0', '1'),)
    change(model)
    made = find_pairs(model)
    if model[1].training:  # a teacher is never asked in train mode
        assert find_pairs(model.train()).names == find_pairs(model.eval()).names == (('0', '1'),)
    else:
        assert made.names == ()


def test_a_batchnorm_without_running_statistics_answers_by_the_batch():
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                          nn.Linear(8, 5)).eval()
    model[4].weight.data += torch.randn(5, 8)
    teacher = prepared(model, {'tolerance': 1e-4})
    x = pixels() ** 3
    assert relative_error(teacher.outputs((x, None)), model(x).detach()) < 1e-4
    assert teacher.told_of_preparation['prepared'] == ['channels_last']


def test_parts_that_cannot_be_followed_are_passed_over():
    model = lived_in(PartlyByValue())
    assert find_pairs(model).names == (('stem.0', 'stem.1'),)
    assert relative_error(folded(model)(pixels()).detach(), model(pixels()).detach()) < 1e-5


def test_layers_in_one_of_torchs_own_modules_are_not_seen():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
            self.linear, self.norm = self.encoder.linear1, nn.BatchNorm1d(8)

        def forward(self, x):
            return self.norm(self.linear(self.encoder(x).mean(1)))
    assert find_pairs(lived_in(Both())).names == ()


def test_names_stay_and_a_module_of_two_names_is_replaced_under_both():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
            self.last = self.body[1]

        def forward(self, x):
            return self.body(x)
    model = lived_in(Twice())
    made = folded(model)
    assert [name for name, _ in made.named_modules(remove_duplicate=False)] == [
        name for name, _ in model.named_modules(remove_duplicate=False)]
    assert made.last is made.body[1]
    assert type(made.last) is nn.Identity


def test_arguments_nobody_gives_have_their_defaults():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()

        def forward(self, x, scale=None, features=False):
            if features:
                return x
            return self.body(x if scale is None else x * scale)
    assert find_pairs(Model().eval()).names == (('body.0', 'body.1'),)


def test_looking_at_a_model_leaves_it_alone():
    class Remembers(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.last, self.calls = small(), None, 0

        def forward(self, x):
            self.last, self.calls = x, self.calls + 1
            return self.body(x)
    model = Remembers().eval()
    assert find_pairs(model).names == (('body.0', 'body.1'),)
    assert (model.last, model.calls) == (None, 0)


def test_a_pair_that_only_values_tell_apart_is_caught_by_its_first_answer():
    model = lived_in(TokensAsChannels())
    assert find_pairs(model).names == (('linear', 'norm'),)
    teacher = prepared(model)
    with pytest.warns(UserWarning, match=r"Teacher 'a' \(module\): prepare\.fold_batchnorm \(fold_batchnorm \(1\)\) takes its first answers .* That is left out"):
        answer = teacher.outputs((pixels(), None))
    assert torch.equal(answer, model(pixels()).detach())
    assert teacher.told_of_preparation['prepared'] == []
    assert teacher.module is model
