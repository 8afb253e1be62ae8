"""Against figures that are known: those of the papers' own models."""

import pytest
import torch
from composer.core import Time
from composer.models import ComposerClassifier, HuggingFaceModel
from torchvision.models import resnet50
from transformers import BertConfig, BertForMaskedLM

from composer_kd.callbacks import forward_flops
from composer_kd.models import build_model
from composer_kd.plan.cost import count, forward_per_sample
from composer_kd.plan.course import Course
from composer_kd.plan.memory import activations, size_of


def images(count):
    return torch.zeros(count, 3, 224, 224), torch.zeros(count, dtype=torch.int64)


def words(count):
    return {key: torch.ones(count, 128, dtype=torch.int64) for key in ('input_ids', 'attention_mask', 'labels')}


def test_resnet_50():
    with torch.device('meta'):
        model = ComposerClassifier(resnet50(), num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 25_557_032
    assert size_of(model.parameters()) == 4 * 25_557_032
    assert forward_per_sample(model, images, {}) == pytest.approx(8.18e9, rel=0.01)
    # About 22 GB at 256 images in float32 is what training it is known to take.
    assert activations(model, images, 'fp32', gpu=True).per_sample * 256 == pytest.approx(22e9, rel=0.05)
    assert not any(module.training is False for module in model.modules()), 'modes are as they were'


def test_bert_base():
    with torch.device('meta'):
        model = HuggingFaceModel(BertForMaskedLM(BertConfig()), None, use_logits=True)
    flops = forward_per_sample(model, words, {})
    head = 2 * 128 * (768 * 768 + 768 * 30522)
    assert flops - head == pytest.approx(22.35e9, rel=0.01)
    assert forward_per_sample(model, words, {'target_key': None}) == flops, 'labels withheld, as from a teacher'


def test_a_head_at_labelled_positions_is_counted_there_alone():
    settings = {
        'name': 'bert_masked_lm', 'vocab_size': 500, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
        'intermediate_size': 32,
    }

    def batch(count):
        words = torch.zeros(count, 20, dtype=torch.int64)
        positions = torch.zeros(3 * count, dtype=torch.int64)
        return {'input_ids': words, 'attention_mask': words + 1, 'labels': words, 'masked_positions': positions}

    with torch.device('meta'):
        planned = build_model(settings)
    real = forward_flops(lambda: build_model(settings)(batch(4))) / 4
    assert forward_per_sample(planned, batch, {}) == real
    assert activations(planned, batch, 'fp32', gpu=False).logits == 3 * 500


def test_algorithms_that_change_the_size_of_a_step_are_named():
    settings = {'initial_scale': 0.5, 'delay_fraction': 0.4, 'finetune_fraction': 0.2}
    course = Course(Time.from_timestring('10ba'), 8)
    flops, _ = count(course, 1.0, {}, None, {'progressive_resizing': settings, 'mixup': {}}, {})
    # 0.4 of the training at a quarter of the area, 0.4 at 7/12 of it in the mean, 0.2 at all of it
    assert any('80 %' in text and '47 % fewer' in text for text in flops.left_out)
    assert not any('mixup' in text for text in flops.left_out)
