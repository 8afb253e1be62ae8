"""What ranks run to show that a training goes on with another number of them.

usage: resume_script.py FOLDER RUN [FROM]    trains RUN, from its beginning or on from half of the run FROM
"""

import json
import sys
import warnings
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.core import Event  # noqa: E402
from composer.utils import dist  # noqa: E402
from composer.utils.parallelism import FSDP2Config  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from tests.common import Watch, images, trainer  # noqa: E402
from tests.distributed.rank_script import bare, flat, student, too_much  # noqa: E402

KINDS = {'ddp': None, 'full': 'full', 'sharded': 'sharded'}


def make(kind, folder, load=None, kd=None, **settings):
    kd = kd or Distillation([flat(1), flat(2), flat(3)], teachers_per_batch=1, probability=0.7, end='0.75dur',
                            check_batches=0)
    chosen = Watch(Event.BATCH_END, lambda s: [int(s.timestamp.batch) - 1, sorted(kd._now.askers)])
    data, model = images(48), student()
    loader = DataLoader(data, batch_size=8 // dist.get_world_size(), sampler=DistributedSampler(data, shuffle=False))
    if KINDS[kind]:
        # one rank shards over itself
        settings['parallelism_config'] = {'fsdp': FSDP2Config(state_dict_type=KINDS[kind])}
    fit = trainer(
        [kd, chosen], model=model, data=loader, max_duration='16ba', save_folder=str(folder), save_interval='8ba',
        save_filename='ba{batch}.pt',
        load_path=None if load is None else str(load), optimizers=torch.optim.SGD(model.parameters(), momentum=1e-9), **settings)  # none, and torch cannot load that
    for group in fit.state.optimizers[0].param_groups:
        group['lr'] = 0.01 / (too_much() if KINDS[kind] else 1.0)  # the checkpoint's is for the ranks it was made on
    return fit, kd, chosen


def half_of(kind, folder):
    return folder / ('ep1-ba8' if kind == 'sharded' else 'ba8.pt')


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    root, run, *source = sys.argv[1:]
    dist.initialize_dist('cpu')
    found = {}
    for kind in KINDS:
        folder = Path(root, run, kind)
        load = half_of(kind, Path(root, source[0], kind)) if source else None
        fit, kd, chosen = make(kind, folder, load)
        fit.fit()
        found[kind] = {
            'chosen': chosen.seen, 'weights': {
                n: p.full_tensor() if isinstance(p, DTensor) else p.detach()
                for n, p in bare(fit.state).named_parameters()},
            'told': [(t['name'], t['batches'], t['samples']) for t in kd.summary()['teachers']],
            'active': kd.summary()['active_batches'], 'state': json.dumps(kd.state_dict())}
    if source:
        for kind in KINDS:
            load = half_of(kind, Path(root, source[0], kind))
            other = Distillation([flat(1), flat(4)], loss='mse', end='1dur', teachers_per_batch=1, check_batches=0)
            try:
                make(kind, Path(root, run, 'other', kind), load, other)
                found[kind]['changed'] = 'trained'
            except ValueError as error:
                found[kind]['changed'] = str(error)
    if dist.get_global_rank() == 0:
        torch.save(found, Path(root, f'{run}.pt'))
