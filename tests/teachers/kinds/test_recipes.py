import timm
import torch
import yaml
from click.testing import CliRunner

from composer_kd.answers import Store
from composer_kd.cli import main
from composer_kd.plan import plan_recipe
from composer_kd.recipes import check_recipe, train
from composer_kd.report.rows import _teachers
from composer_kd.tuning.subject import read_subject
from tests.recipes.tiny import recipe


def taught(folder, tmp_path, **more):
    torch.manual_seed(4)
    model = timm.create_model('resnet10t', num_classes=10, in_chans=1)
    torch.save(model.state_dict(), tmp_path / 'w.pt')
    entry = {
        'timm': 'resnet10t', 'pretrained': str(tmp_path / 'w.pt'), 'num_classes': 10, 'in_chans': 1, 'resolution': 32,
    }
    kd = {'teachers': [{**entry, **more}], 'check_batches': 0}
    return recipe(folder, algorithms={'distillation': kd}, max_duration='3ba')


def test_a_recipe_is_planned_trained_and_reported(tmp_path):
    made = taught(tmp_path / 'run', tmp_path)
    plan = plan_recipe(made, 1, 80.0)
    assert not plan.stops, plan.problems
    assert plan.teachers[0].model == 'timm resnet10t'
    assert plan.teachers[0].forward_flops_per_sample > 0
    assert check_recipe(made).model.traits.mean == (0.0,)
    folder = train(made)
    teacher, = folder.read_record().teachers
    assert teacher.origin == 'timm:resnet10t'
    assert _teachers(folder.path, folder.read_record()) == ((), ('timm:resnet10t',))
    assert read_subject(made).live.keys() == {'teacher0'}


def test_another_number_of_classes_stops_the_plan(tmp_path):
    made = taught(tmp_path / 'run', tmp_path, num_classes=7)
    assert [one.where for one in plan_recipe(made, 1, 80.0).problems if one.level == 'error'] == ['algorithms.distillation.teachers[0]']


def test_its_answers_are_stored_by_the_command(tmp_path):
    made = taught(tmp_path / 'run', tmp_path)
    (tmp_path / 'r.yaml').write_text(yaml.safe_dump(made.plain()))
    done = CliRunner().invoke(main, [
        'cache', str(tmp_path / 'r.yaml'), '--out', str(tmp_path / 'store'), '--format', 'dense',
    ])
    assert done.exit_code == 0, done.output
    assert Store.open(str(tmp_path / 'store'), 'here').manifest.teacher['origin'] == 'timm:resnet10t'
    stored = taught(tmp_path / 'again', tmp_path, cache=str(tmp_path / 'store'))
    teacher, = train(stored).read_record().teachers
    assert teacher.stored == teacher.samples > 0
