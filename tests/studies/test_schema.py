import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from composer_kd.report.costs import COSTS
from composer_kd.runs.study import COST_NAMES, StudyNote, lower_is_better, read_note, write_note
from composer_kd.studies.file.changes import changed
from composer_kd.studies.file.schema import Range, StudySpec, load_study
from tests.studies.specs import METRIC, comparison, search, sequence, study

ROOT = Path(__file__).parents[2]

COMPARISON = """
name: curves
recipe: recipes/digits.yaml
set: {train_data.noise: 0.4, optimizer: {name: sgd, lr: 0.1}}
metric: test/MulticlassAccuracy
seeds: 3
methods:
  baseline:
  always on: {teachers: all, distillation: {loss: {name: kl_divergence}}}
  other: {recipe: recipes/other.yaml, set: {optimizer.lr: 0.5}, teachers: {top: 2}}
comparison: {durations: [2ep, 4], earlier: {runs: 2, duration: 8ep}}
"""


@pytest.fixture
def write(tmp_path):
    (tmp_path / 'recipes').mkdir()
    for name in ('digits', 'other'):
        (tmp_path / 'recipes' / f'{name}.yaml').write_text(f'run_name: {name}\noptimizer: {{name: sgd, lr: 0.1}}\n')

    def write(text, name='study.yaml'):
        (tmp_path / name).write_text(text)
        return tmp_path / name
    return write


@pytest.mark.parametrize('module', ['file.schema', 'rules.keep', 'progress.status', 'work.worker', 'command'])
def test_imports_no_torch(module):
    code = (f'import sys, composer_kd.studies.{module}, composer_kd.runs.study\n'
            "sys.exit(any(m.split('.')[0] in ('torch', 'composer') for m in sys.modules))")
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


# --- what a file says ---

def test_a_comparison(write):
    path = write(COMPARISON)
    spec = load_study(path)
    assert (spec.kind, spec.seeds, spec.baseline) == ('comparison', [0, 1, 2], 'baseline')
    assert spec.comparison.durations == ['2ep', '4ep'], 'a bare number is one of epochs'
    assert spec.folder == Path('runs/curves')
    assert spec.storage_url == 'sqlite:///runs/curves/study.db'
    baseline, always, other = spec.methods.values()
    assert baseline.recipe == str(path.parent / 'recipes' / 'digits.yaml')
    assert baseline.set == {'train_data.noise': 0.4, 'optimizer.name': 'sgd', 'optimizer.lr': 0.1}
    assert (baseline.teachers, baseline.distillation) == (None, {})
    assert (always.teachers.policy, always.distillation) == ('all', {'loss': {'name': 'kl_divergence'}})
    assert other.recipe == str(path.parent / 'recipes' / 'other.yaml')
    assert list(other.set.items())[-1] == ('optimizer.lr', 0.5), "placed last, the method's has its way"
    assert (other.teachers.policy, other.teachers.count) == ('top', 2)


def test_methods_take_what_they_leave_out_from_the_study():
    spec = study(
        sequence={'steps': [{'train_data.seed': 1}]}, teachers='best', distillation={'end': '0.5dur'},
        methods={'alone': {'teachers': None}, 'taught': {}, 'longer': {'distillation': {'interval': 4}}},
    )
    alone, taught, longer = spec.methods.values()
    assert (alone.teachers, alone.distillation) == (None, {})
    assert (taught.teachers.policy, taught.distillation) == ('best', {'end': '0.5dur'})
    assert longer.distillation == {'interval': 4}


def test_without_methods_there_is_one():
    spec = study(sequence={'steps': [{'train_data.seed': 1}]}, teachers='latest')
    assert list(spec.methods) == ['runs']
    assert spec.methods['runs'].teachers.policy == 'latest'
    assert spec.baseline is None


