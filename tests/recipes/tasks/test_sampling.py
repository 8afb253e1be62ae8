"""Seeded sampling of data that resumes in mid-epoch without replaying what was seen."""

import pytest
import torch
from composer.core import DataSpec, Event
from composer.utils import dist

from composer_kd.recipes.resume import restore_randomness
from composer_kd.recipes.tasks.sampling import EpochDataset, EpochSampler, generator, make_loader
from tests.common import CLASSES, Watch, classifier, trainer, weights


class Numbers(EpochDataset):
    """The index and the epoch of every sample, and how often one was made."""

    def __init__(self, size=20):
        self.size, self.made = size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, key):
        self.made += 1
        return torch.tensor([key[1], key[0]])


class Noisy(Numbers):
    """Images whose pixels follow from epoch and index."""

    def __getitem__(self, key):
        self.made += 1
        draw = generator(3, *key)
        return torch.from_numpy(draw.standard_normal((1, 8, 8), dtype='float32')), torch.tensor(key[1] % CLASSES)


def indices(loader):
    return [batch[:, 0].tolist() for batch in loader]


def test_training_shuffles_by_seed_and_epoch_and_drops_the_rest():
    loader = make_loader(Numbers(), 6, 17, True)
    first = indices(loader)
    assert [len(batch) for batch in first] == [6, 6, 6]
    assert indices(make_loader(Numbers(), 6, 17, True)) == first
    assert indices(make_loader(Numbers(), 6, 18, True)) != first
    loader.sampler.set_epoch(1)
    assert indices(loader) != first


def test_evaluation_goes_in_order_through_all():
    assert [index for batch in indices(make_loader(Numbers(), 6, 17, False)) for index in batch] == list(range(20))


@pytest.mark.parametrize('workers', [0, 2])
def test_workers_change_nothing(workers):
    loader = make_loader(Numbers(), 6, 17, True, workers)
    assert indices(loader) == indices(make_loader(Numbers(), 6, 17, True))
    assert loader.num_workers == workers
    assert loader.persistent_workers == (workers > 0)


def test_an_epoch_goes_on_where_its_state_says_and_the_next_is_whole():
    loader = make_loader(Numbers(), 6, 17, True)
    whole = indices(loader)
    state = loader.dataset.state_dict(12, True)
    other = make_loader(Numbers(), 6, 17, True)
    other.dataset.load_state_dict(state)
    assert indices(other) == whole[2:]
    assert indices(other) == whole


@pytest.mark.parametrize('ranks', [2, 3])
def test_a_global_batch_holds_the_same_samples_for_every_number_of_ranks_after_resuming_too(ranks, monkeypatch):
    whole = [index for _, index in EpochSampler(Numbers(24), 17, True)]
    monkeypatch.setattr(dist, 'get_world_size', lambda: ranks)
    parts = []
    for rank in range(ranks):
        monkeypatch.setattr(dist, 'get_global_rank', lambda rank=rank: rank)
        data = Numbers(24)
        data.load_state_dict({'samples_in_epoch': 6})
        parts.append([index for _, index in EpochSampler(data, 17, True)])
    assert [index for row in zip(*parts, strict=True) for index in row] == whole[6:]


@pytest.mark.parametrize(('size', 'batch', 'train', 'said'), [
    (0, 4, False, 'has no samples'), (3, 4, True, 'an epoch has 3 samples, fewer than one global batch of 4'),
])
def test_too_little_data_is_refused(size, batch, train, said):
    with pytest.raises(ValueError, match=said):
        make_loader(Numbers(size), batch, 17, train)


def test_a_number_of_workers_below_zero_is_refused():
    with pytest.raises(ValueError, match='num_workers: expected 0 or more'):
        make_loader(Numbers(), 4, 17, True, -1)


def test_generators_of_one_name_agree_and_disturb_nobody():
    before = torch.random.get_rng_state()
    assert generator(1, 2, 3).integers(1 << 30) == generator(1, 2, 3).integers(1 << 30) != generator(1, 2, 4).integers(1 << 30)
    assert torch.equal(torch.random.get_rng_state(), before)


def _dropping(folder, seed=17, **settings):
    """A training with dropout, so that the state of the global generators shows in its weights."""
    model = classifier(seed=1)
    model.module.insert(5, torch.nn.Dropout(0.5))
    data = Noisy(40)
    fit = trainer(settings.pop('algorithms', ()), model=model, data=DataSpec(make_loader(data, 8, 17, True)), save_folder=str(folder),
                  save_interval='1ba', run_name='a', autoresume=True, save_filename='ba{batch}.pt', **settings)
    return fit, data


@pytest.mark.filterwarnings('ignore:No batches were', 'ignore:The ..compute')  # Composer's, of an epoch with nothing left
@pytest.mark.parametrize('stop', ['3ba', '5ba', '7ba'], ids=['mid-epoch', 'end of an epoch', 'mid second epoch'])
def test_a_resumed_run_equals_an_uninterrupted_one_and_fetches_no_batch_twice(tmp_path, stop):
    whole, _ = _dropping(tmp_path / 'whole')
    whole.fit()
    first, _ = _dropping(tmp_path / 'parts', max_duration=stop)
    first.fit()
    first.close()
    second, data = _dropping(tmp_path / 'parts')
    restore_randomness(second)
    second.fit()
    assert data.made == 80 - 8 * int(stop[:-2])
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(second)[name]), name


def test_without_the_mending_dropout_would_differ(tmp_path):
    # So that a Composer that does this itself is noticed, and the mending can go.
    whole, _ = _dropping(tmp_path / 'whole')
    whole.fit()
    first, _ = _dropping(tmp_path / 'parts', max_duration='3ba')
    first.fit()
    first.close()
    second, _ = _dropping(tmp_path / 'parts')
    second.fit()
    assert any(not torch.equal(value, weights(second)[name]) for name, value in weights(whole).items())


def test_a_transform_of_the_data_still_runs_on_every_batch(tmp_path):
    first, _ = _dropping(tmp_path, max_duration='3ba')
    first.fit()
    first.close()
    seen = Watch(Event.BATCH_START, lambda state: float(state.batch[0].sum()))
    second, _ = _dropping(tmp_path, algorithms=[seen])
    second._train_data_spec.batch_transforms = lambda batch: (batch[0] * 0, batch[1])
    restore_randomness(second)
    second.fit()
    assert seen.seen == [0.0] * 7
