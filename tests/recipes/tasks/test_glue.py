import datasets
import numpy as np
import pytest
import torch
from composer.core import DataSpec

from composer_kd.models import load_tokenizer, vocabulary_digest
from composer_kd.names import Registry
from composer_kd.recipes.tasks import DATA
from composer_kd.recipes.tasks.glue import TASKS, glue, read_file
from composer_kd.recipes.tasks.glue.files import find_file
from composer_kd.recipes.tasks.registry import SHAPES
from tests.models.words import tokenizer_folder

MNLI_TRAIN = ('index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\tsentence1_parse\tsentence2_parse\t'
              'sentence1\tsentence2\tlabel1\tgold_label')
MNLI_DEV = MNLI_TRAIN.replace('label1', 'label1\tlabel2\tlabel3\tlabel4\tlabel5')

# As GLUE writes them: the file, its lines, and what they say.
FILES = {
    'cola': ('CoLA/dev.tsv', ['gj04\t1\t\tThe cat sat.', 'gj04\t0\t*\tCat the "sat.'],
             [('The cat sat.',), ('Cat the "sat.',)], [1, 0]),
    'mnli': ('MNLI/dev_matched.tsv', [MNLI_DEV, *(f'0\t1\t1a\tfiction\t( a )\t( b )\t(S a)\t(S b)\tthe cat\ta "dog\t{x}\t{x}\t{x}\t{x}\t{x}\t{x}'
                                                   for x in ('neutral', 'entailment', 'contradiction'))],
             [('the cat', 'a "dog')] * 3, [1, 0, 2]),
    'mrpc': ('MRPC/dev.tsv', ['\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String', '1\t1\t2\tThe cat\t"A cat', '0\t3\t4\tA\tB'],
             [('The cat', '"A cat'), ('A', 'B')], [1, 0]),
    'qnli': ('QNLI/dev.tsv', ['index\tquestion\tsentence\tlabel', '0\tWho sat?\tThe cat.\tentailment', '1\tWho?\tA dog\tnot_entailment'],
             [('Who sat?', 'The cat.'), ('Who?', 'A dog')], [0, 1]),
    'qqp': ('QQP/dev.tsv', ['id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate', '7\t1\t2\tWho?\tWho ran?\t0', '8\t1\t2\tA\t\t1'],
            [('Who?', 'Who ran?'), ('A', '')], [0, 1]),
    'rte': ('RTE/dev.tsv', ['index\tsentence1\tsentence2\tlabel', '0\tThe cat sat\tA cat\tnot_entailment', '1\tA\tB\tentailment'],
            [('The cat sat', 'A cat'), ('A', 'B')], [1, 0]),
    'sst2': ('SST-2/dev.tsv', ['sentence\tlabel', 'the cat sat \t1', "a dog ran \t0"], [('the cat sat ',), ('a dog ran ',)], [1, 0]),
    'stsb': ('STS-B/dev.tsv', ['index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore',
                               '0\tmain-captions\tMSRvid\t2012test\t0\tnone\tnone\tA cat sat\tThe cat sat\t4.750',
                               '1\tmain-news\tx\t2012\t0\tnone\tnone\tA\tB\t0.0'],
             [('A cat sat', 'The cat sat'), ('A', 'B')], [4.75, 0.0]),
}


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return str(tokenizer_folder(tmp_path_factory.mktemp('words') / 'tokenizer'))


@pytest.fixture
def folder(tmp_path):
    for file, lines, _, _ in FILES.values():
        write(tmp_path / file, lines)
    return tmp_path