@pytest.mark.parametrize(('said', 'policy', 'count'), [
    ('latest', 'latest', 1), ('all', 'all', 1), ({'top': 3}, 'top', 3), ({'random': 2}, 'random', 2),
    ({'policy': 'latest', 'count': 2, 'floor': 0.5}, 'latest', 2), ({'top': 2, 'metric': 'test/Loss'}, 'top', 2),
])
def test_teacher_policies(said, policy, count):
    found = sequence(said).methods['taught'].teachers
    assert (found.policy, found.count) == (policy, count)


def test_a_search_space():
    spec = search(search={'runs': 3, 'space': {
        'optimizer.lr': {'low': 0.01, 'high': 1, 'log': True}, 'train_data.batch_size': [32, 64],
        'model.width': {'low': 8, 'high': 32, 'step': 8}, 'x': {'low': 0.0, 'high': 0.3, 'step': 0.1},
        'y': [True, None, 'a', 0.5],
    }})
    space = spec.search.space
    assert space['train_data.batch_size'] == [32, 64]
    assert isinstance(space['optimizer.lr'], Range)
    assert (space['optimizer.lr'].is_whole, space['optimizer.lr'].is_finite) == (False, False)
    assert (space['model.width'].is_whole, space['model.width'].is_finite) == (True, True)
    assert (space['x'].is_whole, space['x'].is_finite) == (False, True)
    assert spec.search.sampler == {'name': 'tpe'}
    assert spec.search.pruner is None


def test_samplers_and_pruners_with_settings():
    spec = search(search={
        'space': {'a': [1, 2]}, 'hours': 2, 'sampler': {'name': 'tpe', 'n_startup_trials': 4},
        'pruner': {'name': 'patient', 'wrapped_pruner': {'name': 'median'}, 'patience': 2},
    })
    assert spec.search.sampler['n_startup_trials'] == 4
    assert spec.search.pruner['wrapped_pruner'] == {'name': 'median'}
    assert search(search={'space': {'a': [1, 2]}, 'runs': 2, 'sampler': 'grid'}).search.sampler == {'name': 'grid'}


def test_quality_is_told_from_its_name_unless_said():
    assert lower_is_better('test/LanguageCrossEntropy')
    assert not sequence(metric='prose/LanguagePerplexity').is_higher_better
    assert sequence(metric='prose/LanguagePerplexity', higher_is_better=True).is_higher_better


def test_null_is_a_key_left_out():
    spec = sequence(where=None, report=None, seeds=None, storage=None, folder=None)
    assert (spec.where.gpus_per_run, spec.report.cost, spec.seeds) == (1, 'train_seconds', [0])


# --- files, bases, the command line ---

def test_keys_of_recipes_on_the_command_line(write):
    spec = load_study(write(COMPARISON), [
        'set.optimizer.lr=0.3', 'set.train_data.noise=0.1', 'set.model.width=8', 'methods.other.set.optimizer.lr=0.7',
        'comparison.earlier.set.optimizer.lr=0.9', 'comparison.durations=[3ep]', 'seeds=[4, 2]',
    ])
    assert spec.methods['baseline'].set == {
        'train_data.noise': 0.1, 'optimizer.name': 'sgd', 'optimizer.lr': 0.3, 'model.width': 8,
    }
    assert spec.methods['other'].set['optimizer.lr'] == 0.7
    assert spec.comparison.earlier.set == {'optimizer.lr': 0.9}
    assert (spec.comparison.durations, spec.seeds) == (['3ep'], [4, 2])


def test_a_base_and_interpolations(write, monkeypatch):
    write(COMPARISON)
    monkeypatch.setenv('SCRATCH', '/scratch')
    path = write("base: study.yaml\nname: more\nfolder: '${oc.env:SCRATCH}/${name}'\nset: {a: '\\${run_name}'}\n", 'b.yaml')
    spec = load_study(path)
    assert spec.folder == Path('/scratch/more')
    assert spec.set['a'] == '${run_name}', 'the recipe resolves it'
    assert list(spec.methods) == ['baseline', 'always on', 'other']


