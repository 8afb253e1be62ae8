"""Every problem that can be foreseen: told in one line, an error only where the training would stop."""

from types import SimpleNamespace

import pytest
import torch
import yaml
from composer.models import ComposerClassifier

from composer_kd.models import MODELS
from composer_kd.plan import plan_recipe
from composer_kd.recipes import train
from composer_kd.recipes.tasks.registry import DATA, SHAPES, DataShape
from tests.recipes.tiny import plain, recipe


def planned(folder, ranks=1, memory_gb=80.0, beside=None, **changes):
    return plan_recipe(recipe(folder / 'run', **changes), ranks, memory_gb, beside=beside)


def taught(folder, **settings):
    return {'distillation': {'teachers': {'checkpoint': 's3://bucket/a.pt'}, **settings}}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(recipe(tmp_path_factory.mktemp('runs') / 'earlier')).path


def test_there_are_none_in_a_sound_recipe(tmp_path):
    plan = planned(tmp_path)
    assert plan.problems == []
    assert not plan.stops
    assert not (tmp_path / 'run').exists()


WARM = {'name': 'cosine_annealing_with_warmup'}


@pytest.mark.parametrize(('changes', 'level', 'where', 'told'), [
    ({'ranks': 3}, 'error', 'train_data.batch_size', '16 samples cannot be divided evenly over 3 ranks; make it a multiple of 3, for instance 15'),
    ({'ranks': 3}, 'error', 'evaluators.test.data.batch_size', '128 samples cannot'),
    ({'train_data': {'name': 'digits', 'batch_size': 2048}}, 'error', 'train_data.batch_size', 'an epoch has 1,078'),
    ({'train_data': {'name': 'digits', 'batch_size': 16, 'split': 'nan'}}, 'error', 'train_data', "'nan'"),
    ({'device_train_microbatch_size': 32}, 'warning', 'device_train_microbatch_size', 'a rank has 16 of a batch'),
    ({'device_train_microbatch_size': 'auto', 'device': 'cpu'}, 'error', 'device_train_microbatch_size', 'needs a GPU'),
    ({'scheduler': {**WARM, 't_warmup': '0.05dur'}}, 'warning', 'scheduler.t_warmup', "'0.05dur' of this training comes to no batch"),
    ({'scheduler': [{**WARM, 't_warmup': '20ba'}]}, 'warning', 'scheduler[0].t_warmup', 'is 20 steps, and the training has 12'),
    ({'max_duration': '96sp'}, 'error', 'scheduler', 'Composer refuses it for this training: Cannot use warmup'),
    ({'eval_interval': '3ep'}, 'note', 'eval_interval', 'longer than the training of 12 steps: evaluated at the end alone'),
    ({'eval_interval': 0}, 'warning', 'eval_interval', 'it is never evaluated'),
    ({'evaluators': {}}, 'note', 'evaluators', 'no quality'),
    ({'save_interval': '13ba'}, 'note', 'save_interval', 'saved at the end alone'),
    ({'save_interval': 0}, 'warning', 'save_interval', 'can neither be resumed nor teach'),
    ({'memory_gb': 0.5}, 'error', 'device_train_microbatch_size', 'about 1 of 0 GiB a rank'),
    ({'memory_gb': 1.05}, 'warning', 'device_train_microbatch_size', 'auto or a smaller number'),
    ({'precision': 'amp_fp8'}, 'warning', 'precision', 'an A100 takes amp_bf16'),
    ({'train_data': {'name': 'digits', 'batch_size': 16, 'num_workers': 5000}}, 'note', 'train_data.num_workers', '5001 processes'),
    ({'load_path': 'nowhere.pt'}, 'warning', 'load_path', "nothing at 'nowhere.pt'"),
    ({'start_from': {'run': 'nowhere'}}, 'warning', 'start_from.run', "no run 'nowhere'"),
    ({'start_from': {'checkpoint': 'nowhere.pt'}}, 'warning', 'start_from.checkpoint', "nothing at 'nowhere.pt'"),
    ({'algorithms': {'sam': {}}}, 'note', 'algorithms.sam', 'Composer warns'),
])
def test_settings(tmp_path, changes, level, where, told):
    problems = {(problem.level, problem.where): problem.told for problem in planned(tmp_path, **changes).problems}
    assert told in problems[level, where], problems


