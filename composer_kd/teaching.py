"""What distillation does with a microbatch: teachers are asked, looked at and turned into the KD term."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from composer.core import State, get_precision_context
from composer.models import ComposerModel
from composer.utils import dist
from torch import Tensor

from composer_kd import batches
from composer_kd.answers import Answer
from composer_kd.decision import Decision
from composer_kd.guard import Guard
from composer_kd.ledger import Ledger
from composer_kd.settings import Settings
from composer_kd.share import Share
from composer_kd.tapping import Tapping
from composer_kd.teachers import AnyTeacher, Look, Pool, Teacher, look_at_teachers, settle_prepared
from composer_kd.term import FORBIDDEN_FINE, Rows, Term, kd_term, rows_that_count


class Teaching:
    """The teachers and the loss of one training.

    Args:
        settings: What the user asked for.
        ledger: Where it is booked.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._s, self._ledger = settings, ledger
        self.pool = Pool(
            settings.specs, settings.placement, settings.teacher_microbatch_size, settings.input_key,
            settings.target_key, settings.logits_key, settings.fixed_temperature, settings.ignore_index,
        )
        self.share = Share(settings.target_key, settings.ignore_index)
        self.tapping = Tapping(settings.entries, self.share, settings.target_key)
        self.guard = Guard('stop', [], True)
        self.sparse = False
        """Whether the student gives logits at some positions alone."""
        self._looks: dict[int, Look] = {}
        self._unsettled: set[int] = set()
        self._looks_left, self._first_microbatch = 0, True
        self._all_there = self._unchanged = False

    @property
    def looking(self) -> bool:
        """Whether teachers are still looked at, whatever the schedule says."""
        return self._looks_left > 0

    def load(self, state: State, held: Collection[int]) -> None:
        """Load the teachers, of which this rank will ask ``held``, and hook the layers; every rank calls this."""
        self.pool.load(state, held, self._s.sampling == 'by_rank')
        self._s.check_formats(self.pool.teachers)
        self.tapping.load(state, self.pool)

    def check(self, student: ComposerModel) -> dict[str, str]:
        """Load every teacher that lies on this machine and let it go again; see :func:`look_at_teachers`."""
        def fits(teachers: Sequence[AnyTeacher]) -> None:
            self._s.check_formats(teachers)
            self.tapping.check_paths(student, teachers)

        s = self._s
        keys = s.input_key, s.target_key, s.logits_key
        return look_at_teachers(s.specs, student, *keys, fits, s.fixed_temperature)

    def told(self) -> dict[str, dict[str, Any]]:
        """What was done to each teacher, by its name, as it is logged."""
        teachers = self.pool.teachers
        return {
            'distillation_placements': {t.name: t.placement for t in teachers},
            'distillation_prepared': {t.name: t.told_of_preparation['prepared'] for t in teachers},
        }

    def origins(self) -> list[tuple[str, str, str, float]]:
        """Of each teacher name, origin, digest and weight."""
        return [(t.name, t.origin, t.digest, t.weight) for t in self.pool.teachers]

    def fit_start(self, state: State, closed: bool, needed: Callable[[int], Sequence[int] | None]) -> None:
        """Get ready; ``closed`` says that the window is over for good, ``needed`` which batches ask a teacher."""
        self.share.bind()
        fine = [entry.of_logits is None or entry.loss.name in FORBIDDEN_FINE for entry in self._s.entries]
        teachers = self.pool.teachers
        self.guard = Guard(
            self._s.on_nonfinite, [f"teacher '{t.name}' ({t.origin})" for t in teachers], fine, self._s.labels,
        )
        self._looks = {
            i: Look(t.name, t.origin, t.keeper is not None, self._s.compares_logits)
            for i, t in enumerate(teachers) if not t.released
        }
        # a teacher beside a store is asked for what is missing on its rank, so each rank goes by its own answers
        self._unsettled = set() if dist.get_world_size() == 1 else {
            i for i, t in enumerate(teachers) if isinstance(t, Teacher) and t.keeper is None and not t.prepare.nothing
        }
        self._looks_left = 0 if closed else self._s.check_batches
        if not closed:
            self.tapping.fit_start(state, self._s.teacher_microbatch_size)
            self.pool.fit_start(state, self.share.split, lambda batch: self.share.ready(batch, state))
            rows = {'ignore_index': self._s.ignore_index, 'shift': _shift(state)}
            with self._ledger.storing(outside=True):
                self.pool.stores.fit_start(state, rows, needed)

    def epoch_start(self, *_: Any) -> None:
        """An epoch begins: what was stored meanwhile can be read."""
        with self._ledger.storing():
            self.pool.stores.epoch_start()

    def fit_end(self, *_: Any) -> None:
        """The training is over, and its clock stands still: finish what is being stored, and take the hooks off."""
        self.tapping.fit_end()
        if self.pool.stores.filling:
            with self._ledger.storing(outside=True):
                self.pool.stores.close()

    def open_batch(self, state: State, now: Decision) -> None:
        """A batch begins; SAM and a retry after running out of memory begin it again."""
        self.guard.open_batch()
        if now.closed:
            self.pool.release()
            self._looks_left = 0
        self._first_microbatch = True
        if now.on:
            self.share.open_batch(state, _shift(state))
        if self.tapping:
            self.tapping.open_batch(state, now)
        if now.on or self.looking:
            self.pool.open_batch(state)
            self.pool.stores.check_samples(state.batch)

    def microbatch(self, state: State, now: Decision) -> Term | None:
        """The KD term of a microbatch whose student has answered, or ``None`` while distillation is off."""
        look = self.looking and self._first_microbatch
        self._first_microbatch = False
        # a look is not worth stopping for an answer that the schedule never asks for
        looks = [i for i in self._looks if i in now.teachers or self._can_look(i)] if look else []
        asked = sorted({*now.teachers, *looks})
        if not asked:
            return None
        if now.on:
            self.share.next_microbatch()
            self._refuse_changed(state)
        s = self._s
        student, labels, positions, samples = batches.rows_of(state.outputs, state.batch, s.logits_key, s.target_key)
        student = self.pool.cut_student(student)
        self.sparse = positions is not None
        if look and labels is None and s.target_key is not None:
            raise ValueError(
                f'target_key: there is nothing under {s.target_key!r} in a batch of type '
                f'{type(state.batch).__name__}. Give the key or index of the labels, or leave it out.',
            )
        precision = get_precision_context(state.precision, state.precision_config)
        before = self.pool.stores.read()
        with self._ledger.meter.part('teacher', state.device.name == 'gpu'), precision:
            answers = self.pool.outputs(asked, state.batch, positions, now.teachers, self._counted(state))
        heard, self.pool.heard = self.pool.heard, {}
        known = now.on and self.share.full and not look
        mask = None if known else batches.counting(labels, s.ignore_index, _shift(state))
        if look:
            for i in looks:
                self._looks[i].at(student, answers[i], labels, mask)
                if i not in now.teachers:
                    self.guard.teacher(i, *_that_count(_values(answers[i]), labels, mask))
        if not now.on:
            return None
        if positions is not None and not self._all_there:
            self._refuse_missing(labels, state)
        term = Term()
        if any(s.entries[part.index].of_logits is not None for part in now.parts):
            rows = rows_that_count(
                student, [answers[i] for i in now.teachers], labels, mask, partial(self.share.places, labels),
                _shift(state),
            )
            self._compare(rows, state, now, term)
        if self.tapping:
            self.tapping.add(term, state, now, heard, self.guard)
        self._ledger.answered(now, samples, {i: read - before[i] for i, read in self.pool.stores.read().items()})
        return term

    def _compare(self, rows: Rows, state: State, now: Decision, term: Term) -> None:
        """Add the losses of logits that are on."""
        s = self._s
        for i, answer in zip(now.teachers, rows.teachers, strict=True):
            self.guard.teacher(i, _values(answer), rows.mask)
        shares = [now.weights[i] for i in now.teachers]
        for part in now.parts:
            loss = s.entries[part.index].of_logits
            if loss is not None:
                term.add(part.index, part.weight, kd_term(
                    loss, rows, shares, s.combine, part.temperature, self.share, state.batch, self.guard, part.index,
                ))

    def _refuse_changed(self, state: State) -> None:
        """Refuse labels of which others count than were counted in the batch; once a training, so it may wait."""
        before = None if self._unchanged else self.share.labels_before()
        if before is None:
            return
        self._unchanged = True
        now = batches.target_of(state.batch, self._s.target_key)
        counted, got = (batches.counting(one, self._s.ignore_index, _shift(state)) for one in (before, now))
        if counted is None or got is None:
            return
        got = got.to(counted.device)
        if torch.equal(counted, got) if counted.shape == got.shape else int(counted.sum()) == int(got.sum()):
            return
        raise ValueError(
            f'labels: {int(counted.sum())} of a microbatch count as it came from the loader, and {int(got.sum())}, or '
            "others, as the student got it: the data's microbatch_transforms or an algorithm changed them, after those "
            "that count were counted over the batch. Change them in the data set or in the data's batch_transforms.",
        )

    def _refuse_missing(self, labels: Any, state: State) -> None:
        """Refuse logits at some positions where other labels count too; once a training, so it may wait."""
        self._all_there = True
        s, shift = self._s, _shift(state)
        whole = batches.counting(batches.target_of(state.batch, s.target_key), s.ignore_index, shift)
        there = batches.counting(labels, s.ignore_index, shift)
        if whole is None or there is None or int(whole.sum()) == int(there.sum()):
            return
        raise ValueError(
            f'ignore_index: of a microbatch {int(whole.sum())} labels count (all but {s.ignore_index}), and the '
            f'student gives logits for {int(there.sum())} of them. Give the label of tokens nobody asks about (-100) '
            'or a student that gives logits everywhere, and batches without masked_positions.',
        )

    def flops(self, batch: Any) -> dict[str, float]:
        """FLOPs of one forward for one sample, by teacher; every rank calls this."""
        labels = batches.target_of(batch, self._s.target_key)
        return self.pool.flops(batch, batches.labelled(labels, self._s.ignore_index) if self.sparse else None)

    def _can_look(self, index: int) -> bool:
        return self.pool.teachers[index].keeper is None or self.pool.stores.there(index)

    def _counted(self, state: State) -> Tensor | None:
        """Which labels of a microbatch count, where answers to it are stored."""
        if not self.pool.stores:
            return None
        labels = batches.target_of(state.batch, self._s.target_key)
        return batches.counting(labels, self._s.ignore_index, _shift(state))

    def batch_end(self, state: State, now: Decision) -> None:
        """A batch is done: after the last that was looked at, say what was seen.

        Raises:
            RuntimeError: On every rank, for a teacher whose values are not finite.
            ValueError: On every rank, for a preparation that was asked for and fails on one.
        """
        self.share.close_batch()
        with self._ledger.storing():
            self.pool.stores.batch_end()
        if self._unsettled and (now.on or self.looking):
            self._settle()
        if self._looks_left:
            self._looks_left -= 1
            if not now.on:  # otherwise the ledger has read it, with the losses
                counts = state.device.tensor_to_device(self.guard.counts(torch.zeros(1)))
                if dist.get_world_size() > 1:
                    dist.all_reduce(counts)
                self.guard.close_batch(counts.tolist(), math.nan, state, 0)
            if not self._looks_left:
                for look in self._looks.values():
                    look.verdict()

    def _settle(self) -> None:
        """Agree with the other ranks on how teachers are prepared, whose first answers were checked in this batch.

        Not within the batch: a rank that ran out of memory would not be there.
        """
        teachers = self._prepared()
        for i in settle_prepared({i: t.prepared if (t := teachers.get(i)) else None for i in sorted(self._unsettled)}):
            self._unsettled.discard(i)
            if i in teachers:
                teachers[i].settle()

    def _prepared(self) -> dict[int, Teacher]:
        return {
            i: t for i, t in enumerate(self.pool.teachers)
            if isinstance(t, Teacher) and not t.released and t.prepared is not None
        }

    def state_dict(self) -> dict[str, Any]:
        """Which steps that prepare a teacher were left out, by its name."""
        left_out = {t.name: t.prepared.left_out for t in self._prepared().values() if t.prepared is not None}
        return {'left_out': left_out}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Leave out what an earlier part of the training left out."""
        for teacher in self._prepared().values():
            assert teacher.prepared is not None
            teacher.prepared.leave_out(state.get('left_out', {}).get(teacher.name, ()))


def _values(answer: Answer) -> Tensor:
    """What must be finite of an answer: a live teacher's in few numbers is not, where its logits were not."""
    return answer if isinstance(answer, Tensor) else answer.log_probabilities


def _that_count(logits: Tensor, labels: Any, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A teacher's logits, classes last, and which of their rows count, if that is known."""
    logits = batches.classes_last(logits, labels)
    return logits, mask if mask is not None and mask.shape == logits.shape[:-1] else None


def _shift(state: State) -> bool:
    model: Any = getattr(state.model, 'module', None) if state.is_model_ddp else state.model
    return bool(getattr(model, 'shift_labels', False))
