import inspect
import re

import pytest
from composer import Trainer
from composer.utils.parallelism import FSDP2Config, FSDPConfig, TPConfig

from composer_kd.recipes import check_recipe, parse_recipe
from composer_kd.recipes.schema import OWN, RENAMED, Recipe
from composer_kd.runs import RunFolder
from tests.recipes.tiny import plain

TRAINER = {name: p for name, p in inspect.signature(Trainer.__init__).parameters.items() if name != 'self'}
# Where a recipe's default is another than the Trainer's: resumable, repeatable runs in a folder of their own.
OTHER_DEFAULTS = {'seed', 'autoresume', 'save_overwrite', 'run_name', 'max_duration', 'model'}


@pytest.mark.parametrize('name', TRAINER)
def test_every_argument_of_the_trainer_is_reachable(name):
    assert RENAMED.get(name, name) in Recipe.model_fields


def test_every_key_is_the_trainers_or_known_to_be_our_own():
    assert set(Recipe.model_fields) == {RENAMED.get(name, name) for name in TRAINER} | OWN


@pytest.mark.parametrize('name', sorted(set(TRAINER) - set(RENAMED) - OTHER_DEFAULTS))
def test_defaults_are_the_trainers(name):
    ours = Recipe.model_fields[name].get_default(call_default_factory=True)
    assert ours == TRAINER[name].default or (ours in ({}, []) and TRAINER[name].default is None)


@pytest.mark.parametrize(('key', 'target'), [('fsdp', FSDPConfig), ('fsdp2', FSDP2Config), ('tp', TPConfig)])
def test_every_field_of_the_parallelism_configurations_is_reachable(key, target):
    for name, field in target.__dataclass_fields__.items():
        if not name.startswith('_') and name != 'device_mesh':
            value = field.default
            recipe = parse_recipe(plain(parallelism_config={key: {name: value}}))
            assert getattr(recipe.parallelism_config, key) == {name: value}


def changed(path, value):
    """The tiny recipe with one value put at a dotted path."""
    said = plain()
    at = said
    *way, last = path.split('.')
    for part in way:
        at[part] = dict(at.get(part) or {})
        at = at[part]
    at[last] = value
    return said


MISSPELT = [
    ('sed', 3, 'recipe', 'seed'),
    ('optimzer', {}, 'recipe', 'optimizer'),
    ('max_durration', '1ep', 'recipe', 'max_duration'),
    ('save_intervall', '1ep', 'recipe', 'save_interval'),
    ('model.widht', 4, 'model', 'width'),
    ('train_data.nois', 0.1, 'train_data', 'noise'),
    ('train_data.batchsize', 4, 'train_data', None),
    ('evaluators.test.intervall', '1ep', 'evaluators.test', 'interval'),
    ('evaluators.test.data.splitt', 'test', 'evaluators.test.data', 'split'),
    ('optimizer.momentun', 0.9, 'optimizer', 'momentum'),
    ('optimizer.name', 'decoupled_sgd', 'optimizer', 'decoupled_sgdw'),
    ('scheduler.t_warm_up', '1ep', 'scheduler', 't_warmup'),
    ('scheduler.name', 'cosine_anealing', 'scheduler', 'cosine_annealing'),
    ('algorithms.blur_pool', {}, 'algorithms.blur_pool', 'blurpool'),
    ('algorithms.ema.halflife', '10ba', 'algorithms.ema', 'half_life'),
    ('algorithms.distilation', {}, 'algorithms.distilation', 'distillation'),
    ('callbacks.lr_moniter', {}, 'callbacks.lr_moniter', 'lr_monitor'),
    ('callbacks.speed_monitor.windowsize', 3, 'callbacks.speed_monitor', 'window_size'),
    ('callbacks.run_recorder.intervall', 3, 'callbacks.run_recorder', 'interval'),
    ('loggers.fil', {}, 'loggers.fil', 'file'),
    ('loggers.file.filname', 'a', 'loggers.file', 'filename'),
    ('parallelism_config.fdsp', {}, 'parallelism_config', 'fsdp'),
    ('parallelism_config.fsdp.sharding_stategy', 'FULL_SHARD', 'parallelism_config.fsdp', 'sharding_strategy'),
    ('parallelism_config.fsdp2.reshard_after_foward', True, 'parallelism_config.fsdp2', 'reshard_after_forward'),
    ('parallelism_config.tp.layer_plan', {'head': 'colwise_paralel'}, 'parallelism_config.tp.layer_plan.head',
     'colwise_parallel'),
    ('profiler.scedule', {}, 'profiler', 'schedule'),
    ('profiler.schedule.wiat', 1, 'profiler.schedule', 'wait'),
    ('profiler.trace_handlers.json.foldr', 'a', 'profiler.trace_handlers.json', 'folder'),
    ('profiler.trace_handlers.jsn', {}, 'profiler.trace_handlers.jsn', 'json'),
    ('compile_config.bakend', 'eager', 'compile_config', 'backend'),
    ('precision_config.margn', 1, 'precision_config', 'margin'),
    ('load_object_store', {'name': 's3', 'bukcet': 'b'}, 'load_object_store', 'bucket'),
    ('load_object_store', {'name': 's33'}, 'load_object_store', 's3'),
    ('algorithm_passes', [{'name': 'set_filo_oder'}], 'algorithm_passes[0]', 'set_filo_order'),
    ('precision', 'bf16', 'precision', 'amp_bf16'),
    ('device', 'gpuu', 'device', 'gpu'),
]