def write(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def split_of(task):
    return 'validation_matched' if task == 'mnli' else 'validation'


def built(task, folder, tokenizer, **settings):
    """The data as a recipe builds it."""
    settings = {'batch_size': 2, 'seed': 17, 'train': False, 'path': str(folder), 'tokenizer': tokenizer, **settings}
    return DATA.get('glue')(task=task, **settings)


@pytest.mark.parametrize('task', TASKS)
def test_files_are_read_as_glue_writes_them(folder, task):
    said, split = TASKS[task], split_of(task)
    file, _, sentences, labels = FILES[task]
    found = find_file(folder, said, split)
    assert found == folder / file
    assert read_file(found, said, split) == (sentences, labels)
    assert find_file(found.parent, said, split) == found, "a task's own folder does as well"


@pytest.mark.parametrize('task', TASKS)
def test_batches(folder, tokenizer, task):
    spec = built(task, folder, tokenizer, batch_size=8)
    assert isinstance(spec, DataSpec)
    (batch,) = list(spec.dataloader)
    _, _, sentences, labels = FILES[task]
    words = load_tokenizer(tokenizer)
    assert batch.keys() == {'input_ids', 'attention_mask', 'token_type_ids', 'labels'}
    assert batch['labels'].tolist() == labels
    assert batch['labels'].dtype == (torch.float32 if task == 'stsb' else torch.int64)
    for row, texts in enumerate(sentences):
        length = int(batch['attention_mask'][row].sum())
        alone = words(*([text] for text in texts))
        assert batch['input_ids'][row, :length].tolist() == alone['input_ids'][0]
        assert batch['token_type_ids'][row, :length].tolist() == alone['token_type_ids'][0]
        assert (batch['input_ids'][row, length:] == words.pad_token_id).all()
    assert batch['input_ids'].shape[1] == 8 * -(-int(batch['attention_mask'].sum(1).max()) // 8), 'longest, in eights'
    dataset = spec.dataloader.dataset
    assert dataset.num_classes == {'mnli': 3, 'stsb': None}.get(task, 2)
    assert dataset.vocabulary == vocabulary_digest(words)


def test_both_validation_sets_of_mnli(folder, tokenizer):
    write(folder / 'MNLI/dev_mismatched.tsv', [MNLI_DEV, '\t'.join(['x'] * 15 + ['contradiction'])])
    assert next(iter(built('mnli', folder, tokenizer, split='validation_mismatched').dataloader))['labels'].tolist() == [2]
    assert next(iter(built('mnli', folder, tokenizer).dataloader))['labels'].tolist() == [1, 0]
    with pytest.raises(ValueError, match="split: unknown key 'validation'. Did you mean 'validation_matched'"):
        built('mnli', folder, tokenizer, split='validation')


def sst2(folder, count):
    write(folder / 'SST-2/train.tsv', ['sentence\tlabel', *(f'{"cat " * (1 + i % 9)}\t{i % 2}' for i in range(count))])


def test_training_shuffles_by_seed_and_epoch(tmp_path, tokenizer):
    sst2(tmp_path, 40)

    def epoch(number=0, **settings):
        loader = built('sst2', tmp_path, tokenizer, train=True, batch_size=16, **settings).dataloader
        loader.sampler.set_epoch(number)
        return [batch['input_ids'].tolist() for batch in loader]

    first = epoch()
    assert len(first) == 2, 'the smaller last batch is left out'
    assert first == epoch() == epoch(num_workers=2)
    assert first != epoch(1)
    assert first != epoch(seed=18)
    lengths = [len(row) for batch in first for row in batch]
    assert lengths == [16] * 32, 'nine words, and two for the ends'
    cut = epoch(max_seq_len=8)
    assert {len(row) for batch in cut for row in batch} == {8}
    assert {len(row) for batch in epoch(max_seq_len=10) for row in batch} == {10}, 'and no longer than was asked for'


def test_microbatches(folder, tokenizer):
    spec = built('mnli', folder, tokenizer, batch_size=3)
    batch = next(iter(spec.dataloader))
    parts = spec.split_batch(batch, 2)
    assert [len(part['labels']) for part in parts] == [2, 1]
    for name, values in batch.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), values)


def test_microsofts_own_mrpc_files_are_split_as_glue_does(tmp_path, tokenizer):
    lines = ['\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String', *(f'{i % 2}\t{i}\t{i + 50}\tcat {i}\tdog' for i in range(6))]
    write(tmp_path / 'MRPC/msr_paraphrase_train.txt', lines)
    with pytest.raises(FileNotFoundError, match=r"MRPC/dev_ids.tsv' is missing"):
        built('mrpc', tmp_path, tokenizer)
    write(tmp_path / 'MRPC/dev_ids.tsv', ['1\t51', '4\t54', '2\t99'])
    said = TASKS['mrpc']
    for split, kept in (('train', [0, 2, 3, 5]), ('validation', [1, 4])):
        sentences, labels = read_file(find_file(tmp_path, said, split), said, split)
        assert sentences == [(f'cat {i}', 'dog') for i in kept]
        assert labels == [i % 2 for i in kept]