@pytest.mark.parametrize(('settings', 'level', 'where', 'told'), [
    ({'start': '2ep'}, 'warning', 'start', 'distillation is on for no step of this training (start=2ep, end=1dur, 12 steps)'),
    ({'end': '0.01dur', 'start': '0.005dur'}, 'warning', 'start', 'on for no step'),
    ({'start': '8ba', 'end': '0.5dur'}, 'error', '', 'lies after end'),
    ({'interval': 6, 'end': '0.5dur'}, 'warning', 'interval', 'as long as the window of 6 steps'),
    ({'interval': '2ep'}, 'warning', 'interval', 'as long as the window of 12 steps'),
    ({}, 'note', '', 'about 33 % more FLOPs'),
    ({'interval': 4}, None, '', ''),
])
def test_distillation(tmp_path, settings, level, where, told):
    found = [
        problem for problem in planned(tmp_path, algorithms=taught(tmp_path, **settings)).problems
        if 'teachers' not in problem.where
    ]
    assert [(problem.level, problem.where.removeprefix('algorithms.distillation').strip('.')) for problem in found] == (
        [] if level is None else [(level, where)]
    )
    assert level is None or told in found[0].told


@pytest.mark.parametrize(('teacher', 'level', 'told'), [
    ({'run': 'nowhere'}, 'warning', "there is no run 'nowhere' on this machine"),
    ({'checkpoint': 'nowhere.pt'}, 'warning', 'there is nothing at nowhere.pt'),
    ({'checkpoint': 's3://bucket/a.pt'}, 'note', 'fetched when training starts'),
    ({'checkpoint': 's3://bucket/a.pt', 'model': {'name': 'digits_resnet', 'num_classes': 12}}, 'error', '12 outputs and the student 10'),
    ({'torchvision': 'resnet18'}, 'error', '1,000 outputs and the student 10'),
    ({'rnu': 'nowhere'}, 'error', "unknown key 'rnu'. Did you mean 'run'?"),
    ({'checkpoint': 's3://a/b', 'model': 'digits_resnte'}, 'error', "Did you mean 'digits_resnet'?"),
])
def test_teachers(tmp_path, teacher, level, told):
    plan = planned(tmp_path, algorithms={'distillation': {'teachers': [teacher], 'interval': 6}})
    found = [problem for problem in plan.problems if problem.where == 'algorithms.distillation.teachers[0]']
    assert any(problem.level == level and told in problem.told for problem in found), found
    assert not any('teachers[0]' in problem.told for problem in found), 'the place is said once'


def test_a_run_that_is_not_there_yet_is_known_by_its_recipe(tmp_path):
    there = tmp_path / 'yamls' / 'small'
    there.mkdir(parents=True)
    header = (
        '# composer -n 2 scripts/train.py yamls/small/wide.yaml train_data.path=x run_name=third seed=3\n'
        '#   for i in 5 6; do composer -n 1 scripts/train.py yamls/small/wide.yaml \\\n#     run_name=number-$i; done\n'
    )
    wide = yaml.safe_dump({**plain(run_name='second', model={'name': 'digits_resnet', 'width': 8})})
    (there / 'wide.yaml').write_text(header + wide)
    (there / 'other.yaml').write_text('- no recipe')
    pool = [{'run': 'runs/second'}, {'run': 'runs/third'}, {'run': 'runs/number-6'}, {'run': 'runs/fourth'}]
    plan = planned(tmp_path, beside=there, algorithms={'distillation': {'teachers': pool, 'interval': 6}})
    second, third, sixth, fourth = plan.teachers
    assert second.parameters == third.parameters == 3730
    assert second.note == f"as {there / 'wide.yaml'} would make it"
    assert third.note == f"as {there / 'wide.yaml'} run_name=third seed=3 would make it"
    assert sixth.note == f"as {there / 'wide.yaml'} run_name=number-6 would make it"
    assert fourth.parameters is None
    assert plan.flops.training is None
    told = [problem.told for problem in plan.problems]
    assert f"It can be made with {there / 'wide.yaml'} run_name=third seed=3." in told[1]
    assert not plan.stops


