import pickle
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from composer.core import DataSpec
from torchvision.datasets import CIFAR10, CIFAR100

from composer_kd.convert import convert_cifar
from composer_kd.recipes.tasks.images import cifar
from composer_kd.recipes.tasks.images.cifar import augmented, cifar_shape
from composer_kd.recipes.tasks.images.cifar_files import read_cifar


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('cifar')
    sample_data = runpy.run_path(str(Path(__file__).parents[4] / 'scripts' / 'sample_data' / 'images.py'))
    sample_data['write_cifar10'](folder / 'cifar-10-batches-py')
    sample_data['write_cifar100'](folder / 'cifar-100-python')
    return folder


@pytest.fixture(scope='module')
def shards(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('cifar-mds')
    convert_cifar(root, folder, size_limit='1mb', workers=1, progress=False)
    return folder


def data(path, train=True, batch_size=100, seed=17, **settings) -> DataSpec:
    return cifar(batch_size, seed, train, path=str(path), **{'num_workers': 0, **settings})


def epoch_of(spec, epoch=0):
    if hasattr(spec.dataloader.sampler, 'set_epoch'):
        spec.dataloader.sampler.set_epoch(epoch)
    batches = list(spec.dataloader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize('classes', [10, 100])
@pytest.mark.parametrize('split', ['train', 'test'])
def test_files_are_read_as_torchvision_reads_them(root, monkeypatch, classes, split):
    theirs = {10: CIFAR10, 100: CIFAR100}[classes]
    monkeypatch.setattr(theirs, '_check_integrity', lambda self: True)
    monkeypatch.setattr(theirs, '_load_meta', lambda self: None)
    found, expected = read_cifar(root, split, classes), theirs(str(root), train=split == 'train')
    assert np.array_equal(found.images, expected.data)
    assert found.labels.tolist() == expected.targets
    assert len(set(expected.targets)) == classes


def test_the_folder_itself_may_be_named(root):
    assert len(read_cifar(root / 'cifar-10-batches-py', 'test', 10)) == len(read_cifar(root, 'test', 10)) == 300


@pytest.mark.parametrize('kind', ['root', 'shards'])
def test_batches(kind, request):
    spec = data(request.getfixturevalue(kind))
    images, labels = next(iter(spec.dataloader))
    assert images.shape == (100, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert spec.dataloader.dataset.num_classes == 10
    assert spec.microbatch_transforms((images, labels))[0].dtype == torch.float32


def test_evaluation_is_the_images_themselves(root, shards):
    images, labels = epoch_of(data(root, train=False))
    raw = read_cifar(root, 'test', 10)
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), raw.images)
    assert np.array_equal(labels.numpy(), raw.labels)
    found, found_labels = epoch_of(data(shards, train=False))
    order = np.random.RandomState(0).permutation(len(raw))
    assert torch.equal(found, images[order])
    assert torch.equal(found_labels, labels[order])


def test_the_padded_crop_is_a_part_of_the_padded_image():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    for pad in (0, 2, 6):
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        draws = np.array([(f, d, r) for f in (0, 1) for d in range(2 * pad + 1) for r in range(2 * pad + 1)])
        found = augmented(np.repeat(image[None], len(draws), 0), draws, pad)
        for (flip, down, right), part in zip(draws, found, strict=True):
            assert np.array_equal(part, padded[down:down + 6, right:right + 8][:, ::-1 if flip else 1])


def test_training_crops_and_flips_each_sample_by_its_own_draw(root):
    spec, raw = data(root, batch_size=80, pad=2), read_cifar(root, 'train', 10)
    images, labels = epoch_of(spec, 4)
    keys = list(spec.dataloader.sampler)[:len(labels)]
    seen, flips = set(), 0
    draws = np.array([(f, d, r) for f in (0, 1) for d in range(5) for r in range(5)])
    for image, label, (_, index) in zip(images[:200], labels, keys, strict=False):
        assert label == raw.labels[index]
        choices = augmented(np.repeat(raw.images[index][None], len(draws), 0), draws, 2)
        match = [tuple(draws[i]) for i in np.flatnonzero((choices == image.permute(1, 2, 0).numpy()).all((1, 2, 3)))]
        assert match
        seen |= {key[1:] for key in match[:1]}
        flips += match[0][0]
    assert len(seen) > 20
    assert 60 < flips < 140


def test_training_does_not_depend_on_workers_or_batches_but_on_seed_and_epoch(root):
    def by_index(epoch=1, **settings):
        spec = data(root, **settings)
        images, _ = epoch_of(spec, epoch)
        return dict(zip([i for _, i in list(spec.dataloader.sampler)[:len(images)]], images, strict=True))

    one = by_index()
    for other in (by_index(batch_size=64), by_index(num_workers=2)):
        assert all(torch.equal(one[i], other[i]) for i in one.keys() & other.keys())
    for other in (by_index(epoch=2), by_index(seed=18)):
        assert sum(torch.equal(one[i], other[i]) for i in one.keys() & other.keys()) < 0.2 * len(one)
    plain = by_index(pad=0)
    assert sum(torch.equal(one[i], plain[i]) for i in one) < 0.2 * len(one)


def test_files_that_are_not_there(root, tmp_path):
    with pytest.raises(FileNotFoundError, match="path: expected CIFAR-10's files in"):
        data(tmp_path)
    with pytest.raises(FileNotFoundError, match="path: expected CIFAR-100's files"):
        data(root / 'cifar-10-batches-py', classes=100)
    (tmp_path / 'test_batch').write_bytes((root / 'cifar-10-batches-py' / 'test_batch').read_bytes())
    with pytest.raises(FileNotFoundError, match='data_batch_1. is missing'):
        data(tmp_path)


class _Harmful:
    def __reduce__(self):
        return exec, ('raise SystemExit("ran")',)


@pytest.mark.parametrize(('content', 'told'), [
    (b'no pickle', 'is no file of CIFAR'),
    (b'', 'is no file of CIFAR'),
    (pickle.dumps({b'data': _Harmful()}), "asks for 'builtins.exec', which no CIFAR file does"),
    (pickle.dumps([1, 2]), 'got something else'),
    (pickle.dumps({b'data': np.zeros((3, 3072), np.uint8), b'fine_labels': [0, 1, 2]}), "got b'data', b'fine_labels'"),
    (pickle.dumps({b'data': np.zeros((3, 3000), np.uint8), b'labels': [0, 1, 2]}), r"expected CIFAR-10's 'data' \(N, 3072\)"),
    (pickle.dumps({b'data': np.zeros((3, 3072), np.uint8), b'labels': [0, 1]}), 'has 3 images and 2 labels'),
    (pickle.dumps({b'data': np.zeros((3, 3072), np.uint8), b'labels': [0, 10, 2]}), 'labels from 0 to 9 .* got 10 for image 1'),
    (pickle.dumps({b'data': np.zeros((3, 3072), np.uint8), b'labels': [0, 1, 2]})[:500], 'is no file of CIFAR'),
])
def test_a_file_of_another_kind(tmp_path, content, told):
    (tmp_path / 'test_batch').write_bytes(content)
    with pytest.raises(ValueError, match=told):
        data(tmp_path, train=False)


@pytest.mark.parametrize(('settings', 'told'), [
    ({'classes': 20}, 'classes: expected 10 or 100'),
    ({'pad': -1}, 'pad: expected 0 to 32'),
    ({'split': 'val'}, "split: unknown key 'val'"),
    ({'streaming': {'cache_limit': '1gb'}}, 'streaming: is for MDS shards'),
    ({'batch_size': 1000}, 'batch_size: an epoch has 800 samples'),
])
def test_bad_settings(root, settings, told):
    with pytest.raises(ValueError, match=told):
        data(root, **settings)


def test_shapes(root, shards, tmp_path):
    assert cifar_shape(True, path=str(tmp_path)).samples == 50_000
    assert cifar_shape(False, path=str(tmp_path), classes=100).samples == 10_000
    assert cifar_shape(True, path=str(root)).samples == cifar_shape(True, path=str(shards)).samples == 800
    assert cifar_shape(True, path=str(root)).batch(3)[0].shape == (3, 3, 32, 32)
