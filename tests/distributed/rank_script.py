"""What each of two ranks runs: one or more batches, its gradients or weights saved by rank zero.

usage: rank_script.py OUT
"""

import sys
import warnings

import torch

torch.set_num_threads(1)

from composer.core import Event  # noqa: E402
from composer.utils import dist  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from tests.common import Watch, classifier, images, network, trainer, weights  # noqa: E402
from tests.integration.test_huggingface import composer_model, masked  # noqa: E402


class Mine(DistributedSampler):
    """These indices and no others."""

    def __init__(self, data, indices):
        super().__init__(data)
        self.indices = list(indices)

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


def part(data):
    """This rank's part of one joined batch: a third of it, and two thirds."""
    cut = len(data) // 3
    mine = range(len(data))
    if dist.get_world_size() > 1:
        mine = mine[:cut] if dist.get_global_rank() == 0 else mine[cut:]
    return DataLoader(data, batch_size=len(mine), sampler=Mine(data, mine))


def gradients(model, data, kd):
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {
        n: p.grad.clone() for n, p in (s.model.module if s.is_model_ddp else s.model).named_parameters()
        if p.grad is not None})
    fit = trainer([kd, seen], model=model, data=data, max_duration='1ba', device_train_microbatch_size=2)
    fit.fit()
    return seen.seen[0]


def masked_lm():
    kd = Distillation(composer_model(seed=1), kd_loss_weight=1.0, base_loss_weight=0.0, check_batches=0)
    return gradients(composer_model(), part(masked(12)), kd)


def classification():
    from torch import nn
    def flat(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 5))
    model = classifier().__class__(flat(0), num_classes=5)
    return gradients(model, part(images(12)), Distillation(flat(1), check_batches=0))


def choices():
    """Which teachers ran on which batch, on every rank."""
    teachers = [network(seed=s) for s in (1, 2, 3)]
    kd = Distillation(teachers, teachers_per_batch=1, probability=0.7)
    seen = Watch(Event.BATCH_END, lambda s: kd._now.teachers)
    data = DataLoader(images(48), batch_size=4, sampler=DistributedSampler(images(48)))
    fit = trainer([kd, seen], data=data)
    fit.fit()
    return {'chosen': dist.all_gather_object(seen.seen), 'weights': dist.all_gather_object(
        {k: v.sum().item() for k, v in weights(fit).items() if 'running' not in k})}


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    dist.initialize_dist('cpu')
    result = {case.__name__: case() for case in (masked_lm, classification, choices)}
    if dist.get_global_rank() == 0:
        torch.save(result, sys.argv[1])
