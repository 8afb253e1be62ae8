"""What each of two ranks, or a single one, runs: small trainings whose results rank zero saves.

usage: rank_script.py OUT
"""

import functools
import sys
import tempfile
import warnings

import torch

torch.set_num_threads(1)

from composer import algorithms as ca  # noqa: E402
from composer.core import Callback, DataSpec, Event  # noqa: E402
from composer.optim import CosineAnnealingScheduler  # noqa: E402
from composer.utils import dist  # noqa: E402
from composer.utils.parallelism import FSDP2Config  # noqa: E402
from torch import nn  # noqa: E402
from torch.distributed.tensor import DTensor  # noqa: E402
from torch.utils.data import DataLoader, DistributedSampler  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from composer_kd.teachers import placement  # noqa: E402
from tests.common import Counting, Watch, classifier, images, network, trainer, weights  # noqa: E402
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


def part(data, tokens=False):
    """This rank's part of one joined batch: a third of it, and two thirds."""
    cut = len(data) // 3
    mine = range(len(data))
    if dist.get_world_size() > 1:
        mine = mine[:cut] if dist.get_global_rank() == 0 else mine[cut:]
    loader = DataLoader(data, batch_size=len(mine), sampler=Mine(data, mine))
    return loader if not tokens else DataSpec(loader, get_num_tokens_in_batch=lambda b: {
        'total': b['input_ids'].numel(), 'loss_generating': int((b['labels'] != -100).sum())})


def whole(value):
    return value.full_tensor() / too_much() if isinstance(value, DTensor) else value.clone()


@functools.cache
def too_much():
    """By what gradients of sharded parameters are too large: torch 2.7's gloo sums where it is asked for the average."""
    part = torch.zeros(1)
    torch.distributed.reduce_scatter_tensor(part, torch.ones(dist.get_world_size()), torch.distributed.ReduceOp.AVG)
    return float(part)


def bare(state):
    return state.model.module if state.is_model_ddp else state.model


def gradients(model, data, kd, algorithms=(), microbatch=2, fsdp=False, **settings):
    seen = Watch(Event.AFTER_TRAIN_BATCH, lambda s: {
        n: whole(p.grad) for n, p in bare(s).named_parameters() if p.grad is not None})
    if fsdp and dist.get_world_size() > 1:
        settings['parallelism_config'] = {'fsdp': FSDP2Config(state_dict_type='full')}
    fit = trainer([kd, *algorithms, seen], model=model, data=data, max_duration='1ba',
                  device_train_microbatch_size=microbatch, **settings)
    fit.fit()
    return seen.seen[-1]


def flat(seed, width=8):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 5))


def student():
    return classifier().__class__(flat(0), num_classes=5)


def words(fsdp=False, microbatch=2, tokens=False, **settings):
    kd = Distillation(composer_model(seed=1), kd_loss_weight=1.0, base_loss_weight=0.0, check_batches=0, **settings)
    return gradients(composer_model(), part(masked(12), tokens), kd, fsdp=fsdp, microbatch=microbatch,
                     accumulate_train_batch_on_tokens=tokens)


def pictures(fsdp=False, microbatch=2, algorithms=(), teachers=1, **settings):
    # of different sizes, so that shards of one are not taken for another's
    kd = Distillation([flat(seed, 4 + 4 * seed) for seed in range(1, 1 + teachers)], **{'check_batches': 0, **settings})
    return gradients(student(), part(images(12)), kd, algorithms, microbatch, fsdp)


# Every case runs on one rank and on two. A sharded student needs as many microbatches on every rank.
EQUAL = {
    f'{name}, {kind}, {placement}': lambda run=run, settings=settings, placement=placement: run(
        placement=placement, **settings)
    for name, run in (('words', words), ('pictures', pictures))
    for kind, settings in (('ddp', {}), ('fsdp2', {'fsdp': True, 'microbatch': 8}))
    for placement in ('replicated', 'sharded', 'host')
}
EQUAL |= {
    'words, ddp, several microbatches at once': lambda: words(microbatch=2, teacher_microbatch_size=6),
    'words, ddp, sharded, in parts': lambda: words(microbatch=3, placement='sharded', teacher_microbatch_size=2),
    'words, fsdp2, sharded, in parts': lambda: words(True, 8, placement='sharded', teacher_microbatch_size=3),
    'pictures, ddp, sharded, in parts': lambda: pictures(microbatch=3, placement='sharded', teacher_microbatch_size=1),
    'pictures, fsdp2, replicated, in parts': lambda: pictures(True, 8, teacher_microbatch_size=3),
    'two teachers averaged, ddp, sharded': lambda: pictures(teachers=2, placement='sharded'),
    'three teachers and parts, ddp, sharded': lambda: pictures(
        microbatch=3, teachers=3, placement='sharded', teacher_microbatch_size=2),
    'two teachers averaged, fsdp2, sharded': lambda: pictures(True, 8, teachers=2, placement='sharded'),
    'looked at, ddp, sharded': lambda: pictures(teachers=3, teachers_per_batch=1, placement='sharded', check_batches=2),
    'accumulated on tokens, ddp': lambda: words(tokens=True),
    'accumulated on tokens, fsdp2': lambda: words(True, 8, tokens=True),
}
# SAM climbs on every rank by its own gradients, so that two ranks are not one; with and without shards they are the same.
SAM = {placement: lambda placement=placement: pictures(algorithms=[ca.SAM(rho=0.05)], placement=placement)
       for placement in ('replicated', 'sharded', 'host')}


