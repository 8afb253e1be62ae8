import numpy as np
import pytest
import torch
from composer.algorithms.colout import colout_batch
from composer.algorithms.progressive_resizing import resize_batch
from torchvision.transforms import Normalize, RandomResizedCrop

from composer_kd.recipes.tasks.images.transforms import (
    IMAGENET_STATISTICS,
    Normalise,
    RandAugmented,
    TrainingView,
    collate,
    numpy_seeded,
    random_box,
    split_batch,
)
from tests.recipes.tasks.images.pictures import as_bytes, photographs


@pytest.mark.parametrize('shape', [(375, 500), (600, 200)])
def test_random_parts_are_distributed_as_torchvisions(shape):
    height, width = shape
    random = np.random.default_rng(0)
    ours = np.array([random_box(random, height, width) for _ in range(4000)])
    picture = torch.empty(3, height, width)
    theirs = np.array([RandomResizedCrop.get_params(picture, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)])
    assert (ours[:, 0] + ours[:, 2]).max() <= height
    assert (ours[:, 1] + ours[:, 3]).max() <= width
    assert ours.min() >= 0
    for column in range(4):
        for q in (0.1, 0.5, 0.9):
            spread = theirs[:, column].std()
            assert abs(np.quantile(ours[:, column], q) - np.quantile(theirs[:, column], q)) < 0.12 * spread + 1


def test_a_picture_that_is_too_long_gives_its_middle():
    assert random_box(np.random.default_rng(0), 10, 1000) == (0, 493, 10, 13)
    assert random_box(np.random.default_rng(0), 1000, 10) == (493, 0, 13, 10)


def test_a_sample_follows_from_seed_epoch_and_index_alone():
    data = as_bytes(photographs()[0].resize((100, 80)))
    augment = RandAugmented({'depth': 2})
    view, again = (TrainingView(17, 32, 'fast', augment) for _ in range(2))
    first = view(data, 'x', 3, 5)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    for key in ((3, 6), (4, 5), (0, 0)):
        assert not torch.equal(first, again(data, 'x', *key))
    assert torch.equal(first, again(data, 'x', 3, 5)), 'whatever came before'
    assert not torch.equal(first, TrainingView(18, 32, 'fast', augment)(data, 'x', 3, 5))
    assert np.array_equal(before[0], np.random.get_state()[1]), 'no global generator moves'
    assert torch.equal(before[1], torch.get_rng_state())
    np.random.seed(99)
    assert torch.equal(first, again(data, 'x', 3, 5)), 'and none matters'


def test_half_of_the_pictures_are_flipped():
    data = as_bytes(photographs()[0].resize((64, 64)))
    view = TrainingView(17, 64, 'pil')
    straight = np.asarray(photographs()[0].resize((64, 64)), np.float64).mean((0, 2))
    flipped = 0
    for index in range(60):
        columns = view(data, 'x', 0, index).float().mean((0, 1)).numpy()
        flipped += np.corrcoef(columns, straight)[0, 1] < np.corrcoef(columns[::-1], straight)[0, 1]
    assert 18 < flipped < 42


def test_rand_augment_changes_the_picture_after_the_crop_and_nothing_else():
    data = as_bytes(photographs()[1].resize((100, 80)))
    plain = TrainingView(17, 32, 'fast')
    changed = TrainingView(17, 32, 'fast', RandAugmented({'depth': 1, 'severity': 9}))
    found = [torch.equal(plain(data, 'x', 0, i), changed(data, 'x', 0, i)) for i in range(20)]
    assert sum(found) < 6
    again = RandAugmented({})(plain(data, 'x', 0, 3), 17, 0, 3)
    assert torch.equal(again, changed(data, 'x', 0, 3)), 'depth 1 and severity 9 are the defaults'
    assert again.shape == (3, 32, 32)
    assert again.dtype == torch.uint8


def test_rand_augment_settings_reach_it():
    image = torch.from_numpy(np.asarray(photographs()[0].resize((32, 32))).copy()).permute(2, 0, 1)

    def strength(**settings):
        augment = RandAugmented(settings)
        return float(np.mean([(augment(image, 17, 0, i).int() - image.int()).abs().float().mean() for i in range(40)]))

    assert strength(severity=2) < strength(severity=9) < strength(severity=9, depth=4)
    one, other = (RandAugmented({'augmentation_set': name}) for name in ('all', 'safe'))
    assert any(not torch.equal(one(image, 17, 0, i), other(image, 17, 0, i)) for i in range(20))


@pytest.mark.parametrize(('settings', 'told'), [
    ({'dept': 1}, "rand_augment: unknown key 'dept'. Did you mean 'depth'"),
    ({'depth': 0}, 'rand_augment.depth: expected 1'),
    ({'depth': True}, 'rand_augment.depth: expected 1'),
    ({'severity': 11}, 'rand_augment.severity: expected'),
    ({'augmentation_set': 'most'}, 'rand_augment.augmentation_set: expected one of all, safe, original'),
])
def test_bad_rand_augment(settings, told):
    with pytest.raises(ValueError, match=told):
        RandAugmented(settings)


def test_numpy_is_put_back_after_an_error():
    before = np.random.get_state()[1].copy()
    with pytest.raises(ZeroDivisionError), numpy_seeded(3):
        1 / int(np.random.random())
    assert np.array_equal(before, np.random.get_state()[1])


def test_normalise_is_torchvisions():
    images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
    labels = torch.arange(4)
    found, same = Normalise(*IMAGENET_STATISTICS)((images, labels))
    torch.testing.assert_close(found, Normalize(*IMAGENET_STATISTICS)(images.float() / 255), atol=1e-5, rtol=1e-5)
    assert same is labels
    assert found.dtype == torch.float32


@pytest.mark.parametrize('mode', ['resize', 'crop'])
def test_progressive_resizing_picks_the_same_pixels_before_and_after_normalising(mode):
    images = torch.randint(0, 256, (4, 3, 176, 176), dtype=torch.uint8)
    labels, normalise = torch.arange(4), Normalise(*IMAGENET_STATISTICS)
    torch.manual_seed(3)
    small = resize_batch(images, labels, 0.5, mode)
    assert small[0].dtype == torch.uint8
    assert small[0].shape == (4, 3, 88, 88)
    torch.manual_seed(3)
    other = resize_batch(*normalise((images, labels)), 0.5, mode)
    assert torch.equal(normalise(small)[0], other[0])


def test_col_out_picks_the_same_pixels_before_and_after_normalising():
    images, normalise = torch.randint(0, 256, (4, 3, 60, 60), dtype=torch.uint8), Normalise(*IMAGENET_STATISTICS)
    torch.manual_seed(3)
    small = colout_batch(images, 0.05, 0.05)
    torch.manual_seed(3)
    other = colout_batch(normalise((images, torch.zeros(4)))[0], 0.05, 0.05)
    assert small.shape == (4, 3, 57, 57)
    assert torch.equal(normalise((small, torch.zeros(4)))[0], other)


def test_batches_are_contiguous_and_split_without_a_warning():
    batch = collate([(torch.full((3, 4, 4), i, dtype=torch.uint8), i) for i in range(5)])
    assert batch[0].shape == (5, 3, 4, 4)
    assert batch[0].is_contiguous()
    assert batch[1].dtype == torch.int64
    parts = split_batch(batch, 2)
    assert [len(labels) for _, labels in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([images for images, _ in parts]), batch[0])