@pytest.mark.parametrize(('path', 'value', 'where', 'near'), MISSPELT, ids=[f'{m[0]}={m[1]}' for m in MISSPELT])
def test_a_misspelt_name_is_refused_at_every_depth_with_the_nearest(path, value, where, near):
    with pytest.raises(ValueError, match=re.escape(where)) as caught:
        check_recipe(parse_recipe(changed(path, value)))
    message = str(caught.value)
    assert message.startswith(f'{where}:')
    assert '\n' not in message
    if near:
        assert f"Did you mean '{near}'?" in message


def distilled(tmp_path, **changes):
    folder = RunFolder(tmp_path / 'earlier')
    folder.write_recipe(plain())
    folder.checkpoints.mkdir()
    (folder.checkpoints / 'latest-rank0.pt').touch()
    return plain(algorithms={'distillation': {'teachers': [{'run': str(folder.path)}], **changes}})


@pytest.mark.parametrize(('changes', 'where', 'told'), [
    ({'los': 'mse'}, 'algorithms.distillation', "Did you mean 'loss'?"),
    ({'teachers': [{'runn': 'a'}]}, 'algorithms.distillation.teachers[0]', "Did you mean 'run'?"),
    ({'teachers': [{'run': 'a', 'wieght': 2}]}, 'algorithms.distillation.teachers[0]', "Did you mean 'weight'?"),
    ({'loss': 'kl_divergnce'}, 'algorithms.distillation.loss', "Did you mean 'kl_divergence'?"),
    ({'loss': {'name': 'kl_divergence', 'temprature': 2}}, 'algorithms.distillation.loss', "'temperature'?"),
    ({'teachers': [{'run': 'no-run'}]}, 'algorithms.distillation.teachers[0].run', "no run folder 'no-run'"),
    ({'kd_loss_weight': -1}, 'algorithms.distillation.kd_loss_weight', '-1'),
    ({'kd_loss_weight': {'linea': {}}}, 'algorithms.distillation.kd_loss_weight', "Did you mean 'linear'?"),
    ({'start': '0.5dur', 'end': '0.2dur'}, 'algorithms.distillation.start', 'lies after'),
    ({'teachers_per_batch': 2}, 'algorithms.distillation.teachers_per_batch', 'pool of 1'),
])
def test_errors_of_distillation_carry_their_path(tmp_path, changes, where, told):
    with pytest.raises((ValueError, FileNotFoundError), match=re.escape(where)) as caught:
        check_recipe(parse_recipe(distilled(tmp_path, **changes)))
    assert told in str(caught.value)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('path', 'value', 'told'), [
    ('seed', '17', 'seed: expected a whole number, got str'),
    ('seed', -1, 'seed: expected a whole number from 0'),
    ('progress_bar', 'yes', 'progress_bar: expected true or false'),
    ('max_duration', '3 epochs', 'max_duration: expected a number of epochs or a time string'),
    ('max_duration', '90sec', 'max_duration: expected'),
    ('max_duration', 0, 'max_duration: expected'),
    ('eval_interval', '1x', 'eval_interval: expected'),
    ('save_interval', True, 'save_interval: expected'),
    ('train_data.batch_size', 0, 'train_data.batch_size: expected a whole number of 1 or more'),
    ('train_data.batch_size', None, "train_data: missing 'batch_size'"),
    ('train_data.noise', 'much', 'train_data.noise: expected a number, got str'),
    ('model', None, 'model: expected a name or a mapping with a name'),
    ('model.width', 4.5, 'model.width: expected a whole number, got float'),
    ('model.width', 0, 'width: expected a whole number of 1 or more'),
    ('optimizer.lr', 'fast', 'optimizer'),
    ('optimizer.nesterov', 'on', 'optimizer.nesterov: expected true or false'),
    ('scheduler.t_warmup', '1epp', 'scheduler.t_warmup: expected a time string'),
    ('algorithms', ['ema'], 'algorithms: expected a mapping of names to settings'),
    ('algorithms.ema', 3, 'algorithms.ema: expected a mapping of settings'),
    ('algorithms.ema.half_life', '10b', "algorithms.ema: 'ema' refused its settings: Invalid time string: 10b"),
    ('evaluators.test', {}, 'missing: evaluators.test.data'),
    ('evaluators.test.metric_names', ['MulticlasAccuracy'], "Did you mean 'MulticlassAccuracy'?"),
    ('evaluators.test.data.batch_size', 1.5, 'evaluators.test.data.batch_size: expected a whole number'),
    ('tags', {'week': 3}, 'tags.week: expected a string, got int'),
    ('parallelism_config.fsdp.auto_wrap', 'no', 'parallelism_config.fsdp.auto_wrap: expected true or false'),
    ('parallelism_config', {'fsdp': {}, 'fsdp2': {}}, 'parallelism_config: expected fsdp or fsdp2, got both'),
    ('load_ignore_keys', 'state', 'load_ignore_keys: expected a list'),
    ('device_train_microbatch_size', 'some', "device_train_microbatch_size: expected a number above 0 or 'auto'"),
    ('save_latest_filename', None, 'save_latest_filename: is null'),
    ('run_name', ' ', 'run_name: expected a name'),
    ('dist_timeout', 0, 'dist_timeout: expected a number above 0'),
    ('callbacks.run_recorder.interval', 0, 'callbacks.run_recorder'),
    ('max_duration', '1.5ep', "max_duration: expected a number of epochs or a time string such as '20ep', '500ba' or '1e6sp', got '1.5ep'"),
    ('max_duration', 'infep', 'max_duration: expected'),
    ('max_duration', 'nandur', 'max_duration: expected'),
    ('max_duration', '0.5dur', 'max_duration: expected'),
    ('max_duration', '0ba', 'max_duration: expected'),
    ('save_interval', '0dur', 'save_interval: expected'),
    ('eval_interval', '2dur', 'eval_interval: expected'),
    ('algorithm_passes', ['set_filo_order', {'index': 1}], "algorithm_passes[1]: expected the key 'name', got 'index'"),
    ('algorithm_passes', [{'name': 'set_filo_order', 'at': 1}], "algorithm_passes[0]: unknown key 'at'"),
    ('scheduler', [{'name': 'constant'}, {}], "scheduler[1]: expected the key 'name', got an empty mapping"),
    ('model.name', ['digits_resnet'], "model.name: expected a string, got list: ['digits_resnet']"),
    ('profiler', {'trace_handlers': {'json': 3}}, 'profiler.trace_handlers.json: expected a mapping of settings'),
    ('parallelism_config.tp.layer_plan', ['fc'], 'parallelism_config.tp.layer_plan: expected a mapping'),
    ('evaluators.test.metric_names', ['('], "evaluators.test.metric_names[0]: '(' is no regular expression"),
    ('model.width', 2**70, 'model.width: expected a number that fits into 64 bits, got one of 71'),
    ('model.width', b'4', 'model.width: expected plain data'),
    ('tags', {1: 'a'}, "tags.1: expected a string as key, got 1; quote it"),
    ('tags.a', 'b\ud800', 'tags.a: expected text'),
    ('run_name', 'a\0b', 'run_name: expected text'),
    ('optimizer', {'name': 'adamw', 'betas': [0.9]}, 'optimizer.betas: expected a list of a number, got list: [0.9]'),
    ('optimizer', {'name': 'adamw', 'betas': [0.9, []]}, 'optimizer.betas: expected a list of a number'),
    ('algorithms.distillation', {'teachers': {'run': 'x' * 300}}, "algorithms.distillation: 'distillation' refused its settings"),
])
def test_a_wrong_value_is_told_with_its_path(path, value, told):
    with pytest.raises((ValueError, TypeError)) as caught:
        check_recipe(parse_recipe(changed(path, value)))
    assert told in str(caught.value)
    assert '\n' not in str(caught.value)


