"""Text for masked language modelling: the tokens of the tokenizer, batches and their parts, and what is refused."""

import json

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from composer_kd.models import vocabulary_digest
from composer_kd.recipes.tasks.registry import DATA, SHAPES
from composer_kd.recipes.tasks.text.collate import Encoder, count_samples, count_tokens, split_batch
from composer_kd.recipes.tasks.text.masked_text import masked_text


@pytest.fixture
def build(prose):
    def built(path=None, train=False, batch_size=8, seed=17, **settings):
        settings = {'tokenizer': str(prose / 'tokenizer'), 'max_seq_len': 32, **settings}
        return masked_text(batch_size, seed, train, str(path or prose / 'c4'), **settings)
    return built


def unmasked(batch):
    return torch.where(batch['labels'] != -100, batch['labels'], batch['input_ids'])


def by_sample(batches):
    return {
        tuple(text.tolist()): (inputs.tolist(), labels.tolist())
        for batch in batches
        for text, inputs, labels in zip(unmasked(batch), batch['input_ids'], batch['labels'], strict=True)
    }


def test_the_sample_prose_is_the_same_each_time(sample_text, prose, tmp_path):
    sample_text.write(tmp_path)
    for file in ('tokenizer/tokenizer.json', 'c4/val/shard.00000.mds', 'c4/train/index.json'):
        assert (tmp_path / file).read_bytes() == (prose / file).read_bytes()
    sample_text.write(tmp_path)
    assert 1500 < len(sample_text.documents()) < 4000


@pytest.mark.parametrize('length', [8, 32, 200])
def test_the_tokens_are_the_tokenizers(build, sample_text, tokenizer, length):
    data = build(max_seq_len=length)
    batch = next(iter(data.dataloader))
    expected = tokenizer(
        sample_text.documents()[::20][:8], truncation=True, max_length=length, padding='max_length', return_tensors='pt',
    )
    assert all(value.dtype == torch.int64 and value.shape == (8, length) for value in batch.values())
    assert torch.equal(unmasked(batch), expected['input_ids'])
    assert torch.equal(batch['attention_mask'], expected['attention_mask'])
    assert data.num_samples == len(sample_text.documents()[::20])


@pytest.mark.parametrize('length', [8, 64, 500])
def test_of_a_long_document_the_beginning_has_the_same_tokens(sample_text, tokenizer, length):
    prose = ' '.join(sample_text.documents())
    texts = [prose[start:start + 3000] for start in range(0, 100_000, 5000)]
    texts += ['word' * 900, ' ' * 4000 + 'word ' * 9, 'é中 ' * 700, 'a' * 40 + '\n' * 6000 + 'b c', '']
    expected = tokenizer(texts, truncation=True, max_length=length)['input_ids']
    assert Encoder(tokenizer, length)(texts) == expected


def test_workers_do_not_change_what_is_masked(build):
    alone = by_sample(build(train=True).dataloader)
    data = build(train=True, num_workers=2, batch_size=16)
    with_workers = by_sample(data.dataloader)
    both = alone.keys() & with_workers.keys()
    assert len(both) > 1500
    assert all(alone[text] == with_workers[text] for text in both)


def test_training_masks_anew_and_evaluation_does_not(build):
    data = build(train=True, split='val')
    first = by_sample(data.dataloader)
    data.dataloader.sampler.set_epoch(1)  # as Composer does
    second = by_sample(data.dataloader)
    both = first.keys() & second.keys()
    assert sum(first[text] == second[text] for text in both) < 0.02 * len(both)
    evaluation = build(seed=1)
    assert by_sample(evaluation.dataloader) == by_sample(evaluation.dataloader) == by_sample(build(seed=2).dataloader)


