"""``composer-kd inspect`` as a user sees it, its figures held against figures computed here in another way."""

import json
import re
import shutil
import subprocess
import sys
from time import perf_counter

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from composer.models import ComposerClassifier
from PIL import Image

from composer_kd.cli import main
from composer_kd.models import build_model
from composer_kd.recipes.tasks.digits import Digits
from composer_kd.runs import RunFolder
from composer_kd.teachers import digest_of, model_of_run
from tests.caching.made import ROOT, save_teacher
from tests.inspecting.made import digits, glue, inspect, inspected, masked, refused, trained

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A folder with a teacher, and the recipe that it teaches, which has been trained for less."""
    folder = tmp_path_factory.mktemp('runs')
    trained(digits(folder, 'teacher'), 'max_duration=8ep', 'seed=3')
    trained(digits(folder), 'max_duration=2ep')
    return folder


@pytest.fixture(scope='module')
def found(runs):
    before = {path: path.stat().st_mtime_ns for path in sorted(runs.rglob('*'))}
    told = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--layers', 'all')
    assert {path: path.stat().st_mtime_ns for path in sorted(runs.rglob('*'))} == before, 'nothing is touched'
    return told


@pytest.fixture(scope='module')
def answers(runs):
    """Labels, and float64 log-probabilities of teacher and student, asked without any of what is tested."""
    data = Digits('validation', 0, False, noise=0.2)
    images = data.images(0)
    with torch.no_grad():
        logits = [model_of_run(str(runs / name))((images, None)).double() for name in ('teacher', 'recipe')]
    return data.labels.numpy(), *(each.numpy() for each in logits)


def log_softmax(logits):
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def test_identity_and_memory(found, runs):
    model = model_of_run(str(runs / 'teacher'))
    one = found['identity']
    assert one['origin'] == f"run:{runs / 'teacher'}"
    assert one['kind'].endswith('_DigitsResNet')
    assert one['digest'] == digest_of(model)
    assert one['parameters'] == sum(p.numel() for p in model.parameters())
    sizes = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    assert one['bytes'] == found['memory']['weights'] == sizes
    assert (one['dtypes'], one['prepared']) == (['float32'], [])
    # the widest layers: maps of 8 x 8 in 8 channels of 128 samples, each there with its own input
    assert found['memory']['peak'] >= sizes + 2 * 128 * 8 * 8 * 8 * 4
    assert found['memory']['peak'] < sizes + 20 * 128 * 8 * 8 * 8 * 4
    assert (found['device'], found['precision']) == ('cpu', 'fp32')


def test_quality(found, answers, runs):
    labels, teacher, _ = answers
    assert (found['samples'], found['rows'], found['classes'], found['data']) == (359, 359, 10, 'validation')
    assert found['accuracy'] == pytest.approx((teacher.argmax(1) == labels).mean())
    assert found['quality']['MulticlassAccuracy'] == pytest.approx(found['accuracy'], abs=1e-6)
    recorded = RunFolder(runs / 'teacher').read_record().evaluations[-1].metrics['validation']
    assert found['quality'] == pytest.approx(recorded, rel=1e-5), 'what the run itself recorded'
    assert found['commonest'] == np.bincount(labels).max() / 359
    assert found['verdict']['good'] is True


def test_calibration(found, answers):
    labels, logits, _ = answers
    one, log_probable = found['calibration'], log_softmax(logits)
    confidence, right = np.exp(log_probable.max(1)), logits.argmax(1) == labels
    assert one['confidence'] == pytest.approx(confidence.mean(), rel=1e-5)
    assert one['nll'] == pytest.approx(-log_probable[np.arange(359), labels].mean(), rel=1e-5)
    bins = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    assert one['bins']['counts'] == np.bincount(bins, minlength=15).tolist()
    error = sum(abs(right[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert one['error'] == pytest.approx(error, rel=1e-4)
    heats = np.geomspace(0.2, 5, 2000)
    losses = [-log_softmax(logits / heat)[np.arange(359), labels].mean() for heat in heats]
    assert one['temperature'] == pytest.approx(heats[np.argmin(losses)], rel=0.01)
    assert one['nll_then'] == pytest.approx(min(losses), rel=1e-5)
    assert one['sought_on'] == 359
    softer = log_softmax(logits / 2)
    assert one['kd_temperature'] == 2.0
    assert one['entropy'] == pytest.approx(-(np.exp(softer) * softer).sum(1).mean(), rel=1e-5)
    assert one['entropy_share'] == pytest.approx(one['entropy'] / np.log(10))


def test_beside_the_last_student(found, answers, runs):
    labels, teacher, student = answers
    one = found['beside']
    assert (one['run'], one['status']) == (str(runs / 'recipe'), 'finished')
    right, theirs = teacher.argmax(1) == labels, student.argmax(1) == labels
    assert one['accuracy'] == pytest.approx(theirs.mean())
    assert one['agreement'] == pytest.approx((teacher.argmax(1) == student.argmax(1)).mean())
    assert one['only_teacher'] == pytest.approx((right & ~theirs).mean())
    assert one['only_student'] == pytest.approx((theirs & ~right).mean())
    t, s = log_softmax(teacher), log_softmax(student)
    assert one['kl'] == pytest.approx((np.exp(t) * (t - s)).sum(1).mean(), rel=1e-4)
    assert one['nll'] == pytest.approx(-s[np.arange(359), labels].mean(), rel=1e-4)
    assert any('better than the student in' in sentence for sentence in found['verdict']['sentences'])


def test_layers(found, runs):
    layers = {layer['name']: layer for layer in found['layers']}
    assert found['layers_of'] == len(layers)
    assert set(layers) < {name for name, _ in model_of_run(str(runs / 'teacher')).named_modules()}
    assert (layers['module.stem']['kind'], layers['module.stem']['shape']) == ('map', [8, 8, 8])
    assert (layers['module.head']['kind'], layers['module.head']['shape']) == ('hidden', [10])
    top = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--batches', 1)
    assert [layer['name'] for layer in top['layers']] == ['module.stem', 'module.blocks', 'module.head']
    few = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--batches', 1, '--layers', 'module.blocks.?')
    assert {layer['name'] for layer in few['layers']} == {n for n in layers if re.fullmatch(r'module\.blocks\.\d', n)}


def test_what_is_printed_and_drawn(runs, tmp_path):
    plot = tmp_path / 'deep' / 'reliability.png'
    result = inspect(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--plot', plot, '--seconds', 0.3)
    assert result.exit_code == 0, result.output
    assert result.stderr == ''
    assert '\x1b' not in result.stdout
    lines = result.stdout.splitlines()
    assert lines[0] == f"teacher run:{runs / 'teacher'}"
    for name in ('architecture', 'digest', 'parameters', 'module.stem', 'MulticlassAccuracy', 'same first choice',
                 'expected calibration error', 'best temperature', 'entropy at temperature 2', 'weights',
                 'step of 16 without distillation', 'forward of the teacher on it', 'overhead of a step'):
        assert any(line.strip().startswith(name) for line in lines), name
    assert 'worth trying' in lines
    assert re.search(r'A step with it takes \d.* more, unprepared', result.stdout)
    image = Image.open(plot)
    assert image.format == 'PNG'
    assert image.size[0] > 1000
    assert len(image.convert('RGB').getcolors(10**6)) > 50, 'something is drawn'


def test_time_is_measured_in_turn(runs):
    told = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--batches', 1, seconds=0.3)
    one = told['timing']
    assert one['samples'] == 16
    assert min(one['step']['count'], one['teacher']['count']) >= 2
    assert one['overhead'] == pytest.approx((one['teacher']['seconds'] + one['rest']['seconds']) / one['step']['seconds'])
    assert one['per_sample'] == one['teacher']['seconds'] / 16
    assert told['samples'] == 128
    assert any('first batches' in note for note in told['notes'])


def test_another_evaluator_key_values_and_no_distillation(runs, tmp_path):
    path = digits(tmp_path, algorithms={}, evaluators={
        'a': {'data': {'name': 'digits', 'split': 'validation'}},
        'b': {'data': {'name': 'digits', 'split': 'test', 'batch_size': 64}, 'metric_names': ['Multiclass'],
              'subset_num_batches': 2},
    })
    told = inspected(runs / 'teacher', '--recipe', path, '--evaluator', 'b', '--bins', 4)
    assert (told['data'], told['samples']) == ('b', 128)
    assert set(told['quality']) == {'MulticlassAccuracy'}
    assert len(told['calibration']['bins']['counts']) == 4
    assert told['calibration']['kd_temperature'] == 1.0
    assert told['beside'] is None
    assert 'there is no run in' in told['no_student']
    assert inspected(runs / 'teacher', '--recipe', path, 'evaluators.a.data.split=test')['samples'] == 360


# --- verdicts ---

def test_an_untrained_teacher_is_no_teacher(runs, tmp_path):
    weights = save_teacher(tmp_path / 'new.pt', {'name': 'digits_resnet', 'width': 8})
    told = inspected(weights, '--recipe', runs / 'recipe.yaml')
    assert told['identity']['origin'] == f'checkpoint:{weights}'
    assert told['verdict']['good'] is False
    assert 'no better than chance' in told['verdict']['sentences'][0]


def test_a_worse_teacher_and_one_that_is_the_student(runs):
    told = inspected(runs / 'recipe', '--recipe', runs / 'recipe.yaml', '--student', runs / 'teacher')
    assert told['verdict']['good'] is False
    assert 'worse than the student' in told['verdict']['sentences'][1]
    alone = inspected(runs / 'recipe', '--recipe', runs / 'recipe.yaml')
    assert alone['beside'] is None
    assert 'is the teacher itself' in alone['no_student']
    same = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--student', runs / 'teacher')
    assert (same['beside']['agreement'], same['beside']['kl']) == (1.0, pytest.approx(0, abs=1e-6))
    assert 'little to tell' in same['verdict']['sentences'][1]


def test_an_overconfident_teacher(runs, tmp_path):
    """The same teacher, with logits ten times as large."""
    model = model_of_run(str(runs / 'teacher'))
    with torch.no_grad():
        head = model.module.head
        head.weight *= 10
        head.bias *= 10
    torch.save(model.state_dict(), tmp_path / 'sure.pt')
    sure = inspected(tmp_path / 'sure.pt', '--recipe', runs / 'recipe.yaml')
    own = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml')
    assert sure['quality']['MulticlassAccuracy'] == own['quality']['MulticlassAccuracy']
    assert sure['calibration']['temperature'] == pytest.approx(10 * own['calibration']['temperature'], rel=1e-2)
    assert any(s.startswith('It is overconfident') and 'raise the temperature to' in s for s in sure['verdict']['sentences'])


# --- other tasks ---

def test_masked_words(tmp_path):
    path = masked(tmp_path)
    told = inspected(tmp_path / 'bert.pt', '--recipe', path, seconds=0.2)
    assert set(told['quality']) == {'LanguageCrossEntropy', 'MaskedAccuracy'}
    assert 0 < told['rows'] < told['samples'] * 32
    assert told['quality']['LanguageCrossEntropy'] == pytest.approx(told['calibration']['nll'], rel=1e-4)
    assert told['quality']['MaskedAccuracy'] == pytest.approx(told['accuracy'], rel=1e-4)
    names = [layer['name'] for layer in told['layers']]
    assert 'model.bert.encoder.layer.0' in names
    assert {layer['kind'] for layer in told['layers'] if layer['name'].startswith('model.bert.encoder')} == {'hidden'}
    assert told['timing']['overhead'] > 0


def test_sentences(tmp_path):
    lines = [f'the {animal} sat\t{n % 2}' for n in range(5) for animal in ('cat', 'dog')]
    path = glue(tmp_path, 'sst2', ['sentence\tlabel', *lines], 2, ['accuracy', 'f1'])
    told = inspected(tmp_path / 'teacher.pt', '--recipe', path, seconds=0.2)
    assert (told['samples'], told['rows'], told['classes']) == (10, 10, 2)
    assert set(told['quality']) == {'MulticlassAccuracy', 'BinaryF1Score'}
    assert told['quality']['MulticlassAccuracy'] == pytest.approx(told['accuracy'])
    assert told['commonest'] == 0.6
    assert 'model.bert.encoder.layer.0' in [layer['name'] for layer in told['layers']]
    assert told['timing']['overhead'] > 0


def test_a_regression_has_metrics_and_price_alone(tmp_path):
    head = 'index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore'
    lines = [f'{n}\tmain\tx\t2012\t0\tnone\tnone\tA cat sat\tThe {animal} ran\t{n / 2}' for n in range(5)
             for animal in ('cat', 'dog')]
    path = glue(tmp_path, 'stsb', [head, *lines], 1, ['pearson'])
    told = inspected(tmp_path / 'teacher.pt', '--recipe', path)
    assert set(told['quality']) == {'PearsonCorrCoef'}
    assert (told['calibration'], told['accuracy'], told['rows'], told['samples']) == (None, None, 0, 10)
    assert 'labels are no classes' in told['verdict']['sentences'][0]
    result = inspect(tmp_path / 'teacher.pt', '--recipe', path, '--seconds', 0)
    assert 'PearsonCorrCoef' in result.stdout
    assert 'nothing to draw' in refused(
        tmp_path / 'teacher.pt', '--recipe', path, '--seconds', 0, '--plot', tmp_path / 'a.png')


def test_a_prepared_teacher(runs):
    told = inspected(f"{{run: {runs / 'teacher'}, prepare: {{fold_batchnorm: true}}}}", '--recipe', runs / 'recipe.yaml')
    own = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml')
    assert told['identity']['prepared'][0].startswith('fold_batchnorm')
    assert told['quality'] == pytest.approx(own['quality'], rel=1e-4)
    assert len(told['layers']) == len(own['layers'])


def test_a_program_has_no_layers(runs, monkeypatch):
    monkeypatch.setattr(ComposerClassifier, 'opaque', True, raising=False)
    told = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--batches', 1)
    assert (told['layers'], told['layers_of']) == ([], 0)
    assert 'no layer can be tapped' in told['no_layers']
    assert told['memory']['weights'] > 0, 'its parameters can be seen'
    result = inspect(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--seconds', 0)
    assert '  it is a program, of which no layer can be tapped' in result.stdout.splitlines()


# --- what is wrong ---

@pytest.mark.parametrize(('teacher', 'arguments', 'told'), [
    ('nowhere', [], "TEACHER: there is nothing at 'nowhere'"),
    ('{run: nowhere}', [], "There is no run folder 'nowhere'"),
    ('{run: ', [], 'TEACHER: '),
    ('name: x', [], 'to say where the teacher comes from'),
    ('{cache: stores/a}', [], "TEACHER: 'stores/a' is a store of answers"),
    ('{torchvision: resnet18}', [], 'has 1000 outputs and the student 10'),
    (None, ['--student', 'nowhere'], '--student: There is no run folder'),
    (None, ['--evaluator', 'validatoin'], "none called 'validatoin', but validation. Did you mean"),
    (None, ['evaluators=null'], 'the recipe has no validation data'),
    (None, ['model.widht=3'], "unknown key 'widht'"),
    (None, ['algorithms.distillation.los=mse'], "algorithms.distillation: unknown key 'los'. Did you mean 'loss'?"),
    (None, ['algorithms.distillation.loss.name=kl'], 'algorithms.distillation.loss'),
    (None, ['evaluators.validation.data.split=tets'], 'evaluators.validation.data'),
    (None, ['--plot', 'out.pdf'], '--plot: expected a file that ends in .png'),
    (None, ['--layers', 'nothing.*'], "--layers: 'nothing.*' fits none of the"),
])
def test_bad_input_is_one_paragraph(runs, teacher, arguments, told):
    assert told in refused(teacher or runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--seconds', 0, *arguments)


def test_no_gpu_here(runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert "there is no 'gpu' on this machine" in refused(
        runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--device', 'gpu')


def test_a_recipe_for_a_gpu_on_a_cpu(runs):
    told = inspected(runs / 'teacher', '--recipe', runs / 'recipe.yaml', '--device', 'cpu', 'precision=amp_bf16')
    assert told['precision'] == 'fp32'
    assert any('amp_bf16' in note for note in told['notes'])


def test_a_teacher_whose_run_did_not_finish(runs, tmp_path):
    shutil.copytree(runs / 'teacher', tmp_path / 'cut', symlinks=True)
    folder = RunFolder(tmp_path / 'cut')
    folder.write_record(folder.read_record().model_copy(update={'status': 'unfinished'}))
    told = inspected(tmp_path / 'cut', '--recipe', runs / 'recipe.yaml', '--batches', 1)
    assert 'the run of the teacher is unfinished: its latest checkpoint is taken' in told['notes']
    path = digits(tmp_path, 'cut')
    told = inspected(runs / 'teacher', '--recipe', path, '--batches', 1)
    assert told['beside'] is None
    assert 'did not finish' in told['no_student']
    told = inspected(runs / 'teacher', '--recipe', path, '--batches', 1, '--student', tmp_path / 'cut')
    assert told['beside']['status'] == 'unfinished'


def test_a_teacher_that_is_not_finite(runs, tmp_path):
    model = build_model({'name': 'digits_resnet', 'width': 8})
    with torch.no_grad():
        model.module.head.bias[3] = float('nan')
    torch.save(model.state_dict(), tmp_path / 'nan.pt')
    told = refused(tmp_path / 'nan.pt', '--recipe', runs / 'recipe.yaml')
    assert 'gives answers that are not finite: 128 of 1,280 numbers' in told


def test_a_teacher_of_another_width(runs, tmp_path):
    weights = save_teacher(tmp_path / 'wide.pt', {'name': 'digits_resnet', 'width': 12})
    assert 'have other shapes than the architecture' in refused(weights, '--recipe', runs / 'recipe.yaml')
    item = yaml.safe_dump({'checkpoint': str(weights), 'model': {'name': 'digits_resnet', 'width': 12}}, width=1000,
                          default_flow_style=True)
    assert inspected(item.strip(), '--recipe', runs / 'recipe.yaml')['identity']['parameters'] > 0


def test_wrong_usage(runs):
    for arguments, told in (
        (['x'], "Missing option '--recipe'"), (['--recipe', 'a.yaml'], "Missing argument 'TEACHER'"),
        (['x', '--recipe', 'a', '--batches', '0'], "Invalid value for '--batches'"),
        (['x', '--recipe', 'a', '--seconds', '-1'], "Invalid value for '--seconds'"),
        (['x', '--recipe', 'a', '--device', 'tpu'], "Invalid value for '--device'"),
    ):
        result = inspect(*arguments)
        assert result.exit_code == 2
        assert told in result.output


def test_help_is_instant_and_needs_no_torch():
    code = (
        'import sys; from click.testing import CliRunner; from composer_kd.cli import main; '
        "result = CliRunner().invoke(main, ['inspect', '--help']); assert '--student' in result.output; "
        "assert 'torch' not in sys.modules and 'composer' not in sys.modules"
    )
    started = perf_counter()
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    assert perf_counter() - started < 3
    assert 'inspect' in CliRunner().invoke(main, ['--help']).output


def test_json_is_strict(found):
    json.dumps(found, allow_nan=False)
    assert set(found) == {
        'recipe', 'device', 'precision', 'identity', 'layers', 'layers_of', 'no_layers', 'data', 'samples', 'rows',
        'classes', 'quality', 'accuracy', 'commonest', 'calibration', 'beside', 'no_student', 'timing', 'memory',
        'verdict', 'notes',
    }
