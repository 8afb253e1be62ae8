import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DistributedSampler

from composer_kd.recipes.tasks import digits
from composer_kd.recipes.tasks.digits import SPLITS, Digits, ordered_digits, shifted
from composer_kd.recipes.tasks.sampling import EpochSampler


def epoch_of(loader, epoch):
    """All of an epoch, sorted by what cannot change: image and label pairs by sample."""
    loader = loader.dataloader
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    keys = list(loader.sampler)[:sum(len(labels) for _, labels in batches)]
    images = torch.cat([images for images, _ in batches])
    labels = torch.cat([labels for _, labels in batches])
    return {index: (images[i], labels[i]) for i, (_, index) in enumerate(keys)}


def same(one, other):
    shared = one.keys() & other.keys()
    return bool(shared) and all(torch.equal(one[i][0], other[i][0]) and one[i][1] == other[i][1] for i in shared)


def test_the_split_is_whole_disjoint_and_of_the_documented_sizes():
    images, labels = ordered_digits()
    raw, raw_labels = load_digits(return_X_y=True)
    assert sorted(map(bytes, images.reshape(-1, 64))) == sorted(map(bytes, (raw / 16).astype(np.float32)))
    assert np.array_equal(np.bincount(labels), np.bincount(raw_labels))
    assert {name: last - first for name, (first, last) in SPLITS.items()} == {'train': 1078, 'validation': 359, 'test': 360}
    assert [first for first, _ in SPLITS.values()] + [1797] == [0, *(last for _, last in SPLITS.values())]
    assert images.min() == 0
    assert images.max() == 1


def test_the_split_never_changes():
    labels = ordered_digits()[1]
    assert labels[:12].tolist() == [3, 1, 5, 6, 4, 9, 7, 0, 2, 8, 3, 1]
    assert int((ordered_digits()[0].reshape(1797, 64).sum(1) * 16 * np.arange(1797)).sum()) == 504632146


@pytest.mark.parametrize(('first', 'last'), [*SPLITS.values(), *[(0, size) for size in (10, 50, 100, 333, 1000)]])
def test_splits_and_every_train_size_are_stratified(first, last):
    labels = ordered_digits()[1]
    counts, wanted = np.bincount(labels[first:last], minlength=10), np.bincount(labels) * (last - first) / len(labels)
    assert np.abs(counts - wanted).max() <= 2
    assert counts.min() >= 1 or last - first < 50


def test_smaller_training_sets_are_part_of_larger_ones_with_the_same_augmentation():
    small, large = (Digits('train', 17, True, size, noise=0.4, shift=2) for size in (64, 700))
    assert torch.equal(small.images(3), large.images(3)[:64])
    assert torch.equal(small.labels, large.labels[:64])


@pytest.mark.parametrize('batch_size', [7, 50])
@pytest.mark.parametrize('num_workers', [0, 2])
def test_a_sample_does_not_depend_on_its_batch_or_on_workers(batch_size, num_workers):
    reference = epoch_of(digits(16, 17, True, train_size=100, noise=0.3, shift=2), 2)
    other = epoch_of(digits(batch_size, 17, True, train_size=100, noise=0.3, shift=2, num_workers=num_workers), 2)
    assert same(reference, other)


def test_a_single_sample_is_the_same_as_in_a_batch():
    dataset = Digits('train', 17, True, 50, noise=0.3, shift=1)
    images, labels = dataset.__getitems__([(4, 7), (4, 3)])
    again = Digits('train', 17, True, 50, noise=0.3, shift=1)
    again.images(9)
    image, label = again[(4, 7)]
    assert torch.equal(image, images[0])
    assert label == labels[0]


@pytest.mark.parametrize('change', [{'seed': 18}, {'epoch': 3}])
def test_seed_and_epoch_change_augmentation_and_order(change):
    def both(seed=17, epoch=2):
        loader = digits(100, seed, True, train_size=100, noise=0.3)
        samples = epoch_of(loader, epoch)
        return samples, list(samples)

    one, order = both()
    other, other_order = both(**change)
    assert order != other_order
    assert not any(torch.equal(one[i][0], other[i][0]) for i in one)
    assert both()[1] == order


def test_seeds_do_not_share_epochs_that_lie_beside_each_other():
    # torch's own sampler draws from seed + epoch: epoch 1 of seed 17 is epoch 0 of seed 18.
    dataset = Digits('train', 17, True, 100)
    one, other = EpochSampler(dataset, 17, True), EpochSampler(dataset, 18, True)
    one.set_epoch(1)
    assert [i for _, i in one] != [i for _, i in other]


