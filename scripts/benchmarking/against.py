"""Our step beside the peers', on the same models, batch and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarking import sums
from benchmarking.cases import Case
from benchmarking.machine import Machine
from benchmarking.peers import PEERS
from benchmarking.plain import student_flops
from benchmarking.process import Variant
from benchmarking.results import NOTHING, Section, Table, failures, short_bytes, short_ratio, short_seconds
from benchmarking.sizes import Sizes, image_case, text_case
from benchmarking.sums import Measured, Spread
from benchmarking.turns import Options, take_turns

BARE, BARE_KD = 'plain PyTorch, no KD', 'plain PyTorch, KD'
COMPOSER = 'Composer, no KD'
COMPOSER_HEAD = 'Composer, no KD, head at masked tokens'
AIMS = {'resnet same': 0.75, 'resnet smaller': 0.67, 'all': 0.65, 'masked': 0.36}


def named(prepare: Any, where: str = '') -> str:
    """What one of ours is called."""
    told = '' if prepare == 'auto' else f', prepare {prepare}'
    return f'composer_kd{where}{told}'


def variants_of(case: Case, masked: Case | None, prepares: Sequence[Any]) -> tuple[list[Variant], dict[str, str]]:
    """All that are measured beside each other, and of our own which aim is theirs.

    Args:
        case: With KD everywhere.
        masked: For texts, the same at the masked tokens alone.
        prepares: Settings of ``prepare``.
    """
    plain, ours = 'benchmarking.plain:serve_plain', 'benchmarking.composing:serve_kd'
    places = [(case, ', all tokens', 'all'), (masked, ', masked tokens', 'masked')] if masked is not None else [
        (case, '', 'resnet same' if case.student == case.teacher else 'resnet smaller'),
    ]
    aims: dict[str, str] = {}
    variants = []
    for prepare in prepares:
        for where, told, aim in places:
            name = named(prepare, told)
            aims[name] = aim
            variants.append(Variant(name, ours, {'case': where, 'prepare': prepare}))
    variants += [Variant(peer, f'benchmarking.peers:serve_{peer}', {'case': case}) for peer in PEERS]
    variants += [
        Variant(BARE, plain, {'case': case, 'kd': False}), Variant(BARE_KD, plain, {'case': case, 'kd': True}),
        Variant(COMPOSER, 'benchmarking.composing:serve_bare', {'case': case}),
    ]
    if masked is not None:
        variants.append(Variant(COMPOSER_HEAD, 'benchmarking.composing:serve_bare', {'case': masked}))
    return variants, aims


def run(sizes: Sizes, options: Options, machine: Machine, prepares: Sequence[Any]) -> Section:
    """Measure."""
    pairs: list[tuple[Case, Case | None]] = [(image_case(sizes, side), None) for side in sizes.images]
    if sizes.smaller != sizes.architecture:
        pairs += [(image_case(sizes, side, sizes.smaller), None) for side in sizes.images]
    kinds = (False,) if sizes.mini_bert == sizes.bert else (False, True)
    pairs += [(text_case(sizes, everywhere=True, mini=mini), text_case(sizes, mini=mini)) for mini in kinds]
    figures, tables = [], []
    for case, masked in pairs:
        options.say(case.name)
        variants, aims = variants_of(case, masked, prepares)
        measured = take_turns(variants, variants[0].name, options)
        names = [variant.name for variant in variants]
        work = {where.everywhere: student_flops(where) for where in (case, masked) if where is not None}
        rates = {v.name: _utilised(work[v.settings['case'].everywhere], measured, v.name, machine) for v in variants}
        figures.append(_figures(case, measured, names, aims, rates))
        tables.append(_table(case, measured, names, aims, figures[-1]))
    return Section('peers', figures, tables)


def _utilised(flops: float, measured: Measured, name: str, machine: Machine) -> dict[str, float] | None:
    """TFLOP/s of the student's own pass, and their share of the machine's peak where it is known."""
    taken = sums.seconds(measured, name)
    if taken is None:
        return None
    rate = flops / taken.median / 1e12
    return {'tflops': rate} | ({'mfu': rate / machine.peak_tflops} if machine.peak_tflops else {})


def _figures(
    case: Case, measured: Measured, names: Sequence[str], aims: Mapping[str, str], rates: Mapping[str, Any],
) -> dict[str, Any]:
    best = sums.fastest(measured, PEERS)
    leanest = min((peer for peer in PEERS if peer in measured.memory), key=measured.memory.__getitem__, default=None)
    ours = {}
    for name, aim in aims.items():
        if name not in measured.seconds:
            continue
        ratio = None if best is None else sums.ratio(measured, name, best)
        ours[name] = {
            'over_fastest_peer': _told(ratio), 'aim': AIMS[aim],
            'reached': None if ratio is None else ratio.median <= AIMS[aim],
            'memory_over_fastest_peer': None if best is None else sums.memory_ratio(measured, name, best),
            'memory_over_leanest_peer': None if leanest is None else sums.memory_ratio(measured, name, leanest),
            'over_no_kd_with_our_head': _told(sums.ratio(measured, name, COMPOSER_HEAD)),
        }
    return {
        **case.told(), 'variants': sums.told(measured, names), 'fastest_peer': best, 'leanest_peer': leanest,
        'over_bare': {name: _told(sums.ratio(measured, name, BARE)) for name in names}, 'ours': ours,
        'student': dict(rates),
    }


def _told(found: Spread | None) -> dict[str, float] | None:
    return None if found is None else found.told()


def _table(
    case: Case, measured: Measured, names: Sequence[str], aims: Mapping[str, str], figures: Mapping[str, Any],
) -> Table:
    best = figures['fastest_peer']
    rows = []
    for name in names:
        if name in measured.failed:
            continue
        found = figures['student'][name] or {}
        over = None if best is None else sums.ratio(measured, name, best)
        less = None if best is None else sums.memory_ratio(measured, name, best)
        rows.append([
            name, short_seconds(sums.seconds(measured, name)), short_ratio(sums.ratio(measured, name, BARE)),
            short_ratio(over), f'{AIMS[aims[name]]:.2f}' if name in aims else '',
            short_bytes(measured.memory.get(name)), NOTHING if less is None else f'{less:.2f}',
            f"{found['tflops']:.3g}" if found else NOTHING,
            f"{100 * found['mfu']:.1f} %" if 'mfu' in found else NOTHING,
        ])
    notes = [
        f'Batch {case.batch_size}, {case.precision}, {case.optimizer}; KL at temperature 4, weights 0.9 and 0.1. '
        'Ratios are medians of the rounds\' with quartiles. The student\'s own FLOPs count, forward and backward; '
        'the peak is that of bf16 products.',
    ]
    if best is not None:
        notes.append(f'The fastest peer is {best}.')
    return Table(
        case.name, ['step', 'time', 'over plain, no KD', 'over fastest peer', 'aim', 'peak memory', 'over its',
                    'TFLOP/s', 'utilisation'], rows, [*notes, *failures(measured.failed)],
    )