def by_rank():
    """Another teacher on every rank."""
    results = {}
    for name, total in (('two', 2), ('three', 3)):
        teachers = [Counting(flat(seed)) for seed in range(1, 1 + total)]
        kd = Distillation(teachers, sampling='by_rank', check_batches=0)
        held = Watch(Event.FIT_START, lambda s, kd=kd: [not teacher.released for teacher in kd.teachers])
        asked = Watch(Event.BATCH_END, lambda s, kd=kd: kd._now.teachers)
        data = DataLoader(images(48), batch_size=4, sampler=DistributedSampler(images(48)))
        trainer([kd, held, asked], model=student(), data=data, max_duration='6ba').fit()
        results[name] = dist.all_gather_object({
            'held': held.seen[0], 'asked': asked.seen, 'calls': [teacher.calls for teacher in teachers],
            'told': [(t['batches'], t['samples']) for t in kd.summary()['teachers']], 'digests': [t.digest for t in kd.teachers],
        })
    kd = Distillation([flat(1), flat(2)], sampling='by_rank', check_batches=0)
    results['gradients'] = gradients(student(), part(images(12)), kd)
    if dist.get_world_size() == 1:
        # the mean over 12 samples, of which 4 were the first rank's and 8 the second's
        first, second = (
            gradients(student(), DataLoader(images(12), batch_size=len(mine), sampler=Mine(images(12), mine)),
                      Distillation(flat(seed), check_batches=0))
            for seed, mine in ((1, range(4)), (2, range(4, 12)))
        )
        results['gradients'] = {name: (4 * first[name] + 8 * second[name]) / 12 for name in first}
    return results


def bookkeeping():
    """What FSDP2 keeps of the forwards of a teacher that never has a backward, and where `auto` puts teachers by rank."""
    kd = Distillation(flat(1), placement='sharded')
    data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48)))
    trainer(kd, model=student(), data=data, max_duration='6ba').fit()
    state = kd.teachers[0].module._get_fsdp_state() if dist.get_world_size() > 1 else None
    kept = len(state._comm_ctx.post_forward_order) if state is not None else 0
    placement.device_memory = lambda state: 1
    by_rank = Distillation([flat(seed) for seed in (1, 2, 3)], sampling='by_rank')
    trainer(by_rank, model=student(), data=data, max_duration='1ba')
    return {'kept': kept, 'by_rank': [teacher.placement for teacher in by_rank.teachers]}


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


class Small(nn.Module):
    """Runs out of memory on one rank when it is asked about more than two samples."""

    def __init__(self, inner, error='CUDA out of memory. Tried to allocate 2 GiB'):
        super().__init__()
        self.inner, self.sizes, self.error = inner, [], error

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > 2 and dist.get_global_rank() == dist.get_world_size() - 1:
            raise RuntimeError(self.error)
        return self.inner(x)


def out_of_memory():
    """A teacher runs out of memory on one rank: Composer halves the microbatch on all, and the result is the same."""
    found = {}
    for name, auto in (('auto', True), ('by hand', False)):
        teacher = Small(flat(1)) if auto else flat(1)
        kd = Distillation(teacher, check_batches=0)
        data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
        fit = trainer(kd, model=student(), data=data, max_duration='3ba', device_train_microbatch_size=8 if auto else 2)
        fit.state.auto_microbatching = auto  # Composer lets no CPU ask for it; all else of it runs as on a GPU
        fit.fit()
        found[name] = {'weights': weights(bare(fit.state)), 'size': fit.state.device_train_microbatch_size,
                       'active': kd.summary()['active_batches'], 'sizes': dist.all_gather_object(getattr(teacher, 'sizes', []))}
    return found