def test_missing_files(write):
    with pytest.raises(FileNotFoundError, match=r"study: there is no file '.*nix\.yaml'"):
        load_study(write(COMPARISON).parent / 'nix.yaml')
    with pytest.raises(FileNotFoundError, match=r"^recipe: there is no file .*nix\.yaml"):
        load_study(write(COMPARISON), ['recipe=nix.yaml'])
    with pytest.raises(FileNotFoundError, match=r'^methods\.other\.recipe: there is no file'):
        load_study(write(COMPARISON), ['methods.other.recipe=nix.yaml'])


# --- what is refused, and how it is told ---

TOP = [
    ({'nmae': 'a'}, r"unknown key 'nmae'\. Did you mean 'name'\?"),
    ({'name': None}, 'missing: name'),
    ({'description': 'a\ud800'}, r"description: expected text"),
    ({'seeds': 2**70}, r"seeds: expected a number that fits into 64 bits"),
    ({'name': 'a b/c'}, "name: expected a name that can be a folder .*such as 'a-b-c', got 'a b/c'"),
    ({'metric': 'accuracy'}, "metric: expected evaluator/metric, as in .*, got 'accuracy'"),
    ({'recipe': None}, r'methods\.baseline: has no recipe'),
    ({'seeds': 0}, 'seeds: expected how many seeds .* got 0'),
    ({'seeds': [1, 1]}, r'seeds: .* got \[1, 1\]'),
    ({'seeds': True}, 'seeds: .* got True'),
    ({'seeds': [1000]}, r'seeds: 1000 is the seed of an earlier run'),
    ({'storage': 'study.db'}, 'storage: expected the URL of a database'),
    ({'keep': 'beast'}, r"keep: expected one of all, needed, best, got 'beast'\. Did you mean 'best'\?"),
    ({'retries': -1}, 'retries: expected a whole number of 0 or more, got -1'),
    ({'set': {'seed': 3}}, r"set: 'seed' is given by the study itself; .* seeds stand under seeds"),
    ({'set': {'tags': {'method': 'x'}}}, r"set: 'tags\.method' is given by the study itself"),
    ({'set': {'max_duration': '2ep'}}, r"set: 'max_duration' is given by comparison\.durations"),
    ({'set': {'a': {'b': 1}, 'a.b': 2}}, r"set: 'a\.b' is said twice"),
    ({'set': {'optimizer..lr': 1}}, r"set: expected dotted keys of a recipe, .* got 'optimizer\.\.lr'"),
    ({'set': [1]}, r'set: expected a mapping of recipe keys to values, got list'),
    ({'comparison': None}, 'expected exactly one of comparison, search, sequence, got none'),
    ({'sequence': {'steps': [{}]}}, 'got comparison and sequence'),
    ({'where': {'worker': 2}}, r"where: unknown key 'worker'\. Did you mean 'workers'\?"),
    ({'where': {'launcher': 'compser'}}, r"where\.launcher: .* Did you mean 'composer'\?"),
    ({'where': {'launcher': 'in_process', 'gpus_per_run': 2}}, r'where\.gpus_per_run: .* use composer'),
    ({'report': {'baseline': 'base'}}, r"report\.baseline: there is no method 'base'\. Did you mean 'baseline'\?"),
    ({'report': {'reference': 'baseline'}}, r"report\.reference: 'baseline' is the baseline"),
    ({'report': {'cost': 'train_second'}}, r"report\.cost: .*Did you mean 'train_seconds'\?"),
]
METHODS = [
    ({'teacher': 'all'}, r"methods\.m: unknown key 'teacher'\. Did you mean 'teachers'\?"),
    ({'teachers': 'bets'}, r"methods\.m\.teachers\.policy: .* got 'bets'\. Did you mean 'best'\?"),
    ({'teachers': {'top': 0}}, r'methods\.m\.teachers\.count: expected a whole number of 1 or more, got 0'),
    ({'teachers': {'policy': 'best', 'count': 2}}, r"methods\.m\.teachers\.count: 'best' takes no number; write top"),
    ({'teachers': {'best': 2}}, r'methods\.m\.teachers\.best: takes no number'),
    ({'teachers': {'top': 1, 'all': 2}}, r'methods\.m\.teachers: expected one policy'),
    ({'teachers': {'top': 2, 'flor': 1}}, r"methods\.m\.teachers: unknown key 'flor'\. Did you mean 'floor'\?"),
    ({'teachers': {'top': 2, 'floor': 'high'}}, r"methods\.m\.teachers\.floor: expected a number, got 'high'"),
    ({'teachers': {'top': 9}}, r'methods\.m\.teachers\.count: asks for 9 teachers, and there are 2'),
    ({'teachers': 3}, r'methods\.m\.teachers: expected latest, best, random, all, top or a mapping'),
    ({'distillation': {'end': '1dur'}}, r'methods\.m\.distillation: there is nobody to learn from'),
    ({'teachers': 'all', 'distillation': {'teachers': []}}, r'methods\.m\.distillation\.teachers: .* finished runs'),
    ({'teachers': 'all', 'set': {'algorithms.distillation.teachers': []}}, r'methods\.m\.set: .*teachers'),
]
SEARCHES = [
    ({'runs': None}, 'search: has no budget'),
    ({'space': {}}, r'search\.space: expected a mapping'),
    ({'space': {'optimizer': {'lr': [1, 2]}}}, r'search\.space\.optimizer: .* Or were dotted keys meant: optimizer\.lr\?'),
    ({'space': {'a': 0.1}}, r'search\.space\.a: expected a list of values or a mapping with low and high, got 0\.1'),
    ({'space': {'a': [1, 1.0]}}, r'search\.space\.a: a value is there twice'),
    ({'space': {'a': {'low': 1}}}, r'search\.space\.a: missing high'),
    ({'space': {'a': {'low': 2, 'high': 1}}}, r'search\.space\.a\.low: expected a number below high, 1, got 2'),
    ({'space': {'a': {'low': 0, 'high': 1, 'log': True}}}, r'search\.space\.a\.low: expected a number above 0'),
    ({'space': {'a': {'low': 1, 'high': 2, 'stp': 1}}}, r"search\.space\.a: unknown key 'stp'\. Did you mean 'step'\?"),
    ({'space': {'a': {'low': 1, 'high': 4, 'step': 2}}}, r'search\.space\.a\.high: .* below it is 3, the next one 5'),
    ({'space': {'seed': [1, 2]}}, r"search\.space: 'seed' is given by the study itself"),
    ({'sampler': 'tep'}, r"search\.sampler: unknown sampler 'tep'\. Did you mean 'tpe'\?"),
    ({'sampler': {'name': 'tpe', 'n_startup': 3}}, r"search\.sampler\.n_startup: .* Did you mean 'n_startup_trials'\?"),
    ({'sampler': {'name': 'tpe', 'n_startup_trials': 'x'}}, r'search\.sampler\.n_startup_trials: expected a whole number'),
    ({'sampler': {'name': 'tpe', 'gamma': 3}}, r"search\.sampler\.gamma: sampler 'tpe' has no such setting"),
    ({'sampler': 'grid'}, r"search\.space\.a: sampler 'grid' tries every point"),
    ({'pruner': {'name': 'median', 'n_startup_trials': -1}}, r"search\.pruner: Optuna's pruner 'median' refused"),
    ({'pruner': {'name': 'patient', 'wrapped_pruner': 'medin', 'patience': 1}}, r"wrapped_pruner: .*'median'\?"),
    ({'pruner': 'percentile'}, r"search\.pruner: pruner 'percentile' needs percentile"),
]


