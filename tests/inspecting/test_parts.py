"""Layers, memory and verdicts by themselves."""

import pytest
import torch
import transformers
from composer.devices import DeviceCPU
from torch import nn

from composer_kd.inspecting.cost import _without_layers, weigh
from composer_kd.inspecting.layers import chosen, observe
from composer_kd.inspecting.result import Beside, Calibration
from composer_kd.inspecting.verdict import judge


def test_the_layers_of_a_transformer_with_attention():
    config = transformers.BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8)
    model = nn.Sequential()
    model.model = transformers.BertForMaskedLM(config)
    words = torch.randint(0, 20, (3, 5))
    layers = observe(model, lambda: model.model(words), 3, 5)
    found = {layer.name: layer for layer in layers}
    assert not any(module._forward_hooks for module in model.modules()), 'hooks are taken away'
    assert (found['model.bert.encoder.layer.1'].kind, found['model.bert.encoder.layer.1'].shape) == ('hidden', (5, 8))
    assert found['model.bert.encoder.layer.1.attention.self'].shape == (5, 8), 'the first tensor of its tuple'
    assert [layer.name for layer in chosen(model, layers, 'top')] == [
        'model.bert', 'model.bert.embeddings', 'model.bert.encoder', 'model.bert.encoder.layer.0',
        'model.bert.encoder.layer.1', 'model.cls',
    ]
    assert chosen(model, layers, 'all') == layers
    assert [layer.name for layer in chosen(model, layers, '*.layer.?')] == ['model.bert.encoder.layer.0', 'model.bert.encoder.layer.1']


def test_blocks_in_a_row_are_listed_where_there_are_few_stages():
    def block():
        return nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    row = nn.Sequential(*(block() for _ in range(4)))
    stages = nn.Sequential(*(nn.Sequential(*(block() for _ in range(4))) for _ in range(5)))
    rows = torch.randn(2, 3)

    def top(**parts):
        model = nn.Sequential()
        for name, part in parts.items():
            model.add_module(name, part)
        wrapped = nn.Sequential(model)
        return [layer.name for layer in chosen(wrapped, observe(wrapped, lambda: wrapped(rows), 2, None), 'top')]
    assert top(stem=nn.Linear(3, 3), body=row, head=nn.Linear(3, 3)) == [
        '0.stem', '0.body', '0.body.0', '0.body.1', '0.body.2', '0.body.3', '0.head']
    assert top(**{f's{n}': stage for n, stage in enumerate(stages)}) == ['0.s0', '0.s1', '0.s2', '0.s3', '0.s4']


class Weights(nn.Module):
    def forward(self, x):
        return (x.transpose(-1, -2) @ x).softmax(-1).unsqueeze(1)


def test_kinds():
    model = nn.Sequential()
    model.attention, model.other = Weights(), nn.Flatten(0, 1)
    rows = torch.randn(2, 3, 4)
    found = {layer.name: layer for layer in observe(model, lambda: (model.attention(rows), model.other(rows)), 2, None)}
    assert (found['attention'].kind, found['attention'].shape) == ('attention', (1, 4, 4))
    assert (found['other'].kind, found['other'].shape, found['other'].by_sample) == ('other', (6, 4), False)


def test_the_peak_of_a_forward():
    """Of three layers, two outputs of 8 numbers are there at once, in float32, beside the weights."""
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    rows = torch.randn(5, 8)
    found = weigh(model, lambda: model(rows), 5, DeviceCPU())
    weights = 3 * 8 * 8 * 4
    assert (found.weights, found.peak, found.samples) == (weights, weights + 2 * 5 * 8 * 4, 5)


def test_losses_on_layers_are_left_out_of_the_times():
    said = {'losses': [{'name': 'kl_divergence'}, {'name': 'fitnet', 'student_layer': 'a', 'teacher_layer': 'b'}], 'end': '1ep'}
    kept, notes = _without_layers(said)
    assert kept == {'losses': [{'name': 'kl_divergence'}], 'end': '1ep'}
    assert len(notes) == 1
    assert _without_layers({'losses': said['losses'][1:]})[0] == {}
    assert _without_layers({'loss': 'mse'}) == ({'loss': 'mse'}, [])


def calibrated(temperature=1.0, confidence=0.9, heat=1.0, entropy=0.4):
    return Calibration(confidence, 0.1, 1.0, temperature, 1.0, 0.01, 100, None, None, heat, 1.0, entropy)


def beside(only_teacher, only_student, agreement=0.9):
    return Beside('runs/s', 'd', 'finished', {}, 0.8, 1.0, agreement, 0.1, only_teacher, only_student)


def told(rows=1000, accuracy=0.8, commonest=0.1, calibration=None, student=None):
    found = judge(rows, accuracy, commonest, calibration, student, 'none', None, '')
    return found.good, ' '.join(found.sentences)


@pytest.mark.parametrize(('given', 'good', 'words'), [
    ({'accuracy': 0.11}, False, 'no better than chance'),
    ({'accuracy': 0.13}, True, 'right on 13.0 %'),
    ({'accuracy': 0.13, 'rows': 100}, False, 'no better than chance'),
    ({'accuracy': 0.92, 'commonest': 0.93}, False, 'naming the commonest'),
    ({'student': beside(0.02, 0.08)}, False, 'worse than the student in runs/s'),
    ({'student': beside(0.08, 0.02)}, True, 'better than the student'),
    ({'student': beside(0.05, 0.06)}, True, 'cannot be told apart'),
    ({'student': beside(0.005, 0.005, 0.99)}, True, 'little to tell'),
    ({'student': beside(0.0, 0.0, 1.0)}, True, 'They agree on 100.0 %'),
    ({'student': None}, True, 'not compared with a student: none'),
    ({'calibration': calibrated(temperature=2.0)}, True, 'overconfident: sure of 90.0 % and right on 80.0 %; its probabilities fit at temperature 2: raise'),
    ({'calibration': calibrated(temperature=2.0, heat=4.0)}, True, "recipe's temperature of 4 makes up for that"),
    ({'calibration': calibrated(temperature=0.5, confidence=0.7)}, True, 'underconfident'),
    ({'calibration': calibrated(confidence=0.81, temperature=2.0)}, True, 'taken at its word'),
    ({'calibration': calibrated(temperature=2.0), 'rows': 50}, True, 'taken at its word'),
    ({'calibration': calibrated(entropy=0.99, heat=20.0)}, True, 'lower the temperature'),
    ({'calibration': calibrated(entropy=0.001)}, True, 'a higher temperature tells more'),
    ({'accuracy': None, 'commonest': None}, True, 'labels are no classes'),
])
def test_verdicts(given, good, words):
    found = told(**given)
    assert found[0] is good
    assert words in found[1]
