"""A hyperparameter search: the best quality so far against the total cost of its runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from composer_kd.report.collect import check_metric, is_higher_better
from composer_kd.report.costs import check_cost
from composer_kd.report.interval import Array
from composer_kd.report.rows import Row, State


@dataclass(frozen=True)
class SearchStep:
    """One run of a search.

    Attributes:
        index: Its place in the search, from 0.
        folder: The run folder.
        state: ``finished``, ``pruned``, ``failed`` or ``unfinished``.
        quality: At its end; ``None`` if it did not finish or was not evaluated there.
        best: The best quality of this run and those before it; ``None`` before the first.
        cost: Of this run, pruned and failed ones too; NaN if it recorded none.
        total: Of this run and all before it.
        params: What it tried.
    """

    index: int
    folder: Path
    state: State
    quality: float | None
    best: float | None
    cost: float
    total: float
    params: dict[str, Any]


@dataclass(frozen=True)
class Chain:
    """One search: its runs in order.

    Attributes:
        method: Name of the method.
        replicate: Which of the repetitions of the search.
        steps: The runs.
        higher_is_better: Whether a higher quality is a better one.
    """

    method: str
    replicate: int
    steps: tuple[SearchStep, ...]
    higher_is_better: bool = True

    @property
    def best(self) -> float | None:
        """The best quality of the whole search."""
        return self.steps[-1].best

    @property
    def best_step(self) -> SearchStep | None:
        """The first run that has it."""
        return next((step for step in self.steps if step.quality is not None and step.quality == self.best), None)

    @property
    def total(self) -> float:
        """What all runs cost; NaN if that of one is unknown."""
        return self.steps[-1].total

    def best_at(self, total: float) -> float | None:
        """The best quality of the runs that had ended when that much was spent; ``None`` before the first."""
        best = None
        for step in self.steps:
            if not step.total <= total:
                break
            best = step.best
        return best

    def best_after(self, runs: int) -> float | None:
        """The best quality of the first ``runs`` runs; ``None`` if there are not as many, or none has one."""
        return self.steps[runs - 1].best if 1 <= runs <= len(self.steps) else None

    def cost_of(self, quality: float) -> float | None:
        """Total cost up to the end of the first run as good as ``quality``; ``None`` if there is no such run."""
        for step in self.steps:
            if step.best is not None and (step.best >= quality if self.higher_is_better else step.best <= quality):
                return step.total if math.isfinite(step.total) else None
        return None


@dataclass(frozen=True)
class MeanBest:
    """The best so far, mean over the replicates of a method, for a plot.

    Attributes:
        method: Name of the method.
        replicates: How many have a finished run.
        runs: Numbers of runs that all replicates have made, from the first at which all have a quality.
        best_by_runs: The mean best after as many.
        cost: Total costs at which any replicate gets better, between those that all have spent; a step function of
            cost: ``best_by_cost[i]`` holds from ``cost[i]`` to ``cost[i + 1]``.
        best_by_cost: The mean best there.
    """

    method: str
    replicates: int
    runs: Array
    best_by_runs: Array
    cost: Array
    best_by_cost: Array


def chains(
    rows: Iterable[Row], metric: str, cost: str = 'train_seconds', higher_is_better: bool | None = None,
) -> dict[str, list[Chain]]:
    """The searches in some rows: by method, then in order of replicate.

    Args:
        rows: The runs; those without the tag ``index``, and runs that only taught, are left out.
        metric: The quality, ``label/metric``.
        cost: A name in ``report.costs.COSTS``.
        higher_is_better: Whether a high value is a good one; ``None`` to tell from the name of the metric.

    Raises:
        ValueError: If no run has the metric, the cost is unknown, or two runs of a search have the same index.
    """
    rows = [row for row in rows if row.index is not None and not row.is_earlier]
    check_cost(cost, 1.0)
    check_metric(rows, metric)
    better = is_higher_better(metric, higher_is_better)
    pick = max if better else min
    by_chain: dict[tuple[str, int], dict[int, Row]] = {}
    for row in rows:
        assert row.index is not None
        runs = by_chain.setdefault((row.method, row.replicate), {})
        if row.index in runs:
            raise ValueError(
                f"'{row.method}', replicate {row.replicate}: two runs with index {row.index}, "
                f"'{runs[row.index].folder}' and '{row.folder}'. Give the folder of one study, or give the runs "
                f'different tags.',
            )
        runs[row.index] = row
    found: dict[str, list[Chain]] = {}
    for method in dict.fromkeys(method for method, _ in by_chain):
        for replicate in sorted(number for name, number in by_chain if name == method):
            steps: list[SearchStep] = []
            best, total = None, 0.0
            for index, row in sorted(by_chain[method, replicate].items()):
                value = row.quality.get(metric) if row.finished else None
                if value is not None and not math.isfinite(value):
                    value = None
                if value is not None:
                    best = value if best is None else pick(best, value)
                spent = row.costs.get(cost, math.nan)
                total += spent
                steps.append(SearchStep(index, row.folder, row.state, value, best, spent, total, row.params))
            found.setdefault(method, []).append(Chain(method, replicate, tuple(steps), better))
    return found


def mean_best(searches: Sequence[Chain]) -> MeanBest:
    """The mean best so far of one method's searches, after as many runs and at equal total cost.

    Nothing is extrapolated: both end where the shortest search does, and begin where each has a finished run.

    Args:
        searches: Of one method, at least one; those without a finished run are left out.

    Raises:
        ValueError: If there is none.

    Example:
        >>> step = lambda i, q: SearchStep(i, Path(str(i)), 'finished', q, q, 2.0, 2.0 * (i + 1), {})
        >>> found = mean_best([Chain('a', 0, (step(0, 0.5), step(1, 0.6))), Chain('a', 1, (step(0, 0.7),))])
        >>> found.runs.tolist(), found.best_by_runs.tolist(), found.cost.tolist()
        ([1.0], [0.6], [2.0])
    """
    if not searches:
        raise ValueError('Expected at least one search, got none.')
    usable = [chain for chain in searches if chain.best is not None]
    empty = np.array([], dtype=float)
    if not usable:
        return MeanBest(searches[0].method, 0, empty, empty, empty, empty)
    runs = [
        count for count in range(1, min(len(chain.steps) for chain in usable) + 1)
        if all(chain.best_after(count) is not None for chain in usable)
    ]
    end = min(chain.total for chain in usable)
    begin = max(next(step.total for step in chain.steps if step.best is not None) for chain in usable)
    inside = sorted({
        step.total for chain in usable for step in chain.steps if begin <= step.total <= end
    } | ({end} if begin <= end else set()))
    if not all(math.isfinite(chain.total) for chain in usable):
        inside = []

    def mean(values: Iterable[float | None]) -> float:
        return fmean(value for value in values if value is not None)

    return MeanBest(
        searches[0].method,
        len(usable),
        np.array(runs, dtype=float),
        np.array([mean(chain.best_after(count) for chain in usable) for count in runs], dtype=float),
        np.array(inside, dtype=float),
        np.array([mean(chain.best_at(total) for chain in usable) for total in inside], dtype=float),
    )
