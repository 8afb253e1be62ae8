"""What can stand for the cost of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from statistics import median

from composer_kd.names import nearest
from composer_kd.report.rows import Row

COSTS = {
    'train_seconds': 'Training time (s, without evaluation)',
    'wall_seconds': 'Wall time (s, with evaluation)',
    'gpu_hours': 'GPU-hours of training (on a CPU: machine-hours)',
    'money': 'Money',
    'flops': 'Training FLOPs (estimate)',
    'samples': 'Samples trained on',
    'batches': 'Batches trained on',
}
"""What can stand for cost, and its name with the unit. ``money`` takes a price, see :func:`with_costs`."""

TIMED = ('train_seconds', 'gpu_hours', 'money')
"""Costs that come from training time."""


def check_cost(cost: str, price: float | None = None) -> None:
    """Refuse a cost that is unknown, or money without a price.

    Raises:
        ValueError: With the nearest name, or what a price is.
    """
    if cost not in COSTS:
        raise ValueError(f"Unknown cost '{cost}'.{nearest(cost, COSTS)} Known: {', '.join(COSTS)}.")
    if price is not None and not (math.isfinite(price) and price > 0):
        raise ValueError(f'Expected a price above 0 for a GPU-hour (on a CPU: a machine-hour), got {price}.')
    if cost == 'money' and price is None:
        raise ValueError("Cost 'money' takes a price: give that of a GPU-hour (on a CPU: a machine-hour).")


def cost_name(cost: str, price: float | None = None, steady: bool = False) -> str:
    """The name of a cost, for an axis or a title.

    Args:
        cost: A name in ``COSTS``; any other is its own name.
        price: Of a GPU-hour, for ``money``.
        steady: Whether training time is at the median time of a batch, see :func:`at_median_price`.

    Example:
        >>> cost_name('money', 2.5)
        'Money (at 2.5 a GPU-hour)'
    """
    name = COSTS.get(cost, cost)
    if cost == 'money' and price is not None:
        name = f'{name} (at {price:g} a GPU-hour)'
    return f"{name}, at each method's median time of a batch" if steady and cost in TIMED else name


def at_median_price(rows: Iterable[Row]) -> list[Row]:
    """Rows whose training time is their number of batches times their method's median time of a batch.

    On a machine that others use too, the time of a single run says more about the others than about the run; what a
    batch of a method costs is the same in all its runs. Runs without a teacher that compute the same (as many FLOPs a
    batch) have one price, whatever they are called: earlier runs have that of the baseline. Only for methods whose
    share of batches with distillation does not depend on the duration, as with windows in ``dur`` and intervals. Runs
    with stored answers are left as they are: one that stores them costs more than those that read them.

    The price of a batch as it was recorded stays in ``costs['seconds_per_batch']``, for resampling: the median is not
    known exactly either.

    Args:
        rows: Runs on one kind of machine; those without a batch are left as they are.

    Returns:
        The rows, in their order, with other ``costs['train_seconds']`` and ``costs['gpu_hours']``.
    """
    rows = list(rows)
    prices: dict[str, list[float]] = {}
    for row in rows:
        if row.costs['batches'] > 0 and not row.stores:
            prices.setdefault(_kind(row), []).append(row.costs['train_seconds'] / row.costs['batches'])
    found = []
    for row in rows:
        if row.costs['batches'] > 0 and not row.stores:
            seconds = row.costs['batches'] * median(prices[_kind(row)])
            steady = {
                'train_seconds': seconds, 'gpu_hours': seconds / 3600 * max(row.gpu_count, 1),
                'seconds_per_batch': row.costs['train_seconds'] / row.costs['batches'],
            }
            row = replace(row, costs={**row.costs, **steady})
        found.append(row)
    return found


def _kind(row: Row) -> str:
    """Runs whose batches cost the same have the same one."""
    work = row.costs.get('flops', math.nan) / row.costs['batches']
    if row.distilled or not math.isfinite(work):
        return f'{row.method}, {row.distilled}'
    return f'untaught, {work:.3g}'


def with_costs(rows: Iterable[Row], price: float | None = None, steady: bool = False) -> list[Row]:
    """Rows with money among their costs, and with training time at a steady price if asked.

    GPU-hours are training seconds (without evaluation, which is the same for all methods) times accelerators; on a
    CPU, hours of one machine.

    Args:
        rows: The runs.
        price: Of a GPU-hour (on a CPU: of a machine-hour), in any currency; ``None``: no money.
        steady: Whether training time is taken at the median time of a batch, see :func:`at_median_price`.

    Raises:
        ValueError: If the price is not above 0.
    """
    check_cost('gpu_hours', price)
    rows = at_median_price(rows) if steady else list(rows)
    if price is None:
        return rows
    return [replace(row, costs={**row.costs, 'money': row.costs['gpu_hours'] * price}) for row in rows]
