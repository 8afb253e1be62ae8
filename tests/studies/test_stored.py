"""Methods whose teachers' answers are stored in the study's folder and read by its later runs."""

import json
from pathlib import Path

import pytest

from composer_kd.runs import RunFolder
from composer_kd.studies.file.schema import load_study
from composer_kd.studies.rules.planned import planned_runs
from composer_kd.studies.training.making import check, make_recipe
from composer_kd.studies.work.jobs import Job, answers_of
from composer_kd.studies.work.worker import Worker
from tests.studies.small import weights, write_study
from tests.studies.specs import METRIC, RECIPE, comparison, search, sequence

VIEWS = {'train_data.views': 2, 'train_data.view_seed': 0}
EXACT = {'format': {'name': 'dense', 'dtype': 'float32'}}


def methods(teachers='all', cache=True, **more):
    return {'alone': {}, 'stored': {'teachers': teachers, 'cache': cache, **more}}


@pytest.mark.parametrize(('said', 'found'), [
    (True, None), ({}, None), ({'format': 'dense'}, 'dense'), ({'format': {'name': 'top_k', 'k': 3}}, {'name': 'top_k', 'k': 3}),
])
def test_what_a_method_may_say(said, found):
    spec = sequence(set=VIEWS, methods=methods(cache=said))
    assert spec.methods['stored'].cache.format == found
    assert spec.methods['alone'].cache is None
    assert {run.cache is None for run in planned_runs(spec) if run.method == 'stored'} == {False}


@pytest.mark.parametrize(('said', 'told'), [
    (False, 'methods.stored.cache: expected true or'), ('dense', 'methods.stored.cache: expected true or'),
    ({'format': 3}, r'methods.stored.cache.format: expected the name of a format'),
    ({'formt': 'dense'}, "methods.stored.cache: unknown key 'formt'. Did you mean 'format'"),
])
def test_what_it_may_not_say(said, told):
    with pytest.raises(ValueError, match=told):
        sequence(set=VIEWS, methods=methods(cache=said))


def test_a_study_of_before_is_as_it_was():
    said = json.dumps(sequence().digest_parts())
    assert 'cache' not in said
    stored = sequence(set=VIEWS, methods=methods()).digest_parts()
    assert stored['methods']['stored']['cache'] == {'format': None}
    assert 'cache' not in stored['methods']['alone']


def test_nobody_to_store():
    with pytest.raises(ValueError, match=r'methods\.stored\.cache: there is nobody whose answers'):
        sequence(set=VIEWS, methods={'alone': {'teachers': 'all'}, 'stored': {'cache': True}})


@pytest.mark.parametrize(('views', 'missing'), [
    ({}, 'no train_data.views and no train_data.view_seed'), ({'train_data.views': 2}, 'has no train_data.view_seed'),
    ({'train_data': {'view_seed': 2}}, 'has no train_data.views,'),
])
def test_views_must_come_again(views, missing):
    with pytest.raises(ValueError, match=missing):
        sequence(set=views, methods=methods())
    with pytest.raises(ValueError, match=missing):
        comparison(set=views, methods=methods())


def test_views_may_stand_in_every_step():
    steps = [{**VIEWS, 'train_data.train_size': 100 * (step + 1)} for step in range(3)]
    assert sequence(sequence={'steps': steps}, methods=methods())
    with pytest.raises(ValueError, match='has no train_data.view_seed'):
        sequence(sequence={'steps': [*steps, {'train_data.views': 2}]}, methods=methods())


@pytest.mark.parametrize(('make', 'changes', 'more'), [
    (sequence, {}, {}), (search, {}, {}), (sequence, {'steps': 2, 'teachers': 'all'}, {}),
    # the window closes before a view comes again
    (sequence, {}, {'distillation': {'end': '0.25dur'}, 'views': 4}), (sequence, {}, {'distillation': {'end': '3ep'}, 'views': 3}),
    (comparison, {'durations': ['8ep'], 'teachers': 'all'}, {}),
])
def test_where_nothing_would_be_read_twice(make, changes, more):
    changes, more = dict(changes), dict(more)
    views = {'train_data.view_seed': 0, 'max_duration': '12ep', 'train_data.views': more.pop('views', 12)}
    if make is comparison:
        views = {'train_data.view_seed': 0, 'train_data.views': 24}
    given = methods(changes.pop('teachers', 'latest'), **more)
    with pytest.raises(ValueError, match=r'methods\.stored\.cache: nothing would be gained'):
        make(set=views, methods=given, **changes)
    # fewer views than epochs come again within the run
    assert make(set={**views, 'train_data.views': 2}, methods=given, **changes)


def test_where_a_teacher_teaches_several_views_need_not_come_again():
    views = {**VIEWS, 'max_duration': '4ep', 'train_data.views': 4}
    for teachers in ('all', 'best', {'top': 2}, {'latest': 2}):
        assert sequence(set=views, methods=methods(teachers))
    assert comparison(set=VIEWS, methods=methods('latest'))


