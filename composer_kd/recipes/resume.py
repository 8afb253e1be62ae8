"""What Composer leaves out when it resumes: in the middle of an epoch, and at the very end."""

from __future__ import annotations

import warnings
from typing import Any

from composer import Trainer
from composer.core import Callback, DataSpec, Event, State
from composer.loggers import Logger
from composer.utils import reproducibility


class _AtNextEpoch(Callback):
    def __init__(self, saved: Any) -> None:
        self._saved = saved

    def epoch_start(self, state: State, logger: Logger) -> None:
        if self._saved is not None:
            reproducibility.load_rng_state(self._saved)
            self._saved = None


def _at_next_batch(spec: DataSpec, saved: Any) -> None:
    transforms = spec.batch_transforms

    def once(batch: Any) -> Any:
        spec.batch_transforms = transforms
        reproducibility.load_rng_state(saved)
        return transforms(batch)

    spec.batch_transforms = once


def restore_randomness(trainer: Trainer) -> None:
    """Put the random generators back where the checkpoint left them, right before training goes on.

    Composer 0.32.1 does so while it replays the batches of the epoch. Where the data resumes by itself there is nothing
    to replay, and the generators would stay as the start of the program left them: dropout would then differ from the
    run that was not interrupted.

    Args:
        trainer: A trainer that has loaded its checkpoint, if there is one.
    """
    spec, saved, done = trainer._train_data_spec, trainer._rng_state, int(trainer.state.timestamp.batch_in_epoch)
    if spec is None or not done:
        return
    try:
        length = len(spec.dataloader)  # type: ignore[arg-type]
    except TypeError:
        length = done + 1
    if done >= length:
        # What is left of the epoch is its end: that it has no batch is no sign of anything wrong.
        for told in ('No batches were trained', 'The ``compute`` method of metric'):
            warnings.filterwarnings('ignore', told, UserWarning)
    if saved is None or 'train' not in trainer.state.dataset_resumption:
        return
    if done >= length:
        # Saved after the last batch of an epoch: what is left of it is an empty loader, which draws a seed of its own.
        trainer.state.callbacks.append(_AtNextEpoch(saved))
    else:
        _at_next_batch(spec, saved)


def is_over(trainer: Trainer) -> bool:
    """Whether the checkpoint that a trainer has loaded is that of the training's end, so that no batch is left."""
    length = trainer.state.max_duration
    return length is not None and trainer.state.timestamp.get(length.unit) >= length


def end_training(trainer: Trainer) -> None:
    """What ``fit()`` does after its last batch, for a training that was killed between its last checkpoint and its end.

    Composer 0.32.1 refuses to fit where nothing is left to train: the evaluation at the end would stay undone, and the
    run unfinished for good.

    Args:
        trainer: A trainer that :func:`is_over`.
    """
    state, run = trainer.state, trainer.engine.run_event
    run(Event.FIT_START)
    state.previous_timestamp = state.timestamp  # evaluators that find none take it that nothing was trained
    if state.dataloader_len is not None and state.timestamp.batch_in_epoch == state.dataloader_len:
        state.timestamp = state.timestamp.to_next_epoch()
        run(Event.EPOCH_END)
        trainer._run_evaluators(Event.EPOCH_END)
        run(Event.EPOCH_CHECKPOINT)
    run(Event.FIT_END)
    trainer._run_evaluators(Event.FIT_END)
