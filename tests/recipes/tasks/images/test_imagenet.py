import os
import shutil

import pytest
import torch
from streaming import MDSWriter
from torchvision.datasets import ImageFolder

from composer_kd.convert import convert_images
from composer_kd.recipes.tasks.images import imagenet
from composer_kd.recipes.tasks.images.folder import scan_folder
from composer_kd.recipes.tasks.images.imagenet import imagenet_shape
from composer_kd.recipes.tasks.images.transforms import RandAugmented, TrainingView
from tests.recipes.tasks.images.pictures import as_bytes, photographs, write_folder


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp('imagenet')
    write_folder(folder)
    write_folder(folder, 'val', each=3)
    return folder


@pytest.fixture(scope='module')
def shards(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp('imagenet-mds')
    for split in ('train', 'val'):
        convert_images(root, folder, split, size_limit='8kb', workers=1, progress=False)
    return folder


def data(path, batch_size=4, train=True, seed=17, **settings):
    settings = {'crop_size': 24, 'resize_size': 28, 'num_classes': 3, 'num_workers': 0, **settings}
    return imagenet(batch_size, seed, train, path=str(path), **settings)


def epoch_of(spec, epoch=0):
    loader = spec.dataloader
    if hasattr(loader.sampler, 'set_epoch'):
        loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_the_scan_finds_what_torchvision_finds(root):
    found, theirs = scan_folder(root / 'train'), ImageFolder(str(root / 'train'))
    assert found.classes == theirs.classes
    assert [(found.path(i), int(found.labels[i])) for i in range(len(found))] == theirs.samples


@pytest.mark.parametrize('kind', ['root', 'shards'])
def test_batches(kind, request):
    spec = data(request.getfixturevalue(kind))
    images, labels = next(iter(spec.dataloader))
    assert images.shape == (4, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert labels.dtype == torch.int64
    assert spec.dataloader.dataset.num_classes == 3
    normal, _ = spec.microbatch_transforms((images, labels))
    assert normal.dtype == torch.float32
    assert abs(float(normal.mean())) < 2
    assert [len(part[1]) for part in spec.split_batch((images, labels), 3)] == [3, 1]


def test_evaluation_reads_every_picture_once_in_order_and_as_torchvision_does(root):
    from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

    images, labels = epoch_of(data(root, train=False, decoder='pil'))
    theirs = ImageFolder(str(root / 'val'), Compose([Resize(28), CenterCrop(24), PILToTensor()]))
    assert labels.tolist() == theirs.targets
    assert torch.equal(images, torch.stack([image for image, _ in theirs]))


def test_shards_hold_what_the_folder_holds(root, shards):
    images, labels = epoch_of(data(root, train=False))
    found, found_labels = epoch_of(data(shards, train=False))
    key = lambda pair: (pair[0], pair[1].numpy().tobytes())  # noqa: E731
    one, other = (sorted(zip(n.tolist(), p, strict=True), key=key) for n, p in ((labels, images), (found_labels, found)))
    assert len(one) == len(other) == 9
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize('kind', ['root', 'shards'])
def test_training_does_not_depend_on_workers_or_global_generators(kind, request):
    path = request.getfixturevalue(kind)
    torch.manual_seed(1)
    images, labels = epoch_of(data(path, rand_augment={'depth': 1}))
    torch.manual_seed(2)
    again, labels_again = epoch_of(data(path, num_workers=1, rand_augment={'depth': 1}))
    assert torch.equal(images, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(images, epoch_of(data(path, seed=18, rand_augment={'depth': 1}))[0])


def test_each_epoch_sees_the_view_of_its_seed_epoch_and_index(root):
    found, spec = scan_folder(root / 'train'), data(root, batch_size=12, rand_augment={'severity': 5})
    view = TrainingView(17, 24, 'fast', RandAugmented({'severity': 5}))
    for epoch in (0, 3):
        images, labels = epoch_of(spec, epoch)
        keys = list(spec.dataloader.sampler)
        assert {key[0] for key in keys} == {epoch}
        for image, label, (_, index) in zip(images, labels, keys, strict=True):
            assert label == found.labels[index]
            with open(found.path(index), 'rb') as file:
                assert torch.equal(image, view(file.read(), 'x', epoch, index))


@pytest.mark.parametrize('encoding', ['jpeg', 'pil', 'png'])
def test_pictures_as_streamings_own_converters_write_them(tmp_path, encoding):
    picture = photographs()[0].resize((60, 50))
    with MDSWriter(out=str(tmp_path / 'val'), columns={'i': 'int', 'x': encoding, 'y': 'int'}) as writer:
        for index in range(4):
            writer.write({'i': index, 'x': picture, 'y': index % 3})
    images, labels = epoch_of(data(tmp_path, train=False))
    assert labels.tolist() == [0, 1, 2, 0]
    assert all(torch.equal(images[0], image) for image in images)
    assert float((images[0].float() - epoch_of(data(tmp_path, train=False, decoder='pil'))[0][0]).abs().mean()) < 0.1


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: there is no folder '.*nowhere'"):
        data(tmp_path / 'nowhere')
    with pytest.raises(FileNotFoundError, match=r"path: there is no folder '.*train'"):
        data(tmp_path)


def test_folders_that_are_wrong(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / 'x.JPEG').write_bytes(b'')
    with pytest.raises(ValueError, match='path: .* holds no class folders'):
        data(tmp_path)
    (tmp_path / 'train' / 'cat').mkdir()
    (tmp_path / 'train' / 'dog').mkdir()
    (tmp_path / 'train' / 'cat' / 'notes.txt').write_text('no picture')
    with pytest.raises(ValueError, match='path: no pictures in the class folders cat, dog'):
        data(tmp_path)


def test_another_number_of_classes(root):
    with pytest.raises(ValueError, match=r'num_classes: expected 1000 class folders in .*, found 3 \(class0 to class2\)'):
        data(root, num_classes=1000)


def test_classes_with_other_names_than_in_training(root, tmp_path):
    shutil.copytree(root, tmp_path / 'copy')
    os.rename(tmp_path / 'copy' / 'val' / 'class1', tmp_path / 'copy' / 'val' / 'klasse1')
    with pytest.raises(ValueError, match=r'different names \(class1, klasse1\)'):
        data(tmp_path / 'copy', train=False)


@pytest.mark.parametrize('workers', [0, 1])
def test_a_truncated_picture_is_named_when_it_is_read(root, tmp_path, workers):
    shutil.copytree(root, tmp_path / 'copy')
    broken = tmp_path / 'copy' / 'val' / 'class1' / '1_1.JPEG'
    broken.write_bytes(broken.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"class1/1_1.JPEG' \(400 bytes\) cannot be decoded"):
        epoch_of(data(tmp_path / 'copy', train=False, num_workers=workers))


def write_shard(path, rows, columns):
    with MDSWriter(out=str(path), columns=columns) as writer:
        for row in rows:
            writer.write(row)


@pytest.mark.parametrize('label', [3, -1])
def test_a_label_outside_the_classes_is_named(tmp_path, label):
    picture = as_bytes(photographs()[0].resize((40, 40)))
    write_shard(tmp_path / 'val', [{'x': picture, 'y': y} for y in (0, label)], {'x': 'bytes', 'y': 'int'})
    with pytest.raises(ValueError, match=f"sample 1 of the shards in .*val': expected a label from 0 to 2 in the column 'y', got {label}"):
        epoch_of(data(tmp_path, train=False))


def test_a_damaged_picture_in_a_shard_is_named(tmp_path):
    picture = as_bytes(photographs()[0].resize((40, 40)))
    write_shard(tmp_path / 'val', [{'x': picture[:300], 'y': 0}], {'x': 'bytes', 'y': 'int'})
    with pytest.raises(ValueError, match=r'sample 0 of the shards in .* \(300 bytes\) cannot be decoded'):
        epoch_of(data(tmp_path, train=False))


def test_shards_of_another_kind(tmp_path):
    write_shard(tmp_path / 'val', [{'text': 'x'}], {'text': 'str'})
    with pytest.raises(ValueError, match='have the columns text; expected x and y'):
        data(tmp_path, train=False)
    write_shard(tmp_path / 'other' / 'val', [{'x': 'text', 'y': 1}], {'x': 'str', 'y': 'int'})
    with pytest.raises(ValueError, match="expected the bytes of a picture in the column 'x', got str"):
        epoch_of(data(tmp_path / 'other', train=False))


@pytest.mark.parametrize(('settings', 'told'), [
    ({'crop_size': 0}, 'crop_size: expected 1'),
    ({'train': False, 'resize_size': 20}, r'resize_size: expected 24 \(crop_size\) or more pixels, got 20'),
    ({'num_classes': 1}, 'num_classes: expected 2'),
    ({'decoder': 'fats'}, "decoder: expected 'fast' or 'pil', got 'fats'. Did you mean 'fast'"),
    ({'train': False, 'rand_augment': {}}, 'rand_augment: is for training'),
    ({'rand_augment': {'depth': 0}}, 'rand_augment.depth'),
    ({'streaming': {'cache_limit': '1gb'}}, 'streaming: is for MDS shards'),
    ({'batch_size': 13}, 'batch_size: an epoch has 12 samples'),
    ({'num_workers': -1}, 'num_workers: expected'),
])
def test_bad_settings(root, settings, told):
    with pytest.raises(ValueError, match=told):
        data(root, **settings)


def test_the_shape_without_the_data_is_the_published_one(tmp_path):
    train, val = (imagenet_shape(train, path=str(tmp_path / 'no'), crop_size=176) for train in (True, False))
    assert (train.samples, val.samples) == (1_281_167, 50_000)
    assert 'as published' in train.note
    images, labels = train.batch(5)
    assert images.shape == (5, 3, 176, 176)
    assert labels.dtype == torch.int64
    assert imagenet_shape(True, path=str(tmp_path / 'no'), num_classes=10).samples is None


def test_the_shape_of_data_that_is_there(root, shards):
    folder, mds = (imagenet_shape(True, path=str(path), num_classes=3) for path in (root, shards))
    assert folder.samples == mds.samples == 12
    size = sum(path.stat().st_size for path in (root / 'train').rglob('*.JPEG'))
    assert folder.disk_bytes == pytest.approx(size, rel=0.01)
    assert mds.disk_bytes == sum(path.stat().st_size for path in (shards / 'train').glob('*.mds'))
    with torch.device('meta'):
        assert folder.batch(2)[0].is_meta


def test_gray_and_png_pictures_among_the_others(tmp_path):
    for name, picture, format in (('a', photographs()[0].convert('L'), 'JPEG'), ('b', photographs()[1], 'PNG'),
                                  ('c', photographs()[1].convert('CMYK'), 'JPEG')):
        at = tmp_path / 'val' / name
        at.mkdir(parents=True)
        # ImageNet has a PNG that is called JPEG.
        (at / '1.JPEG').write_bytes(as_bytes(picture.resize((50, 40)), format))
    images, labels = epoch_of(data(tmp_path, train=False))
    assert labels.tolist() == [0, 1, 2]
    assert torch.equal(images[0, 0], images[0, 1])
