"""The kinds of values a recipe is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from composer.core import Precision, TimeUnit
from composer.distributed import DDPSyncStrategy
from composer.profiler import Profiler, cyclic_schedule
from composer.utils.parallelism import FSDP2Config, FSDPConfig, TPConfig
from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, model_validator

from composer_kd.names import nearest, refuse_unknown, split_named
from composer_kd.recipes.hints import check_types, hints_of
from composer_kd.recipes.layers import refuse_what_no_file_holds
from composer_kd.times import read_time


class Strict(BaseModel):
    """A mapping with known keys; an unknown one is answered with the nearest."""

    model_config = ConfigDict(extra='forbid', strict=True, frozen=True)

    @model_validator(mode='before')
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise ValueError(f'expected a mapping, got {type(data).__name__}: {data!r}.')
        refuse_unknown(data, cls.model_fields)
        refuse_what_no_file_holds(data)
        return data


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _time(words: str, least: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        time = read_time(value, TimeUnit.EPOCH) if isinstance(value, (int, str)) else None
        # Composer counts evaluations, checkpoints and durations in its clocks, and refuses seconds as one of them; a
        # duration cannot be a share of itself, and an interval that is no part of it is divided by in the training.
        if time is None or time.unit == TimeUnit.SECOND or (
            least > 0 or not 0 < time.value <= 1 if time.unit == TimeUnit.DURATION else time.value < least
        ):
            raise ValueError(f'expected {words}, got {value!r}.')
        return value
    return check


def _choice(*valid: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value not in valid:
            raise ValueError(f"expected one of {', '.join(map(repr, valid))}, got {value!r}.{nearest(value, valid)}")
        return value
    return check


def _microbatch(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0
    if not number and value not in (None, 'auto'):
        raise ValueError(f"expected a number above 0 or 'auto', got {value!r}.")
    return value


def _component(value: Any) -> dict[str, Any]:
    try:
        name, settings = split_named(value, '@')
    except (TypeError, ValueError) as error:
        raise ValueError(str(error).removeprefix('@').removeprefix(': ')) from None
    return {'name': name, **settings}


def _several(value: list[Any]) -> list[dict[str, Any]]:
    found = []
    for index, item in enumerate(value):
        try:
            found.append(_component(item))
        except ValueError as error:
            raise ValueError(_under(f'[{index}]', error)) from None
    return found


def _schedulers(value: Any) -> Any:
    return _several(value) if isinstance(value, list) else _component(value)


def _components(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, Mapping):
        raise ValueError(
            f'expected a mapping of names to settings, as in {{ema: {{half_life: 100ba}}}}, got '
            f'{type(value).__name__}: {value!r}.',
        )
    for name, settings in value.items():
        if settings is not None and not isinstance(settings, Mapping):
            raise ValueError(f".{name}: expected a mapping of settings, got {type(settings).__name__}: {settings!r}.")
    return {str(name): dict(settings or {}) for name, settings in value.items()}


def _data(value: Any) -> dict[str, Any]:
    data = _component(value)
    size = data.get('batch_size')
    if size is None:
        data.pop('batch_size', None)
    elif not _whole(size) or size < 1:
        raise ValueError(f'.batch_size: expected a whole number of 1 or more (over all ranks), got {size!r}.')
    return data


def _train_data(value: Any) -> dict[str, Any]:
    data = _data(value)
    if data.get('batch_size') is None:
        raise ValueError("missing 'batch_size', the number of samples of a batch over all ranks.")
    return data


def _under(path: str, error: Exception) -> str:
    # A message that begins with a dot or a bracket goes on from the path it is told under.
    return f'{path}{error}' if str(error).startswith(('.', '[')) else f'{path}: {error}'


def _held_against(hints: Mapping[str, Any]) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f'expected a mapping, got {type(value).__name__}: {value!r}.')
        refuse_unknown(value, hints)
        try:
            check_types(value, hints, '')
        except TypeError as error:
            raise ValueError(str(error)) from None
        return dict(value)
    return check


def _annotations(target: type) -> dict[str, Any]:
    return {
        name: hint for name, hint in inspect.get_annotations(target, eval_str=True).items()
        if not name.startswith('_') and name != 'device_mesh'
    }


# What transformer_engine's DelayedScaling takes; it is not installed where recipes are checked.
_FP8 = dict.fromkeys((
    'margin', 'fp8_format', 'amax_history_len', 'amax_compute_algo', 'scaling_factor_compute_algo', 'reduce_amax',
    'fp8_dpa', 'fp8_mha', 'override_linear_precision',
), Any)
_COMPILE = {name: hint for name, hint in hints_of(torch.compile).items() if name != 'model'}
_PROFILER = {**hints_of(Profiler), 'schedule': Mapping[str, Any], 'trace_handlers': Mapping[str, Any]}
_CYCLE = hints_of(cyclic_schedule)


def _profiler(value: Any) -> Any:
    profiler = _held_against(_PROFILER)(value)
    if profiler is not None:
        try:
            _held_against(_CYCLE)(profiler.get('schedule'))
        except ValueError as error:
            raise ValueError(_under('.schedule', error)) from None
        try:
            profiler['trace_handlers'] = _components(profiler.get('trace_handlers', {'json': {}}))
        except ValueError as error:
            raise ValueError(_under('.trace_handlers', error)) from None
    return profiler


def _passes(value: Any) -> Any:
    if value is None:
        return None
    passes = _several(value if isinstance(value, list) else [value])
    for place, item in enumerate(passes):
        try:
            refuse_unknown(item, ('name', 'index'))
        except ValueError as error:
            raise ValueError(_under(f'[{place}]', error)) from None
    return passes


Component = Annotated[dict[str, Any], PlainValidator(_component)]
Components = Annotated[dict[str, dict[str, Any]], PlainValidator(_components)]
Schedulers = Annotated[dict[str, Any] | list[dict[str, Any]], PlainValidator(_schedulers)]
EvalData = Annotated[dict[str, Any], PlainValidator(_data)]
TrainData = Annotated[dict[str, Any], PlainValidator(_train_data)]
Duration = Annotated[int | str, PlainValidator(_time(
    "a number of epochs or a time string such as '20ep', '500ba' or '1e6sp'", 1,
))]
Interval = Annotated[int | str, PlainValidator(_time(
    "a number of epochs (0 for never) or a time string such as '1ep', '100ba' or '0.1dur'", 0,
))]
Microbatch = Annotated[int | float | str | None, PlainValidator(_microbatch)]
PrecisionName = Annotated[str, AfterValidator(_choice(*(precision.value for precision in Precision)))]
DeviceName = Annotated[str, AfterValidator(_choice('cpu', 'gpu', 'mps', 'tpu', 'neuron', 'hpu'))]
SyncStrategy = Annotated[str, AfterValidator(_choice(*(strategy.value for strategy in DDPSyncStrategy)))]
Stream = Annotated[str, AfterValidator(_choice('stderr', 'stdout'))]
LogLevel = Annotated[str, PlainValidator(lambda value: _choice(
    'debug', 'info', 'warning', 'error', 'critical',
)(str(value).lower()))]
Fp8 = Annotated[dict[str, Any] | None, PlainValidator(_held_against(_FP8))]
CompileConfig = Annotated[dict[str, Any] | None, PlainValidator(_held_against(_COMPILE))]
ProfilerSettings = Annotated[dict[str, Any] | None, PlainValidator(_profiler)]
Passes = Annotated[list[dict[str, Any]] | None, PlainValidator(_passes)]
Fsdp = Annotated[dict[str, Any] | None, PlainValidator(_held_against(_annotations(FSDPConfig)))]
Fsdp2 = Annotated[dict[str, Any] | None, PlainValidator(_held_against(_annotations(FSDP2Config)))]
TensorParallel = Annotated[dict[str, Any] | None, PlainValidator(_held_against(
    {**_annotations(TPConfig), 'layer_plan': Mapping[str, Any] | None},
))]
