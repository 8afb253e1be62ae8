"""Stored answers over every kind of data, by recipe: text with masks drawn anew, pictures, shards, sentences."""

import importlib.util
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from composer_kd.answers import Store
from composer_kd.convert import convert_cifar, convert_images
from composer_kd.models import load_tokenizer
from composer_kd.recipes import parse_recipe
from composer_kd.recipes import train as train_recipe
from composer_kd.recipes.tasks.text.masked_text import masked_text
from composer_kd.teachers import read_weights
from tests.answers.training import keeper, stored, text_model, train
from tests.common import same, weights
from tests.recipes.tasks.images.pictures import write_folder

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length', 'ignore::UserWarning:composer',
    'ignore::UserWarning:torchmetrics',
)
SCRIPTS = Path(__file__).parents[2] / 'scripts' / 'sample_data'


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Sample data of every kind."""
    folder = tmp_path_factory.mktemp('data')
    script('text').write(folder)
    images = runpy.run_path(str(SCRIPTS / 'images.py'))
    images['write_cifar10'](folder / 'cifar-10-batches-py')
    convert_cifar(folder, folder / 'cifar-mds', size_limit='1mb', workers=1, progress=False)
    write_folder(folder / 'pictures', each=12)
    write_folder(folder / 'pictures', 'val', each=3)
    convert_images(folder / 'pictures', folder / 'pictures-mds', 'train', size_limit='8kb', workers=1, progress=False)
    (folder / 'glue' / 'SST-2').mkdir(parents=True)
    words = ['the', 'cat', 'sat', 'on', 'a', 'mat', 'and', 'it', 'was', 'good', 'but', 'the', 'dog', 'ran', 'off', 'in', 'bad', 'weather']
    random = np.random.default_rng(0)
    for name, count in (('train', 40), ('dev', 8)):
        lines = [f"{' '.join(random.choice(words, int(random.integers(1, 12))))}\t{i % 2}" for i in range(count)]
        (folder / 'glue' / 'SST-2' / f'{name}.tsv').write_text('\n'.join(['sentence\tlabel', *lines]) + '\n')
    return folder


# masked language modelling

def text(root, batch=8, seed=17, **changes):
    settings = {'path': str(root / 'c4'), 'split': 'val', 'tokenizer': str(root / 'tokenizer'), 'max_seq_len': 24, 'part': [0, 0.4]}
    return masked_text(batch, seed, True, **{**settings, **changes})


@pytest.fixture(scope='module')
def vocabulary(root):
    return len(load_tokenizer(str(root / 'tokenizer')))


def mlm(root, vocabulary, teachers, duration='10ba', **settings):
    return train(teachers, duration, settings.pop('spec', None) or text(root), text_model(vocabulary), lr=0.5, **settings)


def mlm_teacher(vocabulary, path=None, form=None):
    found = {'module': text_model(vocabulary, seed=1)}
    return found if path is None else {
        **found, 'cache': {'path': str(path), 'fill': True, 'format': form or {'name': 'dense', 'dtype': 'float32'}},
    }


@pytest.mark.parametrize('microbatch', [8, 3])
def test_masked_text(root, vocabulary, tmp_path, microbatch):
    settings = {'device_train_microbatch_size': microbatch}
    want = mlm(root, vocabulary, mlm_teacher(vocabulary), **settings)
    fit = mlm(root, vocabulary, mlm_teacher(vocabulary, tmp_path / 'store'), **settings)
    assert same(weights(fit), weights(want))
    store = Store.open(tmp_path / 'store')
    assert store.samples == keeper(fit).asked == 80
    rows = (store.bytes - 80 * 12) / store.format.row_bytes
    assert 80 * 24 * 0.05 < rows < 80 * 24 * 0.25, 'only what is masked is stored'
    for workers in (0, 2):
        again = mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, num_workers=workers), **settings)
        assert same(weights(again), weights(want))
        assert keeper(again).read == 80


@pytest.mark.parametrize('form', [
    {'name': 'top_k', 'k': 8, 'temperature': 1.0}, {'name': 'sampled', 'k': 50, 'temperature': 1.0}, {'name': 'dense', 'dtype': 'float16'},
], ids=lambda form: form['name'])
def test_masked_text_in_other_forms(root, vocabulary, tmp_path, form):
    fit = mlm(root, vocabulary, mlm_teacher(vocabulary, tmp_path / 'store', form))
    again = mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, num_workers=2))
    assert same(weights(again), weights(fit))
    live = weights(mlm(root, vocabulary, mlm_teacher(vocabulary)))
    assert not same(weights(fit), live)
    # the bound of what a sample takes, over all files
    store = Store.open(tmp_path / 'store')
    assert store.samples == 80


def test_masked_text_with_views(root, vocabulary, tmp_path):
    """Half of the text in two views, five epochs, resumed in the middle of the fourth."""
    spec = text(root, views=2, part=[0, 0.25])
    per_epoch = len(spec.dataloader)
    assert per_epoch >= 2
    path = tmp_path / 'store'
    fit = mlm(root, vocabulary, mlm_teacher(vocabulary, path), '4ep', spec=spec)
    assert keeper(fit).asked == keeper(fit).read == 2 * per_epoch * 8

    def again(workers=0, **settings):
        spec = text(root, views=2, part=[0, 0.25], num_workers=workers)
        return mlm(root, vocabulary, stored(path), '5ep', spec=spec, **settings)
    want = again()
    assert keeper(want).read == 5 * per_epoch * 8
    stop = 3 * per_epoch + 1
    again(save_folder=str(tmp_path), save_interval=f'{stop}ba', save_filename='ba{batch}.pt', save_num_checkpoints_to_keep=-1)
    resumed = again(2, load_path=str(tmp_path / f'ba{stop}.pt'))
    assert keeper(resumed).read == (5 * per_epoch - stop) * 8
    assert same(weights(resumed), weights(want))


def test_two_teachers_of_text_one_of_them_stored(root, vocabulary, tmp_path):
    settings = {'combine': 'probabilities'}
    other = {'module': text_model(vocabulary, seed=2)}
    want = weights(mlm(root, vocabulary, [mlm_teacher(vocabulary), other], **settings))
    mlm(root, vocabulary, mlm_teacher(vocabulary, tmp_path / 'store'))
    fit = mlm(root, vocabulary, [stored(tmp_path / 'store'), {'module': text_model(vocabulary, seed=2)}], **settings)
    assert same(weights(fit), want)


def test_another_word_that_does_not_count(root, vocabulary, tmp_path):
    mlm(root, vocabulary, mlm_teacher(vocabulary, tmp_path / 'store'))
    with pytest.raises(ValueError, match=r'rows\.ignore_index is -100 in the store and -1 in this training'):
        mlm(root, vocabulary, stored(tmp_path / 'store'), ignore_index=-1)
    with pytest.raises(ValueError, match=r'view\.mask_probability is 0\.15 in the store and 0\.3 in this training'):
        mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, mask_probability=0.3))
    with pytest.raises(ValueError, match=r'view\.max_seq_len is 24 in the store and 16 in this training'):
        mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, max_seq_len=16))
    with pytest.raises(ValueError, match=r'data\.samples .* data\.content is '):
        mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, split='train', part=[0, 0.02]))
    with pytest.raises(ValueError, match=r'view\.seed is 17 in the store and 18 in this training'):
        mlm(root, vocabulary, stored(tmp_path / 'store'), spec=text(root, seed=18))


# recipes

KINDS = {
    'digits': ({'name': 'digits', 'train_size': 64, 'noise': 0.3, 'shift': 1}, {'name': 'digits_resnet', 'width': 4}, {'noise': 0.2}, 'view.noise'),
    'cifar files': ({'name': 'cifar', 'path': '.', 'num_workers': 0, 'part': [0, 0.1]}, {'name': 'resnet_cifar', 'depth': 20, 'width': 4}, {'pad': 2}, 'view.pad'),
    'cifar shards': ({'name': 'cifar', 'path': 'cifar-mds', 'num_workers': 0, 'part': [0, 0.1]}, {'name': 'resnet_cifar', 'depth': 20, 'width': 4}, {'pad': 2}, 'view.pad'),
    'cifar stream': ({'name': 'cifar', 'path': 'cifar-mds', 'num_workers': 1, 'streaming': {'predownload': 64}}, {'name': 'resnet_cifar', 'depth': 20, 'width': 4}, {'pad': 2}, 'view.pad'),
    'pictures': ({'name': 'imagenet', 'path': 'pictures', 'crop_size': 24, 'num_classes': 3, 'num_workers': 0}, {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 3}, {'crop_size': 28}, 'view.'),
    'picture shards': ({'name': 'imagenet', 'path': 'pictures-mds', 'crop_size': 24, 'num_classes': 3, 'num_workers': 0}, {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 3}, {'crop_size': 28}, 'view.'),
    'text shards': ({'name': 'masked_text', 'path': 'c4', 'split': 'val', 'max_seq_len': 16, 'part': [0, 0.3], 'num_workers': 0}, 'bert_masked_lm', {'mask_probability': 0.2}, 'view.mask_probability'),
    'glue': ({'name': 'glue', 'task': 'sst2', 'path': 'glue', 'max_seq_len': 16, 'num_workers': 0}, 'bert_classifier', {'max_seq_len': 24}, 'view.max_seq_len'),
}
DRAWN = [kind for kind in KINDS if kind != 'glue']
BERT = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 32,
        'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}


def recipe(root, tmp_path, kind, name, teachers=None, seed=17, **changes):
    said, model, _, _ = KINDS[kind]
    said = {**said, 'batch_size': 8, **changes}
    for key in ('path', 'tokenizer'):
        if key in said:
            said[key] = str(root / said[key])
    if isinstance(model, str):
        said['tokenizer'] = str(root / 'tokenizer')
        model = {'name': model, 'vocab_size': len(load_tokenizer(said['tokenizer'])), **BERT, **({'num_labels': 2} if model == 'bert_classifier' else {})}
    distilled = {} if teachers is None else {'distillation': {'teachers': teachers, 'loss': {'name': 'kl_divergence', 'temperature': 2.0}}}
    return parse_recipe({
        'run_name': name, 'run_folder': str(tmp_path / name), 'seed': seed, 'model': model, 'train_data': said, 'algorithms': distilled,
        'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.02}, 'max_duration': {'glue': '2ep', 'pictures': '5ba', 'picture shards': '5ba'}.get(kind, '9ba'), 'progress_bar': False,
    })


def final(folder):
    return read_weights(str(folder.latest_checkpoint()))


@pytest.fixture(scope='module')
def earlier(root, tmp_path_factory):
    """By kind of data, the run that teaches, and a run folder's place; each made when it is first asked for."""
    folder, made = tmp_path_factory.mktemp('earlier'), {}

    def of(kind):
        if kind not in made:
            made[kind] = train_recipe(recipe(root, folder / kind, kind, 'teacher', seed=3)).path
        return str(made[kind])
    return of


