"""What stored answers spare a sequence of runs, and cost it: each method against live teachers and against none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from composer_kd.report.costs import TIMED, check_cost
from composer_kd.report.interval import Estimate, count_of, geometric_mean_of, nothing
from composer_kd.report.rows import Row

Place = tuple[int, str]
"""Of a run among those of a replicate: its index and its duration."""


@dataclass(frozen=True)
class StoredCost:
    """All runs of one method.

    Attributes:
        method: Name of the method.
        total: Cost of all runs of a replicate, the mean over replicates; NaN where that of a run is unknown.
        to_baseline: Total cost / that of the method without teachers, paired over replicates.
        to_reference: Total cost / that of the method with live teachers, likewise.
        asked: Samples of which a teacher was asked, over all runs.
        read: Samples whose answers were read instead.
        size: Bytes of the stores, each counted once; ``None`` where that of one is not known.
        stores: How many they are.
        seconds: Spent storing answers, and opening and finishing stores, over all runs; part of a cost in time.
        stored: Whether any run of it had a store.
        why: What is missing; empty if nothing is.
    """

    method: str
    total: float
    to_baseline: Estimate
    to_reference: Estimate
    asked: int
    read: int
    size: int | None
    stores: int
    seconds: float
    stored: bool
    why: str = ''

    @property
    def share(self) -> float | None:
        """Of the answers that were needed, those that were read."""
        return self.read / (self.read + self.asked) if self.read + self.asked else None


def live_method(rows: Iterable[Row], said: str | None) -> str | None:
    """The method that stored answers are compared with: that said, else the only one with teachers and no store."""
    rows = list(rows)
    if said is not None:
        return said
    taught = dict.fromkeys(row.method for row in rows if row.distilled)
    kept = {row.method for row in rows if row.stores}
    live = [method for method in taught if method not in kept]
    return live[0] if len(live) == 1 else None


def stored_costs(
    rows: Iterable[Row], baseline: str | None, reference: str | None, cost: str = 'train_seconds', level: float = 0.9,
) -> list[StoredCost]:
    """What every method cost in all its runs, and how often its teachers were asked.

    Runs that failed or were pruned count: they were paid for. Ratios are geometric means over the replicates in which
    both methods made the same runs.

    Args:
        rows: The runs; those that only taught are left out.
        baseline: The method without teachers; ``None`` for none to compare with.
        reference: The method with live teachers; ``None`` likewise.
        cost: A name in ``report.costs.COSTS``.
        level: Level of the intervals, between 0 and 1.

    Raises:
        ValueError: If the cost is unknown.
    """
    check_cost(cost, 1.0)
    by_method: dict[str, list[Row]] = {}
    for row in rows:
        if not row.is_earlier:
            by_method.setdefault(row.method, []).append(row)
    totals = {method: _totals(mine, cost) for method, mine in by_method.items()}
    found = []
    for method, mine in by_method.items():
        ratios = {
            other: _ratio(totals[method], totals.get(other or '', {}), other, method, level)
            for other in (baseline, reference)
        }
        sizes: dict[str, int | None] = {}
        for row in mine:
            for path, size in row.stores.items():
                known = sizes.get(path)
                sizes[path] = size if known is None else max(known, size or 0)
        whole = [total for _, total in totals[method].values()]
        known_sizes = [size for size in sizes.values() if size is not None]
        notes = [] if all(map(math.isfinite, whole)) else [f'some runs recorded no {cost}']
        notes += dict.fromkeys(ratio.why for ratio in ratios.values() if ratio.why and ratio.value is None)
        few = [ratio.seeds for ratio in ratios.values() if ratio.value is not None and ratio.seeds < 3]
        notes += [f'{count_of(min(few), "replicate")} cannot tell a difference from noise'] if few else []
        found.append(StoredCost(
            method, fmean(whole), ratios[baseline], ratios[reference], sum(row.asked for row in mine),
            sum(row.stored for row in mine), sum(known_sizes) if len(known_sizes) == len(sizes) else None, len(sizes),
            math.fsum(row.store_seconds for row in mine), any(row.stores for row in mine), '; '.join(notes),
        ))
    return found


def _totals(rows: Iterable[Row], cost: str) -> dict[int, tuple[frozenset[Place], float]]:
    """Of every replicate, which runs it made and what they cost together."""
    by_replicate: dict[int, list[Row]] = {}
    for row in rows:
        by_replicate.setdefault(row.replicate, []).append(row)
    return {
        number: (
            frozenset((row.index or 0, row.duration) for row in mine),
            math.fsum(row.costs.get(cost, math.nan) for row in mine),
        )
        for number, mine in sorted(by_replicate.items())
    }


def _ratio(
    mine: Mapping[int, tuple[frozenset[Place], float]], theirs: Mapping[int, tuple[frozenset[Place], float]],
    other: str | None, method: str, level: float,
) -> Estimate:
    if other is None or other == method:
        return nothing('')
    ratios = [
        total / theirs[number][1] for number, (places, total) in mine.items()
        if number in theirs and places == theirs[number][0] and theirs[number][1] > 0 and math.isfinite(total)
    ]
    if not ratios:
        return nothing(f"no replicate has the same runs as one of '{other}'")
    return geometric_mean_of(ratios, level, higher_is_better=False)


def stored_headline(
    found: Iterable[StoredCost], baseline: str | None, reference: str | None, cost: str = 'train_seconds',
) -> list[str]:
    """What stored answers saved: a sentence for each method that has them."""
    lines = []
    for one in found:
        if not one.stored or one.share is None:
            continue
        told = [
            f"{_times(ratio)} times that of '{other}'"
            for ratio, other in ((one.to_reference, reference), (one.to_baseline, baseline)) if ratio.value is not None
        ]
        held = ', storing counted in' if cost in (*TIMED, 'wall_seconds') else f' in {cost}'
        spent = f"; the total cost of its runs was {' and '.join(told)}{held}" if told else ''
        lines.append(f"'{one.method}' read {100 * one.share:.0f} % of its teachers' answers from stores{spent}.")
    return lines


def _times(ratio: Estimate) -> str:
    interval = '' if ratio.low is None or ratio.high is None else f' [{ratio.low:.2f}, {ratio.high:.2f}]'
    return f'{ratio.value:.2f}{interval}'
