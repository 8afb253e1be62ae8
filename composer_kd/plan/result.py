"""What a plan says, field by field."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Level = Literal['error', 'warning', 'note']


class _Part(BaseModel):
    model_config = ConfigDict(extra='forbid', frozen=True)


class Problem(_Part):
    """Something foreseen, in one line with its remedy."""

    level: Level = Field(
        description='error: the training would stop; warning: it would not do what is asked for, or lacks something '
                    'here; note: worth knowing.',
    )
    where: str = Field(description='The path in the recipe.')
    told: str = Field(description='What is wrong and what to do about it.')


def problem(level: Level, where: str, told: str) -> Problem:
    """A :class:`Problem`."""
    return Problem(level=level, where=where, told=told)


class Data(_Part):
    """What is known of data without reading a sample."""

    name: str = Field(description='Of the data.')
    samples: int | None = Field(default=None, description='In an epoch over all ranks; null where not known.')
    tokens: int = Field(default=0, description='Of a sample; 0 where it has none.')
    disk_bytes: int | None = Field(default=None, description='On disk; null where not known.')
    note: str = Field(default='', description='Where these figures come from.')


class Evaluating(_Part):
    """One evaluator: how often, on how much."""

    data: Data = Field(description='What it evaluates on.')
    rounds: int | None = Field(default=None, description='Moments at which it evaluates; null where not known.')
    samples: int | None = Field(default=None, description='Of a round; null where not known.')
    forward_flops_per_sample: float | None = Field(default=None, description='Of the student, on this data.')


class Length(_Part):
    """How long the training is; whatever cannot be known without the data is null."""

    max_duration: str = Field(description='As the recipe says it, scaled.')
    batch_size: int = Field(description='Samples of a batch over all ranks.')
    batch_per_rank: int = Field(description='Samples of a batch on one rank.')
    batches_per_epoch: int | None = Field(default=None, description='Steps of an epoch.')
    steps: int | None = Field(default=None, description='Steps in all.')
    epochs: float | None = Field(default=None, description='Passes over the data.')
    samples: int | None = Field(default=None, description='Trained on, over all ranks.')
    tokens: int | None = Field(default=None, description='Trained on, over all ranks; 0 where the data has none.')


class Checkpoints(_Part):
    """What is saved, and what stays on disk."""

    saved: int | None = Field(default=None, description='How many are written; null where not known.')
    kept: int | None = Field(default=None, description='How many stay.')
    bytes_each: int = Field(description='Of one: weights, and unless save_weights_only optimizer state and averages.')
    bytes_kept: int | None = Field(default=None, description='Of all that stay.')


class Model(_Part):
    """A model, its weights not drawn and not read."""

    name: str = Field(description="'student', or the teacher's name in the pool.")
    origin: str = Field(default='', description='Where a teacher comes from, as the recipe says it.')
    model: str = Field(default='', description='The architecture; empty where not known.')
    parameters: int | None = Field(default=None, description='How many numbers it learnt; null where not known.')
    bytes: int | None = Field(default=None, description='Of parameters and buffers.')
    outputs: int | None = Field(default=None, description='Classes or words; null where the model does not say.')
    forward_flops_per_sample: float | None = Field(default=None, description='Of one forward; null where not counted.')
    stored_bytes: int | None = Field(
        default=None, description="Of stored answers on disk, which a teacher may consist of; null of a model's own.",
    )
    note: str = Field(default='', description='What else there is to say, as why something is not known.')


class Distilling(_Part):
    """How often the teachers run, by the schedule of the training itself."""

    active_steps: int = Field(description='Steps on which distillation is on.')
    first_step: int | None = Field(default=None, description='The first of them, from 0; null if there is none.')
    last_step: int | None = Field(default=None, description='The last of them.')
    batches: dict[str, int] = Field(description='Steps on which each teacher is asked, by name.')
    samples: dict[str, int] = Field(description='Samples each is asked about, by name; a second pass of SAM counts.')
    overhead_on: float | None = Field(
        default=None, description="Teachers' FLOPs / the student's, of the steps on which distillation is on.",
    )
    overhead: float | None = Field(default=None, description='The same over the whole training.')


class Flops(_Part):
    """Floating-point operations over all ranks, two for each multiply-add; a step is 3 forwards of the student."""

    step: float | None = Field(default=None, description='A step without distillation.')
    step_with_kd: float | None = Field(default=None, description='A step with it, in the mean of those that have it.')
    without_kd: float | None = Field(default=None, description='The training without distillation.')
    training: float | None = Field(default=None, description='The training as the recipe says it, SAM included.')
    sam: float = Field(default=0.0, description="Of that, the student's second passes for SAM.")
    recorded: float | None = Field(
        default=None, description="What the run's record.json will say: SAM's passes of the student left out.",
    )
    evaluation: float | None = Field(default=None, description='All rounds of evaluation, in none of the above.')
    left_out: list[str] = Field(default_factory=list, description='What these figures do not count.')


class Memory(_Part):
    """An estimate of the memory of one rank in bytes."""

    parameters: int = Field(description="The student's parameters and buffers.")
    gradients: int = Field(description='Of the parameters, with the buckets that ranks exchange them through.')
    optimizer: int = Field(description='State of the optimizer.')
    averages: int = Field(default=0, description='Copies that EMA keeps.')
    teachers: int = Field(default=0, description='Parameters and buffers of all teachers that are known.')
    casts: int = Field(default=0, description='Copies of parameters in the lower precision.')
    reserve: int = Field(default=0, description='CUDA itself and its libraries.')
    activations_per_sample: int | None = Field(
        default=None, description='Tensors that a forward keeps for its backward; null where not counted.',
    )
    kd_per_sample: int = Field(default=0, description='Logits, of student and teachers, while distillation is on.')
    microbatch: int | None = Field(default=None, description='Samples of a forward; null if not one fits.')
    total: int | None = Field(default=None, description='All of it at that microbatch; null where not counted.')
    limit: int = Field(description="A GPU's memory.")


class Plan(_Part):
    """What a recipe will do and cost, and every problem that can be foreseen without data and without training.

    Example:
        >>> from composer_kd.plan import plan_recipe
        >>> from composer_kd.recipes import load_recipe
        >>> plan = plan_recipe(load_recipe('yamls/digits/baseline.yaml'), ranks=1)
        >>> isinstance(plan, Plan), plan.stops, plan.run_name
        (True, False, 'digits-baseline')
    """

    run_name: str = Field(description='Of the recipe.')
    run_folder: str = Field(description='Where the run would be written.')
    recipe: dict[str, str] = Field(description='The resolved recipe in short: key to text.')
    digest: str = Field(description='SHA-256 of the resolved recipe.')
    ranks: int = Field(description='Processes in all, one for each GPU.')
    nodes: int = Field(description='Machines.')
    precision: str = Field(description='What the forward runs in.')
    data: Data = Field(description='What is trained on.')
    evaluators: dict[str, Evaluating] = Field(description='By label.')
    length: Length = Field(description='Steps, samples, tokens.')
    checkpoints: Checkpoints = Field(description='On disk.')
    data_bytes: int | None = Field(default=None, description='All data on disk; null where not known.')
    student: Model = Field(description='What is trained.')
    teachers: list[Model] = Field(default_factory=list, description='The pool.')
    distilling: Distilling | None = Field(default=None, description='Null without it, or without a length.')
    flops: Flops = Field(description='Cost.')
    memory: Memory = Field(description='Of a rank.')
    problems: list[Problem] = Field(default_factory=list, description='Errors first.')

    @property
    def stops(self) -> bool:
        """Whether one of the problems would stop the training."""
        return any(problem.level == 'error' for problem in self.problems)
