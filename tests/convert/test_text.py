"""Documents to MDS: nothing lost, nothing twice, however often it stops."""

import gzip
import json
import shutil

import numpy as np
import pytest
from streaming import StreamingDataset
from transformers import BertTokenizerFast

from composer_kd.convert import text as module
from composer_kd.convert.documents import Documents
from composer_kd.convert.packing import Packer
from composer_kd.convert.text import convert_text
from composer_kd.models import load_tokenizer, vocabulary_digest

WORDS = ['cat', 'dog', 'the', 'a', 'sat', 'ran', 'far']
DOCUMENTS = [f"the {WORDS[k % 7]} {' '.join(WORDS[:k % 5])}".strip() for k in range(23)]
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / 'source'
    folder.mkdir()
    for number, rows in enumerate((DOCUMENTS[:10], DOCUMENTS[10:17], DOCUMENTS[17:])):
        lines = '\n'.join(json.dumps({'text': row, 'url': 'x'}) for row in [*rows, '', ' \n'])
        file = folder / f'{number}.jsonl'
        if number == 1:
            file.with_suffix('.jsonl.gz').write_bytes(gzip.compress(lines.encode()))
        else:
            file.write_text(lines)
    return folder


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / 'vocab.txt').write_text('\n'.join([*SPECIAL, *WORDS]) + '\n')
    BertTokenizerFast(vocab_file=str(tmp_path / 'vocab.txt')).save_pretrained(tmp_path / 'tokenizer')
    return str(tmp_path / 'tokenizer')


@pytest.fixture(autouse=True)
def _small_lots(monkeypatch):
    monkeypatch.setattr(module, 'LOT', 4)


def convert(source, out, split='train', **settings):
    return convert_text(source, out, split, workers=2, progress=False, **settings)


def read(folder, column='text'):
    data = StreamingDataset(local=str(folder), batch_size=1)
    return [data[index][column] for index in range(len(data))]


def test_every_document_once_and_in_order(source, tmp_path):
    index = convert(source, tmp_path / 'out')
    assert read(tmp_path / 'out' / 'train') == DOCUMENTS
    assert (index.samples, index.columns) == (23, {'text': 'str'})


def test_the_folder_may_have_another_name_than_the_split(source, tmp_path):
    convert(source, tmp_path / 'out', name='val')
    assert read(tmp_path / 'out' / 'val') == DOCUMENTS
    assert not (tmp_path / 'out' / 'train').exists()


def test_a_conversion_that_was_stopped_goes_on(source, tmp_path, monkeypatch):
    made = []
    really = module.write_mds

    def stops(samples, columns, out, **settings):
        if len(made) == stop_at:
            raise KeyboardInterrupt
        made.append(out.name)
        return really(samples, columns, out, **settings)

    monkeypatch.setattr(module, 'write_mds', stops)
    for stop_at in (2, 4, None):
        if stop_at is not None:
            with pytest.raises(KeyboardInterrupt):
                convert(source, tmp_path / 'out')
            assert not (tmp_path / 'out' / 'train' / 'index.json').exists()
        else:
            convert(source, tmp_path / 'out')
    assert made == ['00000-00000', '00000-00001', '00000-00002', '00001-00000', '00001-00001', '00002-00000', '00002-00001']
    assert read(tmp_path / 'out' / 'train') == DOCUMENTS
    convert(source, tmp_path / 'out')
    assert len(made) == 7


def test_files_that_are_done_are_not_read_again(source, tmp_path, monkeypatch):
    asked = []
    really = Documents.of_file

    def watched(self, file):
        asked.append(file)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return really(self, file)

    monkeypatch.setattr(Documents, 'of_file', watched)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / 'out')
    convert(source, tmp_path / 'out')
    assert asked == [0, 1, 2, 2]
    assert read(tmp_path / 'out' / 'train') == DOCUMENTS


def test_tokens_of_single_documents(source, tmp_path, tokenizer):
    convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=5)
    words = load_tokenizer(tokenizer)
    found = read(tmp_path / 'out' / 'train', 'tokens')
    assert [row.tolist() for row in found] == words(DOCUMENTS, truncation=True, max_length=5)['input_ids']
    assert {row.dtype for row in found} == {np.dtype('uint16')}
    said = json.loads((tmp_path / 'out' / 'train' / 'index.json').read_text())['tokens']
    assert said == {
        'tokenizer': tokenizer, 'vocabulary': vocabulary_digest(words), 'seq_len': 5, 'concat': False,
    }


