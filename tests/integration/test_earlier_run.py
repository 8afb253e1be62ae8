"""A run folder as a teacher: the model in it is the one whose quality the run recorded."""

import json

import pytest
import torch
from composer import Trainer

from composer_kd.recipes import load_recipe, train
from composer_kd.recipes.build import _build_data
from composer_kd.teachers import model_of_run

pytestmark = pytest.mark.filterwarnings(
    'ignore:SWA has known issues', 'ignore:Cannot split tensor of length', 'ignore:Teacher .* no better than',
)

RECIPE = 'yamls/digits/baseline.yaml'


def run(tmp_path, name, *overrides):
    recipe = load_recipe(RECIPE, [
        f'run_name={name}', f'run_folder={tmp_path / name}', 'max_duration=2ep', 'eval_interval=1ep',
        'train_data.train_size=256', 'scheduler.t_warmup=1ba', *overrides,
    ])
    return recipe, train(recipe)


def evaluate(model, recipe):
    _, evaluators = _build_data(recipe, model)
    nothing = torch.optim.SGD(model.parameters(), lr=0.0)
    trainer = Trainer(model=model, eval_dataloader=evaluators, optimizers=nothing, progress_bar=False)
    trainer.eval()
    return {label: {name: float(metric.compute()) for name, metric in metrics.items()}
            for label, metrics in trainer.state.eval_metrics.items()}


@pytest.mark.parametrize('algorithms', [
    '{}',
    '{blurpool: {min_channels: 8}, ema: {half_life: 10ba, update_interval: 2ba}, channels_last: null}',
    '{ema: {half_life: 5ba}, squeeze_excite: {min_channels: 8}, blurpool: {min_channels: 8}}',
    '{swa: {swa_start: 0.3dur, swa_end: 0.8dur, update_interval: 1ba}}',
    '{factorize: {min_channels: 8, latent_channels: 4}}',
], ids=['plain', 'blurpool, ema, channels_last', 'ema, squeeze_excite, blurpool', 'swa', 'factorize'])
def test_it_evaluates_to_the_quality_its_run_recorded(tmp_path, algorithms):
    recipe, folder = run(tmp_path, 'earlier', f'algorithms={algorithms}')
    recorded = folder.read_record().evaluations[-1]
    model = model_of_run(str(tmp_path / 'earlier'))
    assert not model.training
    found = evaluate(model, recipe)
    assert found['validation']['MulticlassAccuracy'] == recorded.metrics['validation']['MulticlassAccuracy']
    for label, metrics in recorded.metrics.items():
        for name, value in metrics.items():
            assert found[label][name] == pytest.approx(value, rel=1e-5), (label, name)


def test_with_nothing_else_to_say(tmp_path):
    run(tmp_path, 'earlier', 'algorithms={blurpool: {min_channels: 8}, ema: {half_life: 10ba}, channels_last: null}')
    _, folder = run(tmp_path, 'later', f'algorithms.distillation.teachers=[{{run: {tmp_path / "earlier"}}}]')
    record = folder.read_record()
    assert record.status == 'finished'
    assert record.kd.active_batches == record.batches
    teacher, = record.teachers
    assert teacher.origin == f'run:{tmp_path / "earlier"}'
    assert teacher.batches == record.batches
    assert teacher.samples == record.samples
    assert record.flops.total > 3 * record.samples * record.flops.student_forward_per_sample
    # and the later run teaches in turn
    model_of_run(str(tmp_path / 'later'))


def test_loading_a_run_leaves_the_trainings_random_numbers_alone(tmp_path):
    run(tmp_path, 'earlier')
    before = torch.get_rng_state()
    model_of_run(str(tmp_path / 'earlier'))
    # models are built inside the algorithm with the generators set aside
    from composer_kd.teachers import build_teachers, parse_teachers
    torch.set_rng_state(before)
    build_teachers(parse_teachers({'run': str(tmp_path / 'earlier')}), model_of_run(str(tmp_path / 'earlier')))
    torch.manual_seed(0)


def test_an_unfinished_run_teaches_with_a_word_of_warning(tmp_path, caplog):
    _, folder = run(tmp_path, 'earlier')
    record = json.loads(folder.record_path.read_text())
    record['status'] = 'unfinished'
    folder.record_path.write_text(json.dumps(record))
    with caplog.at_level('WARNING'):
        model_of_run(str(tmp_path / 'earlier'))
    assert 'did not finish' in caplog.text
    folder.record_path.unlink()
    with caplog.at_level('WARNING'):
        model_of_run(str(tmp_path / 'earlier'))
    assert 'no readable record' in caplog.text


def test_what_is_wrong_with_a_folder_is_said(tmp_path):
    _, folder = run(tmp_path, 'earlier')
    for path in folder.checkpoints.iterdir():
        path.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match='checkpoint'):
        model_of_run(str(tmp_path / 'earlier'))
    folder.recipe_path.write_text('run_name: x\n')
    with pytest.raises(ValueError, match='names no model'):
        model_of_run(str(tmp_path / 'earlier'))
    folder.recipe_path.write_text('a: [')
    with pytest.raises(ValueError, match=r'recipe\.yaml'):
        model_of_run(str(tmp_path / 'earlier'))
