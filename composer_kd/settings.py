"""The settings of ``Distillation``, checked where they enter."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from composer.core import Time

from composer_kd.batches import Key, LogitsKey
from composer_kd.entries import Entry, common_temperature, read_entries
from composer_kd.guard import ON_NONFINITE
from composer_kd.names import described, nearest
from composer_kd.schedule import SAMPLING, Interval
from composer_kd.teachers import PLACEMENTS, TeacherSpec, parse_teachers, read_prepare
from composer_kd.term import COMBINE, check_formats
from composer_kd.times import parse_time
from composer_kd.values import Value

ON_CHANGE = ('error', 'warn')


def _one_of(value: Any, valid: tuple[str, ...], where: str) -> str:
    if value not in valid:
        raise ValueError(f"{where}: expected {' or '.join(map(repr, valid))}, got {value!r}.{nearest(value, valid)}")
    return str(value)


def _whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{where}: expected a whole number of {least} or more, got {value!r}.')
    return value


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise ValueError(f'{where}: expected a number above 0 and at most 1, got {value!r}.')
    return float(value)


def _canonical(
    plain: Mapping[str, Any], specs: Sequence[TeacherSpec], entries: Sequence[Entry], interval: Interval,
    window: Sequence[Time[float]], weight: Value, logits_key: LogitsKey,
) -> dict[str, str]:
    """Settings as text, one text for one meaning: ``4`` and ``'4ba'`` are the same interval."""
    return {
        **{key: str(value) for key, value in plain.items() if key not in ('teachers', 'losses')},
        'loss': ' + '.join(entry.canonical for entry in entries),
        'kd_loss_weight': weight.source,
        'interval': f'{interval.every}{interval.unit.value}',
        **{key: str(time).replace('.0dur', 'dur') for key, time in zip(('start', 'end'), window, strict=True)},
        'logits_key': ', '.join(described(s.logits_key if s.logits_key is not None else logits_key) for s in specs),
    }


def _with_layers(spec: TeacherSpec) -> TeacherSpec:
    """A teacher whose layers are captured: none of them may be folded into another, or compiled away.

    Raises:
        ValueError: If that was asked for by name, or its answers are stored.
    """
    if spec.cache is not None or spec.kind == 'cache':
        raise ValueError(
            f'{spec.where}.cache: losses compare layers, and stored answers hold logits alone. Leave the cache out, or '
            'use losses of logits.',
        )
    prepare = spec.prepare
    if prepare is None or prepare.nothing:
        return spec
    asked = {'fold_batchnorm': prepare.fold_batchnorm is True, 'compile': prepare.compile is not None,
             'resolution': prepare.resolution is not None}
    for key in (key for key, is_asked in asked.items() if is_asked):
        raise ValueError(
            f'{spec.where}.prepare.{key}: losses compare layers of this teacher, which would not be there as they are '
            "named, or not as large. Leave it out, or use losses of logits.",
        )
    return replace(spec, prepare=replace(prepare, fold_batchnorm=False))


@dataclass(frozen=True)
class Settings:
    """What the user asked for, read once: see :class:`composer_kd.Distillation` for each."""

    specs: list[TeacherSpec]
    entries: list[Entry]
    several: bool
    kd_loss_weight: Value
    base_loss_weight: float
    start: Any
    end: Any
    interval: Interval
    probability: float
    teachers_per_batch: int
    sampling: str
    combine: str
    ignore_index: int
    check_batches: int
    seed: int | None
    input_key: Key
    target_key: Key
    logits_key: LogitsKey
    placement: str
    teacher_microbatch_size: int | None
    on_nonfinite: str
    on_change: str
    plain: Mapping[str, Any]
    canonical: Mapping[str, str]

    @property
    def fixed_temperature(self) -> float | None:
        """The temperature of the losses that have one, where it is the same and does not vary."""
        return common_temperature(self.entries)

    @property
    def labels(self) -> list[str]:
        """What the losses are called, where there may be several; otherwise none, as the sum is that of the one."""
        return [entry.label for entry in self.entries] if self.several else []

    @property
    def compares_logits(self) -> bool:
        """Whether any loss compares logits, so that teachers need the student's classes."""
        return any(entry.of_logits is not None for entry in self.entries)

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Of all teachers, and of those whose answers are read from a store or kept in one."""
        return [spec.name for spec in self.specs], [spec.name for spec in self.specs if spec.cache is not None]

    def check_formats(self, teachers: Sequence[Any]) -> None:
        """Refuse stored answers of teachers that do not say what is asked for; see :func:`check_formats`."""
        formats = [None if teacher.keeper is None else teacher.keeper.form for teacher in teachers]
        for entry in self.entries:
            where = f'losses.{entry.label}' if self.several else 'loss'
            heat, loss = entry.fixed_temperature, entry.of_logits
            if loss is not None:
                check_formats(formats, self.teachers_per_batch, loss, self.combine, heat, where)

    @classmethod
    def read(
        cls, *, teachers: Any, loss: Any, losses: Any, kd_loss_weight: Any, base_loss_weight: Any, start: Any, end: Any,
        interval: Any, probability: Any, teachers_per_batch: Any, sampling: Any, combine: Any, input_key: Any,
        target_key: Any, logits_key: Any, ignore_index: Any, check_batches: Any, seed: Any, placement: Any,
        teacher_microbatch_size: Any, prepare: Any, on_nonfinite: Any, on_change: Any,
    ) -> Settings:
        """Check every setting by itself and against the others.

        Raises:
            TypeError: For a value of the wrong kind.
            ValueError: For one out of range, an unknown name (with the nearest one), or two that do not go together.
        """
        common = read_prepare(prepare)
        specs = [
            replace(spec, prepare=common) if spec.prepare is None else spec for spec in parse_teachers(teachers)
        ]
        entries = read_entries(loss, losses)
        if any(entry.layers is not None for entry in entries):
            specs = [_with_layers(spec) for spec in specs]
        if all(entry.of_logits is None for entry in entries):
            specs = [replace(spec, compared=False) for spec in specs]
        if isinstance(base_loss_weight, bool) or not isinstance(base_loss_weight, (int, float)) or not (
            0 <= base_loss_weight <= sys.float_info.max
        ):
            raise ValueError(f'base_loss_weight: expected a finite number of 0 or more, got {base_loss_weight!r}.')
        first, last = parse_time(start, 'start'), parse_time(end, 'end')
        if first.unit == last.unit and first > last:
            raise ValueError(f"start: '{start}' lies after end '{end}'. Give a start before the end.")
        if first.unit == last.unit and first == last:
            warnings.warn(f"start and end are both '{end}': distillation is never on.", stacklevel=4)
        _one_of(sampling, SAMPLING, 'sampling')
        every = 1 if sampling == 'by_rank' else len(specs)
        count = every if teachers_per_batch is None else _whole(teachers_per_batch, 'teachers_per_batch', 1)
        if count > len(specs):
            raise ValueError(
                f'teachers_per_batch: {count} teachers a batch of a pool of {len(specs)}. Give {len(specs)} or fewer, '
                'or leave it out for all.',
            )
        if sampling == 'by_rank' and len({spec.weight for spec in specs}) > 1:
            raise ValueError(
                "sampling: with 'by_rank' every teacher answers for as many ranks as the others, so their weights must "
                f"be equal, got {', '.join(f'{spec.weight:g}' for spec in specs)}. Leave the weights out, or use "
                "sampling='random'.",
            )
        _one_of(placement, PLACEMENTS, 'placement')
        if sampling == 'by_rank' and placement == 'sharded':
            raise ValueError(
                "placement: 'sharded' lays one teacher over all ranks, and sampling='by_rank' gives each rank another "
                "one. Use placement='replicated' or 'host', or another sampling.",
            )
        if teacher_microbatch_size is not None:
            _whole(teacher_microbatch_size, 'teacher_microbatch_size', 1)
        _one_of(combine, COMBINE, 'combine')
        for entry in entries:
            loss_of = entry.of_logits
            if combine == 'probabilities' and loss_of is not None and loss_of.space not in ('softmax', 'sigmoid'):
                raise ValueError(
                    f"combine: 'probabilities' averages what the loss compares as probabilities, and "
                    f"'{entry.loss.name}' does not compare probabilities. Use combine='logits', or a loss such as "
                    'kl_divergence.',
                )
        weight = Value(kd_loss_weight, 'kd_loss_weight', at_least=0)
        if base_loss_weight == 0 and (weight.constant == 0 or all(entry.weight.constant == 0 for entry in entries)):
            raise ValueError('kd_loss_weight and base_loss_weight are both 0, so there is nothing to learn. Raise one.')
        plain: dict[str, Any] = {
            'teachers': [f'{spec.name} = {spec.origin} (weight {spec.weight:g})' for spec in specs],
            'loss': entries[0].plain_loss if losses is None else None,
            'losses': None if losses is None else [entry.plain for entry in entries],
            'kd_loss_weight': weight.describe(),
            'base_loss_weight': float(base_loss_weight),
            'start': str(start), 'end': str(end), 'interval': str(interval),
            'probability': _share(probability, 'probability'), 'teachers_per_batch': count,
            'sampling': sampling, 'combine': combine,
            **{key: getattr(value, '__name__', value) for key, value in (
                ('input_key', input_key), ('target_key', target_key), ('logits_key', logits_key),
            )},
            'ignore_index': ignore_index, 'check_batches': _whole(check_batches, 'check_batches', 0), 'seed': seed,
            'placement': placement, 'teacher_microbatch_size': teacher_microbatch_size, 'prepare': common.plain,
            'on_nonfinite': _one_of(on_nonfinite, ON_NONFINITE, 'on_nonfinite'),
            'on_change': _one_of(on_change, ON_CHANGE, 'on_change'),
        }
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise TypeError(f'ignore_index: expected a whole number, got {ignore_index!r}.')
        if seed is not None:
            _whole(seed, 'seed', 0)
        return cls(
            specs, entries, losses is not None, weight, float(base_loss_weight), first, last, Interval.parse(interval),
            plain['probability'], count, sampling, combine, ignore_index, check_batches, seed, input_key, target_key,
            logits_key, placement, teacher_microbatch_size, on_nonfinite, on_change, plain,
            _canonical(plain, specs, entries, Interval.parse(interval), (first, last), weight, logits_key),
        )
