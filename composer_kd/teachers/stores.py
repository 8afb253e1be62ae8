"""All stores of one training: which part of a batch they are asked for, and what its loader brought along."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.answers import Answer, Notes, SampleLoader, Source
from composer_kd.batches import batch_size_of
from composer_kd.models.outside import raise_everywhere
from composer_kd.teachers.keeper import Ask, Keeper

log = logging.getLogger(__name__)

CHANGE_INPUTS: Mapping[str, str] = {
    'MixUp': 'mixes the inputs of a batch', 'CutMix': 'mixes the inputs of a batch',
    'ColOut': 'drops rows and columns of the inputs', 'CutOut': 'covers a part of the inputs',
    'AugMix': 'augments the inputs once more', 'RandAugment': 'augments the inputs once more',
    'ProgressiveResizing': 'resizes the inputs', 'SeqLengthWarmup': 'shortens the inputs',
    'SelectiveBackprop': 'leaves samples of a batch out',
    'Alibi': 'makes more and shorter samples of a batch (but with train_sequence_length_scaling=1)',
}
"""Composer's algorithms after which a batch is not what its loader gave, so that answers to that are not answers."""


def refuse_sharded(teachers: Sequence[Any], placements: Mapping[int, str]) -> None:
    """Refuse a sharded teacher with a store: one rank would ask it while another reads.

    Raises:
        ValueError: Naming it.
    """
    for index, teacher in enumerate(teachers):
        if teacher.keeper is not None and placements.get(index) == 'sharded':
            raise ValueError(
                f"placement: teacher '{teacher.name}' is 'sharded' and has a store: ranks whose answers are stored "
                "would not ask it when the others do. Use placement='host' or 'replicated', write its answers "
                "beforehand with 'composer-kd cache', or leave the store out.",
            )


def refuse_changed_inputs(algorithms: Iterable[Any], where: str) -> None:
    """Refuse algorithms that change what a loader gave, beside stored answers.

    Args:
        algorithms: All of a training.
        where: The setting that asks for stored answers, for the message.

    Raises:
        ValueError: Naming the first.
    """
    for algorithm in algorithms:
        # also the user's own, that are made of one of them
        kinds = [kind.__name__ for kind in type(algorithm).__mro__]
        why = next((CHANGE_INPUTS[kind] for kind in kinds if kind in CHANGE_INPUTS), None)
        if why is not None and getattr(algorithm, 'train_sequence_length_scaling', None) != 1:
            raise ValueError(
                f'{where}: {type(algorithm).__name__} {why} after they were loaded, and stored answers are answers to '
                'what was loaded. Leave one of them out.',
            )


