"""What a study file may say below its top level, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, PlainValidator, field_validator, model_validator

from composer_kd.names import nearest
from composer_kd.runs.study import COST_NAMES
from composer_kd.studies.file.engines import check_pruner, check_sampler
from composer_kd.studies.file.fields import (
    AboveZero,
    Count,
    CountOrZero,
    Duration,
    Durations,
    Metric,
    Number,
    Set,
    Strict,
    Text,
    choice,
    flat,
    texts,
)
from composer_kd.studies.file.space import Range, parse_space

POLICIES = ('latest', 'best', 'random', 'all', 'top')
_COUNTED = ('latest', 'random', 'top')


def _format(value: Any) -> str | dict[str, Any]:
    named = value.get('name') if isinstance(value, Mapping) else value
    if not isinstance(named, str):
        raise ValueError(f'expected the name of a format, or a mapping with a name, got {value!r}.')
    return value if isinstance(value, str) else dict(value)


class TeacherPolicy(Strict):
    """Which finished runs teach a run.

    Attributes:
        policy: ``latest``, ``best``, ``random``, ``all``, or ``top``: the best ``count``.
        count: How many, of ``latest``, ``random`` and ``top``; fewer where there are fewer.
        metric: By which quality, ``evaluator/metric``; default: the study's.
        floor: A quality worse than which a run does not teach: below it, or above it where low is good. Default: none.
        runs: Folders of further earlier runs, made outside of the study.

    Example:
        >>> TeacherPolicy.model_validate('best').count, TeacherPolicy.model_validate({'top': 3}).count
        (1, 3)
    """

    policy: Annotated[str, choice(*POLICIES)]
    count: Count = 1
    metric: Metric | None = None
    floor: Number | None = None
    runs: Annotated[list[str], texts('run folders')] = Field(default_factory=list)

    @model_validator(mode='before')
    @classmethod
    def _short(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {'policy': data}
        if not isinstance(data, Mapping):
            raise ValueError(f"expected {', '.join(POLICIES)} or a mapping with a policy, got {data!r}.")
        named = [policy for policy in POLICIES if policy in data]
        if not named:
            return data
        if len(named) > 1 or 'policy' in data or 'count' in data:
            raise ValueError(f"expected one policy, as in {{top: 3}} or {{policy: top, count: 3}}, got {dict(data)!r}.")
        rest = {key: value for key, value in data.items() if key != named[0]}
        if named[0] not in _COUNTED:
            raise ValueError(f".{named[0]}: takes no number; write {{policy: {named[0]}}}.")
        return {'policy': named[0], 'count': data[named[0]], **rest}

    @model_validator(mode='after')
    def _counted(self) -> TeacherPolicy:
        if 'count' in self.model_fields_set and self.policy not in _COUNTED:
            offered = 'write top for several of the best' if self.policy == 'best' else 'leave it out'
            raise ValueError(f".count: '{self.policy}' takes no number; {offered}.")
        return self


class Stored(Strict):
    """That the answers of a method's teachers are stored, for later runs of the method that have the same teacher.

    Attributes:
        format: How they are written, as in the ``cache`` of a teacher; default: its own.

    Example:
        >>> Stored.model_validate(True).format, Stored.model_validate({'format': {'name': 'top_k', 'k': 8}}).format
        (None, {'name': 'top_k', 'k': 8})
    """

    format: Annotated[str | dict[str, Any] | None, PlainValidator(_format)] = None

    @model_validator(mode='before')
    @classmethod
    def _short(cls, data: Any) -> Any:
        if data is not True and not isinstance(data, Mapping):
            raise ValueError(f'expected true or {{format: ...}}, got {data!r}.')
        return {} if data is True else data


class Method(Strict):
    """One way of making the study's runs, compared with the others.

    Attributes:
        recipe: Path of its recipe.
        set: Dotted recipe key to value, the study's own under it.
        teachers: Which finished runs teach; ``None`` for none.
        distillation: Settings of :class:`composer_kd.Distillation`, over those of the recipe.
        cache: How its teachers' answers are stored; ``None``: they are asked anew by every run.
    """

    null_says: ClassVar[frozenset[str]] = frozenset({'teachers'})

    recipe: Text = ''
    set: Set = Field(default_factory=dict)
    teachers: TeacherPolicy | None = None
    distillation: dict[str, Any] = Field(default_factory=dict)
    cache: Stored | None = None

    @model_validator(mode='before')
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {} if data is None else data

    @field_validator('distillation')
    @classmethod
    def _no_teachers(cls, value: dict[str, Any]) -> dict[str, Any]:
        return check_distillation(value)


def check_distillation(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse teachers among the settings of distillation: the study gives them."""
    if 'teachers' in value:
        raise ValueError(
            ".teachers: a study's teachers are its own finished runs; say which under the key teachers beside "
            'distillation, and runs from elsewhere under teachers.runs.',
        )
    return value


