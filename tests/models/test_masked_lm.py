"""The masked-language model computes what transformers' own does, at the labelled positions alone."""

import pytest
import torch
import transformers
from composer.models import HuggingFaceModel
from torch.utils.flop_counter import FlopCounterMode

from composer_kd.models import build_model, load_tokenizer, vocabulary_digest
from tests.models.words import tokenizer_folder

TINY = {'name': 'bert_masked_lm', 'vocab_size': 60, 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2,
        'intermediate_size': 32, 'max_position_embeddings': 12}


def tiny(**changes):
    torch.manual_seed(0)
    return build_model({**TINY, **changes}).eval()


def batch(samples=4, length=10, share=0.3):
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(0, 60, (samples, length), generator=generator)
    chosen = torch.rand(samples, length, generator=generator) < share
    return {'input_ids': words, 'attention_mask': torch.ones_like(words), 'labels': torch.where(chosen, words, -100)}


def reference(model):
    full = transformers.BertForMaskedLM(model.config).eval()
    full.load_state_dict(model.model.state_dict())
    return full


def test_logits_loss_and_gradients_are_those_of_the_full_head():
    model, data = tiny(), batch()
    full = reference(model)
    found, expected = model(data), full(**data)
    keep = data['labels'].flatten() != -100
    torch.testing.assert_close(found.logits, expected.logits.flatten(0, 1)[keep])
    torch.testing.assert_close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    for (name, mine), theirs in zip(model.model.named_parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, msg=name)


def test_positions_from_the_host_give_the_same_and_without_labels_too():
    model, data = tiny(), batch()
    positions = (data['labels'].flatten() != -100).nonzero().squeeze(1)
    expected = model(data)
    assert torch.equal(expected.masked_positions, positions)
    torch.testing.assert_close(model({**data, 'masked_positions': positions}).loss, expected.loss)
    unlabelled = {key: value for key, value in data.items() if key != 'labels'}
    torch.testing.assert_close(model({**unlabelled, 'masked_positions': positions}).logits, expected.logits)
    assert model(unlabelled).logits.shape == (4, 10, 60)


def test_the_head_costs_what_the_labelled_positions_cost():
    model, data = tiny(num_hidden_layers=1), batch(share=0.15)
    counted = []
    for inputs in (data, {key: value for key, value in data.items() if key != 'labels'}):
        with FlopCounterMode(display=False) as counter:
            model(inputs)
        counted.append(counter.get_total_flops())
    rows = int((data['labels'] != -100).sum())
    assert counted[1] - counted[0] == 2 * (40 - rows) * (16 * 16 + 16 * 60)


def test_nothing_to_predict_is_a_zero_with_a_graph():
    model = tiny()
    loss = model({**batch(), 'labels': torch.full((4, 10), -100)}).loss
    assert loss == 0
    loss.backward()
    assert all(not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


def test_metrics_are_those_of_all_positions():
    model, data = tiny(), batch()
    full = HuggingFaceModel(reference(model), eval_metrics=list(tiny().get_metrics().values()), shift_labels=False, use_logits=True)
    for each in (model, full):
        outputs = each.eval_forward(dict(data))
        for metric in each.get_metrics().values():
            each.update_metric(data, outputs, metric)
    for name, metric in model.get_metrics().items():
        torch.testing.assert_close(metric.compute(), full.get_metrics()[name].compute(), msg=name)
    assert set(model.get_metrics()) == {'LanguageCrossEntropy', 'MaskedAccuracy'}


def test_a_checkpoint_is_plain_hugging_face(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Composer writes the tokenizer's files to where it stands
    folder = tokenizer_folder(tmp_path / 'words')
    model = tiny(tokenizer=str(folder))
    torch.save({'state': {'model': model.state_dict(), 'integrations': {'huggingface': model.get_metadata()}}}, tmp_path / 'a.pt')
    plain, tokenizer = HuggingFaceModel.hf_from_composer_checkpoint(str(tmp_path / 'a.pt'))
    assert type(plain) is transformers.BertForMaskedLM
    plain.load_state_dict({key.removeprefix('model.'): value for key, value in model.state_dict().items()})
    assert vocabulary_digest(tokenizer) == model.vocabulary


def test_the_tokenizer_is_loaded_when_it_is_needed_and_not_before():
    model = tiny(tokenizer='no/such-folder')
    with pytest.raises(ValueError, match='tokenizer: expected a Hugging Face tokenizer'):
        model.vocabulary  # noqa: B018
    assert tiny().vocabulary is None


def test_more_words_than_the_model_has_are_refused(tmp_path):
    folder = tokenizer_folder(tmp_path / 'words')
    size = len(load_tokenizer(str(folder)))
    with pytest.raises(ValueError, match=f'model.vocab_size: the tokenizer .* has {size} words and the model 5'):
        tiny(tokenizer=str(folder), vocab_size=5).vocabulary  # noqa: B018


def test_the_digest_tells_vocabularies_apart(tmp_path):
    one, same = tokenizer_folder(tmp_path / 'a'), tokenizer_folder(tmp_path / 'b')
    other = tokenizer_folder(tmp_path / 'c', words=['dog', 'cat'])
    digests = [vocabulary_digest(load_tokenizer(str(folder))) for folder in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(('setting', 'value', 'said'), [
    ('hidden_size', 15, 'num_attention_heads: expected a number that divides hidden_size'),
    ('num_hidden_layers', 0, 'num_hidden_layers: expected a whole number of 1 or more, got 0'),
    ('vocab_size', 2.5, 'vocab_size: expected a whole number'),
    ('hidden_dropout_prob', 1.0, 'hidden_dropout_prob: expected a share'),
    ('attention_probs_dropout_prob', -0.1, 'attention_probs_dropout_prob: expected a share'),
])
def test_values_out_of_range(setting, value, said):
    with pytest.raises(ValueError, match=said):
        tiny(**{setting: value})


def test_settings_reach_the_architecture():
    model = tiny(intermediate_size=24, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)
    for name, value in {**TINY, 'intermediate_size': 24, 'hidden_dropout_prob': 0.2, 'attention_probs_dropout_prob': 0.3}.items():
        assert name == 'name' or getattr(model.config, name) == value
