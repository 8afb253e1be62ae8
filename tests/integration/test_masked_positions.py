"""Distillation where the student gives logits at the labelled positions alone, and the teacher does or does not."""

import pytest
import torch
import transformers
from composer.core import Event
from composer.core.data_spec import DataSpec
from composer.models import HuggingFaceModel
from torch.nn import functional as F
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.models import build_model
from tests.common import Watch, trainer
from tests.integration.test_huggingface import (
    VOCABULARY,
    assert_close,
    bert,
    composer_model,
    expected_gradients,
    masked,
)
from tests.models.words import tokenizer_folder

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')


def sparse(seed=0, **settings):
    """Our own masked-language model, with the weights of the plain one of that seed."""
    model = build_model({'name': 'bert_masked_lm', 'vocab_size': VOCABULARY, 'hidden_size': 16, 'num_hidden_layers': 1,
                         'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 16,
                         'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0, **settings})
    model.model.load_state_dict(bert(seed=seed).state_dict())
    return model


def with_positions(batch, size):
    parts = [{key: value[i:i + size] for key, value in batch.items()} for i in range(0, len(batch['labels']), size)]
    return [{**part, 'masked_positions': (part['labels'].flatten() != -100).nonzero().squeeze(1)} for part in parts]


def gradients(student, teacher, microbatch=12, positions=True, **settings):
    grads = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {n: p.grad.clone() for n, p in s.model.named_parameters()})
    spec = DataSpec(DataLoader(masked(), batch_size=12), split_batch=with_positions if positions else None,
                    get_num_samples_in_batch=lambda b: len(b['labels']))
    kd = Distillation(teacher, **{'check_batches': 0, 'kd_loss_weight': 1.0, 'base_loss_weight': 0.0, **settings})
    trainer([kd, grads], model=student, data=spec, max_duration='1ba', device_train_microbatch_size=microbatch).fit()
    return grads.seen[0], kd


MODELS = {'ours': sparse, 'Hugging Face': composer_model, 'plain module': lambda seed: bert(seed=seed)}


@pytest.mark.parametrize('positions', [True, False], ids=['positions in the batch', 'none'])
@pytest.mark.parametrize('teacher', MODELS)
@pytest.mark.parametrize('student', ['ours', 'Hugging Face'])
@pytest.mark.parametrize('microbatch', [12, 5])
def test_every_pair_of_models_gives_the_gradient_of_the_labelled_positions(student, teacher, microbatch, positions):
    got, kd = gradients(MODELS[student](0), MODELS[teacher](1), microbatch, positions, check_batches=2)
    assert_close(got, expected_gradients(masked()))
    assert kd.summary()['teachers'][0]['samples'] == 12


def test_the_teachers_head_runs_at_the_labelled_positions_alone():
    seen = []

    class Head(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head = head

        def forward(self, hidden):
            seen.append(tuple(hidden.shape))
            return self.head(hidden)
    teacher = sparse(1)
    teacher.model.cls = Head(teacher.model.cls)
    gradients(sparse(), teacher)
    assert seen == [(sum(int((sample['labels'] != -100).sum()) for sample in masked()), 16)]


def test_flops_of_the_teacher_count_the_head_at_the_labelled_positions():
    fit_batch = next(iter(DataLoader(masked(), batch_size=12)))
    flops = {}
    for name in ('ours', 'Hugging Face'):
        _, kd = gradients(sparse(), MODELS[name](1))
        flops[name] = kd.teacher_flops(fit_batch)['teacher0']
    rows = int((fit_batch['labels'] != -100).sum()) / 12
    assert flops['Hugging Face'] - flops['ours'] == pytest.approx(2 * (12 - rows) * (16 * 16 + 16 * VOCABULARY))


def test_a_batch_without_labels_trains_nothing():
    data = masked(counts=[0])
    student = sparse()
    kd = Distillation(sparse(1), check_batches=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    trainer(kd, model=student, data=DataLoader(data, batch_size=12), max_duration='1ba').fit()
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


@pytest.mark.parametrize('loss', ['mse', 'reverse_kl', 'jensen_shannon'])
def test_other_losses_see_the_same_rows(loss):
    one, _ = gradients(sparse(), composer_model(1), loss=loss)
    other, _ = gradients(composer_model(), sparse(1), loss=loss, microbatch=5)
    assert_close(one, other)


def test_two_teachers_of_which_one_gives_all_positions():
    got, _ = gradients(sparse(), [sparse(1), composer_model(2)])
    student = bert(seed=0)
    batch = torch.utils.data.default_collate(masked())
    inputs = {key: batch[key] for key in ('input_ids', 'attention_mask')}
    keep = batch['labels'] != -100
    with torch.no_grad():
        target = sum(bert(seed=seed).eval()(**inputs).logits[keep] for seed in (1, 2)) / 2
    F.kl_div(F.log_softmax(student(**inputs).logits[keep], -1), F.softmax(target, -1), reduction='batchmean').backward()
    assert_close(got, {f'model.{n}': p.grad for n, p in student.named_parameters()})


def test_a_teacher_of_the_same_size_with_other_words_is_refused_before_any_data(tmp_path):
    one = tokenizer_folder(tmp_path / 'one')
    other = tokenizer_folder(tmp_path / 'other', words=['dog', 'cat', 'a', 'the', 'ran', 'sat'])
    with pytest.raises(ValueError, match="Teacher 'teacher0' .* has another vocabulary than the student"):
        trainer(Distillation(sparse(1, tokenizer=str(other))), model=sparse(tokenizer=str(one)), data=DataLoader(masked()))


def test_the_same_words_from_another_folder_are_fine(tmp_path):
    one, other = tokenizer_folder(tmp_path / 'one'), tokenizer_folder(tmp_path / 'other')
    student = sparse(tokenizer=str(one))
    trainer(Distillation(sparse(1, tokenizer=str(other))), model=student, data=DataLoader(masked(), batch_size=12), max_duration='1ba').fit()
    assert isinstance(student, HuggingFaceModel)
    assert isinstance(student.model, transformers.BertForMaskedLM)


@pytest.mark.parametrize('microbatch', [12, 5])
def test_all_tokens_of_a_student_that_gives_logits_everywhere(microbatch):
    """No label is -1, so all tokens count; the labels themselves play no part in the KD term."""
    got, _ = gradients(composer_model(0), composer_model(1), microbatch, positions=False, ignore_index=-1)
    student, teacher = bert(seed=0), bert(seed=1).eval()
    batch = {key: torch.stack([item[key] for item in masked()]) for key in ('input_ids', 'attention_mask')}
    with torch.no_grad():
        wanted = teacher(**batch).logits.softmax(-1)
    found = student(**batch).logits.log_softmax(-1)
    F.kl_div(found.flatten(0, 1), wanted.flatten(0, 1), reduction='batchmean').backward()
    assert_close(got, {f'model.{name}': parameter.grad for name, parameter in student.named_parameters()})


@pytest.mark.parametrize('student', ['ours', 'Hugging Face'])
def test_tokens_that_count_and_have_no_logits(student):
    with pytest.raises(ValueError, match=r'^ignore_index: of a microbatch \d+ labels count \(all but -1\), and the student gives logits for \d+ of them'):
        gradients(MODELS[student](0), composer_model(1), ignore_index=-1)


def test_labels_that_are_changed_after_they_were_counted_are_refused():
    def fewer(batch):
        return {**batch, 'labels': batch['labels'].masked_fill(batch['input_ids'] % 2 == 0, -100)}

    def data(**transform):
        return DataSpec(DataLoader(masked(), batch_size=12), **transform)

    def train(spec):
        trainer(Distillation(bert(seed=1), check_batches=0), model=composer_model(0), data=spec, max_duration='1ba').fit()
    with pytest.raises(ValueError, match=r"^labels: \d+ of a microbatch count as it came from the loader, and \d+, .* batch_transforms\.$"):
        train(data(microbatch_transforms=fewer))
    train(data(batch_transforms=fewer))
