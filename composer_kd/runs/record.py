"""``record.json``: what a run cost and reached. The schema, field by field."""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from composer_kd.names import is_text

SCHEMA_VERSION = 4
"""Version of the record that this package writes; it reads this one and older ones. 2 added ``data_seconds``, 3
``kd.skipped_rows``, 4 what is said of stored answers.
"""


class _Part(BaseModel):
    # JSON has no NaN: a diverged loss is kept as the string "NaN", "Infinity" or "-Infinity" and read back as a float.
    model_config = ConfigDict(extra='forbid', ser_json_inf_nan='strings', validate_assignment=True)


class Hardware(_Part):
    """The machine in words: what a figure depends on, and nothing that tells one machine from another of its kind."""

    platform: str = Field(default='', description='Operating system and processor architecture.')
    cpu: str = Field(default='', description='Model of the processor.')
    cpu_cores: int = Field(default=0, description='Cores that the process may use, on one node.')
    memory_gib: float = Field(default=0.0, description='Memory of the node, GiB.')
    gpu: str | None = Field(default=None, description='Model of the accelerator that trained; null on a CPU.')
    gpu_count: int = Field(default=0, description='Accelerators that trained, over all nodes; 0 on a CPU.')


class Distilled(_Part):
    """What distillation cost. Seconds are of rank zero, over the whole run, resumed parts included."""

    active_batches: int = Field(default=0, description='Batches on which distillation was on.')
    kd_seconds: float = Field(default=0.0, description='Seconds of training spent on KD: teachers and loss.')
    teacher_seconds: float = Field(default=0.0, description='Of these, seconds in the teachers.')
    loss_seconds: float = Field(default=0.0, description='Of these, seconds in the KD loss.')
    load_seconds: float = Field(default=0.0, description='Seconds spent loading teachers, not in kd_seconds.')
    overhead: float | None = Field(
        default=None, description='Time spent on KD / time of the same steps without it; null while unmeasured.',
    )
    skipped_rows: int = Field(
        default=0, description='Samples or tokens left out of KD as not finite, over all ranks (on_nonfinite: skip).',
    )
    store_seconds: float = Field(
        default=0.0,
        description='Seconds between batches spent storing answers and looking for new ones; in train_seconds (but for '
                    'those after the last batch), not in kd_seconds. Reading is part of loading data.',
    )
    store_outside_seconds: float = Field(
        default=0.0,
        description='Seconds spent opening stores before the first batch and finishing them after the last; not in '
                    'train_seconds.',
    )


class Flops(_Part):
    """An estimate of floating-point operations, from the shapes of the first batch."""

    student_forward_per_sample: float | None = Field(
        default=None, description='One forward pass of the student on one sample; null where it could not be counted.',
    )
    teacher_forward_per_sample: dict[str, float] = Field(
        default_factory=dict, description='One forward pass of each teacher on one sample, by name.',
    )
    total: float | None = Field(
        default=None, description='The run so far: 3 student forwards a sample, 1 of a teacher a sample it saw itself.',
    )
    method: str = Field(default='', description='How it was counted, what is left out, and why if it could not be.')


class TeacherUse(_Part):
    """One teacher of the pool and how much it was used."""

    name: str = Field(description='Its name in the pool.')
    origin: str = Field(default='', description='Where it came from, as the recipe says it.')
    digest: str | None = Field(default=None, description='Digest of its weights; null where it has none.')
    weight: float = Field(default=1.0, description='Its weight in the pool.')
    batches: int = Field(default=0, description='Batches on which it was asked.')
    samples: int = Field(default=0, description='Samples it was asked about, over all ranks.')
    stored: int = Field(default=0, description='Of these, samples whose answers were read from its store.')
    store: str | None = Field(default=None, description='Path of its store; null without one.')
    store_bytes: int | None = Field(
        default=None, description='What the store took on this machine when training began, or ended; null elsewhere.',
    )
    prepared: list[str] = Field(default_factory=list, description='What was done to it for inference, step by step.')
    resolution_agreement: float | None = Field(
        default=None, description='Of first samples with the first choice of full size; null without a resolution.',
    )

    @field_validator('origin')
    @classmethod
    def _path(cls, value: str) -> str:
        if '\0' in value:
            raise ValueError('a path holds no NUL')
        return value


class Evaluation(_Part):
    """The quality at one moment, with the clock at which it was reached."""

    batch: int = Field(description='Batches trained.')
    epoch: int = Field(description='Epochs completed.')
    sample: int = Field(description='Samples trained on, over all ranks.')
    token: int = Field(default=0, description='Tokens trained on, over all ranks; 0 where the data has none.')
    train_seconds: float = Field(description='Seconds of training, without evaluation.')
    kd_seconds: float = Field(default=0.0, description='Of these, seconds spent on distillation.')
    flops: float | None = Field(default=None, description='Floating-point operations so far, as in flops.total.')
    metrics: dict[str, dict[str, float]] = Field(
        description='Evaluator label to metric name to value; not finite: "NaN", "Infinity", "-Infinity".',
    )