@pytest.mark.parametrize(('said', 'told'), TOP, ids=[told[:40] for _, told in TOP])
def test_bad_keys_at_the_top(said, told):
    with pytest.raises(ValueError, match=told) as error:
        comparison(**said)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('said', 'told'), METHODS, ids=[told[:40] for _, told in METHODS])
def test_bad_methods(said, told):
    with pytest.raises(ValueError, match=told):
        comparison(methods={'baseline': {}, 'm': said})


@pytest.mark.parametrize(('said', 'told'), SEARCHES, ids=[told[:40] for _, told in SEARCHES])
def test_bad_searches(said, told):
    with pytest.raises(ValueError, match=told):
        search(search={'space': {'a': {'low': 0.1, 'high': 1.0}}, 'runs': 3, **said})


@pytest.mark.parametrize(('said', 'told'), [
    ({'comparison': {'durations': ['2ep', 2]}}, r"comparison\.durations\[1\]: '2ep' is there twice"),
    ({'comparison': {'durations': ['0.5dur']}}, r"comparison\.durations\[0\]: expected a whole number with a unit"),
    ({'comparison': {'durations': ['10sec']}}, r"comparison\.durations\[0\]: .*got '10sec'"),
    ({'comparison': {'durations': ['2ep']}}, r'methods\.always on\.teachers: there are no earlier runs'),
    ({'comparison': {'durations': ['2ep'], 'earlier': {'runs': 1}}}, r'missing: comparison\.earlier\.duration'),
    ({'comparison': {'durations': ['2ep'], 'earlier': {'duration': '2ep', 'method': 'basline'}}},
     r"comparison\.earlier\.method: .* Did you mean 'baseline'\?"),
    ({'methods': {'a': {'teachers': 'all'}}}, r'comparison\.earlier: missing method'),
    ({'methods': {'KD!': {}, 'kd': {}}}, r"methods\.kd: its runs would be called 'kd-\.\.\.', as those of 'KD!'"),
    ({'methods': {'%': {}}}, r'methods\.%: expected a name with a letter or a digit'),
    ({'methods': {'earlier run': {}}}, r'methods\.earlier run: is what the runs that teach are called'),
    ({'distillation': {'end': '1dur'}, 'methods': {'a': {}}}, r'distillation: there is nobody to learn from'),
])
def test_bad_comparisons(said, told):
    with pytest.raises(ValueError, match=told):
        comparison(**said)


