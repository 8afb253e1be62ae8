"""Knowledge distillation as a Composer algorithm: what happens at which event."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import Algorithm, Event, State
from composer.loggers import Logger
from composer.models import ComposerModel

from composer_kd import joining
from composer_kd.batches import Key, LogitsKey
from composer_kd.changes import check_unchanged
from composer_kd.decision import Decision, Plan
from composer_kd.ledger import Ledger
from composer_kd.settings import Settings
from composer_kd.teachers import AnyTeacher
from composer_kd.teaching import Teaching
from composer_kd.term import Term


class Distillation(Algorithm):
    r"""Teach a student from the logits of earlier models, for part of its training or all of it.

    While distillation is on, the loss is ``base_loss_weight * base + kd_loss_weight * kd``; while it is off, ``base``
    alone. Off means off: no teacher runs and, once the window has closed for good, none is kept in memory. Teachers
    never learn, never leave eval mode and never enter the student's checkpoints.

    After *Reduce, Reuse, Recycle* (Blakeney et al. 2022, arXiv 2211.00683) and *Knowledge Distillation for Efficient
    Sequences of Training Runs* (Liu et al. 2023, arXiv 2303.06480).

    Args:
        teachers: One teacher or a sequence of them. Each is an ``nn.Module`` (called on the batch's input), a
            ``ComposerModel`` (called on the batch, labels withheld), ``{run: FOLDER}`` (an earlier run; nothing else to
            say), ``{checkpoint: PATH_OR_URI, model: {name: ..., ...}}`` (without ``model``: the student's own
            architecture after the other algorithms' surgery; with it, ``algorithms`` may name what rewrote it), another
            kind of :data:`composer_kd.teachers.TEACHERS` by name (``torchvision``, ``timm``, ``hf``, ``onnx``, ...), or
            ``{cache: PATH_OR_URI}`` (stored answers alone; see :mod:`composer_kd.answers`). A mapping may carry
            ``name``, ``weight``, ``digest``, ``logits_key``, how it is made to fit (``normalize``, ``resolution``,
            ``classes``, ``vocabulary``), ``prepare`` (in place of that of all) and ``cache: {path: ..., fill: true}``:
            answers are read where they are stored, and stored where they are not (``fill``; default false).
        loss: A name, ``{name: ..., **settings}``, or a function of (student_logits, teacher_logits). See
            :mod:`composer_kd.losses` for the names. Its ``temperature`` may follow a scheduler, as ``kd_loss_weight``.
            Default: ``'kl_divergence'``.
        losses: In place of ``loss``, several: a list in which each may also have a ``weight`` (default 1; a number or a
            scheduler), a ``start`` and an ``end`` within the window, and a ``label`` for its metric
            ``loss/train/kd/LABEL`` (default: its name). The KD term is the weighted sum of those that are on. Losses of
            layers have ``student_layer`` and ``teacher_layer`` (paths as in ``named_modules()``, or lists of them) and
            a ``projector``; see :mod:`composer_kd.layers`.
        kd_loss_weight: Weight of the KD term, 0 or more: a number, a Composer scheduler whose output is the weight, or
            ``{scheduler_name: settings}``.
        base_loss_weight: Weight of the model's own loss while distillation is on, 0 or more.
        start: First moment of the window, a Composer time string (``ep``, ``ba``, ``sp``, ``tok``, ``dur``, ``iter``).
        end: The moment the window closes, itself outside it.
        interval: Every how many batches (``4``, ``'4ba'``) or epochs (``'10ep'``) of the window, its first included.
        probability: The share of those batches that is kept, each by its own draw; above 0, at most 1.
        teachers_per_batch: How many teachers answer for a batch; ``None`` for all.
        sampling: How they are chosen: ``'random'`` (by weight, without replacement), ``'round_robin'`` (in turn) or
            ``'by_rank'``: every rank asks others (one, unless ``teachers_per_batch`` says more), which is an ensemble
            over the batch for one teacher's price. A rank keeps those alone that it asks at any time: one, where the
            number of ranks is a multiple of the number of teachers.
        combine: How several answers become one: the mean of their ``'logits'`` or of their ``'probabilities'``.
        input_key: Where a batch holds the input of a plain module, if not in the usual place.
        target_key: Where a batch holds the labels, if not in the usual place (``'labels'``, or the second item).
        logits_key: Where outputs hold the logits: a key, an index or a function. Default: the output itself, its
            ``logits``, or a tuple's first floating-point tensor of two or more dimensions.
        ignore_index: The label of samples and tokens that do not count.
        check_batches: On how many of the first batches to look at every teacher (shape, finite values, better than
            chance) before it is trusted; 0 for none. Looking costs one forward per teacher that does not run anyway.
        seed: Of the choices by chance; ``None`` for the run's own.
        placement: Where teachers' weights lie: ``'replicated'`` (whole on every device), ``'sharded'`` (in parts over
            the student's FSDP mesh, or over all ranks), ``'host'`` (in host memory, each layer brought to the device
            when it runs), or ``'auto'``: whole, as long as they take a quarter of a device's memory at most.
        teacher_microbatch_size: How many samples a teacher is asked about at once; ``None`` for a whole microbatch.
            With more, as many whole microbatches as fit are asked about at once (not where the teacher is sharded, nor
            where answers are stored), which MixUp and CutMix do not allow.
        prepare: How teachers are prepared for inference: ``'none'``, ``'auto'``, or a mapping that says otherwise than
            ``'auto'`` for some of ``precision``, ``channels_last``, ``fold_batchnorm``, ``compile``, ``resolution`` and
            ``tolerance``; see :class:`composer_kd.teachers.Prepare`. Their first answers are held against those of the
            untouched model: what takes them too far off is left out with a warning, or refused if it was asked for.
        on_nonfinite: What happens when a teacher's answer or the KD term is not finite: ``'stop'`` names batch, teacher
            and rank before any checkpoint of that step, ``'skip'`` leaves out such samples (or tokens) and counts them.
        on_change: What happens when a checkpoint is resumed that was trained with other teachers, loss or schedule:
            ``'error'`` or ``'warn'``, which goes on with what is set now.

    Raises:
        TypeError: For a value of the wrong kind.
        ValueError: For a value out of range, an unknown name, or settings that do not go together; at the trainer's
            start for a teacher that cannot be loaded or does not fit, and for a checkpoint of other distillation; on
            the first batch for a teacher that gives other shapes or values that are not finite.
        RuntimeError: For values that are not finite later on.
        FileNotFoundError: For a missing run folder, checkpoint or download.

    Events:
        ``INIT`` (last of all algorithms) loads the teachers; ``FIT_START`` resolves the window; ``BEFORE_TRAIN_BATCH``
        decides; ``AFTER_FORWARD`` runs teachers and loss; ``BEFORE_BACKWARD`` joins the loss; ``BATCH_END`` logs.
        With layers, ``BEFORE_FORWARD`` captures and ``AFTER_TRAIN_BATCH`` averages projectors' gradients over ranks.
        After the window has closed for good, none.

    State touched:
        ``state.loss``, and the order of ``state.algorithms`` (this one moves to the end, so that losses interpolated by
        MixUp and CutMix are complete before the KD term joins).

    Checkpoint:
        Text only, and of weights those of projectors alone: the window as resolved, the settings, the cost so far, and
        the teachers' origins and digests. Resumed on another number of ranks, the schedule and (but for ``'by_rank'``)
        the teachers are the same batch by batch.

    Known interactions:
        Works with LabelSmoothing, MixUp and CutMix (both modes; the teacher sees the mixed input), SAM (two teacher
        forwards a step, as two student forwards), SelectiveBackprop (the selected samples), EMA, SWA,
        ProgressiveResizing (the resized input), BlurPool, ChannelsLast and GradientClipping. Stored answers are
        refused beside algorithms that change a batch's inputs or samples, and so is a second ``Distillation``.

    Example:
        >>> from composer_kd import Distillation
        >>> kd = Distillation(teachers=torch.nn.Linear(4, 3), loss={'name': 'kl_divergence', 'temperature': 4.0},
        ...                   end='0.5dur')
        >>> kd.settings['end']
        '0.5dur'
    """

    def __init__(
        self,
        teachers: torch.nn.Module | Mapping[str, Any] | Sequence[torch.nn.Module | Mapping[str, Any]],
        loss: Any = None,
        losses: Any = None,
        kd_loss_weight: Any = 0.9,
        base_loss_weight: float = 0.1,
        start: str = '0dur',
        end: str = '1dur',
        interval: str | int = 1,
        probability: float = 1.0,
        teachers_per_batch: int | None = None,
        sampling: str = 'random',
        combine: str = 'logits',
        input_key: Key = None,
        target_key: Key = None,
        logits_key: LogitsKey = None,
        ignore_index: int = -100,
        check_batches: int = 2,
        seed: int | None = None,
        placement: str = 'auto',
        teacher_microbatch_size: int | None = None,
        prepare: str | Mapping[str, Any] = 'auto',
        on_nonfinite: str = 'stop',
        on_change: str = 'error',
    ) -> None:
        self._s = Settings.read(**{name: value for name, value in locals().items() if name != 'self'})
        # Composer asks for it several times at every event, whatever its log's level
        self._text = f"Distillation({', '.join(f'{key}={value!r}' for key, value in self._s.plain.items())})"
        self._plan = Plan(self._s)
        self._ledger = Ledger(*self._s.names, self._s.labels)
        self._teaching = Teaching(self._s, self._ledger)
        tapping = self._teaching.tapping
        self._done, self._now = False, Decision()
        self._kd: Term | None = None
        self._in_batch = {Event.BEFORE_TRAIN_BATCH: self._decide, Event.AFTER_FORWARD: self._after_forward,
                          Event.BEFORE_BACKWARD: self._join,
                          Event.BEFORE_FORWARD: lambda _: tapping.before_forward(self._now),
                          Event.AFTER_TRAIN_BATCH: lambda state: tapping.after_backward(state, self._now)}
        self._between = {Event.INIT: self._load, Event.FIT_START: self._fit_start, Event.BATCH_END: self._batch_end,
                         Event.EPOCH_START: self._teaching.epoch_start, Event.FIT_END: self._teaching.fit_end}

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting as a plain type, as it is logged."""
        return dict(self._s.plain)

    @property
    def stored(self) -> bool:
        """Whether answers of any teacher are read from a store or kept in one."""
        return bool(self._s.names[1])

    def __repr__(self) -> str:
        return self._text

    @property
    def teachers(self) -> list[AnyTeacher]:
        """The teachers, once they are loaded; those released are not in this rank's memory."""
        return self._teaching.pool.teachers

    def match(self, event: Event, state: State) -> bool:
        """Whether there is something to do at ``event``."""
        # By identity: Composer's events compare as strings, and this is asked at every event of every batch.
        if event is Event.AFTER_FORWARD:
            return self._now.on or self._teaching.looking
        if event is Event.BEFORE_BACKWARD:
            return self._kd is not None
        if event is Event.BEFORE_TRAIN_BATCH or event is Event.BATCH_END:
            return not self._done
        if event is Event.BEFORE_FORWARD or event is Event.AFTER_TRAIN_BATCH:
            return self._now.on and bool(self._teaching.tapping)
        if event is Event.INIT:
            return joining.last_at_init(self, state)
        if event is Event.EPOCH_START:
            return self._teaching.pool.stores.filling
        return event is Event.FIT_START or event is Event.FIT_END

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        """Do what is due at ``event``."""
        if event in self._in_batch:
            with self._ledger.meter.part('all', state.device.name == 'gpu'):
                self._in_batch[event](state)
        else:
            self._between[event](state, logger)

    def _load(self, state: State, logger: Logger) -> None:
        if self.teachers:
            raise RuntimeError(
                'This Distillation has served another trainer and keeps its window and counts. Build a new one.',
            )
        started = time.perf_counter()
        self._teaching.load(state, self._plan.held())
        self._ledger.load_seconds += time.perf_counter() - started
        logger.log_hyperparameters({'distillation': self.settings, **self._teaching.told()})

    def _fit_start(self, state: State, logger: Logger) -> None:
        self._plan.fit_start(state)
        self._done = False
        self._teaching.fit_start(state, self._plan.closed(state), lambda index: self._plan.batches(state, index))

    def _decide(self, state: State) -> None:
        # SAM and a retry after running out of memory come here again for the same batch: drop what the first try left
        self._kd = None
        self._ledger.open_batch()
        self._now = self._plan.decide(state)
        self._teaching.open_batch(state, self._now)

    def _after_forward(self, state: State) -> None:
        self._kd = self._teaching.microbatch(state, self._now)

    def _join(self, state: State) -> None:
        assert self._kd is not None
        kd = self._kd.total
        state.loss, base = joining.join(state.loss, kd, self._s.base_loss_weight, self._now.kd_loss_weight)
        self._ledger.losses(kd, base, self._teaching.share.size(state.batch, self._s.target_key), self._kd.parts)
        self._kd = None

    def _batch_end(self, state: State, logger: Logger) -> None:
        self._teaching.tapping.batch_end()
        metrics = self._ledger.close_batch(self._now, state, self._teaching.guard)
        # the clock has moved on since; this is the step of Composer's own loss/train/total
        logger.log_metrics(metrics, step=int(state.timestamp.batch) - 1)
        self._teaching.batch_end(state, self._now)
        self._done = self._now.closed  # over for good, and logged as off

    def summary(self) -> dict[str, Any]:
        """What distillation did and cost so far, over resumptions too.

        Returns:
            ``active_batches``; ``kd_seconds`` (teachers and loss), ``teacher_seconds``, ``loss_seconds`` and
            ``load_seconds`` of this rank; ``overhead``, the time spent on distillation / the time of the same batches
            without it (``None`` before the first); ``skipped_rows``, samples or tokens left out as not finite;
            ``store_seconds``, spent on stores between batches, and ``store_outside_seconds``, before the first and
            after the last; and ``teachers``, each with ``name``, ``origin``, ``digest``, ``weight``, ``batches``,
            ``samples`` (over all ranks, taking this one's share for every rank's), of these ``stored`` ones, whose
            answers were read, ``store`` and ``store_bytes``, its path and size, ``prepared``, what was done to it for
            inference, and ``resolution_agreement``, of first choices at a smaller resolution with those at full size.
            The KD loss's share of the backward pass is not told apart from the rest, and in none of these.
        """
        return {**self._ledger.summary(), 'teachers': [self._ledger.of(teacher) for teacher in self.teachers]}

    def check_teachers(self, student: ComposerModel) -> dict[str, str]:
        """Load every teacher that lies on this machine and let it go again, to see that it can be loaded and fits.

        Args:
            student: The student after the other algorithms' surgery.

        Returns:
            By name, each teacher's digest, or that it lies elsewhere. Errors are those of the trainer's start.
        """
        return self._teaching.check(student)

    def teacher_flops(self, batch: Any) -> dict[str, float]:
        """FLOPs of one forward for one sample, by teacher, on a (small) batch on the training's device.

        Every rank asks: a sharded teacher runs on all, and where ranks have different ones, no rank has them all.
        """
        return self._teaching.flops(batch)

    def state_dict(self) -> dict[str, Any]:
        """One text (JSON): window, settings, counts, cost, and where the teachers came from."""
        # A sharded checkpoint is read key by key, and which teachers there are must not change the keys.
        parts = (self._plan, self._ledger, self._teaching)
        books = {key: value for part in parts for key, value in part.state_dict().items()} | self._told()
        return {**super().state_dict(), 'version': 2, 'books': json.dumps(books), **self._teaching.tapping.state_dict()}

    def _told(self) -> dict[str, Any]:
        return {'teachers': self._teaching.origins(), 'settings': self._s.canonical}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where a checkpoint left off.

        Raises:
            ValueError: If it was trained with other distillation, unless ``on_change`` is ``'warn'``.
        """
        books = json.loads(state['books'])
        check_unchanged(books, self._told(), self._s.on_change)
        self._plan.load_state_dict(books)
        self._ledger.load_state_dict(books)
        self._teaching.load_state_dict(books)
        self._teaching.tapping.load_state_dict(state, self._s.on_change == 'warn')
