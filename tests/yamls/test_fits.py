"""Data and model that do not fit are told apart before the first batch, with the path in the recipe."""

import shutil

import pytest

from composer_kd.recipes import build_trainer, load_recipe
from tests.models.words import tokenizer_folder
from tests.yamls.overlay import ROOT, overlay


@pytest.fixture
def refused(workshop, tmp_path, monkeypatch):
    """A function that gives the message with which a recipe on sample data is refused; no training has begun."""
    monkeypatch.chdir(workshop.root)

    def message(recipe, *changes):
        path = ROOT / 'yamls' / recipe
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            build_trainer(load_recipe(path, [*overlay(path), f'run_folder={tmp_path / "run"}', *changes]))
        assert not (tmp_path / 'run').exists()
        return str(error.value)
    return message


def test_another_number_of_classes(refused):
    told = refused('resnet50/baseline.yaml', 'model.num_classes=12', 'train_data.num_classes=10', 'evaluators.imagenet.data.num_classes=10')
    assert told.startswith('train_data: its labels are of 10 classes and the model has 12 outputs')
    assert 'expected 12 class folders' in refused('resnet50/baseline.yaml', 'model.num_classes=12')
    assert 'of 10 classes and the model has 11 outputs' in refused('resnet56_cifar/baseline.yaml', 'model.num_classes=11', 'train_data.classes=10', 'evaluators.test.data.classes=10')


def test_a_path_that_is_not_there(refused):
    for recipe in ('resnet50/baseline.yaml', 'resnet56_cifar/baseline.yaml', 'bert/base.yaml', 'glue/sst2.yaml'):
        told = refused(recipe, 'train_data.path=no/such/place', 'start_from=null')
        assert told.startswith('train_data.path:'), told
        assert 'no/such/place' in told


def test_another_vocabulary_than_the_data(refused, tmp_path):
    words = tokenizer_folder(tmp_path / 'words')
    told = refused('bert/base.yaml', f'model.tokenizer={words}')
    assert told.startswith("train_data: its tokenizer numbers words otherwise than the model's")


def test_a_longer_sequence_than_the_model_has_places_for(refused):
    told = refused('bert/base.yaml', 'train_data.max_seq_len=65')
    assert told.startswith('train_data.max_seq_len: 65 tokens, and the model has places for 64')


def test_a_truncated_shard(refused, workshop, tmp_path):
    shutil.copytree(workshop.root / 'data/sample/c4', tmp_path / 'c4')
    shard = next((tmp_path / 'c4' / 'train').glob('*.mds'))
    shard.write_bytes(shard.read_bytes()[:-7])
    told = refused('bert/base.yaml', f'train_data.path={tmp_path / "c4"}')
    assert told.startswith('train_data.path: a shard is truncated')
    assert shard.name in told


def test_sentences_longer_than_the_model_has_places_for(refused):
    told = refused('glue/sst2.yaml', 'train_data.max_seq_len=80', 'start_from=null')
    assert told.startswith('train_data.max_seq_len: 80 tokens, and the model has places for 64')
