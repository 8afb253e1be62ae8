"""Hugging Face models: sequence classification and masked language modelling, where only labelled positions count."""

import pytest
import torch
import transformers
from composer.core import Event
from composer.core.data_spec import DataSpec
from composer.models import HuggingFaceModel
from torch.nn import functional as F
from torch.utils.data import DataLoader

from composer_kd import Distillation
from tests.common import Watch, trainer, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')

VOCABULARY, LENGTH = 40, 12


def bert(kind='BertForMaskedLM', seed=0, **config):
    settings = {'vocab_size': VOCABULARY, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2,
                'intermediate_size': 32, 'max_position_embeddings': 16, 'hidden_dropout_prob': 0.0,
                'attention_probs_dropout_prob': 0.0, 'num_labels': 3, **config}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(transformers, kind)(transformers.BertConfig(**settings))


def composer_model(seed=0, kind='BertForMaskedLM', **config):
    return HuggingFaceModel(bert(kind, seed, **config), shift_labels=False)


def masked(samples=12, counts=None, seed=5):
    """Sequences with a different number of labelled positions in each."""
    generator = torch.Generator().manual_seed(seed)
    data = []
    for i in range(samples):
        ids = torch.randint(0, VOCABULARY, (LENGTH,), generator=generator)
        labels = torch.full((LENGTH,), -100)
        keep = torch.randperm(LENGTH, generator=generator)[:(counts or [1, 0, 7, 2, 4, 3])[i % (6 if not counts else len(counts))]]
        labels[keep] = ids[keep]
        data.append({'input_ids': ids, 'attention_mask': torch.ones(LENGTH, dtype=torch.long), 'labels': labels})
    return data


def sentences(samples=12, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [{'input_ids': torch.randint(0, VOCABULARY, (LENGTH,), generator=generator),
             'attention_mask': torch.ones(LENGTH, dtype=torch.long), 'labels': torch.tensor(i % 3)} for i in range(samples)]


def first_gradients(data, batch_size=12, microbatch=None, student=None, teacher=None, tokens=False, **kd):
    student = composer_model() if student is None else student
    grads = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters() if p.grad is not None})
    loader = DataLoader(data, batch_size=batch_size)
    spec = DataSpec(loader, get_num_tokens_in_batch=lambda b: {
        'total': b['input_ids'].numel(), 'loss_generating': int((b['labels'] != -100).sum())})
    algorithm = Distillation(teacher or composer_model(seed=1), check_batches=0, **kd)
    fit = trainer([algorithm, grads], model=student, data=spec, max_duration='1ba',
                  device_train_microbatch_size=microbatch or batch_size, accumulate_train_batch_on_tokens=tokens)
    fit.fit()
    return grads.seen[0]


def expected_gradients(data, kd_weight=1.0):
    """Of the KL over the labelled positions alone, written out by hand."""
    student, teacher = bert(seed=0), bert(seed=1).eval()
    batch = torch.utils.data.default_collate(data)
    inputs = {key: batch[key] for key in ('input_ids', 'attention_mask')}
    keep = batch['labels'] != -100
    with torch.no_grad():
        target = teacher(**inputs).logits[keep]
    kl = F.kl_div(F.log_softmax(student(**inputs).logits[keep], -1), F.softmax(target, -1), reduction='batchmean')
    (kd_weight * kl).backward()
    return {f'model.{n}': p.grad for n, p in student.named_parameters() if p.grad is not None}


def assert_close(one, other, tolerance=1e-6):
    for name in other:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize('microbatch', [12, 4, 5])
@pytest.mark.parametrize('teacher', ['composer model', 'plain module'])
def test_only_labelled_positions_count_and_each_counts_the_same(microbatch, teacher):
    made = composer_model(seed=1) if teacher == 'composer model' else bert(seed=1)
    got = first_gradients(masked(), microbatch=microbatch, teacher=made, kd_loss_weight=1.0, base_loss_weight=0.0)
    assert_close(got, expected_gradients(masked()))


@pytest.mark.parametrize('microbatch', [12, 5])
def test_weighing_by_tokens_gives_the_same(microbatch):
    got = first_gradients(masked(), microbatch=microbatch, tokens=True, kd_loss_weight=1.0, base_loss_weight=0.0)
    assert_close(got, expected_gradients(masked()))