@pytest.mark.parametrize(('steps', 'told'), [
    ([], r'sequence\.steps: expected a list'), ([3], r'sequence\.steps\[0\]: expected a mapping'),
    ([{'a': 1}, {'run_name': 'x'}], r"sequence\.steps\[1\]: 'run_name' is given by the study itself"),
])
def test_bad_sequences(steps, told):
    with pytest.raises(ValueError, match=told):
        sequence(sequence={'steps': steps})


def test_what_a_step_or_the_search_varies_is_not_said_elsewhere():
    with pytest.raises(ValueError, match=r"set: 'train_data' is given by sequence\.steps\[0\]"):
        sequence(set={'train_data': 'digits'})
    with pytest.raises(ValueError, match=r"methods\.taught\.set: 'optimizer\.lr' is given by search\.space"):
        search(methods={'taught': {'set': {'optimizer': {'lr': 0.1}}}})


def test_earlier_runs_from_elsewhere_are_enough():
    spec = comparison(
        methods={'a': {}, 'b': {'teachers': {'policy': 'all', 'runs': ['runs/last-week']}}},
        comparison={'durations': ['2ep']},
    )
    assert spec.comparison.earlier is None


# --- secrets, and what may change ---

def test_the_storage_is_told_nowhere():
    spec = comparison(storage='postgresql+psycopg://me:sesame@host/db')
    assert spec.storage_url == 'postgresql+psycopg://me:sesame@host/db'
    shown = repr(spec) + str(spec) + json.dumps(spec.digest_parts()) + spec.note().model_dump_json()
    assert 'sesame' not in shown
    with pytest.raises(ValueError, match='storage') as error:
        comparison(storage='me:sesame@host/db')
    assert 'sesame' not in str(error.value)