class Earlier(Strict):
    """The runs that teach in a comparison; made first, without teachers.

    Attributes:
        runs: How many.
        duration: Their ``max_duration``.
        first_seed: Seed of the first; the others count on from there.
        set: Dotted recipe key to value, over the method's.
        method: Whose recipe they are made with; default: the baseline's.
    """

    runs: Count = 1
    duration: Duration
    first_seed: CountOrZero = 1000
    set: Set = Field(default_factory=dict)
    method: Text | None = None


class Comparison(Strict):
    """Every method at several durations, each a training of its own with a full schedule.

    Attributes:
        durations: Composer time strings, ``max_duration`` of the runs.
        earlier: The runs that teach; ``None`` where none does, or all come from elsewhere.
    """

    durations: Durations
    earlier: Earlier | None = None


class Search(Strict):
    """A search for good values of recipe keys, one of its own for every method and seed.

    A budget is looked at before a run is begun: what is going then goes on to its end.

    Attributes:
        space: Dotted recipe key to :class:`Range` or list of values.
        sampler: One of Optuna's, by snake-case name, with settings.
        pruner: Likewise; ``None`` for none.
        runs: Budget: runs.
        hours: Budget: hours in which at least one run was going.
        gpu_hours: Budget: hours times GPUs.
    """

    space: Annotated[dict[str, Any], PlainValidator(parse_space)]
    sampler: Annotated[dict[str, Any], PlainValidator(check_sampler)] = Field(default='tpe', validate_default=True)
    pruner: Annotated[dict[str, Any] | None, PlainValidator(check_pruner)] = None
    runs: Count | None = None
    hours: AboveZero | None = None
    gpu_hours: AboveZero | None = None

    @model_validator(mode='after')
    def _finite(self) -> Search:
        if self.runs is None and self.hours is None and self.gpu_hours is None:
            raise ValueError('has no budget: give at least one of runs, hours and gpu_hours.')
        endless = [key for key, item in self.space.items() if isinstance(item, Range) and not item.is_finite]
        if self.sampler['name'] in ('grid', 'brute_force') and endless:
            raise ValueError(
                f".space.{endless[0]}: sampler '{self.sampler['name']}' tries every point, and there is no end of them "
                'here; give a step, or a list of values.',
            )
        return self


def _steps(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f'expected a list of mappings of recipe keys to values, one for each step, got {value!r}.')
    found = []
    for index, item in enumerate(value):
        try:
            found.append(flat({} if item is None else item))
        except ValueError as error:
            raise ValueError(f'[{index}]: {error}') from None
    return found


class Sequence(Strict):
    """Runs one after another, each with the ones before it as possible teachers: growing data sets, moving windows.

    Attributes:
        steps: What each run has of its own: dotted recipe key to value.
    """

    steps: Annotated[list[dict[str, Any]], PlainValidator(_steps)]


class Where(Strict):
    """Where runs are made.

    Attributes:
        launcher: ``composer``: each through ``composer -n gpus_per_run``; ``in_process``: one after another in one
            process for each worker, on CPU. Default: ``composer`` where there is CUDA, else ``in_process``.
        gpus_per_run: GPUs of a run; on CPU, ranks.
        workers: Runs side by side; default: as many as the GPUs here suffice for, 1 on CPU.
        threads: Of a run on CPU; default: cores / workers.
    """

    launcher: Annotated[str | None, choice('composer', 'in_process')] = None
    gpus_per_run: Count = 1
    workers: Count | None = None
    threads: Count | None = None

    @model_validator(mode='after')
    def _one_rank(self) -> Where:
        if self.launcher == 'in_process' and self.gpus_per_run > 1:
            raise ValueError(f".gpus_per_run: a run 'in_process' has one rank, got {self.gpus_per_run}; use composer.")
        return self


class Shown(Strict):
    """What the study's report says.

    Attributes:
        baseline: Method that the others are compared with; default: the first without teachers.
        reference: Method whose overhead of distillation the others' is compared with; default: none.
        cost: What stands for cost, as :func:`composer_kd.report` spells it.
        steady_price: Whether a batch is charged at the median time of its method's batches.
        title: Of plots and page.
        label: The quality in words, for plots.
    """

    baseline: Text | None = None
    reference: Text | None = None
    cost: Annotated[str, choice(*COST_NAMES)] = 'train_seconds'
    steady_price: bool = False
    title: Text | None = None
    label: Text | None = None


def known_method(name: str, methods: Mapping[str, Any], where: str) -> str:
    """The name of a method, if there is one of that name."""
    if name not in methods:
        known = ', '.join(methods)
        raise ValueError(f"{where}: there is no method '{name}'.{nearest(name, methods)} Methods: {known}.")
    return name
