"""``composer-kd cache RECIPE --out PATH``: what it writes, what it takes, what it refuses."""

import math
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from composer_kd.answers import Store
from composer_kd.recipes import load_recipe, train
from tests.caching.made import answers, cache, digits, keys, left_over, manifest, refused, save_teacher, write, written


def test_all_samples_in_the_views_that_are_trained_on(recipe, tmp_path):
    out = tmp_path / 'out'
    result = written(recipe, '--out', out)
    assert keys(out) == [(view, index) for view in range(2) for index in range(100)], 'also what drop_last leaves out'
    said = manifest(out)
    assert said['complete']
    assert said['format'] == {'name': 'dense', 'classes': 10, 'dtype': 'float16', 'k': 8, 'temperature': 1.0}
    assert said['teacher']['origin'] == f"checkpoint:{tmp_path / 'teacher.pt'}"
    assert said['cost']['samples'] == 200
    assert not left_over(out)
    lines = result.stdout.splitlines()
    assert lines[0] == f'200 answers in {out} (dense, float16), 200 of them new'
    assert lines[2] == f'teachers: [{{cache: {out}}}]'
    assert not (tmp_path / 'run').exists(), 'nothing is trained'


def test_a_training_reads_what_was_written_by_the_line_that_was_printed(recipe, tmp_path, monkeypatch):
    result = written(recipe, '--out', tmp_path / 'out', '--format', '{name: dense, dtype: float32}')
    teachers = yaml.safe_load(result.stdout.splitlines()[2])['teachers']
    live = train(load_recipe(recipe, [f'run_folder={tmp_path}/live']))
    (tmp_path / 'teacher.pt').unlink()
    read = train(load_recipe(recipe, [f'run_folder={tmp_path}/read', f'algorithms.distillation.teachers={teachers}']))
    weights = [torch.load(folder.latest_checkpoint(), weights_only=False)['state']['model'] for folder in (live, read)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_again_there_is_nothing_to_do(recipe, tmp_path):
    out = tmp_path / 'out'
    written(recipe, '--out', out)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob('*.mds')}
    cost = manifest(out)['cost']
    result = written(recipe, '--out', out)
    assert '200 answers' in result.stdout
    assert result.stderr == '', 'no progress of nothing'
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in out.rglob('*.mds')} == before
    assert manifest(out)['cost'] == cost


def test_more_views_are_added(recipe, tmp_path):
    few, many, out = tmp_path / 'few', tmp_path / 'many', tmp_path / 'out'
    written(recipe, '--out', few, '--views', 1)
    written(recipe, '--out', many, '--views', 3)
    written(recipe, '--out', out, '--views', 1)
    result = written(recipe, '--out', out, '--views', 3)
    assert '300 answers' in result.stdout
    assert '200 of them new' in result.stdout
    assert answers(out) == answers(many)
    assert answers(few).items() < answers(many).items()
    result = written(recipe, '--out', out, '--views', 2)
    assert '300 answers' in result.stdout, 'fewer views take nothing away'


@pytest.mark.parametrize(('changes', 'views', 'samples'), [
    ([], 2, 200), (['train_data.views=4'], 4, 400), (['max_duration=7ba'], 2, 200), (['max_duration=6ba'], 1, 100),
    (['algorithms.distillation.end=0.5dur'], 1, 100), (['algorithms.distillation.end=3ep'], 2, 200),
    (['max_duration=96sp'], 1, 100), (['max_duration=97sp'], 2, 200), (['scale_schedule_ratio=0.5'], 1, 100),
    (['max_duration=4ep', 'algorithms.distillation.interval=2ep'], 2, 200), (['train_data.part=[0, 0.5]'], 2, None),
])
def test_how_many_views_by_default(recipe, tmp_path, changes, views, samples):
    if 'part' in ''.join(changes):
        changes = [*changes, 'train_data.train_size=null', 'max_duration=66ba']
    written(recipe, '--out', tmp_path / 'out', *changes)
    found = keys(tmp_path / 'out')
    assert len({view for view, _ in found}) == views
    assert samples is None or len(found) == samples


def test_views_that_are_not_distilled_are_left_out(recipe, tmp_path):
    written(recipe, '--out', tmp_path / 'out', 'max_duration=5ep', 'algorithms.distillation.start=2ep',
            'algorithms.distillation.interval=2ep')
    assert {view for view, _ in keys(tmp_path / 'out')} == {2, 4}


