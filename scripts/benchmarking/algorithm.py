"""What the algorithm itself costs: a step with KD over the sum of what it is made of."""

from __future__ import annotations

from benchmarking import sums
from benchmarking.cases import Case
from benchmarking.process import Variant
from benchmarking.results import NOTHING, Section, Table, failures, short_ratio, short_seconds
from benchmarking.sizes import Sizes, image_case, small_case, text_case
from benchmarking.turns import Options, take_turns

TARGET = 1.02
PARTS = ('step with KD', 'bare student step', 'teacher forward', 'loss alone')


def cases_of(sizes: Sizes) -> list[Case]:
    """ResNet, BERT, and a network so small that Python would show."""
    return [image_case(sizes, sizes.images[-1]), text_case(sizes), small_case(sizes)]


def variants_of(case: Case) -> list[Variant]:
    """Each in the way the step itself does it: the same preparation, the same precision, the same positions."""
    kd, bare, teacher, loss = PARTS
    return [
        Variant(kd, 'benchmarking.composing:serve_kd', {'case': case}),
        Variant(bare, 'benchmarking.composing:serve_bare', {'case': case}),
        Variant(teacher, 'benchmarking.composing:serve_teacher', {'case': case}),
        Variant(loss, 'benchmarking.plain:serve_loss', {'case': case}),
    ]


def run(sizes: Sizes, options: Options) -> Section:
    """Measure."""
    figures, rows, notes = [], [], []
    for case in cases_of(sizes):
        options.say(case.name)
        measured = take_turns(variants_of(case), PARTS[0], options)
        cost = sums.by_round(measured, PARTS, lambda kd, bare, teacher, loss: kd / (bare + teacher + loss))
        figures.append({
            **case.told(), 'parts': sums.told(measured, PARTS), 'ratio': None if cost is None else cost.told(),
            'target': TARGET, 'reached': None if cost is None else cost.median <= TARGET,
        })
        rows.append([
            case.name, str(case.batch_size), *(short_seconds(sums.seconds(measured, name)) for name in PARTS),
            short_ratio(cost, 3), NOTHING if cost is None else 'yes' if cost.median <= TARGET else 'no',
        ])
        notes += failures(measured.failed)
    return Section('algorithm', figures, [Table(
        'Algorithm cost: a step with KD over its parts, measured alone',
        ['case', 'batch', *PARTS, 'ratio', f'at most {TARGET}'], rows,
        ['Composer steps; median, and the median of the rounds\' ratios with quartiles.', *notes],
    )])