def test_joined_documents_fill_every_sample(source, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(module, 'LOT', 1000)
    index = convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=6, concat=True)
    found = np.stack(read(tmp_path / 'out' / 'train', 'tokens'))
    assert index.columns == {'tokens': 'ndarray:uint16:6'}
    assert (found[:, 0] == 2).all()
    assert (found[:, -1] == 3).all()
    words = load_tokenizer(tokenizer)
    expected = []
    for rows in (DOCUMENTS[:10], DOCUMENTS[10:17], DOCUMENTS[17:]):
        joined = [token for row in rows for token in (*words(row, add_special_tokens=False)['input_ids'], 3)]
        expected += joined[:len(joined) // 4 * 4]
    assert found[:, 1:-1].flatten().tolist() == expected


@pytest.mark.parametrize(('size', 'dtype'), [(2**16, 'uint16'), (2**16 + 1, 'uint32')])
def test_a_large_vocabulary_takes_32_bits(tmp_path, size, dtype):
    words = [*SPECIAL, *(f'w{number}' for number in range(size - len(SPECIAL)))]
    (tmp_path / 'vocab.txt').write_text('\n'.join(words) + '\n')
    packer = Packer(BertTokenizerFast(vocab_file=str(tmp_path / 'vocab.txt')), 8, concat=False)
    assert packer.columns == {'tokens': f'ndarray:{dtype}'}
    assert packer([words[-1]])[0].tolist() == [2, size - 1, 3]


@pytest.mark.parametrize(('documents', 'expected'), [
    ('line', ['one', 'two', 'three']), ('paragraph', ['one\ntwo', 'three']), ('file', ['one\ntwo\n\nthree\n']),
])
def test_what_is_a_document_of_a_text_file(tmp_path, documents, expected):
    (tmp_path / 'a.txt').write_text('one\ntwo\n\nthree\n')
    convert(tmp_path / 'a.txt', tmp_path / 'out', documents=documents)
    assert [row.strip('\n') for row in read(tmp_path / 'out' / 'train')] == [row.strip('\n') for row in expected]


@pytest.mark.filterwarnings('ignore:unclosed file.*zstd:ResourceWarning')  # streaming's own
def test_parquet_another_column_a_split_folder_and_compression(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / 'source' / 'val').mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({'content': DOCUMENTS}), tmp_path / 'source' / 'val' / 'a.parquet')
    convert(tmp_path / 'source', tmp_path / 'out', 'val', column='content', compression='zstd')
    folder = tmp_path / 'out' / 'val'
    assert list(folder.rglob('*.mds.zstd'))
    assert not list(folder.rglob('*.mds'))
    assert read(folder) == DOCUMENTS


def test_a_data_set_by_name(source, tmp_path, monkeypatch):
    # As the hub hands it over, which no test may ask.
    import datasets

    asked = []
    files = sorted(map(str, source.iterdir()))
    load = datasets.load_dataset

    def loaded(path, name=None, split=None, streaming=False, **settings):
        asked.append((path, name, split, streaming))
        return load('json', data_files=files, split='train', streaming=True)

    monkeypatch.setattr(datasets, 'load_dataset', loaded)
    convert('allenai/c4', tmp_path / 'out', 'validation', config='en')
    assert asked == [('allenai/c4', 'en', 'validation', True)]
    assert read(tmp_path / 'out' / 'validation') == DOCUMENTS


def test_what_another_conversion_began_is_refused(source, tmp_path, tokenizer):
    convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=5)
    with pytest.raises(ValueError, match=r"holds another conversion, with seq_len 5 instead of 6\. Give the arguments"):
        convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=6)
    with pytest.raises(ValueError, match='holds another conversion, with .*vocabulary .* instead of None'):
        convert(source, tmp_path / 'out')
    shutil.copy(source / '0.jsonl', source / '9.jsonl')
    with pytest.raises(ValueError, match='holds another conversion, with files'):
        convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=5)
    (tmp_path / 'mine' / 'train').mkdir(parents=True)
    (tmp_path / 'mine' / 'train' / 'notes').touch()
    with pytest.raises(ValueError, match=r"mine.train' is not empty and holds no conversion of text; give a new folder"):
        convert(source, tmp_path / 'mine')


@pytest.mark.parametrize('source', ['no/such/folder', '../none', 'none.jsonl'])
def test_no_such_source(tmp_path, source):
    with pytest.raises(FileNotFoundError, match=f"SOURCE: there is no file or folder '{source}'"):
        convert(source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_sources_that_will_not_do(source, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=r"column: .* has no 'txt'; its columns are 'text', 'url'"):
        convert(source, tmp_path / 'out', column='txt')
    with pytest.raises(ValueError, match="documents: expected 'line', 'paragraph', 'file', got 'page'"):
        convert(source, tmp_path / 'out', documents='page')
    with pytest.raises(ValueError, match='concat: documents are joined as tokens; name a tokenizer as well'):
        convert(source, tmp_path / 'out', concat=True)
    with pytest.raises(ValueError, match='seq_len: expected 3 tokens or more'):
        convert(source, tmp_path / 'out', tokenizer=tokenizer, seq_len=2)
    (source / 'a.txt').write_text('one')
    with pytest.raises(ValueError, match=r'are of several kinds \(json, text\)'):
        convert(source, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'SOURCE: expected files ending in \.txt, .* and there are none'):
        convert(tmp_path / 'empty', tmp_path / 'out')


def test_nothing_to_convert(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": " "}\n{"text": null}\n')
    with pytest.raises(ValueError, match='SOURCE: there is nothing to convert'):
        convert(tmp_path / 'a.jsonl', tmp_path / 'out')
    assert not (tmp_path / 'out' / 'train' / 'index.json').exists()


def test_a_column_that_is_no_text(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": 3}\n')
    with pytest.raises(TypeError, match="column: expected text in 'text', got int: 3"):
        convert(tmp_path / 'a.jsonl', tmp_path / 'out')
