"""Where teachers lie: chosen by size, brought in when used, asked in parts. Sharding itself runs in tests/distributed."""

import pytest
import torch
import transformers
from torch import nn

from composer_kd import Distillation
from composer_kd.teachers import Teacher, digest_of, settle
from composer_kd.teachers import placement as place
from tests.common import classifier, network, trainer, weights
from tests.integration.test_huggingface import bert, composer_model, masked

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')


@pytest.mark.parametrize(('sizes', 'ranks', 'gpu', 'shardable', 'expected'), [
    ([10, 20], 1, True, True, ['replicated', 'replicated']),
    ([60, 60], 8, True, True, ['replicated', 'sharded']),
    ([60, 60], 8, True, False, ['replicated', 'host']),
    ([60, 60], 1, True, True, ['replicated', 'host']),
    ([900], 8, True, True, ['host']),
    ([60, 60], 1, False, True, ['replicated', 'replicated']),
    ([900], 8, False, True, ['sharded']),
    ([99, 8, 1], 8, True, True, ['replicated', 'sharded', 'host']),
])
def test_auto_goes_by_size(sizes, ranks, gpu, shardable, expected):
    assert settle('auto', sizes, 100, ranks, gpu, [shardable] * len(sizes)) == expected


@pytest.mark.parametrize('asked', ['replicated', 'host'])
def test_what_is_asked_for_is_given(asked):
    assert settle(asked, [1, 10**12], 100, 8, True, [True, False]) == [asked] * 2
    assert settle('sharded', [1, 2], 100, 8, True, [True] * 2) == ['sharded'] * 2
    assert settle('sharded', [1, 2], 100, 1, True, [True] * 2) == ['replicated'] * 2, 'on one rank the part is the whole'
    assert settle('auto', [60, 60, 60], 50, 8, True, [True, False, True]) == ['sharded', 'host', 'sharded']


def test_auto_looks_at_the_size_of_the_teacher_and_the_memory(monkeypatch):
    big = network(width=64)
    monkeypatch.setattr(place, 'device_memory', lambda state: 4 * place.size_of(big))
    chosen = []
    monkeypatch.setattr('composer_kd.teachers.placement.settle', lambda *args: chosen.append(args) or ['host'])
    kd = Distillation(big)
    trainer(kd)
    (asked, sizes, room, ranks, gpu, shardable), = chosen
    assert (asked, sizes, room, ranks, gpu, shardable) == ('auto', [place.size_of(big)], place.size_of(big), 1, False, [True])
    assert kd.teachers[0].placement == 'host'


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    assert place.size_of(model) == 128
    model[1].weight = model[0].weight
    assert place.size_of(model) == 64


def test_blocks_are_the_layers_of_a_transformer_and_not_what_they_share(monkeypatch):
    monkeypatch.setattr(place, 'SMALLEST_BLOCK', 1)
    model = bert(num_hidden_layers=3)
    assert place.blocks(model) == list(model.bert.encoder.layer)
    shared = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    shared[1].weight = shared[0].weight
    assert place.blocks(shared) == []
    monkeypatch.setattr(place, 'SMALLEST_BLOCK', 10**6)
    assert place.blocks(model) == []


@pytest.mark.parametrize('smallest', [1, 10**9], ids=['layer by layer', 'whole'])
@pytest.mark.parametrize('model', [lambda: bert(num_hidden_layers=2), lambda: network()], ids=['bert', 'convolutional'])
def test_weights_lie_at_home_but_while_they_are_used(monkeypatch, model, smallest):
    monkeypatch.setattr(place, 'SMALLEST_BLOCK', smallest)
    model = model().eval()
    sizes = dict(masked(2)[0]) if isinstance(model, transformers.BertForMaskedLM) else None
    inputs = torch.stack([sizes['input_ids']] * 2) if sizes else torch.randn(2, 1, 8, 8)
    expected = model(inputs)
    homes = {name: value.data_ptr() for name, value in model.state_dict().items()}
    digest = digest_of(model)
    away = []
    for module in model.modules():
        if list(module.parameters(recurse=False)):
            module.register_forward_hook(lambda m, *_: away.append(
                sum(any(p.data_ptr() != homes[n] for q, p in (*model.named_parameters(), *model.named_buffers()) if q == n)
                    for n in homes)))
    place.bring_when_used(model, torch.device('cpu'))
    with torch.no_grad():
        again = model(inputs)
    assert torch.equal(*(v.logits if hasattr(v, 'logits') else v for v in (expected, again)))
    assert all(away), 'while a layer runs something of the model is on the device'
    if smallest == 1:
        assert max(away) < len(homes), 'and not all of it'
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == homes
    assert digest_of(model) == digest