def asked_in_training(recipe, folder, *changes):
    """The keys that a training asks for, by a store that it fills."""
    teachers = f"[{{checkpoint: {folder / 'teacher.pt'}, cache: {{path: {folder / 'filled'}, fill: true}}}}]"
    train(load_recipe(recipe, [*changes, f'algorithms.distillation.teachers={teachers}']))
    return keys(folder / 'filled')


@pytest.mark.parametrize('changes', [
    [], ['algorithms.distillation.end=9ba', 'algorithms.distillation.start=3ba'], ['algorithms.distillation.interval=4'],
    ['algorithms.distillation.probability=0.5'], ['train_data.views=1'], ['train_data.views=1', 'algorithms.distillation.interval=5'],
    ['max_duration=3ep', 'algorithms.distillation.interval=2ep', 'algorithms.distillation.start=1ep'],
])
def test_only_what_is_asked_is_what_a_training_asks(recipe, tmp_path, changes):
    result = written(recipe, '--out', tmp_path / 'out', '--only-asked', *changes)
    expected = asked_in_training(recipe, tmp_path, *changes)
    assert keys(tmp_path / 'out') == expected
    assert answers(tmp_path / 'out') == answers(tmp_path / 'filled')
    assert f'{len(expected)} answers' in result.stdout


def test_what_was_only_asked_can_be_made_all(recipe, tmp_path):
    out = tmp_path / 'out'
    written(recipe, '--out', out, '--only-asked')
    assert len(answers(out)) == 2 * 96
    written(recipe, '--out', out)
    written(recipe, '--out', tmp_path / 'at once')
    assert answers(out) == answers(tmp_path / 'at once')


def test_other_answers_are_not_mixed(recipe, tmp_path):
    out = tmp_path / 'out'
    written(recipe, '--out', out)
    kept = answers(out)
    other = save_teacher(tmp_path / 'other.pt', {'name': 'digits_resnet', 'width': 8}, seed=2)
    for changes, told in [
        ([f"--teacher={{checkpoint: {other}}}"], 'teacher.digest is '),
        (['--format', 'top_k'], 'format.name is dense in the store and top_k in this recipe'),
        (['train_data.noise=0.1'], 'view.noise is 0.2 in the store and 0.1 in this recipe'),
        (['train_data.shift=2'], 'view.shift is 1 in the store and 2 in this recipe'),
        (['seed=3'], 'view.seed is 17 in the store and 3 in this recipe'),
        (['algorithms.distillation.ignore_index=3'], 'rows.ignore_index is -100 in the store and 3 in this recipe'),
    ]:
        assert f"error: --out: '{out}' holds other answers: {told}" in refused(recipe, '--out', out, *changes)
    written(recipe, '--out', out, 'train_data.view_seed=17', 'seed=3')
    assert answers(out) == kept


def test_the_same_teacher_at_another_place_is_the_same(recipe, tmp_path):
    written(recipe, '--out', tmp_path / 'out')
    shutil.copy(tmp_path / 'teacher.pt', tmp_path / 'copy.pt')
    result = written(recipe, '--out', tmp_path / 'out', '--teacher', f"{{checkpoint: {tmp_path / 'copy.pt'}}}")
    assert ', 0 of them new' in result.stdout


def test_places_that_are_no_place_for_a_store(recipe, tmp_path):
    full = tmp_path / 'full'
    full.mkdir()
    (full / 'thesis.tex').write_text('years of work')
    assert "is not empty and no store. Give another folder; nothing was touched." in refused(recipe, '--out', full)
    assert [path.name for path in full.iterdir()] == ['thesis.tex']
    assert 'is a file; give a folder' in refused(recipe, '--out', recipe)
    assert "--out: is empty" in refused(recipe, '--out', '')
    below = refused(recipe, '--out', recipe / 'below')
    assert below.startswith(f"error: --out: '{recipe / 'below'}' cannot be written: Not a directory")
    assert "'--out' is a folder already" in refused(recipe, '--out', tmp_path / 'x', '--local', tmp_path / 'y')


def test_a_folder_without_permission(recipe, tmp_path):
    closed = tmp_path / 'closed'
    closed.mkdir(mode=0o500)
    if os.getuid() == 0:
        closed = Path('/sys')  # where the superuser may not write either
    assert f"'{closed / 'out'}' cannot be written: " in refused(recipe, '--out', closed / 'out')


# --- formats ---

