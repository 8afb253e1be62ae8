"""Teachers of whom only stored answers are left, and stores beside live ones, in a plan."""

import io
import shutil

import pytest

from composer_kd.plan import plan_recipe
from composer_kd.plan.show import show
from composer_kd.recipes import train
from tests.recipes.tiny import plain, recipe

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')

DATA = {**plain()['train_data'], 'views': 1, 'view_seed': 0, 'train_size': 96}


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A run, and a store of its answers that another one wrote."""
    folder = tmp_path_factory.mktemp('stored')
    train(recipe(folder / 'earlier', train_data=DATA))
    filling = {'run': str(folder / 'earlier'), 'cache': {'path': str(folder / 'store'), 'fill': True}}
    train(recipe(folder / 'filling', train_data=DATA, algorithms={'distillation': {'teachers': filling}}))
    return folder


def planned(folder, teachers, **changes):
    algorithms = {'distillation': {'teachers': teachers}}
    return plan_recipe(recipe(folder / 'planned', train_data=DATA, algorithms=algorithms, **changes), 1)


def test_stored_answers_take_no_memory_and_no_flops(made):
    live, stored = planned(made, {'run': str(made / 'earlier')}), planned(made, [{'cache': str(made / 'store'), 'name': 'old'}])
    [teacher] = stored.teachers
    size = sum(path.stat().st_size for path in (made / 'store').rglob('*') if path.is_file())
    assert (teacher.name, teacher.parameters, teacher.bytes, teacher.forward_flops_per_sample) == ('old', 0, 0, 0.0)
    assert (teacher.outputs, teacher.stored_bytes) == (10, size)
    assert f"stored answers of run:{made / 'earlier'} (" in teacher.model
    assert '; 96 samples)' in teacher.model
    assert (stored.memory.teachers, live.memory.teachers > 0) == (0, True)
    assert stored.flops.training == stored.flops.without_kd < live.flops.training
    assert (stored.distilling.batches, stored.distilling.overhead) == ({'old': 12}, 0.0)
    assert stored.problems == []
    text = io.StringIO()
    show(stored, text)
    assert f'{size / 1000:.3g} kB on disk' in text.getvalue()


def test_the_plan_is_what_the_record_says(made):
    said = {'distillation': {'teachers': {'cache': str(made / 'store')}}}
    plan = plan_recipe(recipe(made / 'read', train_data=DATA, algorithms=said), 1)
    record = train(recipe(made / 'read', train_data=DATA, algorithms=said)).read_record()
    assert plan.flops.recorded == record.flops.total
    [teacher] = record.teachers
    assert (teacher.samples, teacher.stored, teacher.store_bytes) == (192, 192, plan.teachers[0].stored_bytes)


def test_what_is_missing(made, tmp_path):
    plan = planned(made, [{'cache': str(tmp_path / 'nowhere')}])
    [told] = plan.problems
    assert (told.level, told.where) == ('warning', 'algorithms.distillation.teachers[0]')
    assert f"no manifest.json in '{tmp_path / 'nowhere'}'" in told.told
    assert (plan.teachers[0].forward_flops_per_sample, plan.teachers[0].stored_bytes, plan.stops) == (0.0, None, False)
    assert plan.flops.training == plan.flops.without_kd


def test_what_lies_elsewhere(made):
    plan = planned(made, [{'cache': 's3://bucket/store'}])
    [told] = plan.problems
    assert (told.level, told.told) == ('note', 'cache:s3://bucket/store is not on this machine; it is fetched when training starts.')


def test_what_is_damaged(made, tmp_path):
    shutil.copytree(made / 'store', tmp_path / 'store')
    next((tmp_path / 'store' / 'parts').glob('*/*.mds')).unlink()
    plan = planned(made, [{'cache': str(tmp_path / 'store')}])
    assert plan.stops
    assert 'is missing: the store was not copied whole' in plan.problems[0].told


def test_other_classes(made):
    plan = planned(made, [{'cache': str(made / 'store')}], model={'name': 'digits_resnet', 'width': 4, 'num_classes': 11})
    assert [problem.level for problem in plan.problems] == ['error']
    assert 'has 10 outputs and the student 11' in plan.problems[0].told


@pytest.mark.parametrize(('cache', 'level', 'told'), [
    ('store', 'note', '96 answers (dense, float16) are stored there'), ('nowhere', 'warning', 'no manifest.json in'),
    ({'path': 'nowhere', 'fill': True}, 'note', 'answers will be stored there'),
    ({'path': 'store', 'fil': True}, 'error', "unknown key 'fil'"),
])
def test_a_store_beside_a_teacher(made, monkeypatch, cache, level, told):
    monkeypatch.chdir(made)
    plan = planned(made, [{'run': 'earlier', 'cache': cache}])
    [found] = [problem for problem in plan.problems if problem.where.endswith('.cache')]
    assert (found.level, found.where) == (level, 'algorithms.distillation.teachers[0].cache')
    assert told in found.told
    assert plan.teachers[0].parameters > 0
    assert plan.flops.training == planned(made, [{'run': 'earlier'}]).flops.training