def test_microbatches_carry_the_places_of_their_labels(build):
    data = build()
    batch = next(iter(data.dataloader))
    for parts in (data.split_batch(batch, 3), data.split_batch(batch, 8), data.split_batch(batch, 100)):
        assert sum(len(part['labels']) for part in parts) == data.get_num_samples_in_batch(batch) == 8
        for part in parts:
            flat = part['labels'].flatten()
            assert torch.equal(part['masked_positions'], torch.where(flat != -100)[0])
            assert data.get_num_samples_in_batch(part) == count_samples(part) == len(part['labels'])
    assert 'masked_positions' not in batch
    assert [len(part['labels']) for part in data.split_batch(batch, 3)] == [3, 3, 2]


def test_tokens_are_counted_without_padding(build):
    data = build(max_seq_len=200)
    batch = next(iter(data.dataloader))
    assert data.get_num_tokens_in_batch(batch) == int((unmasked(batch) != 0).sum()) < batch['labels'].numel()
    loss_generating = data.get_num_tokens_in_batch(batch, token_type='loss_generating')
    assert loss_generating == sum(len(part['masked_positions']) for part in split_batch(batch, 3))
    assert count_tokens(batch)['loss_generating'] == loss_generating


def test_the_dataset_says_whose_words_they_are(build, tokenizer):
    for train in (True, False):
        dataset = build(train=train).dataloader.dataset
        assert (dataset.vocabulary, dataset.max_seq_len) == (vocabulary_digest(tokenizer), 32)


def test_mask_probability(build):
    counts = [
        sum(int((batch['labels'] != -100).sum()) for batch in build(mask_probability=share).dataloader)
        for share in (0.1, 0.4)
    ]
    assert 3.5 < counts[1] / counts[0] < 4.5


def test_split_and_streaming(build, prose):
    train, val = (build(split=split).num_samples for split in ('train', 'val'))
    assert (build(train=True).num_samples, build().num_samples) == (train, val)
    assert build(path=prose / 'c4' / 'val', split=None).num_samples == val
    assert build(streaming={'epoch_size': 40}, train=True).dataloader.dataset.epoch_size == 40
    with pytest.raises(ValueError, match="streaming: unknown key 'epochsize'"):
        build(streaming={'epochsize': 40})


def test_a_remote_is_fetched_and_looked_at(build, prose, tmp_path):
    data = build(path=tmp_path / 'cache', remote=str(prose / 'c4'))
    assert by_sample(data.dataloader) == by_sample(build().dataloader)
    assert (tmp_path / 'cache' / 'val' / 'index.json').is_file()


def packed(path, tokenizer, **changes):
    index = path / 'index.json'
    said = {'tokenizer': 'that', 'vocabulary': vocabulary_digest(tokenizer), 'seq_len': 6, 'concat': True, **changes}
    index.write_text(json.dumps({**json.loads(index.read_text()), 'tokens': said}))


ROWS = [np.array([2, 10 + row, 50, 60, 70, 3], np.uint16) for row in range(20)]


@pytest.mark.parametrize(('encoding', 'values'), [
    ('ndarray:uint16', ROWS),
    ('ndarray:uint16:6', ROWS),
    ('ndarray:int32', [row.astype(np.int32) for row in ROWS]),
    ('bytes', [row.astype(np.int64).tobytes() for row in ROWS]),
])
def test_tokens_as_they_are(build, write, encoding, values):
    path = write(values, 'tokens', encoding)
    batch = next(iter(build(path, split='train', max_seq_len=6).dataloader))
    assert unmasked(batch).tolist() == [row.tolist() for row in ROWS[:8]]
    assert batch['attention_mask'].all()


def test_tokens_are_padded_or_cut_to_length(build, write, tmp_path, tokenizer):
    path = write([np.array([2, 10, 50, 60, 70, 3]), np.array([2, 10, 3])], 'tokens', 'ndarray:int64')
    batch = next(iter(build(path, split='train', max_seq_len=5).dataloader))
    assert unmasked(batch).tolist() == [[2, 10, 50, 60, 3], [2, 10, 3, 0, 0]]
    assert batch['attention_mask'].sum(dim=1).tolist() == [5, 3]


