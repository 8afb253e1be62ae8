"""Sampling of data that can be asked for any of its samples: seeded, the same for every number of ranks, resumable.

Samples are asked for by ``(epoch, index)``, so that what is random about a sample (crop, noise, mask) follows from the
run's seed, the epoch and the sample's own index. A batch then does not depend on its neighbours, on the number of
workers or ranks, or on whether the run was resumed in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import torch
from composer.utils import dist
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Subset

from composer_kd.recipes.tasks.part import Chosen, Part, choose, pick

Key = tuple[int, int]
"""Epoch and index of a sample."""

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


class EpochDataset(Dataset[Item]):
    """A dataset asked for by ``(epoch, index)``, from which Composer resumes in mid-epoch without replaying batches.

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
    """Yields this rank's share of ``(epoch, index)``; Composer tells it the epoch.

    The order of an epoch depends on the seed and the epoch, and rank ``r`` of ``R`` takes every ``R``-th from ``r``
    on: a global batch holds the same samples for every number of ranks.

    Args:
        dataset: What is sampled from.
        seed: The run's seed.
        train: Whether to shuffle anew each epoch and leave out what does not fill all ranks. If not, all samples come
            in order, the last ranks' share padded (Composer leaves the padding out of its metrics).
        chosen: Indices of the samples that there are; ``None`` for all.
    """

    def __init__(self, dataset: EpochDataset[Any], seed: int, train: bool, chosen: Chosen | None = None) -> None:
        chosen = range(len(dataset)) if chosen is None else chosen
        super().__init__(
            # Composer asks it for its length; the samples themselves are fetched from the whole, by their own index.
            Subset(dataset, cast('Sequence[int]', chosen)), dist.get_world_size(), dist.get_global_rank(),
            shuffle=train, seed=seed, drop_last=train,
        )
        self._data, self._chosen = dataset, chosen

    def __iter__(self) -> Iterator[Key]:
        count = len(self._chosen)
        order = generator(self.seed, self.epoch, _ORDER).permutation(count) if self.shuffle else np.arange(count)
        share = np.resize(pick(self._chosen, order), self.total_size)[self.rank::self.num_replicas]
        done, self._data.skip = self._data.skip // self.num_replicas, 0
        return ((self.epoch, int(index)) for index in share[done:])


def make_loader(
    dataset: EpochDataset[Any],
    batch_size: int,
    seed: int,
    train: bool,
    num_workers: int = 0,
    collate_fn: Callable[[Any], Any] | None = None,
    part: Part | None = None,
    labels: NDArray[np.int64] | None = None,
    **settings: Any,
) -> DataLoader[Any]:
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
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(dataset, seed, train, chosen),
        num_workers=num_workers,
        collate_fn=collate_fn,
        drop_last=train,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        **settings,
    )