def test_noise_and_shift_have_streams_of_their_own():
    plain, shifts, noise = (Digits('train', 17, True, 40, **s).images(1) for s in ({}, {'shift': 2}, {'noise': 0.1}))
    both = Digits('train', 17, True, 40, noise=0.1, shift=2).images(1)
    torch.testing.assert_close(both - shifts, noise - plain, atol=1e-6, rtol=0)
    measured = float((noise - plain).std())
    assert measured == pytest.approx(0.1, rel=0.05)


def test_shift_moves_by_whole_pixels_up_to_the_limit():
    images = np.arange(3 * 16, dtype=np.float32).reshape(3, 4, 4) + 1
    moved = shifted(images, np.array([[0, 0], [1, -1], [-3, 0]]))
    assert np.array_equal(moved[0], images[0])
    assert np.array_equal(moved[1][1:, :-1], images[1][:-1, 1:])
    assert not moved[1][0].any()
    assert np.array_equal(moved[2][:1], images[2][3:])
    dataset = Digits('train', 17, True, None, shift=1)
    raw = Digits('train', 17, True, None).images(0)
    candidates = [torch.roll(torch.nn.functional.pad(raw, (1, 1, 1, 1)), (dy, dx), (2, 3))[..., 1:-1, 1:-1]
                  for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    found = torch.stack([(dataset.images(5) == c).all(-1).all(-1).squeeze(1) for c in candidates])
    assert found.any(0).all()
    assert (found.sum(1) > 50).all()


def test_evaluation_reads_the_same_noise_in_every_epoch_and_for_every_seed():
    one, other = digits(100, 17, False, noise=0.5, shift=2), digits(64, 99, False, noise=0.5)
    first, later = epoch_of(one, 0), epoch_of(other, 7)
    assert list(first) == list(range(359))
    assert first.keys() == later.keys()
    assert same(first, later)
    test = epoch_of(digits(64, 17, False, split='test', noise=0.5), 0)
    raw = {split: Digits(split, 0, False).images(0) for split in ('validation', 'test')}
    noise = {'validation': first[0][0] - raw['validation'][0], 'test': test[0][0] - raw['test'][0]}
    assert not torch.allclose(noise['validation'], noise['test']), 'each split has its own draw'


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('ranks', [2, 3])
def test_ranks_share_an_epoch(monkeypatch, ranks, train):
    dataset = Digits('validation', 17, train)
    whole = [index for _, index in EpochSampler(dataset, 17, train)]
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr('composer.utils.dist.get_world_size', lambda: ranks)
        monkeypatch.setattr('composer.utils.dist.get_global_rank', lambda rank=rank: rank)
        sampler = EpochSampler(dataset, 17, train)
        assert isinstance(sampler, DistributedSampler), 'what Composer tells the epoch'
        shares.append([index for _, index in sampler])
        assert len(shares[-1]) == len(sampler)
    together = [index for step in zip(*shares, strict=True) for index in step]
    if train:
        assert together == whole[:len(together)], 'a global batch is the same for every number of ranks'
        assert len(whole) - len(together) < ranks
    else:
        assert together[:359] == whole
        assert set(together[359:]) <= set(whole)


def test_training_leaves_the_last_batch_out_and_evaluation_does_not():
    train, test = digits(50, 17, True, train_size=120), digits(50, 17, False, split='test')
    assert [len(labels) for _, labels in train.dataloader] == [50, 50]
    assert [len(labels) for _, labels in test.dataloader] == [50] * 7 + [10]


@pytest.mark.parametrize(('settings', 'told'), [
    ({'split': 'tset'}, "Did you mean 'test'"),
    ({'train_size': 5}, 'train_size: expected 10 to 1078'),
    ({'train_size': 2000}, 'train_size: expected 10 to 1078'),
    ({'noise': -0.1}, 'noise: expected'),
    ({'noise': float('nan')}, 'noise: expected'),
    ({'shift': 8}, 'shift: expected'),
    ({'train_size': 20}, 'fewer than one global batch of 32'),
])
def test_bad_settings(settings, told):
    with pytest.raises(ValueError, match=told):
        digits(32, 17, True, **settings)


def test_loading_is_no_bottleneck():
    from time import perf_counter

    loader = digits(128, 17, True, noise=0.3, shift=1).dataloader
    next(iter(loader))
    best = 0.0
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        started = perf_counter()
        samples = sum(len(labels) for _, labels in loader)
        best = max(best, samples / (perf_counter() - started))
    assert best > 40_000, f'{best:,.0f} samples/s'
