"""What each of several ranks runs: it reads teachers, and notes what came of each.

usage: fetch_script.py OUT SOURCE...
"""

import json
import sys
import tempfile
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.utils import dist  # noqa: E402

from composer_kd.models import outside  # noqa: E402
from composer_kd.teachers import digest_of, read_weights  # noqa: E402


def outcome(source):
    try:
        weights = read_weights(source)
    except (ValueError, FileNotFoundError) as error:
        return {'error': type(error).__name__, 'told': str(error)}
    module = torch.nn.Module()
    for name, value in weights.items():
        module.register_buffer(name, value)
    return {'digest': digest_of(module)}


if __name__ == '__main__':
    outside.PAUSES = (0.1, 0.2)
    dist.initialize_dist('cpu', timeout=8)
    folder = Path(sys.argv[1])
    tempfile.tempdir = str(folder / f'node{dist.get_node_rank()}')
    Path(tempfile.tempdir).mkdir(exist_ok=True)
    dist.barrier()
    found = {source: outcome(source.replace('RANK', str(dist.get_global_rank()))) for source in sys.argv[2:]}
    dist.barrier()
    left = [path.name for path in Path(tempfile.tempdir).iterdir()]
    (folder / f'{dist.get_global_rank()}.json').write_text(json.dumps({'found': found, 'left': left}))
