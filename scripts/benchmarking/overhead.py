"""How much of the cost of a plain always-on ensemble of teachers each measure takes away.

A schedule decides which kind of step each batch gets. Every kind is measured, in turn with the others, as real steps
of a training; what a schedule costs is the sum over its batches, its shares of the kinds being exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarking import sums
from benchmarking.cases import TEMPERATURE, Case
from benchmarking.process import Variant
from benchmarking.results import Section, Table, failures, short_percent, short_seconds
from benchmarking.sizes import Sizes, image_case
from benchmarking.sums import Measured, Spread
from benchmarking.turns import Options, take_turns

KNOWN = 4
"""Of how many batches the data is, so that stored answers are read again and again."""

WINDOW, INTERVAL = 0.25, 4
NONE, OFF = 'no algorithm', 'off batch'
PLAIN, PREPARED = 'all, unprepared', 'all, prepared'
ONE_PLAIN, ONE_PREPARED = 'one drawn, unprepared', 'one drawn, prepared'
ALL_STORED, ONE_STORED = 'all, stored', 'one drawn, stored'


@dataclass(frozen=True)
class Measure:
    """A way to spend less on KD.

    Attributes:
        name: In tables.
        kind: Of the batches that are on.
        share: Of the batches, how many are on.
    """

    name: str
    kind: str
    share: float


MEASURES = (
    Measure('preparation alone', PREPARED, 1.0),
    Measure('one teacher drawn', ONE_PLAIN, 1.0),
    Measure('first 25 %', PLAIN, WINDOW),
    Measure('every 4th batch', PLAIN, 1 / INTERVAL),
    Measure('the store', ALL_STORED, 1.0),
    Measure('prepared, one drawn', ONE_PREPARED, 1.0),
    Measure('prepared, one drawn, first 25 %', ONE_PREPARED, WINDOW),
    Measure('prepared, one drawn, every 4th batch', ONE_PREPARED, 1 / INTERVAL),
    Measure('prepared, one drawn, first 25 %, every 4th', ONE_PREPARED, WINDOW / INTERVAL),
    Measure('stored, one drawn', ONE_STORED, 1.0),
    Measure('stored, one drawn, first 25 %', ONE_STORED, WINDOW),
    Measure('stored, one drawn, first 25 %, every 4th', ONE_STORED, WINDOW / INTERVAL),
)


def variants_of(case: Case, teachers: int) -> list[Variant]:
    """The kinds of step."""
    live, stored = 'benchmarking.composing:serve_kd', 'benchmarking.composing:serve_stored'
    common: dict[str, Any] = {'case': case, 'known': KNOWN, 'teachers': teachers}
    few = {'name': 'top_k', 'k': min(10, case.classes - 1), 'temperature': TEMPERATURE}
    return [
        Variant(NONE, 'benchmarking.composing:serve_known', {'case': case, 'known': KNOWN}),
        Variant(OFF, live, {**common, 'prepare': 'none', 'start': '0.5dur'}),
        Variant(PLAIN, live, {**common, 'prepare': 'none'}),
        Variant(PREPARED, live, {**common, 'prepare': 'auto'}),
        Variant(ONE_PLAIN, live, {**common, 'prepare': 'none', 'teachers_per_batch': 1}),
        Variant(ONE_PREPARED, live, {**common, 'prepare': 'auto', 'teachers_per_batch': 1}),
        Variant(ALL_STORED, stored, {**common, 'form': {'name': 'dense'}}),
        Variant(ONE_STORED, stored, {**common, 'form': few, 'teachers_per_batch': 1}),
    ]


def overhead_of(measured: Measured, measure: Measure) -> Spread | None:
    """Time for KD over the time of the same training without it."""
    def value(on: float, off: float, none: float) -> float:
        return (measure.share * on + (1 - measure.share) * off) / none - 1

    return sums.by_round(measured, [measure.kind, OFF, NONE], value)


def removed_by(measured: Measured, measure: Measure) -> Spread | None:
    """The share of the plain ensemble's overhead that is gone."""
    def value(plain: float, on: float, off: float, none: float) -> float:
        return 1 - (measure.share * on + (1 - measure.share) * off - none) / (plain - none)

    return sums.by_round(measured, [PLAIN, measure.kind, OFF, NONE], value)


def run(sizes: Sizes, options: Options) -> Section:
    """Measure."""
    case = image_case(sizes, sizes.images[-1])
    case = Case(**{**case.__dict__, 'batch_size': sizes.ensemble_batch})
    options.say(f'{case.name}, {sizes.ensemble} teachers')
    variants = variants_of(case, sizes.ensemble)
    measured = take_turns(variants, NONE, options)
    names = [variant.name for variant in variants]
    plain = Measure(f'{sizes.ensemble} teachers, always on, unprepared', PLAIN, 1.0)
    found = [(measure, overhead_of(measured, measure), removed_by(measured, measure)) for measure in (plain, *MEASURES)]
    figures = {
        **case.told(), 'teachers': sizes.ensemble, 'kinds': sums.told(measured, names),
        'measures': {
            measure.name: {
                'kind': measure.kind, 'share_of_batches': measure.share,
                'overhead': None if over is None else over.told(), 'removed': None if gone is None else gone.told(),
            } for measure, over, gone in found
        },
    }
    title = f'{case.name}, {sizes.ensemble} teachers, batch {case.batch_size}'
    return Section('overhead', [figures], [
        Table(
            f'KD overhead removed: {title}', ['measure', 'batches with KD', 'overhead', 'of it removed'],
            [[measure.name, f'{100 * measure.share:g} %', short_percent(over), short_percent(gone)]
             for measure, over, gone in found],
            ['Overhead: time for KD over the time of the same training without it, from real steps of each kind in '
             'turn and the schedule\'s shares of them. Stored answers are read in the training\'s own process. '
             'Quality is not looked at here.', *failures(measured.failed)],
        ),
        Table(
            f'The kinds of step: {title}', ['kind', 'time', 'over no algorithm'],
            [[name, short_seconds(sums.seconds(measured, name)), _over(measured, name)] for name in names],
        ),
    ])


def _over(measured: Measured, name: str) -> str:
    less_one: Callable[[float, float], float] = lambda a, b: a / b - 1  # noqa: E731
    return short_percent(sums.by_round(measured, [name, NONE], less_one))
