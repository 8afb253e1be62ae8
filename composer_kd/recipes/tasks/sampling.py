"""Sampling of data that can be asked for any of its samples: seeded, the same for every number of ranks, resumable.

Samples are asked for by ``(view, index)``, so that what is random about a sample (crop, noise, mask) follows from a
seed, the view and the sample's own index. A batch then does not depend on its neighbours, on the number of workers or
ranks, or on whether the run was resumed in the middle of an epoch. Each epoch has a view of its own, or, where a recipe
says how many are kept, epochs take them in turn: a teacher's answer to a view can then be stored and read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch.utils.data import Dataset, DistributedSampler, Subset, default_collate

from composer_kd.answers import Identity, SampleLoader
from composer_kd.recipes.tasks.part import Chosen, Part, choose, pick

Key = tuple[int, int]
"""View and index of a sample. The view is the number of the epoch, unless views are kept and come again."""

Item = TypeVar('Item', covariant=True)

_ORDER = 0


def generator(*source: int) -> np.random.Generator:
    """A generator of its own for the random numbers of one thing, that no other draw disturbs.

    Args:
        *source: Whole numbers of 0 or more that name it, such as seed, epoch, index and a number for the purpose.

    Example:
        >>> generator(17, 0, 3).random() == generator(17, 0, 3).random()
        True
    """
    return np.random.default_rng(source)


def views_of(seed: int, train: bool, views: int | None, view_seed: int | None) -> int:
    """The seed that views are drawn from, once ``views`` and ``view_seed`` are checked.

    Args:
        seed: The run's seed.
        train: Whether the data is trained on: an evaluator has one view, the same for all seeds.
        views: How many views of a sample are kept and come again epoch by epoch; ``None`` for a new one each epoch.
        view_seed: The seed of the views; ``None`` for the run's own.

    Raises:
        ValueError: For a value out of range, or either of them for an evaluator.

    Example:
        >>> views_of(17, True, None, None), views_of(17, True, 4, 0)
        (17, 0)
    """
    for name, value, least in (('views', views, 1), ('view_seed', view_seed, 0)):
        if value is None:
            continue
        if not train:
            raise ValueError(f'{name}: is for training; an evaluator sees every sample in one way. Leave it out.')
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f'{name}: expected a whole number of {least} or more, got {value!r}.')
    return seed if view_seed is None else view_seed


class EpochDataset(Dataset[Item]):
    """A dataset asked for by ``(view, index)``, from which Composer resumes in mid-epoch without replaying batches.

    Composer saves what :meth:`state_dict` returns and, on resuming, hands it to :meth:`load_state_dict` instead of
    fetching and dropping all batches up to there. Subclasses define ``__len__`` and ``__getitem__``, and
    ``__getitems__`` where a whole batch is cheaper.
    """

    skip = 0
    """Samples, over all ranks, that the next epoch leaves out at its beginning; the sampler takes and clears it."""

    def __len__(self) -> int:
        raise TypeError(f'{type(self).__name__} does not say how many samples it has.')

    def state_dict(self, num_samples: int, from_beginning: bool) -> dict[str, int]:
        """How far the current epoch is, in samples over all ranks."""
        return {'samples_in_epoch': num_samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Begin the next epoch that is asked for at that sample."""
        self.skip = int(state['samples_in_epoch'])


class EpochSampler(DistributedSampler[Key]):
    """Yields this rank's share of ``(view, index)``; Composer tells it the epoch.

    The order of an epoch depends on the seed and the epoch, and rank ``r`` of ``R`` takes every ``R``-th from ``r``
    on: a global batch holds the same samples for every number of ranks.

    Args:
        dataset: What is sampled from.
        seed: The run's seed.
        train: Whether to shuffle anew each epoch and leave out what does not fill all ranks. If not, all samples come
            in order, the last ranks' share padded (Composer leaves the padding out of its metrics).
        chosen: Indices of the samples that there are; ``None`` for all.
        views: How many views epochs take in turn; ``None`` for one each.
    """

    def __init__(
        self, dataset: EpochDataset[Any], seed: int, train: bool, chosen: Chosen | None = None,
        views: int | None = None,
    ) -> None:
        chosen = range(len(dataset)) if chosen is None else chosen
        super().__init__(
            # Composer asks it for its length; the samples themselves are fetched from the whole, by their own index.
            Subset(dataset, cast('Sequence[int]', chosen)), dist.get_world_size(), dist.get_global_rank(),
            shuffle=train, seed=seed, drop_last=train,
        )
        self._data, self._chosen, self._views = dataset, chosen, views

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The indices of an epoch, over all ranks, in the order in which they come."""
        count = len(self._chosen)
        order = generator(self.seed, epoch, _ORDER).permutation(count) if self.shuffle else np.arange(count)
        return np.resize(pick(self._chosen, order), self.total_size)

    def __iter__(self) -> Iterator[Key]:
        share = self.order(self.epoch)[self.rank::self.num_replicas]
        done, self._data.skip = self._data.skip // self.num_replicas, 0
        view = self.epoch if self._views is None else self.epoch % self._views
        return ((view, int(index)) for index in share[done:])


def make_loader(
    dataset: EpochDataset[Any],
    batch_size: int,
    seed: int,
    train: bool,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] | None = None,
    part: Part | None = None,
    labels: NDArray[np.int64] | None = None,
    views: int | None = None,
    identity: Identity | None = None,
    **settings: Any,
) -> SampleLoader:
    """A DataLoader over such a dataset.

    Args:
        dataset: The data.
        batch_size: Samples of one rank's batch.
        seed: The run's seed.
        train: Whether to shuffle anew each epoch and leave out an epoch's last, smaller batch.
        num_workers: Worker processes of this rank; kept from epoch to epoch.
        collate_fn: Samples to a batch.
        part: ``[start, end]``, the shares of the samples between which they are taken; ``None`` for all.
        labels: Of all samples, where they lie class after class: a part then takes its share of each class.
        views: How many views epochs take in turn; ``None`` for a new one each.
        identity: What the samples are, for stored answers to be held against; ``None`` where that is not known, so
            that they are compared one by one alone.
        **settings: Further arguments of the DataLoader.

    Raises:
        ValueError: If the data is empty, an epoch has fewer samples than one global batch, or the part is none.
    """
    if len(dataset) == 0:
        raise ValueError('the data has no samples.')
    if not isinstance(num_workers, int) or num_workers < 0:
        raise ValueError(f'num_workers: expected 0 or more processes, got {num_workers!r}.')
    chosen = choose(part, len(dataset), labels)
    whole = batch_size * dist.get_world_size()
    if train and whole > len(chosen):
        raise ValueError(
            f'batch_size: an epoch has {len(chosen)} samples, fewer than one global batch of {whole}; make the batch '
            'smaller or the data larger.',
        )
    return SampleLoader(
        dataset,
        batch_size,
        default_collate if collate_fn is None else collate_fn,
        identity,
        views=views,
        chosen=chosen,
        sampler=EpochSampler(dataset, seed, train, chosen, views),
        num_workers=num_workers,
        drop_last=train,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        **settings,
    )
