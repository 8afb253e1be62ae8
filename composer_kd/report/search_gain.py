"""What earlier runs as teachers save a hyperparameter search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from composer_kd.report.interval import Estimate, Verdict, count_of, geometric_mean_of, mean_of, nothing
from composer_kd.report.search import Chain


@dataclass(frozen=True)
class SearchGain:
    """What a method saves a search, paired over replicates.

    Attributes:
        baseline: Name of the baseline.
        method: Name of the method.
        replicates: Pairs of searches.
        quality: The quality to which costs are compared.
        cost_ratio: Total cost of the baseline to reach it / that of the method; above 1 where the method is cheaper.
        cost: The total cost at which qualities are compared, mean over pairs: what both searches of a pair spent.
        at_equal_cost: Best quality of the method less that of the baseline once both had spent as much.
        runs: The number of runs at which they are compared: the most that all searches made.
        after_equal_runs: Best quality of the method less that of the baseline after as many runs.
        total_ratio: Total cost of the method for that many runs / that of the baseline; above 1 where it is dearer.
        why: What stands in the way of an answer; empty if nothing does.
    """

    baseline: str
    method: str
    replicates: int
    quality: float | None
    cost_ratio: Estimate
    cost: float | None
    at_equal_cost: Estimate
    runs: int
    after_equal_runs: Estimate
    total_ratio: Estimate
    why: str = ''

    @property
    def verdict(self) -> Verdict:
        """The verdict on the cost to the same quality."""
        return self.cost_ratio.verdict


def search_gain(
    baseline: Sequence[Chain], method: Sequence[Chain], quality: float | None = None, level: float = 0.9,
) -> SearchGain:
    """What a method saves a search: cost to the same best quality, and best quality for the same cost.

    Searches of equal replicate are pairs. Ratios of costs are geometric means and differences of quality are means
    over the pairs, each with Student's interval (of the logarithms for ratios). Nothing is extrapolated.

    Args:
        baseline: Searches without the method.
        method: Searches with it.
        quality: To which costs are compared; ``None`` for the best that every one of these searches reached.
        level: Level of the intervals, between 0 and 1.

    Raises:
        ValueError: If there is no search of either.
    """
    if not baseline or not method:
        raise ValueError(f'Expected at least one search of each, got {len(baseline)} and {len(method)}.')
    names = baseline[0].method, method[0].method
    by_replicate = {chain.replicate: chain for chain in baseline}
    pairs = [(by_replicate[chain.replicate], chain) for chain in method if chain.replicate in by_replicate]
    made = len(pairs)
    pairs = [pair for pair in pairs if all(chain.best is not None for chain in pair)]
    if not pairs:
        why = 'no replicate has a finished run of both' if made else 'no replicate was made with both'
        none = nothing(why)
        return SearchGain(*names, 0, quality, none, None, none, 0, none, none, why)
    everyone = [chain for pair in pairs for chain in pair]
    if quality is None:
        bests = [chain.best for chain in everyone if chain.best is not None]
        quality = min(bests) if everyone[0].higher_is_better else max(bests)
    higher = everyone[0].higher_is_better
    reached = [(base.cost_of(quality), mine.cost_of(quality)) for base, mine in pairs]
    ratios = [base / mine for base, mine in reached if base and mine]
    cost_ratio = geometric_mean_of(ratios, level)
    if len(ratios) < len(pairs):
        # Leaving out the searches that do not get there would speak for whoever has more of them.
        cost_ratio = nothing('not every search reaches that quality at a known cost', len(ratios), 'no common quality')

    spent = [min(base.total, mine.total) for base, mine in pairs]
    runs = min(len(chain.steps) for chain in everyone)
    known = all(math.isfinite(chain.total) for chain in everyone)
    at_cost = _difference([
        (base.best_at(total), mine.best_at(total)) for (base, mine), total in zip(pairs, spent, strict=True)
    ], level, higher)
    if not known:
        at_cost = nothing('what a run cost is unknown', len(pairs))
    after = _difference([(base.best_after(runs), mine.best_after(runs)) for base, mine in pairs], level, higher)
    totals = geometric_mean_of(
        [mine.steps[runs - 1].total / base.steps[runs - 1].total for base, mine in pairs if base.steps[runs - 1].total],
        level, higher_is_better=False,
    )
    notes = []
    if len(pairs) < made:
        notes.append(f"{count_of(made - len(pairs), 'pair')} without a finished run of both left out")
    notes += [cost_ratio.why] if cost_ratio.value is None else []
    if len(pairs) < 3:
        searches = count_of(len(pairs), 'pair')
        notes.append(f'{searches} of searches cannot tell a gain from noise: make at least 3, better 5')
    return SearchGain(
        *names, len(pairs), quality, cost_ratio, fmean(spent) if known else None, at_cost, runs, after, totals,
        '; '.join(notes),
    )


def _difference(pairs: Sequence[tuple[float | None, float | None]], level: float, higher: bool) -> Estimate:
    found = [mine - base for base, mine in pairs if base is not None and mine is not None]
    if len(found) < len(pairs):
        return nothing('not every search has a finished run by then', len(found))
    return mean_of(found, level, higher)
