"""What a plan predicts is what the record of the run says afterwards."""

import warnings

import pytest

from composer_kd.plan import plan_recipe
from composer_kd.recipes import train
from tests.recipes.tiny import recipe

WIDE = {'name': 'digits_resnet', 'width': 32}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    train(recipe(folder / 'small', run_name='small'))
    train(recipe(folder / 'wide', run_name='wide', model=WIDE, algorithms={'blurpool': {}}))
    return folder


def compared(recipe):
    plan = plan_recipe(recipe, ranks=1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Composer's own, of SAM and of SWA
        folder = train(recipe)
    return plan, folder, folder.read_record()


def hold_against(plan, folder, record):
    assert not plan.stops
    assert plan.length.steps == record.batches
    assert plan.length.samples == record.samples
    assert int(plan.length.epochs) == record.epochs
    assert plan.student.forward_flops_per_sample == record.flops.student_forward_per_sample
    assert plan.flops.recorded == pytest.approx(record.flops.total, rel=1e-12)
    assert {spec.rounds for spec in plan.evaluators.values()} == {len(record.evaluations)}
    saved = sorted(folder.checkpoints.glob('ep*'))
    assert plan.checkpoints.kept == len(saved)
    assert [path.stat().st_size for path in saved] == pytest.approx([plan.checkpoints.bytes_each] * len(saved), rel=0.1)


def test_a_run_without_distillation(tmp_path):
    plan, folder, record = compared(recipe(
        tmp_path / 'run', max_duration='300sp', save_interval='100sp', eval_interval='3ba', scheduler=None, model=WIDE,
        optimizer={'name': 'adamw', 'lr': 1e-3}, algorithms={'swa': {}},
    ))
    hold_against(plan, folder, record)
    assert record.batches == 19
    assert plan.distilling is None
    assert plan.flops.training == plan.flops.without_kd == plan.flops.recorded
    assert plan.flops.evaluation == 7 * 360 * plan.student.forward_flops_per_sample


def test_two_teachers_one_of_them_for_each_batch_by_chance(tmp_path, runs):
    teachers = [{'run': str(runs / 'small')}, {'run': str(runs / 'wide'), 'weight': 2.0, 'name': 'wide'}]
    plan, folder, record = compared(recipe(
        tmp_path / 'run', max_duration='6ep', save_interval='7ba', save_num_checkpoints_to_keep=2,
        eval_interval='0.3dur', seed=3, algorithms={'ema': {'half_life': '10ba'}, 'distillation': {
            'teachers': teachers, 'teachers_per_batch': 1, 'interval': 2, 'probability': 0.8, 'start': '1ba',
            'end': '0.8dur',
        }},
    ))
    hold_against(plan, folder, record)
    assert plan.distilling.active_steps == record.kd.active_batches < 15
    assert plan.distilling.batches == {teacher.name: teacher.batches for teacher in record.teachers}
    assert plan.distilling.samples == {teacher.name: teacher.samples for teacher in record.teachers}
    assert all(plan.distilling.batches.values())
    forward = {teacher.name: teacher.forward_flops_per_sample for teacher in plan.teachers}
    assert forward == record.flops.teacher_forward_per_sample
    wide = plan.teachers[1].parameters
    assert wide > plan.teachers[0].parameters == plan.student.parameters
    assert plan.flops.training / plan.flops.without_kd - 1 == pytest.approx(plan.distilling.overhead)


def test_sam_asks_the_teacher_twice(tmp_path, runs):
    plan, folder, record = compared(recipe(
        tmp_path / 'run', model=WIDE,
        algorithms={'sam': {'interval': 5}, 'distillation': {'teachers': {'run': str(runs / 'small')}, 'end': '1ep'}},
    ))
    hold_against(plan, folder, record)
    assert plan.distilling.samples == {'teacher0': (6 + 1) * 16} == {t.name: t.samples for t in record.teachers}
    assert plan.flops.sam == 2 * plan.flops.step
    assert plan.flops.training == plan.flops.recorded + plan.flops.sam


def test_weights_alone(tmp_path):
    plan, folder, record = compared(recipe(tmp_path / 'run', model=WIDE, save_weights_only=True))
    hold_against(plan, folder, record)
    assert plan.checkpoints.bytes_each < 0.7 * plan_recipe(recipe(tmp_path / 'other', model=WIDE)).checkpoints.bytes_each


def test_another_teacher_on_every_rank_and_where_they_lie(tmp_path, runs):
    def planned(**settings):
        teachers = [{'run': str(runs / 'small')}, {'run': str(runs / 'small'), 'name': 'again'}]
        return plan_recipe(recipe(tmp_path / 'run', algorithms={'distillation': {'teachers': teachers, **settings}}), ranks=4)
    plan = planned(sampling='by_rank')
    assert plan.distilling.samples == {'teacher0': 12 * 16 // 2, 'again': 12 * 16 // 2}
    assert plan.distilling.batches == {'teacher0': 12, 'again': 12}
    size = plan.teachers[0].bytes
    assert size
    assert plan.memory.teachers == size, 'a rank keeps the one it asks'
    assert [planned(placement=place).memory.teachers for place in ('auto', 'replicated', 'sharded', 'host')] == [
        2 * size, 2 * size, 2 * (size // 4), 0]
