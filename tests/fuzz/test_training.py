"""Real trainings: Composer's own clocks go as those of the model, and the batches on record are the model's."""

from __future__ import annotations

import warnings

import torch
from composer import Trainer
from composer.core import DataSpec, Event
from composer.models import ComposerClassifier
from hypothesis import assume, given
from torch import nn

from composer_kd import Distillation
from tests.common import Watch
from tests.fuzz.cases import cases
from tests.fuzz.course import Moment, active, intervals, opens_late, times, trainings, written


class Loader:
    """Batches of the sizes of an epoch; it has no length."""

    batch_size = 9

    def __init__(self, sizes):
        self.sizes = sizes

    def __iter__(self):
        for size in self.sizes:
            yield torch.ones(size, 2), torch.zeros(size, dtype=torch.long)


class SizedLoader(Loader):
    def __len__(self):
        return len(self.sizes)


def seen(state):
    stamp = state.timestamp
    hands = (stamp.batch, stamp.epoch, stamp.sample, stamp.token, stamp.iteration, stamp.batch_in_epoch)
    return Moment(*(hand.value for hand in hands))


@cases(10)
@given(trainings(), times(), times(), intervals)
def test_a_real_training_distils_on_the_batches_of_the_model(training, start, end, every):
    assume(not opens_late(start, end, training))
    watch = Watch(Event.BATCH_START, seen)
    model = ComposerClassifier(nn.Linear(2, 3), num_classes=3)
    data = DataSpec(
        (SizedLoader if training.sized else Loader)(training.sizes),
        get_num_samples_in_batch=lambda batch: len(batch[1]),
        get_num_tokens_in_batch=lambda batch: len(batch[1]) * training.tokens,
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of windows that never open, and Composer's of loaders without a length
        kd = Distillation(nn.Linear(2, 3), start=str(start), end=str(end), interval=written(every), check_batches=0)
        trainer = Trainer(
            model=model, train_dataloader=data, max_duration=training.max_duration, algorithms=[watch, kd],
            optimizers=torch.optim.SGD(model.parameters(), lr=0.1), progress_bar=False, seed=17,
        )
        if training.iteration:
            trainer.state._iteration_length = f'{training.iteration}ep'
        trainer.fit()
    trainer.close()
    assert watch.seen == training.batches
    assert kd.summary()['active_batches'] == len(active(training, start, end, every))