@pytest.mark.parametrize(('form', 'kept'), [
    ('dense', {'name': 'dense', 'dtype': 'float16'}), ('top_k', {'name': 'top_k', 'k': 8, 'temperature': 3.0}),
    ('{name: top_k, k: 3, dtype: bfloat16, temperature: 2.0}', {'k': 3, 'dtype': 'bfloat16', 'temperature': 2.0}),
    ('{name: sampled, k: 5}', {'name': 'sampled', 'k': 5, 'temperature': 3.0}),
])
def test_formats(recipe, tmp_path, form, kept):
    written(recipe, '--out', tmp_path / 'out', '--format', form, 'algorithms.distillation.loss={name: kl_divergence, temperature: 3}')
    said = manifest(tmp_path / 'out')['format']
    assert said.items() >= kept.items()
    width = Store.open(tmp_path / 'out').format.row_bytes
    assert {len(raw) for raw in answers(tmp_path / 'out').values()} == {4 + width}


@pytest.mark.parametrize(('form', 'told'), [
    ('topk', "--format: expected dense, top_k, sampled, got 'topk'. Did you mean 'top_k'?"),
    ('', '--format: is empty. Leave it out for the default.'), ('3', '--format: expected a name or a mapping with a name'),
    ('{name: top_k, k: [}', '--format: \'{name: top_k, k: [}\' is not valid YAML'),
    ('{name: top_k, k: 10}', '--format.k: expected fewer than the 10 classes'),
    ('{name: dense, k: 3}', "--format: unknown key 'k'"), ('{name: top_k, k: 0}', '--format.k: expected 1 class or more'),
    ('{name: dense, dtype: float61}', "Did you mean 'float16'?"), ('{name: top_k, temperature: 0}', '--format.temperature: '),
])
def test_formats_that_are_none(recipe, tmp_path, form, told):
    assert told in refused(recipe, '--out', tmp_path / 'out', '--format', form)
    assert not (tmp_path / 'out').exists()


def test_a_temperature_that_varies_must_be_said(recipe, tmp_path):
    varies = 'algorithms.distillation.loss={name: kl_divergence, temperature: {linear: {from: 4, to: 1}}}'
    told = refused(recipe, '--out', tmp_path / 'out', '--format', 'top_k', varies)
    assert 'temperature' in told


def test_many_classes_are_kept_as_top_k_and_few_as_dense(tmp_path):
    model = {'name': 'digits_resnet', 'width': 4, 'num_classes': 65}
    recipe = digits(tmp_path)
    save_teacher(tmp_path / 'wide.pt', model)
    recipe['model'], recipe['algorithms']['distillation']['teachers'] = model, [{'checkpoint': str(tmp_path / 'wide.pt')}]
    path = write(recipe, tmp_path)
    written(path, '--out', tmp_path / 'out')
    assert manifest(tmp_path / 'out')['format'] == {
        'name': 'top_k', 'classes': 65, 'dtype': 'float16', 'k': 8, 'temperature': 1.0,
    }


def test_the_format_that_the_recipe_gives_its_teacher(recipe, tmp_path):
    teachers = f"algorithms.distillation.teachers=[{{checkpoint: {tmp_path / 'teacher.pt'}, cache: {{path: {tmp_path / 'out'}, format: {{name: top_k, k: 2}}}}}}]"
    written(recipe, '--out', tmp_path / 'out', teachers)
    assert manifest(tmp_path / 'out')['format']['k'] == 2
    written(recipe, '--out', tmp_path / 'dense', teachers, '--format', 'dense')
    assert manifest(tmp_path / 'dense')['format']['name'] == 'dense'


# --- teachers ---

def two(tmp_path):
    recipe = digits(tmp_path)
    recipe['algorithms']['distillation']['teachers'] = [
        {'checkpoint': str(tmp_path / 'teacher.pt'), 'name': 'here', 'weight': 2.0}, {'run': str(tmp_path / 'gone'), 'name': 'gone'},
    ]
    recipe['algorithms']['distillation']['teachers_per_batch'] = 1
    return write(recipe, tmp_path)


