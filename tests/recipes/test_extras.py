import sys
import types
from enum import Enum

import pytest
from composer.profiler import JSONTraceHandler
from composer.utils.parallelism import FSDP2Config
from torch.distributed.tensor.parallel import ColwiseParallel

from composer_kd.recipes import build_trainer
from composer_kd.recipes.extras import OBJECT_STORES, check_extras, make_extras, make_loggers
from tests.recipes.tiny import recipe


def test_nothing_asked_for_is_nothing(tmp_path):
    assert set(make_extras(recipe(tmp_path)).values()) == {None}
    assert make_loggers(recipe(tmp_path), 1) == []


def test_the_profiler_writes_to_the_run_folder(tmp_path):
    asked = recipe(tmp_path, profiler={
        'schedule': {'wait': 1, 'active': 2}, 'trace_handlers': {'json': {'overwrite': True}}, 'sys_prof_cpu': False,
    })
    profiler = make_extras(asked)['profiler']
    handler, = profiler._trace_handlers
    assert isinstance(handler, JSONTraceHandler)
    assert handler.folder == str(tmp_path / 'logs' / 'traces')
    assert make_extras(recipe(tmp_path, profiler={}))['profiler'] is not None


def test_parallelism_becomes_what_composer_takes(tmp_path):
    config = make_extras(recipe(tmp_path, parallelism_config={
        'fsdp': {'sharding_strategy': 'SHARD_GRAD_OP'},
        'tp': {'tensor_parallel_degree': 2, 'layer_plan': {'module.head': 'colwise_parallel'}},
    }))['parallelism_config']
    assert config['fsdp'] == {'sharding_strategy': 'SHARD_GRAD_OP'}
    assert config['tp'].tensor_parallel_degree == 2
    assert isinstance(config['tp'].layer_plan['module.head'], ColwiseParallel)


def test_fsdp2_goes_where_composer_looks_for_it(tmp_path):
    asked = recipe(tmp_path, parallelism_config={'fsdp2': {'reshard_after_forward': False}})
    with pytest.warns(UserWarning, match='experimental'):
        config = make_extras(asked)['parallelism_config']
    assert isinstance(config['fsdp'], FSDP2Config)
    assert config['fsdp'].reshard_after_forward is False
    check_extras(asked)


def test_the_fp8_format_becomes_transformer_engines(tmp_path, monkeypatch):
    class Format(Enum):
        HYBRID = 1

    for name in ('transformer_engine', 'transformer_engine.common', 'transformer_engine.common.recipe'):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules['transformer_engine.common.recipe'].Format = Format
    asked = recipe(tmp_path, precision_config={'fp8_format': 'HYBRID', 'margin': 1})
    assert make_extras(asked)['precision_config'] == {'fp8_format': Format.HYBRID, 'margin': 1}


def test_an_object_store_is_built_by_name(tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECT_STORES._items, 's3', lambda bucket, prefix='': (bucket, prefix))
    asked = recipe(tmp_path, load_object_store={'name': 's3', 'bucket': 'b', 'prefix': 'p'})
    assert make_extras(asked)['load_object_store'] == ('b', 'p')


def test_the_command_that_profiles_runs(tmp_path):
    asked = recipe(tmp_path / 'a', max_duration='4ba', scheduler='linear', profiler={
        'schedule': {'warmup': 0, 'active': 1}, 'torch_prof_profile_memory': False, 'torch_prof_with_flops': False,
    })
    with pytest.warns(UserWarning, match='profiler is enabled'):
        trainer = build_trainer(asked)
    trainer.fit()
    trainer.close()
    assert list((tmp_path / 'a' / 'logs' / 'traces').iterdir())