def changes(before: StudySpec, now: StudySpec) -> str | None:
    return changed(json.loads(json.dumps(before.digest_parts())), json.loads(json.dumps(now.digest_parts())))


def test_what_may_change_between_restarts():
    free = {'seeds': 5, 'retries': 7, 'keep': 'best', 'description': 'more', 'storage': 'sqlite:///a.db', 'folder': 'x',
            'where': {'workers': 4, 'threads': 2, 'launcher': 'composer'}, 'report': {'title': 'T', 'cost': 'flops'}}
    assert changes(comparison(), comparison(**free, durations=('2ep', '4ep', '9ep'))) is None
    assert changes(search(runs=3), search(runs=9, seeds=2)) is None
    assert changes(search(runs=3), search(runs=None)) is None
    assert changes(sequence(steps=2), sequence(steps=4)) is None
    more = {'alone': {}, 'taught': {'teachers': 'latest'}, 'new': {'teachers': 'all'}}
    assert changes(sequence(), sequence(methods=more)) is None


@pytest.mark.parametrize(('before', 'now', 'told'), [
    (comparison(), comparison(metric='test/Loss'), r"metric was 'test/MulticlassAccuracy' and is 'test/Loss'"),
    (comparison(), comparison(earlier=3), r'earlier\.runs was 2 and is 3'),
    (comparison('all'), comparison('best'), r"methods\.always on\.teachers\.policy was 'all' and is 'best'"),
    (comparison(), comparison(set={'a': 1}), r'methods\.baseline\.set\.a was not there and is 1'),
    (comparison(), comparison(where={'gpus_per_run': 2}), r'gpus_per_run was 1 and is 2'),
    (sequence(steps=3), sequence(steps=2), r'steps\[2\] was .* and is not there'),
    (search(), search(search={'space': {'optimizer.lr': [1, 2]}, 'runs': 3}), r'search\.space\.optimizer\.lr was'),
    (search(), search(methods={'alone': {}}), r'methods\.taught was .* and is not there'),
])
def test_what_may_not_change(before, now, told):
    assert changes(before, before) is None
    assert re.match(told, changes(before, now) or '')


def test_a_changed_recipe_is_another_study_but_a_moved_one_is_not(write, tmp_path):
    before = load_study(write(COMPARISON))
    (tmp_path / 'moved').mkdir()
    for name in ('study.yaml', 'recipes'):
        os.rename(tmp_path / name, tmp_path / 'moved' / name)
    assert changes(before, load_study(tmp_path / 'moved' / 'study.yaml')) is None
    (tmp_path / 'moved' / 'recipes' / 'digits.yaml').write_text('run_name: x\noptimizer: {name: sgd, lr: 0.2}\n')
    now = load_study(tmp_path / 'moved' / 'study.yaml')
    assert changes(before, now).startswith('methods.baseline.recipe.optimizer.lr was 0.1 and is 0.2')


# --- study.json ---

def test_the_note(tmp_path):
    note = comparison(report={'reference': 'always on', 'label': 'accuracy'}).note()
    assert note.methods == ['baseline', 'always on']
    assert (note.baseline, note.reference, note.label, note.runs) == ('baseline', 'always on', 'accuracy', 'runs')
    assert read_note(tmp_path) is None
    write_note(tmp_path / 'deep' / 'er', note)
    assert read_note(tmp_path / 'deep' / 'er') == note


def test_damaged_notes_are_refused(tmp_path):
    path = tmp_path / 'study.json'
    note = StudyNote(name='a', kind='search', metric=METRIC, higher_is_better=True)
    for text, told in [
        ('{', 'damaged'), ('[]', 'damaged'), (note.model_dump_json().replace('"name"', '"nmae"'), 'name: '),
        (note.model_dump_json().replace('"version":1', '"version":9'), 'Upgrade composer_kd'), ('\x00', 'damaged'),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=told):
            read_note(tmp_path)


def test_a_study_names_costs_that_the_report_knows():
    assert set(COST_NAMES) <= set(COSTS)