class Broken(nn.Module):
    """Answers with NaN on the last rank from its third call on."""

    def __init__(self, inner, value=float('nan')):
        super().__init__()
        self.inner, self.calls, self.value = inner, 0, value

    def forward(self, x):
        self.calls += 1
        logits = self.inner(x)
        if self.calls >= 3 and dist.get_global_rank() == dist.get_world_size() - 1:
            logits = logits.clone()
            logits[0, 1] = self.value
        return logits


def not_finite():
    found = {}
    for mode in ('stop', 'skip'):
        kd = Distillation([flat(1), {'module': Broken(flat(2)), 'name': 'broken'}], check_batches=0, on_nonfinite=mode)
        data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
        fit = trainer(kd, model=student(), data=data, max_duration='5ba')
        told = None
        try:
            fit.fit()
        except RuntimeError as error:
            told = str(error)
        found[mode] = dist.all_gather_object({
            'told': told, 'batches': int(fit.state.timestamp.batch), 'skipped': kd.summary()['skipped_rows'],
            'finite': all(bool(torch.isfinite(w).all()) for w in weights(bare(fit.state)).values())})
    return found


def differing():
    """Teachers that are not the same on every rank."""
    found = {}
    for placement_, other in (('replicated', {}), ('sharded', {}), ('auto', {'sampling': 'by_rank'})):
        teachers = [flat(1 + dist.get_global_rank())] + ([flat(3)] if other else [])
        try:
            trainer(Distillation(teachers, check_batches=0, placement=placement_, **other), model=student(),
                    data=part(images(12)), max_duration='1ba').fit()
            found[placement_] = 'trained'
        except ValueError as error:
            found[placement_] = str(error)
    return found


def selective():
    """SelectiveBackprop on two ranks: ends, and both ranks hold the same weights."""
    kd = Distillation(flat(1), check_batches=0)
    data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
    fit = trainer([ca.SelectiveBackprop(start=0.0, end=1.0, keep=0.5, interrupt=0), kd], model=student(), data=data)
    fit.fit()
    return kd.summary(), dist.all_gather_object({k: v.double().sum().item() for k, v in weights(bare(fit.state)).items()})


class Heard(Callback):
    """Every event of the engine, in order, with the batch."""

    def __init__(self):
        self.events = []

    def run_event(self, event, state, logger):
        self.events.append((event.value, int(state.timestamp.batch)))


def events():
    """The events of a training with distillation, and of one without."""
    found = []
    for algorithms in ([Distillation(flat(1), end='2ba', placement='sharded')], []):
        heard = Heard()
        data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
        trainer(algorithms, model=student(), data=data, max_duration='4ba', device_train_microbatch_size=4,
                callbacks=[heard]).fit()
        found.append(heard.events)
    return found


def round_trip():
    """What Composer promises of a checkpoint: state saved, loaded and saved again is the same state."""
    folder = dist.all_gather_object(tempfile.mkdtemp())[0]

    def make(**settings):
        kd = Distillation([flat(1), flat(2)], teachers_per_batch=1)
        data = DataLoader(images(48), batch_size=8, sampler=DistributedSampler(images(48), shuffle=False))
        return trainer([kd, ca.EMA(half_life='2ba')], model=student(), data=data, max_duration='4ba',
                       schedulers=CosineAnnealingScheduler(), **settings)
    first = make(save_folder=folder, save_interval='4ba', save_filename='last.pt')
    first.fit()
    second = make(load_path=f'{folder}/last.pt')
    one, two = first.state.state_dict(), second.state.state_dict()
    assert one['timestamp'] == two['timestamp']
    return [{'algorithms': dict(state['algorithms']), 'model': state['model'], 'optimizers': state['optimizers'],
             'schedulers': state['schedulers'], 'keys': sorted(state)} for state in (one, two)]


def equal():
    return {name: case() for name, case in EQUAL.items()}


def sam():
    return {name: case() for name, case in SAM.items()}


CASES = ('equal', 'sam', 'choices', 'by_rank', 'out_of_memory', 'not_finite', 'differing', 'selective', 'events',
         'round_trip', 'bookkeeping')

if __name__ == '__main__':
    warnings.simplefilter('ignore')
    placement.SMALLEST_BLOCK = 64  # small models, and layers of theirs all the same
    dist.initialize_dist('cpu')
    result = {name: globals()[name]() for name in CASES}
    if dist.get_global_rank() == 0:
        torch.save(result, sys.argv[1])