def test_one_of_several_by_its_name_while_the_others_are_gone(tmp_path):
    recipe = two(tmp_path)
    written(recipe, '--out', tmp_path / 'out', '--teacher', 'here')
    assert manifest(tmp_path / 'out')['teacher']['name'] == 'here'
    told = refused(recipe, '--out', tmp_path / 'none')
    assert 'the recipe has 2 (here, gone), and a store holds the answers of one. Say which: --teacher here.' in told
    assert "There is no run folder" in refused(recipe, '--out', tmp_path / 'none', '--teacher', 'gone')
    assert "has none called 'hree', but here, gone. Did you mean 'here'?" in refused(recipe, '--out', tmp_path / 'none', '--teacher', 'hree')
    assert not (tmp_path / 'none').exists()


@pytest.mark.parametrize(('said', 'told'), [
    ('{checkpoint: nowhere.pt}', 'teachers[0].checkpoint: there is nothing at nowhere.pt'),
    ('{rnu: x}', "teachers[0]: unknown key 'rnu'. Did you mean 'run'?"), ('{run: ', "--teacher: '{run: ' is not valid YAML"),
    ('{cache: nowhere}', "--teacher: 'teacher0' is a store itself (nowhere). Give the model whose answers are to be stored"),
    ('', "--teacher: the recipe has none called ''"), ('{}', 'expected one of the keys cache, checkpoint, exported'),
])
def test_teachers_that_are_none(recipe, tmp_path, said, told):
    assert told in refused(recipe, '--out', tmp_path / 'out', '--teacher', said)
    assert not (tmp_path / 'out').exists()


def test_the_recipe_may_already_read_the_store_that_is_to_be_written(tmp_path):
    recipe = digits(tmp_path)
    out = tmp_path / 'out'
    recipe['algorithms']['distillation']['teachers'] = [{'cache': str(out)}]
    path = write(recipe, tmp_path)
    assert 'is a store itself' in refused(path, '--out', out)
    written(path, '--out', out, '--teacher', f"{{checkpoint: {tmp_path / 'teacher.pt'}}}")
    train(load_recipe(path, []))
    recipe['algorithms']['distillation']['teachers'] = [{'checkpoint': str(tmp_path / 'teacher.pt'), 'cache': str(tmp_path / 'beside')}]
    written(write(recipe, tmp_path, 'beside.yaml'), '--out', tmp_path / 'beside')
    assert answers(out) == answers(tmp_path / 'beside')


def test_a_recipe_without_distillation(tmp_path):
    recipe = digits(tmp_path)
    recipe.pop('algorithms')
    path = write(recipe, tmp_path)
    assert "the recipe has no teacher. Give one: --teacher '{run: FOLDER}'" in refused(path, '--out', tmp_path / 'out')
    written(path, '--out', tmp_path / 'out', '--teacher', f"{{checkpoint: {tmp_path / 'teacher.pt'}}}")
    assert len(answers(tmp_path / 'out')) == 200


def test_the_folder_of_the_recipe_itself_as_its_teacher(recipe, tmp_path):
    train(load_recipe(recipe, ['algorithms=null', 'max_duration=1ep']))
    written(recipe, '--out', tmp_path / 'out', '--teacher', f"{{run: {tmp_path / 'run'}}}")
    assert len(answers(tmp_path / 'out')) == 200


def test_settings_of_the_distillation_are_checked(recipe, tmp_path):
    assert "algorithms.distillation: unknown key 'tempo'" in refused(recipe, '--out', tmp_path / 'x', 'algorithms.distillation.tempo=3')
    assert 'algorithms.distillation.end: ' in refused(recipe, '--out', tmp_path / 'x', 'algorithms.distillation.end=soon')
    assert "unknown key 'widht'. Did you mean 'width'?" in refused(recipe, '--out', tmp_path / 'x', 'model.widht=3')


def test_a_teacher_that_answers_with_nan_is_told_with_the_sample(recipe, tmp_path):
    state = torch.load(tmp_path / 'teacher.pt')
    last = [name for name in state if name.endswith('bias')][-1]
    state[last][3] = math.nan
    torch.save(state, tmp_path / 'teacher.pt')
    told = refused(recipe, '--out', tmp_path / 'out')
    assert "teacher 'teacher0'" in told
    assert 'answers sample 0, view 0, with values that are not finite (precision fp32)' in told
    assert not answers(tmp_path / 'out')
    assert not left_over(tmp_path / 'out')
    assert not manifest(tmp_path / 'out')['complete']


def test_progress_is_shown_on_stderr(recipe, tmp_path):
    result = cache(recipe, '--out', tmp_path / 'out')
    assert 'answers: 100%' in result.stderr
    assert 'answers:' not in result.stdout
