"""A teacher's stored answers within a training: read where they are there, asked for and written down where not."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.core import State
from composer.utils import dist
from torch import Tensor

from composer_kd.answers import Answer, Format, Identity, Manifest, Notes, SampleLoader, Store
from composer_kd.answers.keys import split_key
from composer_kd.answers.parts import PartWriter, remove_unfinished
from composer_kd.batches import cut, labelled
from composer_kd.teachers.packing import pack_rows, versions
from composer_kd.teachers.pieces import device_of, runs, size_of, woven

log = logging.getLogger(__name__)

Ask = Callable[[Any, Tensor | None], Tensor]
"""Of a batch and positions in it, a live teacher's logits."""

PART_SAMPLES, PART_SECONDS = 65_536, 300.0
"""A part is finished after so many samples, or so long: what a kill costs at most."""

class Keeper:
    """The store of one teacher in one training.

    Args:
        where: The setting that named it, for messages.
        path: The store's folder.
        store: The store, if there is one yet.
        fill: Whether answers that are asked for are written down.
        form: How they are written.
        teacher: ``name``, ``origin`` and ``digest`` of the teacher.
    """

    def __init__(
        self, where: str, path: str, store: Store | None, fill: bool, form: Format, teacher: Mapping[str, str],
    ) -> None:
        self.where, self.path, self.store, self.form, self.fill = where, path, store, form, fill
        self.read = self.asked = 0
        self.bytes: int | None = None
        self._teacher = dict(teacher)
        self._part: PartWriter | None = None
        self._since = 0.0
        self._pending: dict[int, tuple[int, bytes]] = {}
        self._written: set[int] = set()

    # what a training begins with

    def bind(self, state: State, identity: Identity | None, rows: Mapping[str, Any]) -> None:
        """Hold the store against what is trained, or begin one.

        Args:
            state: The training.
            identity: What its loader gives, if that is known.
            rows: Which rows of a sample are asked for; see :class:`composer_kd.answers.Manifest`.

        Raises:
            ValueError: Naming what differs.
        """
        said = {} if identity is None else {'data': identity.data, 'view': identity.view}
        if self.store is None:
            # every rank that asks this teacher: with sampling by_rank they are not all, nor rank zero among them
            manifest = Manifest(
                self._teacher, said.get('data', {}), said.get('view', {}), rows, self.form, state.precision.value,
                versions(),
            )
            Path(self.path).mkdir(parents=True, exist_ok=True)
            manifest.write(Path(self.path), begin=True)
            self.store = Store.open(self.path, self.where)
        if self.fill and dist.get_local_rank() == 0:
            remove_unfinished(Path(self.path))
        # teacher and format too: another run may have begun the store since they were looked at
        found = self.store.manifest.differences({
            **said, 'rows': rows, 'teacher': {'digest': self._teacher.get('digest')}, 'format': self.form.plain(),
        })
        if found:
            raise ValueError(
                f"{self.where}: the answers in '{self.path}' were given to other inputs than this training has: "
                f"{'; '.join(found)}. Set what they were made with, or write a store for this training.",
            )
        self.weigh()

    def weigh(self) -> None:
        """Note in ``bytes`` what the store takes on this machine: not looked up often, as its files may be many."""
        self.bytes = self.store.bytes if self.store is not None and self.store.remote is None else None

    def check_all_there(self, loader: SampleLoader, batches: Sequence[int], per_epoch: int) -> None:
        """See that there is an answer to every sample that some batches, ascending, of a training ask for.

        Raises:
            ValueError: Saying what is missing.
        """
        assert self.store is not None
        whole: dict[int, bool] = {}  # views that come again need not be looked through again
        for epoch, some in groupby(batches, key=lambda batch: batch // per_epoch):
            within = [batch - epoch * per_epoch for batch in some]
            view = loader.view(epoch)
            if len(within) == per_epoch and loader.chosen is not None and view not in whole:
                whole[view] = not len(self.store.missing(view, np.asarray(loader.chosen, np.int64)))
            if whole.get(view):
                continue
            asked = [loader.asked(epoch, first, last) for first, last in runs(within)]
            samples = None if asked[0] is None else np.unique(np.concatenate([one for one in asked if one is not None]))
            missing: Any = [] if samples is None else self.store.missing(view, samples)
            if samples is not None and len(missing) > loader.spare(len(within)):
                raise ValueError(
                    f"{self.where}: this training asks for answers to {len(samples):,} samples in view {view} (epoch "
                    f"{epoch}), and '{self.path}' has none to {len(missing):,} of them, such as {missing[0]}. Set "
                    "train_data.views to the number of views that are stored, write the rest with 'composer-kd cache', "
                    'or name the teacher beside the store, so that it is asked for what is missing.',
                )

    def refresh(self) -> bool:
        """Finish what is being written and open the store anew; whether there is more in it than before.

        Raises:
            ValueError: If it is another store by now.
        """
        assert self.store is not None
        self.close()
        before, self.store = self.store, Store.open(self.path, self.where)
        found = before.manifest.differences(self.store.manifest.bound, 'the one that is there now')
        if found:
            raise ValueError(
                f"{self.where}: another store was begun in '{self.path}' during this training: {'; '.join(found)}. "
                'Give each a folder of its own, and resume.',
            )
        return self.store.samples > before.samples

    # what happens in a batch

    def open_batch(self) -> None:
        """A batch begins, or begins again."""
        self._pending = {}

    def answer(
        self, index: int, notes: Notes, begin: int, batch: Any, positions: Tensor | None, counted: Tensor | None,
        device: torch.device, ask: Ask | None,
    ) -> Answer:
        """The answer to a microbatch.

        Args:
            index: Which store's, in ``notes``.
            notes: What the loader noted of the whole batch.
            begin: Where the microbatch begins in it.
            batch: The microbatch.
            positions: At which of its tokens logits are wanted.
            counted: Which of its labels count; ``None`` where they are no class numbers.
            device: Where the answer is wanted.
            ask: Asks the live teacher; ``None`` if there is none.

        Raises:
            ValueError: For an answer that is missing, damaged, or given to another input.
        """
        if notes['error'].get(index):
            raise ValueError(notes['error'][index])
        keys, size = notes['keys'], size_of(batch)
        rows = notes['rows'][index] if index in notes['rows'] else torch.full_like(keys, -1)
        mine = rows[begin:begin + size]
        gone = (mine < 0).nonzero().squeeze(1)
        kept = None
        if index in notes['raw']:
            first, last = (int(rows[:end].clamp_min(0).sum()) for end in (begin, begin + size))
            kept = notes['raw'][index][first:last].to(device, non_blocking=True)
        self.read += size - len(gone)
        if not len(gone):
            assert kept is not None
            return self.form.unpack(kept)
        if ask is None:
            view, sample = split_key(int(keys[begin + int(gone[0])]))
            raise ValueError(
                f"{self.where}: there is no stored answer to sample {sample}, view {view}, and {len(gone) - 1} more of "
                f"this batch in '{self.path}'. Write them with 'composer-kd cache', or name the teacher beside the "
                'store, so that it is asked for what is missing.',
            )
        self.asked += len(gone)
        raw, counts, finite = self._asked(batch, positions, counted, gone, keys[begin:begin + size], ask)
        if self.fill:
            written = raw.cpu().split(counts)
            for place, one, fine in zip((begin + gone).tolist(), written, finite, strict=True):
                if not fine:
                    continue  # NaN is no answer
                self._pending[int(keys[place])] = int(notes['prints'][place]), one.numpy().tobytes()
        if kept is not None and len(gone) < size:
            raw = woven(mine, kept, gone, raw, counts)
        return self.form.unpack(raw)

    def _asked(
        self, batch: Any, positions: Tensor | None, counted: Tensor | None, gone: Tensor, keys: Tensor, ask: Ask,
    ) -> tuple[Tensor, list[int], list[bool]]:
        """The rows of what is missing, as they are written; how many each sample has, and whether they are finite."""
        if len(gone) < size_of(batch):
            where = gone.to(device_of(batch))
            batch = cut(batch, where)
            counted = None if counted is None else counted[where]
            if positions is not None:
                assert counted is not None
                positions = labelled(counted.long(), 0)
        return pack_rows(self.form, ask(batch, positions), positions, counted, keys[gone].tolist(), self.where)

    def batch_end(self) -> None:
        """A batch is done: write down what was asked for; where that fails, the training goes on without."""
        fresh = {key: said for key, said in self._pending.items() if key not in self._written}
        self._pending = {}
        if not fresh:
            return
        with self._or_give_up():
            if self._part is None:
                assert self.store is not None
                of = self.store.manifest.identity
                self._part, self._since = PartWriter(Path(self.path), of), time.monotonic()
            for key, (fingerprint, payload) in fresh.items():
                self._part.write(key, fingerprint & (2**64 - 1), payload)
            self._written.update(fresh)
            if len(self._part) >= PART_SAMPLES or time.monotonic() - self._since >= PART_SECONDS:
                self.close()

    def close(self) -> None:
        """Finish the part that is being written."""
        # twice in two parts does no harm, and a set of all keys of a long training would
        self._written.clear()
        with self._or_give_up():
            if self._part is not None:
                self._part.close()
                self._part = None

    @contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            part, self._part, self.fill = self._part, None, False
            lost = 0 if part is None else len(part)
            if part is not None:
                part.drop()
            log.warning(
                "%s: '%s' cannot be written (%s): the last %d answers are lost, and no more are stored. The training "
                'goes on; make room there, and the next run stores what is missing.', self.where, self.path, error,
                lost,
            )
