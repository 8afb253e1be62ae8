"""Plots of curves: quality over cost, and the speed-up over quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from composer_kd.report.costs import cost_name
from composer_kd.report.curves import Array, Curve
from composer_kd.report.plots import Axis, Layer, Plot, Style
from composer_kd.report.plots_words import Scale, around, direction, number, of_many, plus_minus, scale, sd, wide
from composer_kd.report.speedup import SpeedUp

FRONT = Style('#C8C8C8')


def path_of(x: Array, y: Array, log: bool) -> tuple[list[float], list[float]]:
    """A line that stays linear in cost, as the speed-up reads it, where the axis is logarithmic."""
    at = x
    if log and len(x) > 1:
        at = np.unique(np.concatenate([np.linspace(x[0], x[-1], 120), np.geomspace(x[0], x[-1], 60), x]))
    return at.tolist(), np.interp(at, x, y).tolist()


def quality_over_cost(
    curves: Mapping[str, Curve],
    metric: str,
    cost: str,
    looks: Mapping[str, Style],
    *,
    cost_label: str = '',
    front: Sequence[tuple[float, float]] = (),
    log_cost: bool | None = None,
) -> Plot:
    """Quality at the end of training over its cost: runs, their means, and lines through these.

    Args:
        curves: By method.
        metric: The quality in words.
        cost: A name in ``report.costs.COSTS``, or a label with its unit.
        cost_label: The cost in words; empty: by its name.
        looks: Style by method; methods are drawn in this order.
        front: Cost and quality of the points of the Pareto front, cheapest first.
        log_cost: Whether the cost axis is logarithmic; ``None``: if costs span more than a factor of 4.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError('Nothing to plot: expected at least one method with a finished run, got none.')
    spent = np.concatenate([curve.cost[np.isfinite(curve.cost)] for curve in curves.values()])
    unit = scale(cost, cost_label or cost_name(cost), float(spent.max()))
    log = wide(spent.tolist()) if log_cost is None else log_cost
    layers = []
    if len(front) > 1:
        layers.append(Layer(
            'Pareto front', 'front', FRONT, [c * unit.factor for c, _ in front], [q for _, q in front],
        ))
    ordered = sorted(curves, key=lambda method: list(looks).index(method))
    for method in ordered:
        layers += _curve_layers(curves[method], metric, unit, looks[method], log)
    seeds = max(len(curve.seeds) for curve in curves.values())
    better = next(iter(curves.values())).higher_is_better
    return Plot(
        key='quality_over_cost',
        title='Quality at the end of training over its cost',
        marks=f'Dots: single runs; marks: means of up to {of_many(seeds, "seed")}, ± 1 standard deviation'
              if seeds > 1 else 'Marks: single runs',
        reading=f"Each mark is a duration with a full schedule of its own. {'Up' if better else 'Down'} and to the "
                f'left is better: the same quality at less cost.'
                + (' Pale steps: the Pareto front, where no mean is better and cheaper.' if len(front) > 1 else ''),
        x=Axis(unit.label, log=log),
        y=Axis(direction(metric, better)),
        layers=tuple(layers),
    )


def _curve_layers(curve: Curve, metric: str, unit: Scale, look: Style, log: bool) -> list[Layer]:
    cost, quality = unit.factor * curve.mean_cost, curve.mean_quality
    x, y = path_of(cost, quality, log)
    name = curve.method
    layers = [Layer(name, 'line', look, x, y)]
    spreads = [sd(row.tolist()) for row in curve.quality]
    counts = np.isfinite(curve.quality).sum(axis=1).tolist()
    if max(counts) > 1:
        places = [(d, s) for d in range(len(curve.durations)) for s in range(len(curve.seeds))
                  if np.isfinite(curve.quality[d, s])]
        layers.append(Layer(
            name, 'runs', look,
            [unit.factor * float(curve.cost[place]) for place in places],
            [float(curve.quality[place]) for place in places],
            hover=[
                f'{name}, {curve.durations[d]}, seed {curve.seeds[s]}\n'
                f'{number(unit.factor * float(curve.cost[d, s]))} {unit.unit}\n'
                f'{metric} {number(float(curve.quality[d, s]))}'
                for d, s in places
            ],
        ))
    layers.append(Layer(
        name, 'means', look, cost.tolist(), quality.tolist(), spreads,
        hover=[
            f'{name}, {duration}\n{of_many(count, "seed")}\n{number(float(c))} {unit.unit}\n'
            f'{metric} {plus_minus(float(q), spread)}'
            for duration, count, c, q, spread in zip(curve.durations, counts, cost, quality, spreads, strict=True)
        ],
    ))
    return layers


def speedup_over_quality(results: Sequence[SpeedUp], metric: str, looks: Mapping[str, Style]) -> Plot | None:
    """Speed-up over the range of qualities that baseline and method both reach, with the interval as a band.

    Args:
        results: With speed-ups at many qualities in ``at``; see :func:`~composer_kd.report.speedup`.
        metric: The quality in words.
        looks: Style by method.

    Returns:
        The plot; ``None`` if no method reaches a quality that the baseline reaches too.
    """
    layers: list[Layer] = []
    for result in sorted(results, key=lambda result: list(looks).index(result.method)):
        found = [(quality, at) for quality, at in sorted(result.at.items()) if at.value is not None]
        if len(found) < 2:
            continue
        name, look = result.method, looks[result.method]
        whole = [(quality, at) for quality, at in found if at.low is not None and at.high is not None]
        if len(whole) > 1:
            layers.append(Layer(
                name, 'band', look, [q for q, _ in whole], [float(at.low or 0.0) for _, at in whole],
                high=[float(at.high or 0.0) for _, at in whole],
            ))
        layers.append(Layer(
            name, 'line', look, [q for q, _ in found], [float(at.value or 0.0) for _, at in found],
            hover=[
                f'{name}\n{metric} {number(q)}\n{at.value:.2f} times as fast'
                + (f'\n{100 * result.level:.0f} % interval {at.low:.2f} to {at.high:.2f}' if at.low is not None else '')
                for q, at in found
            ],
        ))
    if not layers:
        return None
    several = len({layer.name for layer in layers}) > 2
    return Plot(
        key='speedup_over_quality',
        title='Speed-up at equal quality',
        marks=f'Lines: cost of {results[0].baseline} / cost of the method' + (
            f'; bands: {100 * results[0].level:.0f} % interval over seeds'
            if any(layer.kind == 'band' for layer in layers) else ''),
        reading='Above 1 the method gets to that quality at less cost. A line spans the qualities that both reach; '
                'nothing is extrapolated. A band that holds 1 cannot be told apart from noise there.',
        x=Axis(metric, limits=around([q for layer in layers for q in layer.x]) if several else None),
        y=Axis('Speed-up', limits=around([1.0, *_worth_seeing(layers)])),
        layers=tuple(layers),
        rule=1.0,
        panels=several,
    )


def _worth_seeing(layers: Sequence[Layer]) -> list[float]:
    """Lines whole, bands as far as they do not press the lines flat."""
    lines = [value for layer in layers if layer.kind == 'line' for value in layer.y]
    bands = [value for layer in layers if layer.kind == 'band' for value in (*layer.y, *layer.high)]
    return [*lines, *(min(value, 1.6 * max(1.0, *lines)) for value in bands)]
