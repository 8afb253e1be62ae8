"""What is said of every label, for the kinds of tasks that there are, against torch's own functions."""

import numpy as np
import pytest
import torch
import transformers
from composer.core import DataSpec, Precision
from composer.devices import DeviceCPU
from composer.metrics import LanguageCrossEntropy, LanguagePerplexity
from composer.models import ComposerClassifier, HuggingFaceModel
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric

from composer_kd.inspecting.rows import read_rows
from composer_kd.inspecting.seen import Sample
from composer_kd.models import bert_classifier
from composer_kd.teachers import Teacher
from tests.models.test_bert_classifier import SMALL, batch


def read(judge, teacher, batches, student=None, most=None, **settings):
    data = batches if isinstance(batches, DataSpec) else DataSpec(DataLoader(batches, batch_size=None))
    asked = [None if model is None else Teacher(model, name) for model, name in ((teacher, 'teacher'), (student, 'student'))]
    return read_rows(judge, *asked, data, DeviceCPU(), precision=Precision.FP32, batches=most, **settings)


def causal(seed):
    torch.manual_seed(seed)
    config = transformers.GPT2Config(vocab_size=30, n_positions=12, n_embd=8, n_layer=1, n_head=2, initializer_range=0.5,
                                     bos_token_id=0, eos_token_id=0)
    metrics = [LanguageCrossEntropy(), LanguagePerplexity()]
    return HuggingFaceModel(transformers.GPT2LMHeadModel(config), eval_metrics=metrics, shift_labels=True).eval()


def test_causal_language_models_answer_for_the_next_label():
    teacher, student = causal(1), causal(2)
    words = torch.randint(0, 30, (2, 3, 12))
    labels = words.clone()
    labels[:, 1, 7:] = -100
    kept = labels.clone()
    batches = [{'input_ids': w, 'attention_mask': torch.ones_like(w), 'labels': one} for w, one in zip(words, labels, strict=True)]
    found = read(causal(3), teacher, batches, student, temperature=3.0, microbatch=2)
    assert torch.equal(labels, kept), 'evaluation shifts labels in place'
    with torch.no_grad():
        logits = [model.model(words.flatten(0, 1)).logits[:, :-1].flatten(0, 1).double() for model in (teacher, student)]
    wanted = labels.flatten(0, 1)[:, 1:].flatten()
    rows = wanted != -100
    assert found.samples == 6
    assert found.labels.tolist() == wanted[rows].tolist()
    for seen, mine in zip((found.teacher, found.student), logits, strict=True):
        loss = F.cross_entropy(mine[rows], wanted[rows])
        assert seen.nll.mean() == pytest.approx(float(loss), rel=1e-5)
        assert seen.quality == pytest.approx({'LanguageCrossEntropy': float(loss), 'LanguagePerplexity': float(loss.exp())}, rel=1e-4)
        assert seen.first.tolist() == mine[rows].argmax(1).tolist()
        q = torch.distributions.Categorical(logits=mine[rows] / 3)
        assert seen.entropy == pytest.approx(q.entropy().numpy(), rel=1e-4)
    teach, learn = (one[rows].log_softmax(-1) for one in logits)
    assert found.kl == pytest.approx((teach.exp() * (teach - learn)).sum(-1).numpy(), rel=1e-3, abs=1e-6)
    assert np.allclose(found.logits, logits[0][rows].numpy(), atol=1e-5)
    assert found.logits_labels.tolist() == found.labels.tolist()


def test_sentences():
    judge, teacher = (bert_classifier(num_labels=3, **SMALL).eval() for _ in range(2))
    batches = [batch(8, 3, seed=1), batch(5, 3, seed=2)]
    found = read(judge, teacher, batches)
    with torch.no_grad():
        logits = torch.cat([teacher.model(**{k: v for k, v in one.items() if k != 'labels'}).logits for one in batches])
    labels = torch.cat([one['labels'] for one in batches])
    assert found.teacher.quality == pytest.approx(
        {'MulticlassAccuracy': float((logits.argmax(1) == labels).float().mean())})
    assert found.teacher.nll.mean() == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5)
    assert found.teacher.confidence == pytest.approx(logits.softmax(1).amax(1).numpy(), rel=1e-5)
    assert all('labels' in one for one in batches), 'evaluation takes them out'
    assert len(read(judge, teacher, batches, most=1).labels) == 8


def test_a_regression_has_metrics_alone():
    judge, teacher = (bert_classifier(num_labels=1, metrics=['pearson'], **SMALL).eval() for _ in range(2))
    found = read(judge, teacher, [batch(8, 1, seed=1)], teacher)
    assert set(found.teacher.quality) == {'PearsonCorrCoef'}
    assert found.student.quality == found.teacher.quality
    assert (len(found.labels), len(found.kl), len(found.logits)) == (0, 0, 0)


class Pixels(ComposerClassifier):
    def __init__(self):
        torch.manual_seed(4)
        super().__init__(torch.nn.Conv2d(1, 4, 1), val_metrics=MeanMetric(), num_classes=4)

    def update_metric(self, batch, outputs, metric):
        metric.update(F.cross_entropy(outputs, batch[1]))


def test_a_class_for_each_pixel():
    model = Pixels()
    images, labels = torch.randn(2, 1, 3, 5), torch.randint(0, 4, (2, 3, 5))
    labels[0, 0] = -100
    found = read(model, model, [(images, labels)], model)
    keep = labels != -100
    with torch.no_grad():
        logits = model.module(images).movedim(1, -1)[keep]
    assert found.labels.tolist() == labels[keep].tolist()
    assert found.teacher.first.tolist() == found.student.first.tolist() == logits.argmax(1).tolist()
    assert found.teacher.quality['MeanMetric'] == pytest.approx(float(F.cross_entropy(logits, labels[keep])), rel=1e-5)
    assert np.abs(found.kl).max() < 1e-6


def test_labels_beyond_the_classes_and_answers_of_another_shape():
    model = ComposerClassifier(torch.nn.Linear(2, 3), num_classes=3)
    other = ComposerClassifier(torch.nn.Linear(2, 4), num_classes=4)
    data = [(torch.randn(4, 2), torch.tensor([0, 1, 2, 3]))]

    class Blind(ComposerClassifier):
        def update_metric(self, batch, outputs, metric):
            pass
    judge = Blind(torch.nn.Linear(2, 3), num_classes=3)
    with pytest.raises(ValueError, match='has 3 outputs, and the labels of this data go from 0 to 3'):
        read(judge, model, data)
    with pytest.raises(ValueError, match=r'logits of shape \(4, 3\) where the student gives \(4, 4\)'):
        read(judge, model, data, other)


def test_a_random_part_is_kept_of_many_rows():
    """Of 10,000 rows of 4 classes at most 400 numbers: 100 rows, each as likely as any other."""
    sample = Sample(400)
    for first in range(0, 10_000, 250):
        rows = torch.arange(first, first + 250)
        sample.add(rows.float()[:, None].expand(-1, 4), rows)
    logits, labels = sample.taken()
    assert logits.shape == (100, 4)
    assert len(set(labels.tolist())) == 100
    assert logits[:, 0].tolist() == labels.tolist(), 'each with its own label'
    assert abs(labels.mean() - 5000) < 4 * 10_000 / (12 * 100) ** 0.5
    few = Sample(400)
    few.add(torch.randn(90, 4), torch.arange(90))
    assert few.taken()[1].tolist() == list(range(90)), 'all while they fit, in their order'