def test_broken_lines_are_passed_over_where_the_published_file_has_them(tmp_path, tokenizer):
    header, line = 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate', '7\t1\t2\tWho?\tWho ran?\t0'
    write(tmp_path / 'QQP/dev.tsv', [header, *[line] * 1500, '9\t1\t2\tcut short', line])
    assert len(built('qqp', tmp_path, tokenizer).dataloader.dataset) == 1501
    write(tmp_path / 'QQP/dev.tsv', [header, line, '9\t1\t2\tcut short', line])
    with pytest.raises(ValueError, match=r'line 3 has fewer than 6 columns, and 1 of 3 lines'):
        built('qqp', tmp_path, tokenizer)


@pytest.mark.parametrize(('task', 'changed', 'told'), [
    ('sst2', ['sentence\tlabel', 'cat\t1', 'dog\t2'], r"SST-2/dev.tsv', line 3: the label is '2'; SST-2 has 0, 1\."),
    ('mnli', [MNLI_DEV, '\t'.join(['x'] * 15 + ['-'])], r"line 2: the label is '-'; MNLI has entailment, neutral, contradiction"),
    ('stsb', [FILES['stsb'][1][0], '\t'.join(['x'] * 9 + ['5.2'])], r"line 2: the score is '5.2'; STS-B has numbers from 0 to 5"),
    ('stsb', [FILES['stsb'][1][0], '\t'.join(['x'] * 9 + ['nan'])], r"the score is 'nan'"),
    ('stsb', [FILES['stsb'][1][0], '\t'.join(['x'] * 9 + ['much'])], r"the score is 'much'"),
    ('rte', ['index\tsentence1\tsentence2\tlabel', '0\tthe cat\tentailment'], r"RTE/dev.tsv', line 2 has 3 columns and 4 are expected"),
    ('cola', ['index\tsentence', '0\tThe cat'], r"line 1 has 2 columns and 4 are expected"),
    ('qnli', ['index\tsentence1\tsentence2\tlabel', '0\ta\tb\tentailment'], r"QNLI/dev.tsv' has no column 'question' in its first line"),
    ('rte', ['index\tsentence1\tsentence2\tlabel'], r"RTE/dev.tsv' holds no samples"),
    ('rte', [], r"RTE/dev.tsv' holds no samples"),
])
def test_bad_files(folder, tokenizer, task, changed, told):
    write(folder / FILES[task][0], changed)
    with pytest.raises(ValueError, match=told) as caught:
        built(task, folder, tokenizer)
    assert str(caught.value).startswith('path: ')


def test_a_file_that_is_no_text(folder, tokenizer):
    (folder / 'RTE/dev.tsv').write_bytes(b'index\tsentence1\tsentence2\tlabel\n0\t\xff\xfe\tb\tentailment\n')
    with pytest.raises(ValueError, match=r"RTE/dev.tsv' is no text in UTF-8"):
        built('rte', folder, tokenizer)


@pytest.mark.parametrize(('settings', 'kind', 'told'), [
    ({'path': 'no/such'}, FileNotFoundError, "path: there is no folder 'no/such'"),
    ({'split': 'train'}, FileNotFoundError, r"path: '.*RTE/train.tsv' is missing, the file of RTE's split 'train'"),
    ({'task': 'rt'}, ValueError, "task: unknown key 'rt'. Did you mean 'rte'"),
    ({'split': 'dev'}, ValueError, "split: unknown key 'dev'"),
    ({'max_seq_len': 4}, ValueError, 'max_seq_len: expected 8 tokens or more, got 4'),
    ({'tokenizer': 'no/such'}, ValueError, 'tokenizer: expected'),
    ({'num_workers': -1}, ValueError, 'num_workers: expected'),
])
def test_bad_settings(folder, tokenizer, settings, kind, told):
    with pytest.raises(kind, match=told):
        built(**{'task': 'rte', 'folder': folder, 'tokenizer': tokenizer, **settings})


def test_too_little_to_train_on(tmp_path, tokenizer):
    sst2(tmp_path, 10)
    with pytest.raises(ValueError, match='batch_size: an epoch has 10 samples'):
        built('sst2', tmp_path, tokenizer, train=True, batch_size=16)


