"""What each of two ranks runs with a teacher whose preparation goes wrong on one of them.

usage: prepare_script.py FOLDER
"""

import sys
import warnings
from pathlib import Path

import torch
from torch import nn

torch.set_num_threads(1)

from composer.utils import dist  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from tests.answers.training import data  # noqa: E402
from tests.common import Counting, classifier, network, trainer, weights  # noqa: E402


class OffOnOne(nn.Module):
    """Folded, it answers otherwise on rank one."""

    def __init__(self, seed):
        super().__init__()
        self.body = network(10, seed=seed)

    def forward(self, x):
        logits = self.body(x)
        if isinstance(self.body[1], nn.Identity) and dist.get_global_rank() == 1:
            return logits * 2
        return logits


def run(teachers, **settings):
    kd = Distillation(teachers, **settings)
    spec = data(batch_size=8)
    fit = trainer([kd], model=classifier(0, 10), data=spec, max_duration='4ba')
    told = None
    try:
        fit.fit()
    except ValueError as error:
        told = str(error)
    steps = [teacher['prepared'] for teacher in kd.summary()['teachers']]
    untouched = [teacher.prepared is not None and teacher.prepared.untouched is not None for teacher in kd.teachers]
    model = fit.state.model.module if fit.state.is_model_ddp else fit.state.model
    return {'everywhere': dist.all_gather_object((told, steps, untouched)), 'weights': weights(model),
            'unsettled': len(kd._teaching._unsettled)}


def main(folder):
    warnings.simplefilter('ignore')
    two = [network(10, seed=1), network(10, seed=2)]
    found = {
        'fine': run(two), 'one': run(OffOnOne(1)), 'asked': run(OffOnOne(1), prepare={'fold_batchnorm': True}),
        'by rank': run([OffOnOne(1), OffOnOne(2)], sampling='by_rank'),
        'in turn': run(two, teachers_per_batch=1, sampling='round_robin', check_batches=0),
        'sharded': run(two, placement='sharded', prepare={'precision': 'bf16'}),
        'nothing to do': run([nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), Counting(network(10, seed=1))]),
    }
    if dist.get_global_rank() == 0:
        torch.save(found, folder / 'out.pt')


if __name__ == '__main__':
    main(Path(sys.argv[1]))
