"""The plot of quality over cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from composer_kd.report.collect import COSTS
from composer_kd.report.curves import Curve

# Okabe and Ito's palette without its yellow, too pale for lines on white; shapes say the same for those who print grey.
COLOURS = ('#000000', '#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def plot_quality_over_cost(
    curves: Mapping[str, Curve],
    path: str | os.PathLike[str],
    *,
    metric: str,
    cost: str = 'train_seconds',
    title: str = '',
    baseline: str = 'baseline',
    log_cost: bool | None = None,
) -> Path:
    """Draw quality over cost: a faint dot for each run, a line through the means with bars of one standard deviation.

    Args:
        curves: By method; the baseline is drawn black and first.
        path: Where to save the PNG; its folder is made if it is missing.
        metric: Name of the quality, for the axis.
        cost: A name in ``report.collect.COSTS``, or a label with its unit.
        title: What the runs are.
        baseline: Name of the method without distillation.
        log_cost: Whether the cost axis is logarithmic; ``None``: if costs span more than a factor of 4.

    Returns:
        The path.

    Raises:
        ValueError: If there is no curve.
    """
    if not curves:
        raise ValueError('Nothing to plot: expected at least one method with a finished run, got none.')
    # No pyplot: it would keep the figure and pick a backend for the whole process.
    figure = Figure(figsize=(8.0, 5.6), dpi=150, layout='constrained')
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    order = sorted(curves, key=lambda method: method != baseline)
    handles = []
    for index, method in enumerate(order):
        curve = curves[method]
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        axes.scatter(curve.cost.ravel(), curve.quality.ravel(), s=14, color=colour, alpha=0.3, linewidths=0, zorder=2)
        spread = [float(np.nanstd(row, ddof=1)) if np.isfinite(row).sum() > 1 else 0.0 for row in curve.quality]
        style: Literal['-', '--'] = '--' if method == baseline else '-'
        axes.errorbar(
            curve.mean_cost, curve.mean_quality, yerr=spread, color=colour, marker=marker, markersize=6,
            linestyle='none', elinewidth=1.0, capsize=3, zorder=4,
        )
        # Many points, so that a line stays linear in cost, as the speed-up reads it, where the axis is logarithmic.
        at = np.unique(np.concatenate([np.linspace(curve.mean_cost[0], curve.mean_cost[-1], 200), curve.mean_cost]))
        axes.plot(at, np.interp(at, curve.mean_cost, curve.mean_quality), color=colour, linewidth=1.6, linestyle=style)
        handles.append(Line2D([], [], color=colour, marker=marker, markersize=6, linestyle=style, label=method))
    spent = np.concatenate([curve.cost[np.isfinite(curve.cost)] for curve in curves.values()])
    if log_cost if log_cost is not None else spent.max() > 4 * spent.min():
        axes.set_xscale('log')
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if spent.max() < 1e6:
            axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.set_xlabel(COSTS.get(cost, cost))
    better = 'higher' if next(iter(curves.values())).higher_is_better else 'lower'
    axes.set_ylabel(f'{metric} ({better} is better)')
    seeds = max(len(curve.seeds) for curve in curves.values())
    figure.suptitle(title or 'Quality at the end of training over its cost', fontsize=12)
    axes.set_title(f'Dots: single runs; marks: means of up to {seeds} seeds, ± 1 standard deviation', fontsize=9)
    axes.grid(True, which='major', color='0.9', linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    # Below the axes, where it can hide nothing.
    figure.legend(handles=handles, loc='outside lower center', ncols=min(len(curves), 3), frameon=False, fontsize=9)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format='png')
    return path
