"""What each of two ranks runs with teachers of other libraries' files.

usage: kinds_script.py FOLDER
"""

import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

from composer.utils import dist  # noqa: E402

from composer_kd import Distillation  # noqa: E402
from tests.common import trainer, weights  # noqa: E402
from tests.teachers.kinds import made  # noqa: E402

OWN = {'mean': (0.4, 0.5, 0.6), 'std': (0.2, 0.25, 0.5)}


def run(teachers):
    images, labels = made.batch(16)
    samples = torch.utils.data.TensorDataset(images, labels)
    data = torch.utils.data.DataLoader(samples, batch_size=4, sampler=dist.get_sampler(samples))
    told = None
    try:
        kd = Distillation(teachers, check_batches=0)
        fit = trainer([kd], model=made.student(classes=made.NAMES, **OWN), data=data, max_duration='2ba')
        fit.fit()
    except (ValueError, FileNotFoundError) as error:
        return dist.all_gather_object(str(error))
    model = fit.state.model.module if fit.state.is_model_ddp else fit.state.model
    return dist.all_gather_object((told, [teacher.digest for teacher in kd.teachers], weights(model)))


def main(folder: Path):
    results = {
        'fine': run([{'hf': str(folder / 'vit')}, {'onnx': str(folder / 'm.onnx')}, {'exported': str(folder / 'm.pt2')}]),
        'broken on one': run({'exported': str(folder / f'rank{dist.get_global_rank()}.pt2')}),
    }
    if dist.get_global_rank() == 0:
        torch.save(results, folder / 'out.pt')


if __name__ == '__main__':
    dist.initialize_dist('cpu', 60.0)
    main(Path(sys.argv[1]))