def saved(folder, columns, **splits):
    features = datasets.Features({**dict.fromkeys(columns, datasets.Value('string')),
                                  'label': datasets.Value('float32' if folder.name == 'stsb' else 'int64')})
    data = {name: datasets.Dataset.from_dict(dict(zip([*columns, 'label'], rows, strict=True)), features=features)
            for name, rows in splits.items()}
    datasets.DatasetDict(data).save_to_disk(folder)


@pytest.mark.parametrize('task', ['mnli', 'stsb', 'sst2'])
def test_what_datasets_saved(tmp_path, tokenizer, task):
    columns, split = TASKS[task].hub_texts, split_of(task)
    rows = [*([f'the cat {i}', 'a dog'] for i in range(len(columns))), [1, 0]]
    saved(tmp_path / task, columns, **{split: rows})
    for folder in (tmp_path, tmp_path / task):
        dataset = built(task, folder, tokenizer, split=split).dataloader.dataset
        assert dataset.sentences == list(zip(*rows[:-1], strict=True))
        assert dataset.labels == [1, 0]
    with pytest.raises(ValueError, match=f"has no split 'train'; it has {split}"):
        built(task, tmp_path, tokenizer, split='train')


def test_what_datasets_saved_of_something_else(tmp_path, tokenizer):
    saved(tmp_path / 'rte', ('text',), validation=[['a'], [0]])
    with pytest.raises(ValueError, match="has no column 'sentence1', so it is no RTE; it has text, label"):
        built('rte', tmp_path, tokenizer)
    saved(tmp_path / 'sst2', ('sentence',), validation=[['a', 'b'], [0, -1]])
    with pytest.raises(ValueError, match=r"split 'validation', sample 1: the label is -1; SST-2 has 0 to 1"):
        built('sst2', tmp_path, tokenizer)


def test_without_a_network(tokenizer, monkeypatch):
    def unreachable(*arguments, **settings):
        raise ConnectionError('Couldn\'t reach the hub\n(offline mode is enabled)')
    monkeypatch.setattr(datasets, 'load_dataset', unreachable)
    with pytest.raises(FileNotFoundError, match=r'path: is null, so CoLA comes from .*nyu-mll/glue.*offline mode.*save_to_disk'):
        built('cola', None, tokenizer, path=None)


def test_the_hub_is_asked_for_the_split(tokenizer, monkeypatch):
    asked = []

    def load(*arguments, **settings):
        asked.append((arguments, settings))
        return datasets.Dataset.from_dict({'sentence': ['the cat', 'a dog'], 'label': [1, 0], 'idx': [0, 1]})
    monkeypatch.setattr(datasets, 'load_dataset', load)
    dataset = built('cola', None, tokenizer, path=None, split='validation').dataloader.dataset
    assert asked == [(('nyu-mll/glue', 'cola'), {'split': 'validation'})]
    assert dataset.sentences == [('the cat',), ('a dog',)]


def test_shapes(folder, tokenizer):
    assert isinstance(DATA, Registry)
    published = SHAPES['glue'](True, task='mnli', max_seq_len=64)
    assert published.samples == 392702
    assert published.tokens == 64
    assert SHAPES['glue'](False, task='mnli', split='validation_mismatched').samples == 9832
    for task, (file, _, _, labels) in FILES.items():
        shape = SHAPES['glue'](False, task=task, path=str(folder), tokenizer=tokenizer)
        assert shape.samples == len(labels)
        assert shape.disk_bytes == (folder / file).stat().st_size
        real = next(iter(built(task, folder, tokenizer, batch_size=len(labels)).dataloader))
        batch = shape.batch(len(labels))
        assert {name: (len(v), v.dtype) for name, v in batch.items()} == {name: (len(v), v.dtype) for name, v in real.items()}
    missing = SHAPES['glue'](True, task='rte', path=str(folder))
    assert missing.samples == 2490
    assert 'not on this machine' in missing.note
    with torch.device('meta'):
        assert SHAPES['glue'](True, task='rte').batch(3)['input_ids'].is_meta


def test_the_published_sizes_are_those_of_glue():
    total = {name: sum(task.sizes.values()) for name, task in TASKS.items()}
    assert total == {'cola': 9594, 'mnli': 412349, 'mrpc': 4076, 'qnli': 110206, 'qqp': 404276, 'rte': 2767, 'sst2': 68221, 'stsb': 7249}
    assert np.sum(list(total.values())) == 1018738
    assert glue is DATA.get('glue')
