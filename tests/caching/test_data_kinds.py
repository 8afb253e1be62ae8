"""``composer-kd cache`` over data of every kind."""

import runpy

import pytest
import torch

from composer_kd.answers import Store
from composer_kd.caching import prepare
from composer_kd.recipes import load_recipe, train
from tests.caching.made import ROOT, answers, digits, keys, manifest, refused, save_teacher, text, write, written


def test_masked_text_keeps_the_masked_positions_alone(tmp_path):
    recipe = write(text(tmp_path), tmp_path)
    written(recipe, '--out', tmp_path / 'out', '--format', '{name: top_k, k: 3}')
    found = answers(tmp_path / 'out')
    assert len(found) == 80
    row = Store.open(tmp_path / 'out').format.row_bytes
    rows = {key: (len(raw) - 4) // row for key, raw in found.items()}
    assert all((len(raw) - 4) % row == 0 for raw in found.values())
    assert len(set(rows.values())) > 2, 'longer texts have more'
    assert manifest(tmp_path / 'out')['format']['classes'] == 16
    assert manifest(tmp_path / 'out')['data']['name'] == 'mds'
    written(recipe, '--out', tmp_path / 'one by one', '--format', '{name: top_k, k: 3}', 'train_data.batch_size=1')
    assert {key: len(raw) for key, raw in answers(tmp_path / 'one by one').items()} == {key: len(raw) for key, raw in found.items()}


@pytest.mark.filterwarnings('ignore::ResourceWarning')
def test_text_that_is_streamed(tmp_path):
    here = write(text(tmp_path), tmp_path)
    there = text(tmp_path, remote=str(tmp_path / 'text'), streaming={'num_canonical_nodes': 1})
    there['train_data']['path'] = str(tmp_path / 'fetched')
    written(here, '--out', tmp_path / 'out')
    written(write(there, tmp_path, 'streamed.yaml'), '--out', tmp_path / 'streamed')
    assert answers(tmp_path / 'streamed') == answers(tmp_path / 'out')


def test_pictures_in_folders(tmp_path):
    from tests.recipes.tasks.images.pictures import write_folder
    write_folder(tmp_path / 'pictures', classes=3, each=8)
    model = {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 3}
    recipe = {**digits(tmp_path), 'model': model, 'max_duration': '1ep', 'train_data': {
        'name': 'imagenet', 'path': str(tmp_path / 'pictures'), 'crop_size': 32, 'num_classes': 3, 'batch_size': 8, 'num_workers': 0,
    }}
    recipe['algorithms']['distillation']['teachers'] = [{'checkpoint': str(save_teacher(tmp_path / 'resnet.pt', model))}]
    path = write(recipe, tmp_path)
    written(path, '--out', tmp_path / 'out')
    assert keys(tmp_path / 'out') == [(0, index) for index in range(24)]
    assert 'view.crop_size is 32 in the store and 24' in refused(path, '--out', tmp_path / 'out', 'train_data.crop_size=24')


def test_cifars_files(tmp_path):
    runpy.run_path(str(ROOT / 'scripts' / 'sample_data' / 'images.py'))['write_cifar10'](tmp_path / 'cifar' / 'cifar-10-batches-py')
    model = {'name': 'resnet_cifar', 'depth': 8, 'width': 4, 'num_classes': 10}
    recipe = {**digits(tmp_path), 'model': model, 'max_duration': '1ep', 'train_data': {
        'name': 'cifar', 'path': str(tmp_path / 'cifar'), 'batch_size': 64, 'num_workers': 0,
    }}
    recipe['algorithms']['distillation']['teachers'] = [{'checkpoint': str(save_teacher(tmp_path / 'cifar.pt', model))}]
    path = write(recipe, tmp_path)
    written(path, '--out', tmp_path / 'out', '--only-asked', 'algorithms.distillation.end=2ba')
    assert len(answers(tmp_path / 'out')) == 128
    train(load_recipe(path, ['max_duration=3ba', 'algorithms.distillation.end=2ba', f"algorithms.distillation.teachers=[{{cache: {tmp_path / 'out'}}}]"]))


def test_glues_files(tmp_path):
    recipe = text(tmp_path)
    model = {**recipe['model'], 'name': 'bert_classifier', 'num_labels': 2}
    (tmp_path / 'glue').mkdir()
    lines = ['sentence\tlabel', *(f"{'the cat ' * (n % 5 + 1)}\t{n % 2}" for n in range(24))]
    (tmp_path / 'glue' / 'train.tsv').write_text('\n'.join(lines) + '\n')
    recipe |= {'model': model, 'train_data': {
        'name': 'glue', 'path': str(tmp_path / 'glue'), 'task': 'sst2', 'tokenizer': str(tmp_path / 'tokenizer'), 'max_seq_len': 16, 'batch_size': 8,
    }}
    recipe['algorithms']['distillation']['teachers'] = [{'checkpoint': str(save_teacher(tmp_path / 'glue.pt', model))}]
    path = write(recipe, tmp_path)
    written(path, '--out', tmp_path / 'out')
    assert len(answers(tmp_path / 'out')) == 24 or len(answers(tmp_path / 'out')) == 48
    train(load_recipe(path, [f"algorithms.distillation.teachers=[{{cache: {tmp_path / 'out'}}}]"]))


def test_a_loader_whose_batches_are_transformed(tmp_path):
    """As the trainer does it before it splits a batch."""
    asked = prepare(load_recipe(write(digits(tmp_path), tmp_path), []))
    batch = next(iter(asked.loader))
    plain = [logits for logits, _, _ in asked.ask(batch)]
    dark = [logits for logits, _, _ in asked.ask((torch.zeros_like(batch[0]), batch[1]))]
    assert not torch.equal(plain[0], dark[0])
    asked.data.batch_transforms = lambda whole: (torch.zeros_like(whole[0]), whole[1])
    assert torch.equal(next(asked.ask(batch))[0], dark[0])