def test_an_evaluator_without_a_batch_size_of_its_own_has_that_of_the_training():
    recipe = parse_recipe(changed('evaluators.test.data.batch_size', None))
    assert 'batch_size' not in recipe.evaluators['test'].data
    assert check_recipe(recipe)


def test_cpu_and_half_precision_are_refused_before_the_trainer():
    with pytest.raises(ValueError, match=r"^precision: a CPU trains in 'fp32' alone"):
        parse_recipe(plain(device='cpu', precision='amp_bf16'))


def test_what_is_missing_is_told_at_once():
    with pytest.raises(ValueError, match='missing: run_name, model, train_data, optimizer, max_duration'):
        parse_recipe({})


def test_several_faults_are_told_in_one_paragraph():
    with pytest.raises(ValueError, match=r'seed: .* progress_bar: .* save_metrics: .* And 1 more\.') as caught:
        parse_recipe(plain(seed='1', progress_bar=1, save_metrics=1, deterministic_mode=1))
    assert '\n' not in str(caught.value)


def test_the_run_folder_follows_the_runs_name():
    assert parse_recipe(plain()).run_folder == 'runs/tiny'
    assert parse_recipe(plain(run_folder='out/{run_name}/a')).run_folder == 'out/tiny/a'


def test_plain_data_makes_the_same_recipe_again():
    recipe = parse_recipe(plain(model='digits_resnet', algorithms={'channels_last': None}))
    assert parse_recipe(recipe.plain()).plain() == recipe.plain()
    assert recipe.model == {'name': 'digits_resnet'}
    assert recipe.algorithms == {'channels_last': {}}
