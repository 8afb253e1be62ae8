"""What Composer leaves out when it resumes in the middle of an epoch."""

from __future__ import annotations

from typing import Any

from composer import Trainer
from composer.core import Callback, DataSpec, State
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
    if spec is None or saved is None or 'train' not in trainer.state.dataset_resumption or not done:
        return
    try:
        length = len(spec.dataloader)  # type: ignore[arg-type]
    except TypeError:
        length = done + 1
    if done >= length:
        # Saved after the last batch of an epoch: what is left of it is an empty loader, which draws a seed of its own.
        trainer.state.callbacks.append(_AtNextEpoch(saved))
    else:
        _at_next_batch(spec, saved)
