import warnings

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import BertForSequenceClassification

from composer_kd import Distillation
from composer_kd.models import bert_classifier, build_model
from tests.common import trainer

SMALL = {'vocab_size': 50, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}


def batch(samples=8, classes=2, length=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 50, (samples, length), generator=generator)
    labels = torch.rand(samples, generator=generator) * 5 if classes == 1 else torch.randint(
        0, classes, (samples,), generator=generator)
    types = (torch.arange(length) > 3).long().expand(samples, -1)
    return {'input_ids': ids, 'attention_mask': torch.ones_like(ids), 'token_type_ids': types, 'labels': labels}


def evaluated(model, batches):
    """The metrics of a model over batches as Composer computes them, and the logits and labels they are of."""
    model.eval()
    logits, labels = [], []
    metrics = model.get_metrics(is_train=False)
    with torch.no_grad():
        for item in batches:
            labels.append(item['labels'])
            outputs = model.eval_forward(dict(item))
            logits.append(outputs)
            for metric in metrics.values():
                model.update_metric(item, outputs, metric)
    return {name: float(metric.compute()) for name, metric in metrics.items()}, torch.cat(logits), torch.cat(labels)


def spread(model):
    """Larger weights in the head, so that not all predictions are the same."""
    with torch.no_grad():
        model.model.classifier.weight.mul_(100)
        model.model.bert.embeddings.word_embeddings.weight.mul_(20)
    return model


@pytest.mark.parametrize('classes', [2, 3])
def test_metrics_of_classes_are_scikit_learns(classes):
    names = ['accuracy', 'matthews', *(['f1'] if classes == 2 else [])]
    model = spread(bert_classifier(num_labels=classes, metrics=names, **SMALL))
    got, logits, labels = evaluated(model, [batch(40, classes, seed=1), batch(13, classes, length=5, seed=2)])
    said, labels = logits.argmax(1).numpy(), labels.numpy()
    assert len(set(said)) == classes, 'a model of one answer shows nothing'
    wanted = {'MulticlassAccuracy': accuracy_score(labels, said), 'MulticlassMatthewsCorrCoef': matthews_corrcoef(labels, said)}
    if classes == 2:
        wanted['BinaryF1Score'] = f1_score(labels, said)
        assert f1_score(labels, said, pos_label=0) != pytest.approx(wanted['BinaryF1Score'], abs=1e-3)
    assert got == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_metrics_of_a_regression_are_scipys(dtype):
    model = spread(bert_classifier(num_labels=1, metrics=['spearman', 'pearson'], **SMALL)).to(dtype)
    got, logits, labels = evaluated(model, [batch(30, 1, seed=1), batch(17, 1, length=5, seed=2)])
    assert logits.shape == labels.shape == (47,)
    assert got['SpearmanCorrCoef'] == pytest.approx(spearmanr(logits, labels).statistic, abs=1e-5)
    assert got['PearsonCorrCoef'] == pytest.approx(pearsonr(logits, labels).statistic, abs=1e-4)


def test_losses():
    for classes in (1, 3):
        model, data = bert_classifier(num_labels=classes, hidden_dropout_prob=0.0, **SMALL).eval(), batch(classes=classes)
        outputs = model(data)
        assert outputs.logits.shape == (8, classes)
        wanted = F.mse_loss(outputs.logits[:, 0], data['labels']) if classes == 1 else F.cross_entropy(outputs.logits, data['labels'])
        torch.testing.assert_close(model.loss(outputs, data), wanted)
        single = {key: value[:1] for key, value in data.items()}
        assert model(single).loss.isfinite()


def test_settings_reach_the_configuration():
    settings = {**SMALL, 'max_position_embeddings': 24, 'hidden_dropout_prob': 0.3, 'attention_probs_dropout_prob': 0.2,
                'num_labels': 4}
    model = build_model({'name': 'bert_classifier', **settings})
    assert type(model.model) is BertForSequenceClassification
    assert {name: getattr(model.config, name) for name in settings} == settings
    base = BertForSequenceClassification(model.config).state_dict()
    assert set(model.state_dict()) == {f'model.{name}' for name in base}
    assert list(model.get_metrics(is_train=False)) == ['MulticlassAccuracy']
    assert list(bert_classifier(num_labels=1, **SMALL).get_metrics(is_train=False)) == ['SpearmanCorrCoef']


def test_the_defaults_are_bert_base():
    with torch.device('meta'):
        model = bert_classifier()
    assert sum(p.numel() for p in model.parameters()) == 109_483_778


@pytest.mark.parametrize(('settings', 'told'), [
    ({'num_labels': 0}, 'num_labels: expected a number of classes of 2 or more, or 1'),
    ({'num_labels': True}, 'num_labels: expected'),
    ({'hidden_size': 0}, 'hidden_size: expected a whole number'),
    ({'hidden_dropout_prob': 1.0}, 'hidden_dropout_prob: expected a share'),
    ({'num_attention_heads': 5}, 'num_attention_heads'),
    ({'metrics': ['acuracy']}, "metrics: expected names among .* got 'acuracy'. Did you mean 'accuracy'?"),
    ({'metrics': ['f1'], 'num_labels': 3}, "metrics: 'f1' is of two classes; got num_labels 3"),
    ({'metrics': ['spearman']}, "metrics: 'spearman' is of a regression, num_labels 1; got num_labels 2"),
    ({'metrics': ['accuracy'], 'num_labels': 1}, "metrics: 'accuracy' is of classes; got num_labels 1"),
])
def test_bad_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        bert_classifier(**{**SMALL, **settings})


@pytest.mark.parametrize(('labels', 'classes', 'kind'), [(1, 2, 'real numbers'), (3, 1, 'classes')])
def test_labels_of_the_other_kind_are_refused(labels, classes, kind):
    with pytest.raises(ValueError, match=f'The labels of this data are {kind}, .* num_labels {classes}'):
        bert_classifier(num_labels=classes, **SMALL)(batch(classes=labels))


def test_longer_sequences_than_the_model_takes_are_refused():
    model = bert_classifier(max_position_embeddings=8, **SMALL)
    assert model(batch(length=8)).logits.shape == (8, 2)
    with pytest.raises(ValueError, match='sequences of 9 tokens, and the model takes 8'):
        model(batch(length=9))


@pytest.mark.parametrize(('classes', 'loss'), [(1, 'mse'), (3, 'kl_divergence')])
def test_it_learns_beside_a_teacher(classes, loss):
    data = batch(24, classes)
    loader = DataLoader([{key: value[i] for key, value in data.items()} for i in range(24)], batch_size=8)
    teacher, student = (bert_classifier(num_labels=classes, **SMALL) for _ in range(2))
    kd = Distillation(teacher, loss=loss, check_batches=0)
    fit = trainer([kd], model=student, data=loader, max_duration='6ba', lr=0.01, eval_dataloader=loader)
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'The ``compute`` method of metric')
        fit.fit()
    assert kd.summary()['active_batches'] == 6
    values = fit.state.eval_metrics['eval']
    assert all(np.isfinite(float(metric.compute())) for metric in values.values())
