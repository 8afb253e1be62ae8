"""Hugging Face's models and tokenizers, loaded by transformers alone."""

import json

import pytest
import torch
import transformers

from composer_kd.export import export_run
from composer_kd.models import vocabulary_digest
from composer_kd.recipes import parse_recipe, train
from composer_kd.teachers import model_of_run
from tests.export.made import assert_no_trace, by_its_card, hand_made, weights
from tests.models.words import tokenizer_folder
from tests.recipes.tiny import plain

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')

SIZES = {'vocab_size': 20, 'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32,
         'max_position_embeddings': 12}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('composer_kd-runs')


@pytest.fixture(scope='module')
def words(root):
    return tokenizer_folder(root / 'words')


@pytest.fixture(scope='module')
def classifier(root, words):
    """A classifier of MNLI's three classes, taught by another."""
    header = 'index\tsentence1\tsentence2\tgold_label'
    rows = [f'{n}\tthe cat sat\ta dog {word}\t{label}' for n, (word, label) in enumerate(
        [('ran', 'neutral'), ('sat', 'entailment'), ('sat', 'contradiction'), ('ran', 'neutral')] * 2)]
    (root / 'MNLI').mkdir()
    for name in ('train', 'dev_matched'):
        (root / 'MNLI' / f'{name}.tsv').write_text('\n'.join([header, *rows]) + '\n')
    data = {'name': 'glue', 'task': 'mnli', 'path': str(root), 'tokenizer': str(words), 'max_seq_len': 12, 'batch_size': 4}

    def made(name, **algorithms):
        return train(parse_recipe(plain(
            run_folder=str(root / name), model={'name': 'bert_classifier', 'num_labels': 3, 'tokenizer': str(words), **SIZES},
            train_data=data, evaluators={'matched': {'data': data}}, max_duration='2ba', scheduler=None, algorithms=algorithms, eval_interval='2ba',
        )))

    made('earlier')
    return made('later', distillation={'teachers': [{'run': str(root / 'earlier')}]})


def inputs(length=7):
    ids = torch.randint(0, 20, (3, length), generator=torch.Generator().manual_seed(2))
    return {'input_ids': ids, 'attention_mask': (ids > 2).long(), 'token_type_ids': (ids > 9).long()}


def of_run(run):
    with torch.no_grad():
        return model_of_run(str(run.path))(inputs()).logits


def test_a_classifier(root, words, classifier):
    made = export_run(classifier.path, root / 'classifier')
    assert (made.title, made.tried) == ('BertForSequenceClassification', ('transformers',))
    found, = by_its_card(made.path, inputs(), alone=True)
    torch.testing.assert_close(found, of_run(classifier), atol=1e-5, rtol=1e-5)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(made.path)
    assert type(model) is transformers.BertForSequenceClassification
    assert model.config.id2label == {0: 'entailment', 1: 'neutral', 2: 'contradiction'}
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.path)
    assert vocabulary_digest(tokenizer) == vocabulary_digest(transformers.AutoTokenizer.from_pretrained(words))
    assert_no_trace(made.path, str(root), 'SentenceModel', 'distillation')
    told = (made.path / 'README.md').read_text()
    for part in ('# BertForSequenceClassification', '3 classes: 0 entailment, 1 neutral, 2 contradiction.', 'has 11 words',
                 'Trained on the data "mnli".', '- matched: MulticlassAccuracy'):
        assert part in told


def test_the_masked_language_model_is_transformers_own_and_computes_the_head_everywhere(root, words):
    data = {'name': 'masked_text', 'path': 'nowhere', 'tokenizer': str(words), 'max_seq_len': 9, 'batch_size': 4}
    model = {'name': 'bert_masked_lm', 'tokenizer': str(words), **SIZES}
    run = hand_made(root / 'masked', model=model, train_data=data, evaluators={}, algorithms={'gyro_dropout': {}})
    made = export_run(run.path, root / 'masked-out')
    assert json.loads((made.path / 'config.json').read_text())['architectures'] == ['BertForMaskedLM']
    found, = by_its_card(made.path, inputs())
    assert found.shape == (3, 7, 20)
    torch.testing.assert_close(found, of_run(run), atol=1e-5, rtol=1e-5)
    loaded = transformers.AutoModelForMaskedLM.from_pretrained(made.path)
    assert type(loaded) is transformers.BertForMaskedLM
    labels = torch.where(inputs()['input_ids'] > 9, inputs()['input_ids'], -100)
    assert loaded(**inputs(), labels=labels).logits.shape == (3, 7, 20)
    assert_no_trace(made.path, str(root), 'MaskedBert')
    assert all(name.startswith(('bert.', 'cls.')) for name in weights(made.path))


def test_without_a_tokenizer_and_for_a_score(root):
    data = {'name': 'glue', 'task': 'stsb', 'tokenizer': 'nowhere', 'path': 'nowhere', 'batch_size': 4}
    run = hand_made(
        root / 'score', model={'name': 'bert_classifier', 'num_labels': 1, **SIZES}, train_data=data, evaluators={},
    )
    made = export_run(run.path, root / 'score-out')
    assert sorted(path.name for path in made.path.iterdir()) == ['README.md', 'SHA256SUMS', 'config.json', 'model.safetensors']
    found, = by_its_card(made.path, inputs())
    torch.testing.assert_close(found, of_run(run), atol=1e-5, rtol=1e-5)
    assert 'The output is one number, a score.' in (made.path / 'README.md').read_text()