def test_a_buffer_that_several_layers_share_is_brought_with_the_model(monkeypatch):
    monkeypatch.setattr(place, 'SMALLEST_BLOCK', 1)

    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('table', torch.ones(4), persistent=False)

    class Layer(nn.Module):
        def __init__(self, shared):
            super().__init__()
            self.linear, self.shared = nn.Linear(4, 4), shared

        def forward(self, x):
            away.append((self.linear.weight.data_ptr() != homes[id(self.linear.weight)],
                         self.shared.table.data_ptr() != homes[id(self.shared.table)]))
            return self.linear(x) * self.shared.table

    table = Table()
    model, away = nn.Sequential(*(Layer(table) for _ in range(3))), []
    homes = {id(tensor): tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    place.bring_when_used(model, torch.device('cpu'))
    model(torch.zeros(1, 4))
    assert away == [(True, True)] * 3


def test_autocast_keeps_no_copy_of_what_is_brought():
    """It keeps those of parameters that could learn until the forward is over: the whole teacher, in the end."""
    lent = network(seed=9)
    kd = Distillation(lent, placement='host')
    trainer(kd)
    assert not any(parameter.requires_grad for parameter in kd.teachers[0].module.parameters())
    assert all(parameter.requires_grad for parameter in lent.parameters())


def test_weights_go_home_after_an_error_too():
    class Fails(nn.Sequential):
        def forward(self, x):
            super().forward(x)
            raise RuntimeError('CUDA out of memory')
    model = Fails(nn.Linear(4, 4))
    home = model[0].weight.data_ptr()
    place.bring_when_used(model, torch.device('cpu'))
    with pytest.raises(RuntimeError, match='out of memory'):
        model(torch.zeros(1, 4))
    assert model[0].weight.data_ptr() == home


def test_a_module_of_the_users_is_left_alone():
    teacher = network(seed=9)
    kd = Distillation(teacher, placement='host')
    trainer(kd)
    assert kd.teachers[0].module is not teacher
    assert not teacher._forward_pre_hooks
    kd = Distillation(teacher, placement='replicated')
    trainer(kd)
    assert kd.teachers[0].module is teacher


@pytest.mark.parametrize('settings', [
    {'placement': 'host'}, {'placement': 'sharded'}, {'teacher_microbatch_size': 1}, {'teacher_microbatch_size': 3},
    {'teacher_microbatch_size': 100}, {'placement': 'host', 'teacher_microbatch_size': 3},
])
def test_training_is_the_same_wherever_and_in_whatever_parts(settings):
    def train(**more):
        fit = trainer(Distillation(network(seed=9), **more), model=classifier(), device_train_microbatch_size=4)
        fit.fit()
        return weights(fit)
    for name, weight in train().items():
        torch.testing.assert_close(train(**settings)[name], weight, rtol=1e-4, atol=1e-5)


def test_a_teacher_is_asked_about_no_more_samples_at_once():
    sizes = []
    teacher = network(seed=9)
    teacher.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    trainer(Distillation(teacher, teacher_microbatch_size=3, check_batches=0), max_duration='1ba').fit()
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize('size', [1, 5, 12])
def test_masked_positions_are_found_again_in_the_parts(size):
    """A model that answers at the labelled positions alone, in parts of a batch."""
    from composer_kd.batches import labelled
    from composer_kd.teachers.parts import joined, parts_of
    model = composer_model(seed=1).eval()
    batch = {key: torch.stack([item[key] for item in masked(12)]) for key in masked(1)[0]}
    teacher = Teacher(model, 'a')
    positions = labelled(batch['labels'], -100)
    positions = positions[torch.randperm(len(positions))]
    whole = teacher.outputs(batch, positions)
    parts = parts_of(batch, positions, size, None)
    assert len(parts) == -(-12 // size)
    found = joined([teacher.outputs(part, where) for part, where, _ in parts], [places for _, _, places in parts])
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_a_pinned_digest_is_held_against_the_teacher():
    teacher = network(seed=9)
    digest = digest_of(teacher)
    trainer(Distillation({'module': teacher, 'digest': digest[:8]}))
    with pytest.raises(ValueError, match=rf'teachers\[0\] .*\.digest: .* was to have the digest 00000000, and has {digest[:16]}'):
        trainer(Distillation({'module': network(seed=9), 'digest': '00000000'}))
    with pytest.raises(ValueError, match=r"teachers\[0\] \('teacher0'\)\.digest: "):
        Distillation({'module': network(seed=9), 'digest': '00000000'}).check_teachers(classifier())
    for wrong in ('123', 'XYZ12345', 12345678):
        with pytest.raises(ValueError, match=r'teachers\[0\]\.digest: expected 8 or more'):
            Distillation({'module': teacher, 'digest': wrong})
