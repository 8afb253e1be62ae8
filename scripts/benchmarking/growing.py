"""How KD's cost grows: with teachers, classes, the length of texts, and microbatches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarking import sums
from benchmarking.cases import Case
from benchmarking.process import Variant
from benchmarking.results import Section, Table, failures, short_bytes, short_growth, short_seconds
from benchmarking.sizes import Sizes, growing_image, growing_text
from benchmarking.turns import Options, take_turns

KD, BARE, LOSS = 'step with KD', 'step without', 'loss alone'
AT_ONCE = 'with KD, teacher asked once a batch'


@dataclass(frozen=True)
class Curve:
    """One way to grow.

    Attributes:
        name: What grows.
        points: Its values.
        lines: By what is measured, the variant at a point; several may be the same.
    """

    name: str
    points: Sequence[int]
    lines: dict[str, Callable[[int], Variant]]


def curves_of(sizes: Sizes) -> list[Curve]:
    """The four."""
    def kd(case: Case, name: str, **more: Any) -> Variant:
        return Variant(f'{KD}, {name}', 'benchmarking.composing:serve_kd', {'case': case, **more})

    def bare(case: Case, name: str) -> Variant:
        return Variant(f'{BARE}, {name}', 'benchmarking.composing:serve_bare', {'case': case})

    def at_once(parts: int) -> Variant:
        case = growing_image(sizes, 0, parts)
        return Variant(f'{AT_ONCE}, {parts}', 'benchmarking.composing:serve_kd', {
            'case': case, 'teacher_microbatch_size': case.batch_size,
        })

    def loss(count: int) -> Variant:
        case = dataclasses.replace(growing_image(sizes, count), batch_size=sizes.loss_rows)
        return Variant(f'{LOSS}, {count}', 'benchmarking.plain:serve_loss', {'case': case})

    return [
        Curve('teachers', sizes.teachers, {
            KD: lambda n: kd(growing_image(sizes), str(n), teachers=n),
            BARE: lambda n: bare(growing_image(sizes), 'none'),
        }),
        Curve('classes', sizes.classes, {
            KD: lambda n: kd(growing_image(sizes, n), str(n)), BARE: lambda n: bare(growing_image(sizes, n), str(n)),
            LOSS: loss,
        }),
        Curve('sequence length', sizes.lengths, {
            KD: lambda n: kd(growing_text(sizes, n), str(n)), BARE: lambda n: bare(growing_text(sizes, n), str(n)),
        }),
        Curve('microbatches', sizes.microbatches, {
            KD: lambda n: kd(growing_image(sizes, 0, n), str(n)),
            BARE: lambda n: bare(growing_image(sizes, 0, n), str(n)),
            AT_ONCE: at_once,
        }),
    ]


def run(sizes: Sizes, options: Options) -> Section:
    """Measure."""
    figures, tables = [], []
    for curve in curves_of(sizes):
        options.say(f'growth with {curve.name}')
        lines = {line: {n: variant(n) for n in curve.points} for line, variant in curve.lines.items()}
        different = {variant.name: variant for line in lines.values() for variant in line.values()}
        measured = take_turns(list(different.values()), next(iter(different)), options)
        found: dict[str, dict[int, sums.Spread]] = {
            line: {n: spread for n, v in at.items() if (spread := sums.seconds(measured, v.name)) is not None}
            for line, at in lines.items()
        }
        found["KD's own"] = {
            n: spread for n in curve.points
            if (spread := sums.by_round(measured, [lines[KD][n].name, lines[BARE][n].name], _less, False)) is not None
        }
        grown = {line: sums.growth([(n, spread.median) for n, spread in at.items()]) for line, at in found.items()}
        memory = {
            line: {n: measured.memory[v.name] for n, v in at.items() if v.name in measured.memory}
            for line, at in lines.items()
        }
        figures.append({
            'curve': curve.name, 'points': list(curve.points),
            'seconds': {line: {n: spread.told() for n, spread in at.items()} for line, at in found.items()},
            'memory': memory, 'growth': {line: dataclasses.asdict(growth) for line, growth in grown.items()},
            'failed': measured.failed,
        })
        tables.append(Table(
            f'Growth with {curve.name}',
            [curve.name, *found, *(f'memory, {line}' for line in memory)],
            [
                [f'{n:,}', *(short_seconds(at.get(n)) for at in found.values()),
                 *(short_bytes(at.get(n)) for at in memory.values())] for n in curve.points
            ],
            [*(f'{line}: {short_growth(growth)}' for line, growth in grown.items()), *failures(measured.failed)],
        ))
    return Section('growth', figures, tables)


def _less(kd: float, bare: float) -> float:
    return kd - bare
