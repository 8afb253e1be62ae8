"""The first lines of a report: what a newcomer wants to know, in plain sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from composer_kd.report.charge import BreakEven
from composer_kd.report.interval import Estimate
from composer_kd.report.search_gain import SearchGain
from composer_kd.report.sequence import SequenceResult
from composer_kd.report.speedup import SpeedUp

_TIMES = ('train_seconds', 'wall_seconds')
_SPENT = {
    'gpu_hours': 'GPU-hours', 'money': 'money', 'flops': 'FLOPs', 'samples': 'samples', 'batches': 'batches',
}


def comparison_headline(
    results: Sequence[SpeedUp],
    quality: str = 'quality',
    cost: str = 'train_seconds',
    break_evens: Sequence[BreakEven] = (),
    charged: bool = False,
    taught: bool = True,
) -> list[str]:
    """What distillation saved: the answer first, then a sentence for each method.

    With several methods the first line names the one with the largest speed-up, which is picked for being large: the
    sentences below it tell of all.

    Args:
        results: All against the same baseline.
        quality: The quality in words.
        cost: What the speed-up is in, a name in ``report.costs.COSTS``.
        break_evens: Of the same methods, teachers not charged.
        charged: Whether the training of the teachers is in the cost.
        taught: Whether the methods have teachers and the baseline has none.

    Returns:
        At least one line.
    """
    if not results:
        return ['Nothing to compare: no other method than the baseline has a finished run.']
    lead = 'Learning from earlier runs' if taught else f"Compared with '{results[0].baseline}'"
    teachers = 'with the training of its teachers charged' if charged else 'the teachers were there and are not charged'
    teachers = teachers if taught else 'teachers apart'
    best = max(results, key=lambda result: (result.verdict == 'gained', result.median.value or 0.0))
    caution = f'{best.note}; {teachers}' if best.note and best.median.value is not None else teachers
    if len(results) == 1:
        who = '' if taught else f', {best.method!r}'
        first = f'{lead}{who} {_speedup(best, quality, cost)}{_at_the_end(best, cost)} ({caution}).'
    elif best.median.value is None:
        first = (
            f"{lead}: {_count(results)}, as none shares a range of {quality} with "
            f"'{best.baseline}'."
        )
    else:
        came_out = 'lost least' if all(result.verdict == 'lost' for result in results) else 'came out best'
        first = (
            f"{lead}: {_count(results)}. '{best.method}' {came_out}, picked out of {len(results)}: it "
            f'{_speedup(best, quality, cost)}{_at_the_end(best, cost)} ({caution}).'
        )
    others = [result for result in results if result is not best]
    if best.median.value is None and len(results) > 1:
        others = list(results)
    # What is said of the first needs no saying of each.
    told = [f' ({one.note})' if one.note not in ('', best.note) and one.median.value else '' for one in others]
    return [
        first,
        *(f"'{one.method}' {_speedup(one, quality, cost)}{note}." for one, note in zip(others, told, strict=True)),
        *_paid(break_evens, [best.method]),
    ]


def search_headline(gains: Sequence[SearchGain], quality: str = 'quality', cost: str = 'train_seconds') -> list[str]:
    """What teachers saved a search: a sentence for each method.

    Args:
        gains: All against the same baseline.
        quality: The quality in words.
        cost: What the costs are in, a name in ``report.costs.COSTS``.
    """
    if not gains:
        return ['Nothing to compare: no other method than the baseline has a finished run.']
    lines = []
    for gain in gains:
        if gain.replicates == 0 or (gain.cost_ratio.value is None and gain.at_equal_cost.value is None):
            lines.append(f"Nothing can be said of searching with '{gain.method}': {gain.why}.")
            continue
        parts = []
        if gain.at_equal_cost.value is not None:
            parts.append(
                f'changed its best {quality} for the same total cost by {_difference(gain.at_equal_cost)}: '
                f'{gain.at_equal_cost.verdict}',
            )
        if gain.cost_ratio.value is not None:
            parts.append(
                f'reached the best {quality} that all these searches reached, {gain.quality:.4g}, '
                f'{_ratio(gain.cost_ratio, cost)}: {gain.cost_ratio.verdict}',
            )
        lines.append(f"Searching with '{gain.method}' instead of '{gain.baseline}' {'; '.join(parts)}{_few(gain.why)}.")
    return lines


def sequence_headline(result: SequenceResult, quality: str = 'quality') -> list[str]:
    """What teachers changed in a sequence: a sentence for each method.

    Args:
        result: The sequence.
        quality: The quality in words.
    """
    if not result.gains:
        return ['Nothing to compare: no method beside the baseline, or no baseline, has runs.']
    lines = []
    for gain in result.gains:
        if gain.difference.value is None:
            lines.append(f"Nothing can be said of retraining with '{gain.method}': {gain.why}.")
            continue
        cost = ''
        if gain.cost_ratio.value is not None:
            cost = f", for {_plain(gain.cost_ratio)} times the {_SPENT.get(result.cost, 'time')} in all"
        steps = f'{len(gain.steps)} step' + ('s' if len(gain.steps) > 1 else '')
        better = 'higher' if gain.difference.value > 0 else 'lower' if gain.difference.value < 0 else 'unchanged'
        lines.append(
            f"Retraining with '{gain.method}' instead of '{gain.baseline}' changed {quality} by "
            f'{_difference(gain.difference)} on average over {steps} with teachers ({better}){cost}: '
            f"{gain.verdict}{' in quality' if gain.verdict in ('gained', 'lost') else ''}{_few(gain.why)}.",
        )
    return lines


def _speedup(result: SpeedUp, quality: str, cost: str) -> str:
    if result.median.value is None:
        return f"shares no range of {quality} with '{result.baseline}', so nothing can be said: {result.note}"
    over = ''
    if result.common is not None:
        over = f', in the median over {result.common[0]:.3g} to {result.common[1]:.3g}'
    return f'reached the same {quality} {_ratio(result.median, cost)}{over}: {result.verdict}'


def _at_the_end(result: SpeedUp, cost: str) -> str:
    """The speed-up at the best quality of the baseline, which is what many will take the first figure for."""
    best = list(result.at)[-1:]
    if not best or result.at[best[0]].value is None:
        return ''
    return f'; at the best of {result.baseline!r}, {best[0]:.3g}: {_ratio(result.at[best[0]], cost)}'


def _ratio(ratio: Estimate, cost: str) -> str:
    """A ratio of costs, above 1 where the method is cheaper, in words."""
    if cost in _TIMES:
        return f'{_plain(ratio)} times as fast'
    assert ratio.value is not None
    interval = ''
    if ratio.low is not None and ratio.high is not None and ratio.low > 0:
        interval = f' [{100 / ratio.high:.0f}, {100 / ratio.low:.0f}]'
    return f'at {100 / ratio.value:.0f}{interval} % of the {_SPENT.get(cost, cost)}'


def _plain(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f'{estimate.value:.2f}'
    # An end that rounds to 1 would seem to contradict the verdict.
    digits = next((n for n in (2, 3, 4) if 1.0 not in (round(estimate.low, n), round(estimate.high, n))), 2)
    return f'{estimate.value:.2f} [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]'


def _difference(estimate: Estimate) -> str:
    interval = '' if estimate.low is None else f' [{estimate.low:+.4f}, {estimate.high:+.4f}]'
    return f'{estimate.value:+.4f}{interval}'


def _few(why: str) -> str:
    return f' ({why})' if why else ''


def _count(results: Sequence[SpeedUp]) -> str:
    found = Counter(result.verdict for result in results).most_common()
    many = len(results)
    if len(found) == 1:
        verdict = found[0][0]
        if verdict in ('gained', 'lost'):
            return f'all {many} ways {verdict}'
        return f"none of {many} ways can be {'compared' if verdict == 'no common quality' else 'told apart from noise'}"
    words = {'no common quality': 'cannot be compared'}
    return f'of {many} ways, ' + ', '.join(f'{number} {words.get(verdict, verdict)}' for verdict, number in found)


def _paid(break_evens: Sequence[BreakEven], methods: Sequence[str]) -> list[str]:
    lines = []
    for found in break_evens:
        if found.method not in methods or not found.teachers:
            continue
        made = 'its teacher' if found.teachers == 1 else f'its {found.teachers} teachers'
        if found.runs is None:
            lines.append(f"Charged, the training of {made} is not known to pay for itself: {found.why}.")
            continue
        if found.high is not None:
            interval = f' [{found.low}, {found.high}]'
        else:
            interval = f' [{found.low}, never]' if found.low is not None else ''
        caution = f' ({found.why})' if found.why else ''
        has_paid = 'would have paid for itself, if the saving is real,' if found.why else 'has paid for itself'
        lines.append(
            f"Charged, the training of {made} {has_paid} after {found.runs}{interval} later runs with "
            f"'{found.method}'{caution}.",
        )
    return lines
