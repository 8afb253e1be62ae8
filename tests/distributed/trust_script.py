"""What each of two ranks runs: checkpoints of a model in parts are saved, poisoned, and gone on from.

usage: trust_script.py OUT
"""

import json
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.models import ComposerClassifier  # noqa: E402
from composer.utils import dist  # noqa: E402
from torch import nn  # noqa: E402

from composer_kd.models import MODELS  # noqa: E402
from composer_kd.recipes import build_trainer, parse_recipe, train  # noqa: E402
from composer_kd.recipes.build import forget  # noqa: E402
from tests.recipes.tiny import plain  # noqa: E402
from tests.teachers.bombs import Bomb, poison_bytes  # noqa: E402

FSDP = {
    'sharded': {'state_dict_type': 'sharded'},
    'full': {'state_dict_type': 'full', 'load_monolith_rank0_only': True},
}


@MODELS.register('flat')
def flat(width: int = 16):
    # digits_resnet lies channels last, which FSDP2 does not take
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    return ComposerClassifier(layers, num_classes=10)


def recipe(folder, kind, **changes):
    return parse_recipe(plain(
        run_folder=str(folder), parallelism_config={'fsdp2': FSDP[kind]}, dist_timeout=30, evaluators={}, eval_interval=0,
        model='flat', save_interval='2ba', algorithms={'label_smoothing': {}}, **changes,
    ))


def going_on(folder, kind, **changes):
    """The batch that a training goes on from, or what it is told instead."""
    try:
        trainer = build_trainer(recipe(folder, kind, max_duration='4ba', **changes))
    except (ValueError, FileNotFoundError) as error:
        return f'{type(error).__name__}: {error}'
    trainer.engine.close()
    forget(trainer)
    return int(trainer.state.timestamp.batch)


def poison_table(folder, bomb):
    path = folder / '.metadata'
    metadata = pickle.loads(path.read_bytes())
    metadata.planner_data['more'] = bomb
    path.write_bytes(pickle.dumps(metadata))


def poison_file(path, bomb):
    state = torch.load(path, weights_only=False)
    torch.save({**state, 'more': bomb}, path)


def main(root):
    saved = {kind: train(recipe(root / kind, kind, max_duration='2ba')).checkpoints for kind in FSDP}
    shards, file = next(saved['sharded'].glob('ep*')), next(saved['full'].glob('ep*'))
    cases = {
        'fine shards': ('sharded', shards, None),
        'table of contents': ('sharded', shards, poison_table),
        'value': ('sharded', shards, lambda folder, bomb: poison_bytes(folder, 'state.run_name', bomb)),
        'no table of contents': ('sharded', shards, lambda folder, bomb: (folder / '.metadata').write_bytes(b'')),
        'fine file': ('full', file, None),
        'file': ('full', file, poison_file),
        'cut file': ('full', file, lambda path, bomb: path.write_bytes(path.read_bytes()[:-5000])),
        'no file': ('full', file, lambda path, bomb: path.unlink()),
    }
    found = {}
    for number, (name, (kind, source, poison)) in enumerate(cases.items()):
        bomb, path = Bomb(root / f'mark{number}'), root / f'{number}-{source.name}'
        if dist.get_global_rank() == 0:
            (shutil.copytree if source.is_dir() else shutil.copy)(source, path)
            if poison is not None:
                poison(path, bomb)
        dist.barrier()
        found[name] = [going_on(root / f'run{number}', kind, load_path=str(path)), bomb.mark.exists()]
        dist.barrier()
    return found


if __name__ == '__main__':
    warnings.simplefilter('ignore')
    dist.initialize_dist('cpu', timeout=30)
    result = main(Path(sys.argv[1]))
    (Path(sys.argv[1]) / f'{dist.get_global_rank()}.json').write_text(json.dumps(result))
