"""What a run's record says of its stores: what was read, what was asked, what it cost, and what a resume keeps."""

import json

import pytest
from composer import Callback

from composer_kd.recipes import train
from composer_kd.runs import Record
from tests.recipes.tiny import plain, recipe

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')

BATCH, PER_EPOCH = 16, 6
EXACT = {'name': 'dense', 'dtype': 'float32'}
DATA = {**plain()['train_data'], 'views': 2, 'view_seed': 3}


def taught(folder, name, store=None, seed=1, callbacks=(), **changes):
    teacher = {'run': str(folder / 'earlier')}
    if store is not None:
        teacher['cache'] = {'path': str(folder / store), 'fill': True, 'format': EXACT}
    distillation = {'teachers': [teacher], 'loss': 'kl_divergence', 'end': '0.5dur', 'check_batches': 0}
    return train(recipe(folder / name, run_name=name, seed=seed, **{
        'max_duration': '4ep', 'train_data': DATA, 'algorithms': {'distillation': distillation}, **changes,
    }), callbacks).read_record()


@pytest.fixture(scope='module')
def earlier(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stored')
    train(recipe(folder / 'earlier', run_name='earlier', seed=0, train_data=DATA))
    return folder


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())


def test_what_was_read_costs_no_forward(earlier):
    live = taught(earlier, 'live')
    first, second = (taught(earlier, name, 'store') for name in ('first', 'second'))
    asked = 2 * PER_EPOCH * BATCH
    [t], [u], [v] = live.teachers, first.teachers, second.teachers
    assert (t.samples, t.stored, t.store, t.store_bytes) == (asked, 0, None, None)
    assert (u.samples, u.stored, u.store) == (asked, 0, str(earlier / 'store'))
    # of the same seed, so the same samples
    assert (v.samples, v.stored) == (asked, asked)
    assert u.store_bytes == v.store_bytes == bytes_of(earlier / 'store') > asked * 40
    student = 3 * live.flops.student_forward_per_sample * live.samples
    teacher = live.flops.teacher_forward_per_sample['teacher0'] * asked
    assert live.flops.total == first.flops.total == pytest.approx(student + teacher)
    assert second.flops.total == pytest.approx(student)
    # what is learnt is the same
    assert live.evaluations[-1].metrics == first.evaluations[-1].metrics == second.evaluations[-1].metrics
    assert live.kd.store_seconds == live.kd.store_outside_seconds == 0
    assert first.kd.store_seconds > 0
    assert first.kd.store_outside_seconds > 0
    assert second.kd.store_outside_seconds > 0
    assert first.kd.store_seconds > second.kd.store_seconds


def test_a_part_is_read_and_a_part_asked(earlier):
    record = taught(earlier, 'within', 'views', algorithms={'distillation': {
        'teachers': [{'run': str(earlier / 'earlier'), 'cache': {'path': str(earlier / 'views'), 'fill': True}}],
        'loss': 'kl_divergence', 'check_batches': 3,
    }})
    [teacher] = record.teachers
    # two epochs of new views, and two of the same again; an epoch leaves out 4 of 100 samples, not always the same
    assert teacher.samples == 4 * PER_EPOCH * BATCH
    again = 2 * PER_EPOCH * BATCH
    assert again - 16 <= teacher.stored <= again


class Killed(Callback):
    def __init__(self, batch):
        self.batch = batch

    def batch_checkpoint(self, state, logger):
        if int(state.timestamp.batch) == self.batch:
            raise KeyboardInterrupt


def test_counts_survive_a_resume(earlier):
    changes = {'save_interval': '2ba'}
    whole = taught(earlier, 'whole', 'whole-store', seed=5, **changes)
    said = taught(earlier, 'again', 'whole-store', seed=5, **changes)
    assert (whole.teachers[0].stored, said.teachers[0].stored) == (0, 2 * PER_EPOCH * BATCH)
    # killed between two checkpoints: what lay behind the last is asked and counted again
    with pytest.raises(KeyboardInterrupt):
        taught(earlier, 'parts', 'whole-store', seed=5, callbacks=[Killed(9)], **changes)
    parts = taught(earlier, 'parts', 'whole-store', seed=5, **changes)
    for part in ('batches', 'samples', 'stored', 'digest'):
        assert getattr(parts.teachers[0], part) == getattr(said.teachers[0], part)
    assert parts.flops.total == said.flops.total
    assert parts.kd.store_outside_seconds > 0


def test_records_of_before_load():
    said = json.loads(Record(
        run_name='a', started_at='x', updated_at='x', kd={}, teachers=[{'name': 'last', 'samples': 3}],
    ).to_json())
    for key in ('store_seconds', 'store_outside_seconds'):
        del said['kd'][key]
    for key in ('stored', 'store', 'store_bytes'):
        del said['teachers'][0][key]
    found = Record.from_json(json.dumps({**said, 'version': 3}))
    assert (found.teachers[0].stored, found.teachers[0].store, found.kd.store_seconds) == (0, None, 0.0)