class Stores:
    """The stores of the teachers that this rank asks."""

    def __init__(self) -> None:
        self._keepers: dict[int, Keeper] = {}
        self._live: frozenset[int] = frozenset()
        self._anywhere = self._filled = self._again = False
        self._loader: SampleLoader | None = None
        self._notes: Notes | None = None
        self._begin = 0
        self._device = torch.device('cpu')

    def __bool__(self) -> bool:
        return bool(self._keepers)

    def take(self, keepers: Mapping[int, Keeper], live: Collection[int], anywhere: bool, filled: bool = False) -> None:
        """Take the stores over, by their teachers' indices.

        Args:
            keepers: Those of this rank.
            live: Teachers that answer for what is not stored.
            anywhere: Whether any rank has a store.
            filled: Whether any rank writes answers down.
        """
        self._keepers, self._live = dict(keepers), frozenset(live)
        self._anywhere, self._filled = anywhere, filled

    def read(self) -> dict[int, int]:
        """How many samples' answers were read so far, by the teachers' indices."""
        return {index: keeper.read for index, keeper in self._keepers.items()}

    @property
    def filling(self) -> bool:
        """Whether answers are written down, on any rank."""
        return self._filled

    def fit_start(
        self, state: State, rows: Mapping[str, Any], needed: Callable[[int], Sequence[int] | None],
    ) -> None:
        """Hold every store against what is trained, and have the loader read it; every rank calls this.

        Args:
            state: The training.
            rows: Which rows of a sample are asked for.
            needed: By a teacher's index, the batches in which it is asked; ``None`` if that is not known.

        Raises:
            ValueError: On every rank, for a loader that does not say which samples it gives, another algorithm that
                changes the inputs, or a store whose answers are not to these inputs, or not to all of them.
        """
        if not self._anywhere:
            return
        failed: Exception | None = None
        try:
            loader = self._checked_loader(state)
            for index, keeper in self._keepers.items():
                keeper.bind(state, loader.identity, rows)
                batches = needed(index) if index not in self._live else None
                if batches is not None and state.dataloader_len is not None:
                    keeper.check_all_there(loader, batches, int(state.dataloader_len))
        except (ValueError, OSError) as error:
            failed = error
        raise_everywhere(failed)
        self._again = self._filled and loader.views is not None
        if not self._keepers:
            return
        self._device = state.device.tensor_to_device(torch.zeros(0)).device
        self._loader = loader
        self._attach()

    def _checked_loader(self, state: State) -> SampleLoader:
        loader: Any = state.train_dataloader
        if not isinstance(loader, SampleLoader):
            raise ValueError(
                f'teachers: stored answers belong to samples, and a {type(loader).__name__} does not say which samples '
                'are in its batches. Make the loader with composer_kd.recipes.tasks.make_loader of data that is asked '
                'for by (view, index), or take the teacher without a store.',
            )
        refuse_changed_inputs(state.algorithms, 'teachers')
        return loader

    def _attach(self) -> None:
        assert self._loader is not None
        self._loader.attach(Source({index: keeper.store for index, keeper in self._keepers.items()}))

    def epoch_start(self, *_: Any) -> None:
        """An epoch begins: what was written down since the last can be read, where views come again; on every rank."""
        if not self._again:
            return
        for keeper in self._keepers.values():
            keeper.close()
        # what other ranks wrote can be read too: all of it, so that what is asked does not depend on who was faster
        dist.barrier()
        grown = [keeper.refresh() for keeper in self._keepers.values() if keeper.fill]  # every one, not up to the first
        if any(grown):
            self._attach()

    def open_batch(self) -> None:
        """A batch begins, or begins again."""
        self._begin = 0
        self._notes = None if self._loader is None else self._loader.notes
        for keeper in self._keepers.values():
            keeper.open_batch()

    def check_samples(self, batch: Any) -> None:
        """See that a batch that is to be answered has as many samples as its loader noted.

        Raises:
            ValueError: If it has not: answers would go to other samples than they were given to.
        """
        size = batch_size_of(batch)
        if self._notes is not None and size != len(self._notes['keys']):
            raise ValueError(
                f"teachers: a batch of {len(self._notes['keys'])} samples was loaded and has {size} now, and stored "
                'answers are answers to what was loaded. Leave out what changes it (an algorithm or a transform of the '
                'data), or take the teacher without a store.',
            )

    def there(self, index: int) -> bool:
        """Whether the answers of one teacher to this batch can be had without finding some missing."""
        rows = None if self._notes is None else self._notes['rows'].get(index)
        return index in self._live or (rows is not None and bool((rows >= 0).all()))

    def answer(
        self, index: int, batch: Any, positions: Tensor | None, counted: Tensor | None, ask: Ask | None,
    ) -> Answer:
        """The answer of one teacher to a microbatch."""
        if self._notes is None:
            raise RuntimeError('teachers: the loader noted nothing of this batch: was it replaced during the training?')
        return self._keepers[index].answer(
            index, self._notes, self._begin, batch, positions, counted, self._device, ask,
        )

    def next_microbatch(self, batch: Any) -> None:
        """A microbatch is done."""
        self._begin += batch_size_of(batch) or 0

    def batch_end(self) -> None:
        """A batch is done: write down what was asked for."""
        for keeper in self._keepers.values():
            if keeper.fill:
                keeper.batch_end()

    def close(self, *_: Any) -> None:
        """Finish what is being written."""
        for keeper in self._keepers.values():
            keeper.close()
            keeper.weigh()

    def release(self) -> None:
        """Read no more."""
        self.close()
        self._filled = self._again = False
        if self._loader is not None:
            self._loader.attach(None)
            self._loader = None
            self._keepers = {}
