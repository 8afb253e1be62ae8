"""Plots of runs that follow one another: hyperparameter searches and continual retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from composer_kd.report.plots import Axis, Layer, Plot, Style
from composer_kd.report.plots_words import around, direction, in_all, number, of_many, plus_minus, scale, sd
from composer_kd.report.search import Chain, MeanBest
from composer_kd.report.sequence import SequenceResult

# How far apart the methods' marks stand at one step, so that their bars do not hide each other.
_APART = 0.12


def best_over_cost(
    searches: Mapping[str, Sequence[Chain]],
    means: Mapping[str, MeanBest],
    metric: str,
    cost: str,
    cost_label: str,
    looks: Mapping[str, Style],
) -> Plot | None:
    """Best quality so far against the total cost of a search: the mean of the searches, and each of them.

    Args:
        searches: By method, see :func:`composer_kd.report.search.chains`.
        means: Of the same methods, see :func:`composer_kd.report.search.mean_best`.
        metric: The quality in words.
        cost: A name in ``report.costs.COSTS``.
        cost_label: The cost in words.
        looks: Style by method; methods are drawn in this order.

    Returns:
        The plot; ``None`` if no search has a finished run.
    """
    methods = [method for method in looks if method in means and len(means[method].cost)]
    if not methods:
        return None
    largest = max(chain.total for method in methods for chain in searches[method])
    unit = scale(cost, cost_label, largest)
    layers = []
    for method in methods:
        mean, look = means[method], looks[method]
        for chain in searches[method]:
            steps = [step for step in chain.steps if step.best is not None]
            layers.append(Layer(
                method, 'steps', look, [unit.factor * step.total for step in steps],
                [step.best for step in steps if step.best is not None], faint=True,
            ))
        several = 'mean best of ' + of_many(mean.replicates, 'search', 'searches')
        layers.append(Layer(
            method, 'steps', look, (unit.factor * mean.cost).tolist(), mean.best_by_cost.tolist(),
            hover=[
                f'{method}\n{number(unit.factor * spent)} {unit.unit} in all\n{several}: {metric} {number(best)}'
                for spent, best in zip(mean.cost.tolist(), mean.best_by_cost.tolist(), strict=True)
            ],
        ))
    return Plot(
        key='best_over_cost',
        title='Best quality so far over the total cost of the search',
        marks='Pale: single searches; strong: their mean, as far as all of them have a finished run and go on',
        reading=f"Every run counts, pruned and failed ones too. {'Higher' if _higher(searches) else 'Lower'} at the "
                'same cost, or further left at the same quality, is better.',
        x=Axis(in_all(unit.label)),
        y=Axis(f'Best {direction(metric, _higher(searches))}'),
        layers=tuple(layers),
    )


def best_over_runs(
    searches: Mapping[str, Sequence[Chain]], means: Mapping[str, MeanBest], metric: str, looks: Mapping[str, Style],
) -> Plot | None:
    """Best quality so far after each run of a search, and what each run reached; arguments as above."""
    methods = [method for method in looks if method in means and len(means[method].runs)]
    if not methods:
        return None
    higher = _higher(searches)
    layers = []
    for place, method in enumerate(methods):
        mean, look = means[method], looks[method]
        shift = _APART * (place - (len(methods) - 1) / 2)
        made = [
            (chain, step, step.quality)
            for chain in searches[method] for step in chain.steps if step.quality is not None
        ]
        layers += [
            Layer(
                method, 'runs', look, [step.index + 1 + shift for _, step, _ in made],
                [quality for _, _, quality in made],
                hover=['\n'.join([
                    f'{method}, search {chain.replicate}, run {step.index + 1}', f'{metric} {number(quality)}',
                    *(f'{key} {number(value) if isinstance(value, float) else value}'
                      for key, value in step.params.items()),
                ]) for chain, step, quality in made],
            ),
            Layer(
                method, 'steps', look, mean.runs.tolist(), mean.best_by_runs.tolist(),
                hover=[
                    f'{method}\nafter {of_many(int(count), "run")}\nmean best {metric} {number(best)}'
                    for count, best in zip(mean.runs.tolist(), mean.best_by_runs.tolist(), strict=True)
                ],
            ),
        ]
    limits, cut = _without_the_worst(layers, higher)
    return Plot(
        key='best_over_runs',
        title='Best quality so far after each run of the search',
        marks='Dots: single runs' + (', the worst beyond the edge' if cut else '')
              + '; lines: mean over the searches of their best so far',
        reading='The same number of runs on both sides, whatever they cost: what the runs reach, without the price of '
                'their teachers.',
        x=Axis('Runs of the search', whole=True),
        y=Axis(direction(metric, higher), limits=limits),
        layers=tuple(layers),
    )


def _higher(searches: Mapping[str, Sequence[Chain]]) -> bool:
    return next(iter(searches.values()))[0].higher_is_better


def _without_the_worst(layers: Sequence[Layer], higher: bool) -> tuple[tuple[float, float], bool]:
    """Ends of the axis of quality by the lines and the better three quarters of the runs; whether any is beyond."""
    lines = [value for layer in layers if layer.kind == 'steps' for value in layer.y]
    runs = [value for layer in layers if layer.kind == 'runs' for value in layer.y]
    worst = float(np.quantile(runs, 0.25 if higher else 0.75))
    kept = [value for value in runs if (value >= worst if higher else value <= worst)]
    low, high = around([*lines, *kept])
    return (low, high), any(not low <= value <= high for value in runs)


def quality_over_steps(result: SequenceResult, metric: str, looks: Mapping[str, Style]) -> Plot | None:
    """Quality after each step of a sequence, a line for each method.

    Args:
        result: See :func:`composer_kd.report.sequence.sequence`.
        metric: The quality in words.
        looks: Style by method; methods are drawn in this order.

    Returns:
        The plot; ``None`` if no step has a quality.
    """
    layers: list[Layer] = []
    methods = [method for method in looks if method in result.methods]
    most = 0
    for place, method in enumerate(methods):
        look = looks[method]
        shift = _APART * (place - (len(methods) - 1) / 2)
        found = [step for step in result.methods[method] if step.quality]
        if not found:
            continue
        x = [step.step + shift for step in found]
        spreads = [sd(list(step.quality.values())) for step in found]
        most = max(most, *(len(step.quality) for step in found))
        layers += [
            Layer(method, 'line', look, x, [step.mean_quality for step in found]),
            *([Layer(
                method, 'runs', look, [at for at, step in zip(x, found, strict=True) for _ in step.quality],
                [quality for step in found for quality in step.quality.values()],
                hover=[
                    f'{method}, step {step.step + 1}, seed {replicate}\n{metric} {number(quality)}'
                    for step in found for replicate, quality in step.quality.items()
                ],
            )] if any(spreads) else []),
            Layer(
                method, 'means', look, x, [step.mean_quality for step in found], spreads,
                hover=[
                    f'{method}, step {step.step + 1}\n{of_many(len(step.quality), "seed")}'
                    f'{", with teachers" if step.distilled else ""}\n{metric} {plus_minus(step.mean_quality, spread)}'
                    for step, spread in zip(found, spreads, strict=True)
                ],
            ),
        ]
    if not layers:
        return None
    return Plot(
        key='quality_over_steps',
        title='Quality after each step of the sequence',
        marks=f'Dots: single runs; marks: means of up to {of_many(most, "seed")}, ± 1 standard deviation'
              if most > 1 else 'Marks: single runs',
        reading='A step is a training on the data of that step; marks of one step stand side by side for the eye only. '
                'The first step has no earlier one to learn from.',
        x=Axis('Step', names=tuple(str(step + 1) for step in range(max(result.steps) + 1))),
        y=Axis(direction(metric, result.higher_is_better)),
        layers=tuple(layers),
    )


def cost_over_steps(result: SequenceResult, cost_label: str, looks: Mapping[str, Style]) -> Plot | None:
    """Total cost up to each step of a sequence, a line for each method.

    Args:
        result: See :func:`composer_kd.report.sequence.sequence`.
        cost_label: The cost in words.
        looks: Style by method; methods are drawn in this order.

    Returns:
        The plot; ``None`` if no cost is known.
    """
    methods = [method for method in looks if method in result.methods]
    totals = {
        method: [step for step in result.methods[method] if np.isfinite(step.mean_total)] for method in methods
    }
    known = [step.mean_total for found in totals.values() for step in found]
    if not known:
        return None
    unit = scale(result.cost, cost_label, max(known))
    layers: list[Layer] = []
    for method, found in totals.items():
        x, y = [float(step.step) for step in found], [unit.factor * step.mean_total for step in found]
        layers += [
            Layer(method, 'line', looks[method], x, y),
            Layer(method, 'means', looks[method], x, y, [0.0] * len(found), hover=[
                f'{method}, steps 1 to {step.step + 1}\n{number(total)} {unit.unit} in all'
                for step, total in zip(found, y, strict=True)
            ]),
        ]
    return Plot(
        key='cost_over_steps',
        title='Total cost up to each step of the sequence',
        marks='Marks: means over the seeds',
        reading='Every run counts, also the first, which has no teacher. Lower is cheaper.',
        x=Axis('Step', names=tuple(str(step + 1) for step in range(max(result.steps) + 1))),
        y=Axis(in_all(unit.label)),
        layers=tuple(layers),
    )