def test_a_batch_without_a_label_gives_nothing_and_no_nan():
    got = first_gradients(masked(counts=[0]), kd_loss_weight=1.0, base_loss_weight=0.0,
                          student=Lenient(bert(), shift_labels=False))
    assert all(not g.any() for g in got.values())


class Lenient(HuggingFaceModel):
    """Hugging Face's own mean over no position is NaN; this student's own loss is zero there."""

    def loss(self, outputs, batch):
        return torch.nan_to_num(outputs['loss'])


def test_labels_are_withheld_from_the_teacher_and_left_in_the_batch():
    seen = []

    class Teacher(HuggingFaceModel):
        def forward(self, batch):
            seen.append(set(batch))
            return super().forward(batch)
    after = Watch(Event.BEFORE_BACKWARD, lambda s: set(s.batch))
    student = composer_model()
    kd = Distillation(Teacher(bert(seed=1)), check_batches=0)
    trainer([kd, after], model=student, data=DataLoader(masked(), batch_size=4), max_duration='1ba').fit()
    assert seen == [{'input_ids', 'attention_mask'}]
    assert after.seen == [{'input_ids', 'attention_mask', 'labels'}]


@pytest.mark.parametrize('return_dict', [True, False])
def test_sequence_classification_with_model_outputs_and_with_tuples(return_dict):
    student = composer_model(kind='BertForSequenceClassification', return_dict=return_dict)
    teacher = composer_model(1, 'BertForSequenceClassification', return_dict=return_dict)
    got = first_gradients(sentences(), student=student, teacher=teacher, microbatch=5, kd_loss_weight=1.0,
                          base_loss_weight=0.0)
    reference, frozen = bert('BertForSequenceClassification'), bert('BertForSequenceClassification', 1).eval()
    batch = torch.utils.data.default_collate(sentences())
    inputs = {key: batch[key] for key in ('input_ids', 'attention_mask')}
    with torch.no_grad():
        target = frozen(**inputs).logits
    F.kl_div(F.log_softmax(reference(**inputs).logits, -1), F.softmax(target, -1), reduction='batchmean').backward()
    assert_close(got, {f'model.{n}': p.grad for n, p in reference.named_parameters()})


@pytest.mark.parametrize('counts', [None, [LENGTH], [LENGTH - 1, LENGTH]], ids=['some', 'all', 'nearly all'])
def test_a_causal_model_is_compared_where_the_next_token_is_labelled(counts):
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16,
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
    models = []
    for seed in (0, 0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(transformers.GPT2LMHeadModel(config))
    student, reference, teacher = models
    data = masked(counts=counts)
    got = first_gradients(data, student=HuggingFaceModel(student, shift_labels=True), teacher=teacher, microbatch=5,
                          kd_loss_weight=1.0, base_loss_weight=0.0)
    batch = torch.utils.data.default_collate(data)
    inputs = {key: batch[key] for key in ('input_ids', 'attention_mask')}
    keep = torch.cat([batch['labels'][:, 1:] != -100, torch.zeros(len(data), 1, dtype=torch.bool)], 1)
    with torch.no_grad():
        target = teacher.eval()(**inputs).logits[keep]
    F.kl_div(F.log_softmax(reference(**inputs).logits[keep], -1), F.softmax(target, -1), reduction='batchmean').backward()
    assert_close(got, {f'model.{n}': p.grad for n, p in reference.named_parameters()})


def test_another_vocabulary_is_refused_before_any_data():
    with pytest.raises(ValueError, match='has 44 outputs and the student 40'):
        trainer(Distillation(composer_model(1, vocab_size=44)), model=composer_model(), data=DataLoader(masked()))


def test_training_moves_the_student_and_not_the_teacher():
    teacher, student = composer_model(1), composer_model()
    before, start = weights(teacher), weights(student)
    fit = trainer(Distillation(teacher), model=student, data=DataLoader(masked(), batch_size=4))
    fit.fit()
    assert all(torch.equal(before[n], weights(teacher)[n]) for n in before)
    assert any(not torch.equal(start[n], weights(fit)[n]) for n in start)