def test_tokens_of_another_tokenizer_or_too_short(build, write, tmp_path, tokenizer):
    path = write(ROWS, 'tokens', 'ndarray:uint16')
    packed(tmp_path / 'train', tokenizer)
    assert build(path, split='train', max_seq_len=6).num_samples == 20
    with pytest.raises(ValueError, match=r'max_seq_len: the samples .* have 6 tokens, fewer than 7; .*--seq-len 7'):
        build(path, split='train', max_seq_len=7)
    packed(tmp_path / 'train', tokenizer, vocabulary='other')
    with pytest.raises(ValueError, match=r"tokenizer: the tokens in .* are those of 'that', whose vocabulary differs"):
        build(path, split='train', max_seq_len=6)
    with pytest.raises(ValueError, match=r"tokenizer: the tokens in .* are those of 'that', whose vocabulary differs"):
        build(tmp_path / 'cache', split='train', remote=path, max_seq_len=6)


def test_a_token_outside_the_vocabulary(build, write):
    path = write([np.array([2, 2500, 3], np.uint16)], 'tokens', 'ndarray:uint16')
    with pytest.raises(ValueError, match='sample 0 holds a token numbered 2500, and the tokenizer has 2000'):
        next(iter(build(path, split='train').dataloader))


def test_other_columns(build, write):
    path = write(['a'], 'content')
    with pytest.raises(ValueError, match=r"path: the MDS shards in .* have the columns content; expected 'text'"):
        build(path, split='train')


def test_no_shards(build, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected MDS shards with an index\.json in '.*none'"):
        build(tmp_path / 'none')


def test_a_tokenizer_that_will_not_do(build, tokenizer, tmp_path):
    plain = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token='[PAD]')
    plain.save_pretrained(tmp_path / 'plain')
    with pytest.raises(ValueError, match=r'tokenizer: masked language modelling needs a mask token, and .*plain.* none'):
        build(tokenizer=str(tmp_path / 'plain'))


def test_a_length_that_holds_nothing(build):
    with pytest.raises(ValueError, match='max_seq_len: expected 3 tokens or more, two of them special, got 2'):
        build(max_seq_len=2)


def test_its_shape_is_known_without_reading(prose, tmp_path):
    assert DATA.get('masked_text') is masked_text
    shape = SHAPES['masked_text'](True, path=str(prose / 'c4'), tokenizer='any', max_seq_len=32, num_workers=3)
    assert (shape.samples, shape.tokens) == (masked_text_length(prose), 32)
    assert 300_000 < shape.disk_bytes < 600_000
    assert 'counted in' in shape.note
    with torch.device('meta'):
        batch = shape.batch(4)
    assert {name: tuple(value.shape) for name, value in batch.items()} == {
        'input_ids': (4, 32), 'attention_mask': (4, 32), 'labels': (4, 32), 'masked_positions': (19,),
    }
    assert all(value.is_meta and value.dtype == torch.int64 for value in batch.values())
    absent = SHAPES['masked_text'](False, path=str(tmp_path), tokenizer='any')
    assert (absent.samples, absent.tokens, absent.disk_bytes) == (364_608, 128, None)
    assert 'as published' in absent.note


def masked_text_length(prose):
    return sum(shard['samples'] for shard in json.loads((prose / 'c4/train/index.json').read_text())['shards'])


def test_a_microbatch_can_be_cut_again_as_composer_does_at_the_end_of_an_evaluation():
    labels = torch.tensor([[-100, 5], [6, -100], [7, 8]])
    first, = split_batch({'input_ids': labels, 'labels': labels}, 3)
    again = split_batch(first, 2)
    assert [part['masked_positions'].tolist() for part in again] == [[1, 2], [0, 1]]
    assert [len(part['labels']) for part in again] == [2, 1]
