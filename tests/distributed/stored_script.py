"""What each of two ranks runs with stored answers: small trainings, of which rank zero saves what came of them.

usage: stored_script.py FOLDER [damage]
"""

import sys
import warnings
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.utils import dist  # noqa: E402

from tests.answers.training import data, keeper, live, stored, train  # noqa: E402

SAVED = {'save_interval': '1ba', 'save_filename': 'ba{batch}.pt', 'save_num_checkpoints_to_keep': -1}


def spec(**changes):
    return data(**{'batch_size': 8, **changes})  # of each rank: a batch of both is that of one


def result(fit):
    model = fit.state.model.module if fit.state.is_model_ddp else fit.state.model
    counts = [(k.read, k.asked) for k in (keeper(fit, i) for i in range(len(fit.kd.teachers))) if k is not None]
    return {'weights': {name: value.clone() for name, value in model.state_dict().items()}, 'counts': dist.all_gather_object(counts)}


def run(teachers, duration='2ep', workers=0, **settings):
    changes = settings.pop('changes', {})
    return result(train(teachers, duration, spec(num_workers=workers, **changes), **settings))


def refused(*args, **settings):
    try:
        run(*args, **settings)
    except ValueError as error:
        return str(error)
    return None


def dense(folder):
    store, views = folder / 'store', {'changes': {'views': 2}, 'duration': '4ep'}
    found = {'live': run(live()), 'filled': run(live(store)), 'beside': run(live(store))}
    for workers in (0, 1):
        found[f'read by {workers}'] = run(stored(store), workers=workers)
    found['live in parts'] = run(live(), device_train_microbatch_size=4)
    found['filled in parts'] = run(live(folder / 'parts'), device_train_microbatch_size=4)
    found['read in parts'] = run(stored(folder / 'parts'), device_train_microbatch_size=4)
    run(stored(store), save_folder=str(folder / 'checkpoints'), **SAVED)
    found['resumed'] = run(stored(store), load_path=str(folder / 'checkpoints' / 'ba8.pt'))
    found['views filled'] = run(live(folder / 'views'), **views)
    found['views'] = run(stored(folder / 'views'), **views)
    found['views live'] = run(live(), **views)
    found['of one rank'] = run(stored(folder / 'one'))
    return found


def by_rank(folder):
    pool = {'sampling': 'by_rank'}
    one, other, mixed = folder / 'first', folder / 'second', folder / 'mixed'
    return {
        'live': run([live(), live(seed=2)], **pool),
        'filled': run([live(one), live(other, seed=2)], **pool),
        'read': run([stored(one), stored(other)], **pool),
        'one stored': run([live(), stored(other)], **pool),
        'the other': run([stored(one), live(seed=2)], **pool),
        'one filled': run([live(), live(mixed, seed=2)], **pool),
        'told': refused([live(), stored(other)], changes={'noise': 0.1}, **pool),
    }


def others(folder):
    form = {'name': 'sampled', 'k': 12, 'temperature': 1.0}
    return {
        'sampled, filled': run(live(folder / 'sampled', form=form)), 'sampled, read': run(stored(folder / 'sampled'), workers=1),
        'sharded': refused(live(folder / 'sharded'), placement='sharded'),
        'missing': refused(stored(folder / 'store'), duration='3ep'),
        'in turn': run([live(), live(folder / 'turn', seed=2)], teachers_per_batch=1),
        'in turn, read': run([live(), stored(folder / 'turn')], teachers_per_batch=1),
        'in turn, live': run([live(), live(seed=2)], teachers_per_batch=1),
    }


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    dist.initialize_dist('cpu', 60)
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:  # one rank meets a flipped bit
        run(stored(folder / 'damaged'))
    made = {**dense(folder), 'by rank': by_rank(folder), **others(folder)}
    if dist.get_global_rank() == 0:
        torch.save(made, folder / 'out.pt')
