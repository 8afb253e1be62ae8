"""The settings of ``Distillation``, checked where they enter."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from composer.core import Time

from composer_kd.batches import Key, LogitsKey
from composer_kd.guard import ON_NONFINITE
from composer_kd.losses import Loss, make_loss
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
    plain: Mapping[str, Any], specs: Sequence[TeacherSpec], loss: Loss, interval: Interval,
    window: Sequence[Time[float]], values: Mapping[str, Value | None], logits_key: LogitsKey,
) -> dict[str, str]:
    """Settings as text, one text for one meaning: ``4`` and ``'4ba'`` are the same interval."""
    settings: dict[str, Any] = {
        key: float(value) if isinstance(value, int) else value for key, value in loss.settings.items()
    }
    if values['temperature'] is not None:
        settings['temperature'] = values['temperature'].source
    weight = values['kd_loss_weight']
    assert weight is not None
    return {
        **{key: str(value) for key, value in plain.items() if key != 'teachers'},
        'loss': f"{'kl_divergence' if loss.name == 'forward_kl' else loss.name} {described(settings)}",
        'kd_loss_weight': weight.source,
        'interval': f'{interval.every}{interval.unit.value}',
        **{key: str(time).replace('.0dur', 'dur') for key, time in zip(('start', 'end'), window, strict=True)},
        'logits_key': ', '.join(described(s.logits_key if s.logits_key is not None else logits_key) for s in specs),
    }


@dataclass(frozen=True)
class Settings:
    """What the user asked for, read once: see :class:`composer_kd.Distillation` for each."""

    specs: list[TeacherSpec]
    loss: Loss
    temperature: Value | None
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
        """The loss's temperature, where it has one and that does not vary."""
        heat = self.loss.settings.get('temperature')
        return float(heat) if isinstance(heat, (int, float)) and self.temperature is None else None

    @property
    def names(self) -> tuple[list[str], list[str]]:
        """Of all teachers, and of those whose answers are read from a store or kept in one."""
        return [spec.name for spec in self.specs], [spec.name for spec in self.specs if spec.cache is not None]

    def check_formats(self, teachers: Sequence[Any]) -> None:
        """Refuse stored answers of teachers that do not say what is asked for; see :func:`check_formats`."""
        formats = [None if teacher.keeper is None else teacher.keeper.form for teacher in teachers]
        check_formats(formats, self.teachers_per_batch, self.loss, self.combine, self.fixed_temperature)

    @classmethod
    def read(
        cls, *, teachers: Any, loss: Any, kd_loss_weight: Any, base_loss_weight: Any, start: Any, end: Any,
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
        kd_loss = make_loss(loss)
        heat = kd_loss.settings.get('temperature')
        scheduled = heat is not None and not isinstance(heat, (int, float))
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
        if combine == 'probabilities' and kd_loss.space not in ('softmax', 'sigmoid'):
            raise ValueError(
                f"combine: 'probabilities' averages what the loss compares as probabilities, and '{kd_loss.name}' does "
                "not compare probabilities. Use combine='logits', or a loss such as kl_divergence.",
            )
        values = {
            'kd_loss_weight': Value(kd_loss_weight, 'kd_loss_weight', at_least=0),
            'temperature': Value(heat, 'loss.temperature', above=0) if scheduled else None,
        }
        if values['kd_loss_weight'] is not None and values['kd_loss_weight'].constant == 0 and base_loss_weight == 0:
            raise ValueError('kd_loss_weight and base_loss_weight are both 0, so there is nothing to learn. Raise one.')
        plain: dict[str, Any] = {
            'teachers': [f'{spec.name} = {spec.origin} (weight {spec.weight:g})' for spec in specs],
            'loss': {'name': kd_loss.name, **kd_loss.settings},
            'kd_loss_weight': values['kd_loss_weight'].describe() if values['kd_loss_weight'] else None,
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
        if values['temperature'] is not None:
            plain['loss']['temperature'] = values['temperature'].describe()
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int):
            raise TypeError(f'ignore_index: expected a whole number, got {ignore_index!r}.')
        if seed is not None:
            _whole(seed, 'seed', 0)
        assert values['kd_loss_weight'] is not None
        return cls(
            specs, kd_loss, values['temperature'], values['kd_loss_weight'], float(base_loss_weight), first, last,
            Interval.parse(interval), plain['probability'], count, sampling, combine, ignore_index, check_batches, seed,
            input_key, target_key, logits_key, placement, teacher_microbatch_size, on_nonfinite, on_change, plain,
            _canonical(plain, specs, kd_loss, Interval.parse(interval), (first, last), values, logits_key),
        )
