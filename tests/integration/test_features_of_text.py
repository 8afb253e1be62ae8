"""Losses on layers of transformers: hidden states and attention, with padding."""

import pytest
import torch
from composer.core import Event
from composer.loggers import InMemoryLogger
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.features import FEATURE_LOSSES, make_feature_loss
from tests.common import Watch, trainer, weights
from tests.integration.test_huggingface import LENGTH, composer_model, masked, sentences

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')
KIND = 'BertForSequenceClassification'
HIDDEN = {'name': 'hidden_mse', 'student_layer': 'bert.encoder.layer.0', 'teacher_layer': 'bert.encoder.layer.1'}
ATTENTION = {'name': 'attention_mse', 'student_layer': 'bert.encoder.layer.0.attention.self',
             'teacher_layer': 'bert.encoder.layer.1.attention.self'}
EAGER = {'attn_implementation': 'eager'}


def model(seed=0, kind=KIND, **config):
    return composer_model(seed, kind, **{**EAGER, **config})


def teacher(kind=KIND, **config):
    return model(1, kind, hidden_size=24, num_hidden_layers=2, **config)


def padded(data, noise=0):
    """Every other sample is padded to half, with words that should not count."""
    found = []
    for i, sample in enumerate(data):
        sample = {key: value.clone() for key, value in sample.items()}
        if i % 2:
            sample['attention_mask'][LENGTH // 2:] = 0
            sample['input_ids'][LENGTH // 2:] = noise
        found.append(sample)
    return found


def train(losses, data=None, student=None, of=None, microbatch=12, duration='2ba', **settings):
    kd = Distillation(teacher() if of is None else of, losses=losses, check_batches=0, **settings)
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters()
                                                     if p.grad is not None})
    fit = trainer([kd, seen], model=model() if student is None else student, max_duration=duration,
                  data=DataLoader(sentences() if data is None else data, batch_size=12),
                  device_train_microbatch_size=microbatch, loggers=[InMemoryLogger()])
    fit.fit()
    return fit, seen.seen


def told(fit, name):
    return [float(value) for _, value in fit.logger.destinations[0].data[name]]


def test_hidden_states_and_attention_in_one_training():
    fit, _ = train([HIDDEN, ATTENTION, {'name': 'kl_divergence', 'weight': 0.5}])
    whole = told(fit, 'loss/train/kd')[0]
    parts = [told(fit, f'loss/train/kd/{name}')[0] for name in ('hidden_mse', 'attention_mse', 'kl_divergence')]
    assert whole == pytest.approx(parts[0] + parts[1] + 0.5 * parts[2], rel=1e-5)
    assert min(parts) > 0


def test_attention_is_that_of_the_softmax_before_its_dropout():
    _, gradients = train([ATTENTION], duration='1ba', kd_loss_weight=1.0, base_loss_weight=0.0)
    student, other = model().model, teacher().model.eval()
    batch = torch.utils.data.default_collate(sentences())
    inputs = {key: batch[key] for key in ('input_ids', 'attention_mask')}
    mine, theirs = (m(**inputs, output_attentions=True).attentions for m in (student, other))
    (mine[0] - theirs[1].detach()).square().mean(dim=(1, 3)).mean().backward()
    name = 'bert.encoder.layer.0.attention.self.query.weight'
    expected = dict(student.named_parameters())[name].grad
    torch.testing.assert_close(gradients[0][f'model.{name}'], expected, rtol=1e-4, atol=1e-8)
    assert expected.abs().max() > 0


def test_padding_counts_for_nothing():
    one, other = (train([HIDDEN], padded(sentences(), noise), kd_loss_weight=1.0, base_loss_weight=0.0)[0]
                  for noise in (0, 7))
    for name, value in weights(one).items():
        if 'word_embeddings' not in name:
            torch.testing.assert_close(value, weights(other)[name])


@pytest.mark.parametrize('kind', ['BertForSequenceClassification', 'BertForMaskedLM'])
def test_microbatches_with_different_numbers_of_tokens_make_one_mean(kind):
    data = padded(sentences() if kind == KIND else masked())
    (_, one), (_, many) = (
        train([HIDDEN, ATTENTION], data, model(kind=kind), teacher(kind), size, '1ba', kd_loss_weight=1.0,
              base_loss_weight=0.0) for size in (12, 5)
    )
    for name, value in one[0].items():
        torch.testing.assert_close(value, many[0][name], rtol=1e-4, atol=1e-7)


def test_fused_attention_is_refused_by_name():
    with pytest.raises(ValueError, match=r"attention.self' of the student shows no attention probabilities .* eager"):
        train([ATTENTION], student=model(attn_implementation='sdpa'))


def test_an_item_of_an_output_can_be_named():
    losses = [{**HIDDEN, 'student_layer': 'bert.encoder.layer.0:0', 'teacher_layer': 'bert.encoder.layer.1.output:input'}]
    fit, _ = train([{**losses[0], 'teacher_layer': 'bert.encoder.layer.1.output.LayerNorm:input'}])
    assert told(fit, 'loss/train/kd')[0] > 0
    with pytest.raises(ValueError, match="at 7 of its output"):
        train([{**HIDDEN, 'student_layer': 'bert.encoder.layer.0:7'}])


@pytest.mark.parametrize('name', [
    name for name in FEATURE_LOSSES.names() if make_feature_loss(name).takes in ('any', 'hidden', 'attention')])
def test_every_loss_of_text_trains(name):
    takes = make_feature_loss(name).takes
    entry = {**(ATTENTION if takes == 'attention' else HIDDEN), 'name': name}
    if name == 'minilm':
        entry = {'name': name, **{key: value.replace('self', 'self.value') for key, value in ATTENTION.items() if key != 'name'},
                 'relation_heads': 2}
    fit, gradients = train([entry], padded(sentences()), kd_loss_weight=1.0, base_loss_weight=0.0)
    assert all(0 < value < float('inf') for value in told(fit, 'loss/train/kd'))
    assert gradients[0]['model.bert.embeddings.word_embeddings.weight'].abs().max() > 0
