"""Text for causal models: documents and packed tokens, padding without labels, one look in every epoch."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from composer_kd.convert import convert_text
from composer_kd.convert.packing import Packer
from composer_kd.recipes.tasks.text import causal_text


@pytest.fixture
def words(tmp_path):
    """A tokenizer as GPT-2's: one token that ends a text, none that begins or pads it."""
    backend = Tokenizer(WordLevel({'?': 0, 'one': 1, 'two': 2, 'three': 3, '<end>': 4}, unk_token='?'))
    backend.pre_tokenizer = Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token='?', eos_token='<end>')
    made.save_pretrained(tmp_path / 'words')
    return str(tmp_path / 'words')


def first(data):
    return next(iter(data.dataloader))


def test_documents_end_are_cut_and_padded(write, words):
    path = write(['one two', 'one two three one two', ''], split='val')
    data = causal_text(3, seed=1, train=False, path=path, tokenizer=words, max_seq_len=4)
    found = first(data)
    assert found['input_ids'].tolist() == [[1, 2, 4, 4], [1, 2, 3, 1], [4, 4, 4, 4]]
    assert found['attention_mask'].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert found['labels'].tolist() == [[1, 2, 4, -100], [1, 2, 3, 1], [4, -100, -100, -100]]
    assert data.get_num_tokens_in_batch(found) == 8
    assert data.get_num_tokens_in_batch(found, token_type='loss_generating') == 5


@pytest.mark.parametrize('tokenizer', ['as GPT-2', 'as BERT'])
def test_packed_tokens(tmp_path, words, prose, tokenizer):
    name = words if tokenizer == 'as GPT-2' else str(prose / 'tokenizer')
    (tmp_path / 'a.txt').write_text('one two\nthree\none two three\none\n')
    convert_text(tmp_path / 'a.txt', tmp_path / 'out', 'val', tokenizer=name, seq_len=5, concat=True, progress=False)
    found = first(causal_text(2, seed=1, train=False, path=str(tmp_path / 'out'), tokenizer=name, max_seq_len=5))
    assert found['attention_mask'].min() == 1
    assert torch.equal(found['labels'], found['input_ids'])
    if tokenizer == 'as GPT-2':
        assert found['input_ids'].tolist() == [[1, 2, 4, 3, 4], [1, 2, 3, 4, 1]]


def test_documents_as_tokens_end_too(words):
    from composer_kd.models import load_tokenizer

    rows = Packer(load_tokenizer(words), 4, concat=False)(['one', 'one two three one two'])
    assert [row.tolist() for row in rows] == [[1, 4], [1, 2, 3, 1]]


def test_a_tokenizer_that_ends_nothing_is_refused():
    backend = Tokenizer(WordLevel({'?': 0}, unk_token='?'))
    with pytest.raises(ValueError, match=r'cls_token and sep_token\), or with one that ends it \(eos_token\)'):
        Packer(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token='?'), 4, concat=True)


def test_order_follows_from_the_seed_and_samples_stay_the_same(write, words):
    path = write(['one ' * n for n in range(1, 17)])
    seen = []
    for seed in (1, 1, 2):
        loader = causal_text(4, seed, True, path=path, tokenizer=words, max_seq_len=20).dataloader
        seen.append([row.sum().item() for batch in loader for row in batch['attention_mask']])
    assert seen[0] == seen[1] != seen[2]
    assert sorted(seen[0]) == sorted(seen[2]) == list(range(2, 18))


@pytest.mark.parametrize(('changes', 'message'), [
    ({'max_seq_len': 1}, 'max_seq_len: expected 2 tokens or more, got 1'),
    ({'path': 'nowhere'}, 'nowhere'),
    ({'part': [0.5, 0.2]}, 'part'),
])
def test_bad_settings(write, words, changes, message):
    path = write(['one'])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        causal_text(**{'batch_size': 1, 'seed': 1, 'train': True, 'path': path, 'tokenizer': words, **changes})


def test_shards_of_other_columns(write, words):
    path = write([3, 4], column='number', encoding='int')
    with pytest.raises(ValueError, match=r"have the columns number; expected 'text' \(documents\) or 'tokens'"):
        causal_text(1, 1, True, path=path, tokenizer=words)