@pytest.mark.parametrize('kind', KINDS)
def test_recipes(root, tmp_path, earlier, kind):
    teacher = earlier(kind)
    more = {} if kind == 'glue' else {'views': 2, 'view_seed': 5}
    cache = {'path': str(tmp_path / 'store'), 'fill': True, 'format': {'name': 'dense', 'dtype': 'float32'}}
    filled = final(train_recipe(recipe(root, tmp_path, kind, 'filled', [{'run': teacher, 'cache': cache}], **more)))
    folder = train_recipe(recipe(root, tmp_path, kind, 'read', [{'cache': str(tmp_path / 'store')}], **more))
    record = folder.read_record()
    assert record.status == 'finished'
    assert record.kd.active_batches == record.batches
    assert [t.origin for t in record.teachers] == [f"cache:{tmp_path / 'store'} (run:{teacher})"]
    read = final(folder)
    live = final(train_recipe(recipe(root, tmp_path, kind, 'live', [{'run': teacher}], **more)))
    store = Store.open(tmp_path / 'store')
    assert store.manifest.data['name'] == kind.split()[0] if kind in ('digits', 'cifar files') else store.manifest.data
    if store.samples == record.samples:  # no view came twice, so that every answer is the one that was given there
        assert same(filled, live)
    assert same(read, filled) or store.samples < record.samples
    for name in live:
        torch.testing.assert_close(read[name], live[name], rtol=1e-3, atol=1e-4)
    # what decides how a sample looks is named
    _, _, other, named = KINDS[kind]
    with pytest.raises(ValueError, match=rf'cache: the answers in .* were given to other inputs .*{named}'):
        train_recipe(recipe(root, tmp_path, kind, 'other', [{'cache': str(tmp_path / 'store')}], **{**more, **other}))
    if kind in DRAWN:
        with pytest.raises(ValueError, match=r'view\.seed is 5 in the store and 6 in this training'):
            train_recipe(recipe(root, tmp_path, kind, 'seed', [{'cache': str(tmp_path / 'store')}], **{**more, 'view_seed': 6}))


def test_glue_needs_no_views(root, tmp_path, earlier):
    """Nothing is drawn, so a run in another order reads what the first epoch of the first asked, however it was padded."""
    cache = {'path': str(tmp_path / 'store'), 'fill': True}
    train_recipe(recipe(root, tmp_path, 'glue', 'first', [{'run': earlier('glue'), 'cache': cache}]))
    assert Store.open(tmp_path / 'store').samples == 40
    folder = train_recipe(recipe(root, tmp_path, 'glue', 'second', [{'cache': str(tmp_path / 'store')}], seed=5))
    assert folder.read_record().status == 'finished'