class Record(_Part):
    """One run: written when training starts, replaced as it goes on.

    The first record a run writes says ``unfinished``, so that a killed run says by itself that it did not finish.
    Not-a-number and infinite values are kept as the strings ``"NaN"``, ``"Infinity"`` and ``"-Infinity"``, since JSON
    has no others; reading turns them back into floats.

    Example:
        >>> record = Record(run_name='a', started_at='2024-01-01T00:00:00Z', updated_at='2024-01-01T00:00:00Z')
        >>> Record.from_json(record.to_json()) == record
        True
        >>> record.status
        'unfinished'
    """

    version: int = Field(default=SCHEMA_VERSION, description='Version of this schema.')
    status: Literal['unfinished', 'finished'] = Field(
        default='unfinished', description='finished once training reached the max_duration it was started with.',
    )
    run_name: str = Field(description='Name of the run.')
    recipe_digest: str | None = Field(default=None, description='SHA-256 of the resolved recipe; null without one.')
    tags: dict[str, str] = Field(
        default_factory=dict, description='Labels from the recipe; `method` is what reports group runs by.',
    )
    seed: int | None = Field(default=None, description='Seed of rank zero.')
    packages: dict[str, str] = Field(default_factory=dict, description='Versions of Python and of the packages used.')
    hardware: Hardware = Field(default_factory=Hardware, description='The machine in words.')
    world_size: int = Field(default=1, description='Number of ranks.')
    started_at: str = Field(description='When training first started, UTC, ISO 8601.')
    updated_at: str = Field(description='When this record was written, UTC, ISO 8601.')
    max_duration: str = Field(default='', description='Duration training was started with, a Composer time string.')
    batches: int = Field(default=0, description='Batches trained.')
    epochs: int = Field(default=0, description='Epochs completed.')
    samples: int = Field(default=0, description='Samples trained on, over all ranks.')
    tokens: int = Field(default=0, description='Tokens trained on, over all ranks; 0 where the data has none.')
    train_seconds: float = Field(
        default=0.0, description='Training seconds on Composer\'s clock: with data loading and KD, without evaluation.',
    )
    data_seconds: float | None = Field(
        default=None,
        description='Of these, seconds rank zero waited for the next batch; null where part of it is unknown.',
    )
    wall_seconds: float = Field(
        default=0.0,
        description='Seconds in fit(): with evaluation, saving and work lost to restarts, without pauses between them.',
    )
    kd: Distilled | None = Field(default=None, description='What distillation cost; null for a run without it.')
    flops: Flops = Field(default_factory=Flops, description='Estimate of FLOPs.')
    teachers: list[TeacherUse] = Field(default_factory=list, description='The pool of teachers.')
    evaluations: list[Evaluation] = Field(default_factory=list, description='Every evaluation, in order.')
    checkpoint: str | None = Field(default=None, description='Name of the latest checkpoint, relative to checkpoints/.')

    def to_json(self) -> str:
        """The record as strict JSON text."""
        return self.model_dump_json(indent=2) + '\n'

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """The record of that text.

        Raises:
            ValueError: If it is no JSON, of a newer version, or does not follow the schema.
        """
        try:
            data = json.loads(text)
        except RecursionError:
            raise ValueError('it is nested too deeply') from None
        version = data.get('version') if isinstance(data, dict) else None
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError("expected a JSON object with an integer 'version'")
        if version > SCHEMA_VERSION:
            raise ValueError(
                f"its version is {version} and this composer_kd reads versions up to {SCHEMA_VERSION}",
            )
        _refuse_what_none_writes(data, '')
        return cls.model_validate(data)


def _refuse_what_none_writes(value: Any, where: str) -> None:
    """Refuse numbers beyond 64 bits and halves of characters: what reads a record calculates with it, and writes it."""
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_what_none_writes(key, f'{where}.{ascii(key)[1:-1]}')
            _refuse_what_none_writes(item, f'{where}.{ascii(key)[1:-1]}')
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_what_none_writes(item, f'{where}.{index}')
    elif isinstance(value, int) and not -2**63 <= value < 2**63:
        raise ValueError(f'{where[1:]}: a number of more than 64 bits')
    elif isinstance(value, str) and not is_text(value):
        raise ValueError(f'{where[1:]}: halves of characters')


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ' or '.join(f'`{value}`' for value in arguments)
    if origin in (types.UnionType, typing.Union):
        return ' or '.join(_type_name(argument) for argument in arguments)
    if origin is list:
        return f'list of {_type_name(arguments[0])}'
    if origin is dict:
        return f'mapping to {_type_name(arguments[1])}'
    if annotation is type(None):
        return 'null'
    names = {str: 'string', int: 'integer', float: 'number'}
    return names.get(annotation) or str(annotation.__name__)


def schema_markdown() -> str:
    """The schema of ``record.json`` as Markdown: one table per part, one row per field.

    Example:
        >>> print(schema_markdown().splitlines()[0])
        ### Record
    """
    lines: list[str] = []
    for part in (Record, Hardware, Distilled, Flops, TeacherUse, Evaluation):
        summary = (part.__doc__ or '').strip().splitlines()[0]
        lines += [f'### {part.__name__}', '', summary, '', '| field | type | meaning |', '|---|---|---|']
        for name, field in part.model_fields.items():
            lines.append(f'| `{name}` | {_type_name(field.annotation)} | {field.description} |')
        lines.append('')
    return '\n'.join(lines)
