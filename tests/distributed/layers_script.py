"""What one rank, and each of two, runs of losses on layers.

usage: layers_script.py OUT FOLDER    saves what it found to OUT; two ranks leave checkpoints in FOLDER, one goes on
"""

import sys
import warnings
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.core import Event  # noqa: E402
from composer.utils import dist  # noqa: E402
from composer.utils.parallelism import FSDP2Config  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from composer_kd.teachers import placement  # noqa: E402
from tests.common import Watch, images, trainer  # noqa: E402
from tests.distributed.rank_script import bare, flat, part, student, whole  # noqa: E402
from tests.integration.test_features_of_text import ATTENTION, HIDDEN, model, padded, teacher  # noqa: E402
from tests.integration.test_huggingface import masked  # noqa: E402

HINT = {'name': 'hint', 'student_layer': 'module.2', 'teacher_layer': '2'}


def projectors(kd):
    return {f'projectors.{n}': p.detach().clone() for n, p in kd._teaching.tapping._learner.modules.named_parameters()}


def gradients(kd, model_, data, microbatch=2, fsdp=False):
    """Of the student, and where plain SGD has left the projectors."""
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {
        n: whole(p.grad) for n, p in bare(s).named_parameters() if p.grad is not None})
    settings = {'parallelism_config': {'fsdp': FSDP2Config(state_dict_type='full')}} if (
        fsdp and dist.get_world_size() > 1) else {}
    fit = trainer([kd, seen], model=model_, data=data, max_duration='1ba', device_train_microbatch_size=microbatch,
                  **settings)
    fit.fit()
    return {**seen.seen[-1], **projectors(kd)}


def pictures(fsdp=False, microbatch=2, **settings):
    kd = Distillation([flat(1, 12), flat(2, 4)], losses=[HINT, 'mse'], check_batches=0, **settings)
    return gradients(kd, student(), part(images(12)), microbatch, fsdp)


def words(fsdp=False, microbatch=2, **settings):
    kind = 'BertForMaskedLM'
    kd = Distillation(teacher(kind), losses=[HIDDEN, ATTENTION], kd_loss_weight=1.0, base_loss_weight=0.0,
                      check_batches=0, **settings)
    return gradients(kd, model(kind=kind), part(padded(masked(12))), microbatch, fsdp)


EQUAL = {
    f'{run.__name__}, {kind}, {where}': lambda run=run, settings=settings, where=where: run(placement=where, **settings)
    for run in (pictures, words)
    for kind, settings in (('ddp', {}), ('fsdp2', {'fsdp': True, 'microbatch': 8}))
    for where in ('replicated', 'sharded', 'host')
}


def equal():
    return {name: case() for name, case in EQUAL.items()}


def by_rank():
    """Each rank asks another teacher, and all hold the same projectors afterwards."""
    kd = Distillation([flat(1, 12), flat(2, 4)], losses=[HINT], sampling='by_rank', check_batches=0)
    data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
    fit = trainer(kd, model=student(), data=data, max_duration='3ba')
    start = projectors(kd)
    fit.fit()
    sums = {n: p.double().sum().item() for n, p in projectors(kd).items()}
    return {'ends': dist.all_gather_object(sums), 'moved': all(not torch.equal(p, start[n]) for n, p in projectors(kd).items())}


def resumed(folder):
    """Two ranks leave a checkpoint of half of their training; one goes on from it as from its own."""
    def make(load=None, **settings):
        kd = Distillation(flat(1, 12), losses=[HINT], check_batches=0)
        data = DataLoader(images(48), batch_size=8 // dist.get_world_size(),
                          sampler=DistributedSampler(images(48), shuffle=False))
        fit = trainer(kd, model=student(), data=data, max_duration='6ba', save_folder=str(folder),
                      save_interval='3ba', save_filename='{batch}.pt', load_path=load, **settings)
        fit.fit()
        return {**{n: p.detach().clone() for n, p in bare(fit.state).named_parameters()}, **projectors(kd)}
    found = {'whole': make()}
    if dist.get_world_size() == 1:
        found['resumed'] = make(str(Path(folder).parent / '2' / '3.pt'))
        return found
    sharded = {'parallelism_config': {'fsdp': FSDP2Config(state_dict_type='sharded')}}
    for name, load in (('sharded', None), ('sharded, resumed', str(folder / 'sharded' / 'ep0-ba3'))):
        kd = Distillation(flat(1, 12), losses=[HINT], check_batches=0)
        data = DataLoader(images(48), batch_size=4, sampler=DistributedSampler(images(48), shuffle=False))
        fit = trainer(kd, model=student(), data=data, max_duration='6ba', save_folder=str(folder / 'sharded'),
                      save_interval='3ba', load_path=load, lr=0.01, **sharded)
        fit.fit()
        found[name] = {**{n: p.full_tensor() for n, p in bare(fit.state).named_parameters()}, **projectors(kd)}
    return found


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    placement.SMALLEST_BLOCK = 64
    dist.initialize_dist('cpu')
    out, root = sys.argv[1:]
    own = Path(root, str(dist.get_world_size()))
    result = {'equal': equal(), 'by_rank': by_rank(), 'resumed': resumed(own)}
    if dist.get_global_rank() == 0:
        torch.save(result, out)
