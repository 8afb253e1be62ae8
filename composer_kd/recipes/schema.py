"""What a recipe may say, key by key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from composer_kd.recipes import fields
from composer_kd.recipes.fields import Component, Components, Duration, Interval, Strict


class ParallelismSpec(Strict):
    """How a model is split over ranks: the fields of Composer's configurations of the same names.

    Attributes:
        fsdp: Of ``FSDPConfig``.
        fsdp2: Of ``FSDP2Config``.
        tp: Of ``TPConfig``; ``layer_plan`` maps module names to ``colwise_parallel``, ``rowwise_parallel``, ....
    """

    fsdp: fields.Fsdp = None
    fsdp2: fields.Fsdp2 = None
    tp: fields.TensorParallel = None

    @model_validator(mode='after')
    def _one_of_them(self) -> ParallelismSpec:
        if self.fsdp is not None and self.fsdp2 is not None:
            raise ValueError('expected fsdp or fsdp2, got both; keep one.')
        return self


class EvaluatorSpec(Strict):
    """One evaluator.

    Attributes:
        data: What it evaluates on: ``name``, ``batch_size`` over all ranks (default: that of ``train_data``), settings.
        interval: How often; default: ``eval_interval``.
        subset_num_batches: How many batches of it; default: ``eval_subset_num_batches``.
        metric_names: Which of the model's metrics; default: all.
        device_eval_microbatch_size: Samples per forward, or ``auto``; default: the whole batch of the rank.
    """

    data: fields.EvalData
    interval: Interval | None = None
    subset_num_batches: int | None = None
    metric_names: list[str] | None = None
    device_eval_microbatch_size: fields.Microbatch = None


class StartSpec(Strict):
    """The weights that a training begins with, as fine-tuning begins with those of a pre-training.

    Attributes:
        run: The folder of an earlier run: its latest checkpoint, with the averages of EMA or SWA where it has them.
        checkpoint: Or a checkpoint: a path, or a URI as teachers have it.
        fresh: What is drawn afresh all the same: the beginning of a dotted parameter name (``classifier``), or a
            pattern with ``*``. A head with another number of classes has to be named here.
    """

    run: str | None = None
    checkpoint: str | None = None
    fresh: list[str] = Field(default_factory=list)

    @model_validator(mode='after')
    def _one_of_them(self) -> StartSpec:
        if (self.run is None) == (self.checkpoint is None):
            raise ValueError(
                'expected run or checkpoint, got neither; give one of them.' if self.run is None else
                'expected run or checkpoint, got both; take one of them away, as in start_from.run=null.',
            )
        return self


def _not_empty(value: str) -> str:
    if not value.strip():
        raise ValueError('expected a name, got an empty string.')
    return value


Name = Annotated[str, AfterValidator(_not_empty)]


class Recipe(Strict):
    """One training. The keys below ``# Trainer`` are Composer's own arguments under their own names.

    A component is a mapping with a ``name`` and settings (or the bare name); ``algorithms``, ``callbacks`` and
    ``loggers`` map names to settings and keep their order.

    Attributes:
        run_name: Name of the run.
        run_folder: Where everything is written; ``{run_name}`` in it is replaced.
        description: Free text.
        tags: Free labels, copied into the record; ``method`` is what reports group by.
        overwrite: Remove a finished run, or another recipe's, from the run folder. An unfinished run of this recipe is
            resumed all the same.
        seed: Of weights, data and all that is drawn, 0 to 2**32 - 1.
        model: Of :data:`composer_kd.models.MODELS`.
        start_from: Weights that the model begins with, where they are not drawn: every parameter that is there by the
            same name. Default: all are drawn.
        train_data: Of :data:`composer_kd.recipes.DATA`, with ``batch_size`` over all ranks.
        optimizer: Of :data:`composer_kd.components.OPTIMIZERS`, over all parameters of the model.
        scheduler: Of :data:`composer_kd.components.SCHEDULERS`, one or a list.
        algorithms: Of :data:`composer_kd.components.ALGORITHMS`, ``distillation`` among them.
        callbacks: Of :data:`composer_kd.components.CALLBACKS`. ``run_recorder`` is always there.
        loggers: Of :data:`composer_kd.components.LOGGERS`; files go to the run folder's ``logs/``.
        evaluators: Label to :class:`EvaluatorSpec`.
        load_trusted: Whether ``load_path`` and checkpoints to resume from may hold more than tensors and plain values,
            which runs code of whoever made them. For files that you made yourself.
        save_folder: Default: the run folder's ``checkpoints/``, where a teacher is looked for.

    Example:
        >>> Recipe(run_name='a', model={'name': 'digits_resnet'}, train_data={'name': 'digits', 'batch_size': 8},
        ...        optimizer={'name': 'adam'}, max_duration='1ep').seed
        17
    """

    run_name: Name
    run_folder: Name = Field('runs/{run_name}', validate_default=True)
    description: str = ''
    tags: dict[str, str] = Field(default_factory=dict)
    overwrite: bool = False
    seed: int = 17

    model: Component
    start_from: StartSpec | None = None
    train_data: fields.TrainData
    optimizer: Component
    scheduler: fields.Schedulers | None = None
    algorithms: Components = Field(default_factory=dict)
    callbacks: Components = Field(default_factory=dict)
    loggers: Components = Field(default_factory=dict)
    evaluators: dict[str, EvaluatorSpec] = Field(default_factory=dict)
    load_trusted: bool = False

    # Trainer
    max_duration: Duration
    train_dataloader_label: str = 'train'
    train_subset_num_batches: int = -1
    spin_dataloaders: bool = True
    algorithm_passes: fields.Passes = None
    scale_schedule_ratio: float = 1.0
    step_schedulers_every_batch: bool | None = None
    eval_interval: Interval = 1
    eval_subset_num_batches: int = -1
    progress_bar: bool = True
    log_to_console: bool = False
    console_stream: fields.Stream = 'stderr'
    console_log_interval: Interval = '1ba'
    log_traces: bool = False
    auto_log_hparams: bool = False
    load_path: str | None = None
    load_object_store: Component | None = None
    load_weights_only: bool = False
    load_strict_model_weights: bool = True
    load_progress_bar: bool = True
    load_ignore_keys: list[str] | None = None
    load_exclude_algorithms: list[str] | None = None
    save_folder: str | None = None
    save_filename: str = 'ep{epoch}-ba{batch}-rank{rank}.pt'
    save_latest_filename: str | None = 'latest-rank{rank}.pt'
    # A run killed between a checkpoint and its 'latest' link leaves a file that is in its own way; the run folder's
    # own guard is what protects finished runs.
    save_overwrite: bool = True
    save_interval: Interval = '1ep'
    save_weights_only: bool = False
    save_ignore_keys: list[str] | None = None
    save_num_checkpoints_to_keep: int = -1
    save_metrics: bool = False
    autoresume: bool = True
    parallelism_config: ParallelismSpec | None = None
    device: fields.DeviceName | None = None
    precision: fields.PrecisionName | None = None
    precision_config: fields.Fp8 = None
    device_train_microbatch_size: fields.Microbatch = None
    accumulate_train_batch_on_tokens: bool = False
    deterministic_mode: bool = False
    dist_timeout: float = 300.0
    ddp_sync_strategy: fields.SyncStrategy | None = None
    profiler: fields.ProfilerSettings = None
    python_log_level: fields.LogLevel | None = None
    compile_config: fields.CompileConfig = None

    @field_validator('seed')
    @classmethod
    def _seed(cls, value: int) -> int:
        if not 0 <= value < 2**32:
            raise ValueError(f'expected a whole number from 0 to 2**32 - 1, got {value}.')
        return value

    @field_validator('scale_schedule_ratio', 'dist_timeout')
    @classmethod
    def _above_zero(cls, value: float) -> float:
        if not value > 0:
            raise ValueError(f'expected a number above 0, got {value}.')
        return value

    @field_validator('run_folder')
    @classmethod
    def _folder(cls, value: str, info: ValidationInfo) -> str:
        return value.replace('{run_name}', info.data.get('run_name', '{run_name}'))

    @model_validator(mode='after')
    def _together(self) -> Recipe:
        if self.device == 'cpu' and self.precision not in (None, 'fp32'):
            raise ValueError(f".precision: a CPU trains in 'fp32' alone, got {self.precision!r}; leave it out.")
        if self.autoresume and self.save_latest_filename is None:
            raise ValueError(
                '.save_latest_filename: is null, and autoresume finds the checkpoint to go on from by it; leave it '
                'out, or set autoresume to false.',
            )
        if self.scale_schedule_ratio != 1 and self.scheduler is None:
            raise ValueError('.scale_schedule_ratio: has no effect without a scheduler; leave it out or name one.')
        return self

    @property
    def schedulers(self) -> list[dict[str, Any]]:
        """The schedulers as a list."""
        if self.scheduler is None:
            return []
        return self.scheduler if isinstance(self.scheduler, list) else [self.scheduler]

    def plain(self) -> dict[str, Any]:
        """What the recipe says, as plain data: enough to make the run again."""
        said = self.model_dump(exclude_unset=True)
        return {'run_name': self.run_name, 'run_folder': self.run_folder, 'seed': self.seed, **said}


RENAMED = {
    'train_dataloader': 'train_data',
    'optimizers': 'optimizer',
    'schedulers': 'scheduler',
    'eval_dataloader': 'evaluators',
}
"""The Trainer's arguments that a recipe spells in another way."""

OWN = frozenset({'run_folder', 'description', 'tags', 'overwrite', 'start_from', 'load_trusted'})
"""The keys that are no argument of the Trainer."""

WITHOUT_EFFECT = frozenset({
    'run_name', 'run_folder', 'description', 'tags', 'overwrite', 'autoresume', 'progress_bar', 'log_to_console',
    'console_stream', 'console_log_interval', 'log_traces', 'load_progress_bar', 'python_log_level', 'save_overwrite',
    'load_trusted',
})
"""The keys that change nothing about what is trained: two recipes that differ in these alone have the same digest."""