def test_a_run_that_is_there_is_known_by_its_own_recipe_alone(tmp_path, run, monkeypatch):
    monkeypatch.setattr('torch.load', lambda *args, **kwargs: pytest.fail('weights are not read'))
    plan = planned(tmp_path, algorithms={'distillation': {'teachers': {'run': str(run)}, 'interval': 6}})
    assert plan.teachers[0].parameters == plan.student.parameters
    assert plan.problems == []


def test_a_run_folder_that_is_taken(tmp_path, run):
    def problems(folder, **changes):
        found = plan_recipe(recipe(folder, **changes), ranks=1).problems
        return [(problem.level, problem.told) for problem in found if problem.where == 'run_folder']

    before = {path: path.stat().st_mtime_ns for path in run.rglob('*')}
    (finished,) = problems(run)
    assert finished[0] == 'error'
    assert 'holds this run, finished' in finished[1]
    (other,) = problems(run, seed=3)
    assert other[0] == 'error'
    assert 'another recipe' in other[1]
    assert problems(run, overwrite=True)[0][0] == 'warning'
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob('*')}
    (tmp_path / 'file').write_text('')
    assert 'is a file' in problems(tmp_path / 'file')[0][1]
    assert 'holds no run' in problems(tmp_path)[0][1]


class _Stub(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x) * x.max().item()


@pytest.fixture
def stubs(monkeypatch):
    def shape(train, path=None, remote=None, broken=False):
        if broken:
            raise ValueError("path: a shard is truncated: 120 of 4,096 bytes. Convert again.")
        return DataShape(None, lambda n: (torch.zeros(n, 2), torch.zeros(n, dtype=torch.int64)), note='as published')

    def build(batch_size, seed, train, path=None, remote=None, broken=False):
        return SimpleNamespace()

    monkeypatch.setitem(DATA._items, 'stub', build)
    monkeypatch.setitem(SHAPES, 'stub', shape)
    monkeypatch.setitem(MODELS._items, 'stub', lambda: ComposerClassifier(_Stub(), num_classes=2))


@pytest.mark.parametrize(('settings', 'level', 'where', 'told'), [
    ({'path': 'nowhere'}, 'warning', 'train_data.path', "nothing at 'nowhere' on this machine"),
    ({'path': 'nowhere', 'remote': 's3://bucket'}, None, '', ''),
    ({'broken': True}, 'error', 'train_data.path', 'a shard is truncated'),
])
def test_data(tmp_path, stubs, settings, level, where, told):
    data = {'name': 'stub', 'batch_size': 8, **settings}
    plan = planned(
        tmp_path, train_data=data, evaluators={'a': {'data': data, 'interval': '4ba'}}, scheduler=None, max_duration='8ba',
        save_interval='8ba',
    )
    # the digits' model has no use for the stub's batch
    found = [(problem.level, problem.where) for problem in plan.problems if problem.where != 'model']
    assert found == ([] if level is None else [(level, where)]), 'told once, though two have it'
    assert level is None or told in plan.problems[0].told


def test_what_cannot_be_counted_is_said_and_the_rest_stands(tmp_path, stubs):
    data = {'name': 'stub', 'batch_size': 8}
    plan = planned(tmp_path, train_data=data, evaluators={}, scheduler=None, model='stub')
    assert plan.length.steps is None
    assert plan.student.parameters == 6
    assert plan.student.forward_flops_per_sample is None
    assert 'FLOPs not counted (RuntimeError' in plan.student.note
    told = {problem.where: problem.told for problem in plan.problems}
    assert 'cannot be counted in steps without the data' in told['max_duration']
    assert 'could not be counted' in told['model']
    assert plan.memory.total is None


@pytest.mark.parametrize('arguments', [{'ranks': 0}, {'ranks': 3, 'nodes': 2}, {'memory_gb': 0}])
def test_a_machine_that_cannot_be(tmp_path, arguments):
    with pytest.raises(ValueError, match=r'^(ranks|memory_gb): '):
        plan_recipe(recipe(tmp_path / 'run'), **arguments)