def test_one_data():
    space = {'train_data.noise': {'low': 0.1, 'high': 0.3}}
    with pytest.raises(ValueError, match=r"'train_data\.noise' differs from run to run \(search\.space\)"):
        search(set=VIEWS, methods=methods('best'), search={'space': space, 'runs': 4})
    assert search(set=VIEWS, methods=methods('best'), search={'space': {'train_data.batch_size': [8, 16]}, 'runs': 4})
    steps = [{'train_data.shift': shift} for shift in (0, 1, 1)]
    with pytest.raises(ValueError, match=r"'train_data\.shift' differs from run to run \(sequence\.steps\)"):
        sequence(set=VIEWS, methods=methods('all'), sequence={'steps': steps})
    assert sequence(set=VIEWS, methods=methods('all'), sequence={'steps': [{'train_data.shift': 1}] * 3})


def job(spec, **changes):
    planned = list(planned_runs(spec))[-1]
    assert planned.method == 'stored'
    return Job(**{
        'recipe': RECIPE, 'set': planned.set, 'run_name': 'a', 'run_folder': str(spec.runs_folder / planned.key), 'seed': 0,
        'tags': {}, 'metric': METRIC, 'distillation': {}, 'answers': answers_of(spec, planned),
        'teachers': [str(spec.runs_folder / key) for key in planned.pool], **changes,
    })


def test_each_teacher_has_a_store_of_its_own():
    spec = sequence(set=VIEWS, methods=methods('all', EXACT))
    elsewhere = ['old/runs/stored-seed0-step0', 'older/runs/stored-seed0-step0']
    said = make_recipe(job(spec, teachers=[str(spec.runs_folder / 'stored-seed0-step0'), *elsewhere]))
    caches = [teacher['cache'] for teacher in said.algorithms['distillation']['teachers']]
    assert caches[0] == {'path': 'runs/small/answers/stored/stored-seed0-step0', 'fill': True, **EXACT}
    assert len({cache['path'] for cache in caches}) == 3


@pytest.mark.parametrize(('changes', 'told'), [
    ({'answers': {'folder': 'x', 'format': {'name': 'top_k', 'k': 30}}}, 'fewer than the 10 classes'),
    ({'answers': {'folder': 'x', 'format': 'dens'}}, "Did you mean 'dense'"),
    ({'answers': {'folder': 'x', 'format': {'name': 'top_k', 'k': 3}}, 'distillation': {'loss': 'mse'}}, 'dense'),
    ({'set': {**VIEWS, 'algorithms.mixup.alpha': 0.2}}, 'MixUp mixes the inputs'),
])
def test_what_a_training_would_refuse_is_refused_before(changes, told):
    spec = sequence(set=VIEWS, methods=methods('all', EXACT))
    check(job(spec))
    with pytest.raises((ValueError, TypeError), match=told):
        check(job(spec, **changes))


def test_a_study_reads_what_it_stored(tmp_path):
    small = {'train_data': {'name': 'digits', 'batch_size': 32, 'noise': 0.3, 'views': 2, 'view_seed': 0}, 'max_duration': '3ep'}
    path = write_study(
        tmp_path, small, search=None, sequence={'steps': [{'train_data.train_size': size} for size in (96, 128, 128)]},
        methods={'live': {'teachers': 'all'}, 'stored': {'teachers': 'all', 'cache': EXACT}},
        distillation={'loss': 'kl_divergence'},
    )
    assert {state.state for state in Worker(load_study(path)).run()} == {'finished'}
    runs = tmp_path / 'study' / 'runs'
    records = {folder.name: RunFolder(folder).read_record() for folder in runs.iterdir()}
    for step in range(3):
        live, stored = (RunFolder(runs / f'{method}-seed0-step{step}') for method in ('live', 'stored'))
        assert weights(live) == weights(stored), 'what is learnt is the same to the last bit'
    first, second = records['stored-seed0-step2'].teachers
    # of one that taught the step before, on the same data, everything was there; of the other, its third epoch
    assert (first.samples, first.stored) == (384, 384)
    assert (second.samples, second.stored) == (384, 128)
    assert Path(second.store) == tmp_path / 'study' / 'answers' / 'stored' / 'stored-seed0-step1'
    assert not any(teacher.stored for key, record in records.items() if key.startswith('live') for teacher in record.teachers)
    live, stored = (sum(r.flops.total for k, r in records.items() if k.startswith(method)) for method in ('live', 'stored'))
    forward = records['live-seed0-step1'].flops.teacher_forward_per_sample['teacher0']
    assert live - stored == pytest.approx(forward * (128 + 384 + 128))


@pytest.mark.parametrize('wrong', [{'algorithms': 3}, {'max_duration': [1]}])
def test_what_is_wrong_otherwise_is_told_otherwise(wrong):
    assert sequence(set={**VIEWS, **wrong}, methods=methods('latest'))


def test_a_key_without_a_place():
    with pytest.raises(ValueError, match=r"methods\.stored\.set: 'max_duration\.a'"):
        sequence(set={**VIEWS, 'max_duration.a': 1}, methods=methods())
