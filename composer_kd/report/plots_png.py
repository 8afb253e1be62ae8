"""Plots as PNG files, with Matplotlib, which is imported when the first is drawn."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from composer_kd.report.plots import Axis, Layer, Plot
from composer_kd.report.plots_words import steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis as MatplotlibAxis

_WIDTH = 34


def save_png(plot: Plot, path: str | os.PathLike[str], title: str = '') -> Path:
    """Draw a plot with Matplotlib and save it.

    Args:
        plot: What to draw.
        path: The PNG file; its folder is made if it is missing.
        title: What the runs are, for the first line; empty: the plot's own title.

    Returns:
        The path.

    Raises:
        OSError: If the file cannot be written.
    """
    # No pyplot: it would keep the figure and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = plot.names
    figure = Figure(figsize=_size(plot), dpi=150, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    figure.suptitle(_plain(textwrap.fill(title or plot.title, 80)), fontsize=12)
    lines = [plot.title, plot.marks] if title else [plot.marks]
    marks = '\n'.join(textwrap.fill(line, 64 if plot.y.names else 105) for line in lines)
    if plot.panels:
        columns = _across(names)
        grid = figure.subplots(-(-len(names) // columns), columns, squeeze=False, sharex=True, sharey=True)
        for name, axes in zip(names, grid.flat, strict=False):
            _fill(axes, plot, plot.panel(name))
            axes.set_title(_plain(textwrap.fill(textwrap.shorten(name, 60, placeholder='...'), 32)), fontsize=9)
            axes.label_outer()
        for axes in grid.flat[len(names):]:
            axes.set_visible(False)
        # Panels above an empty place are the lowest of their column.
        for axes in grid[-2:-1, len(names) - len(grid.flat) or columns:].flat:
            axes.tick_params(labelbottom=True)
        figure.supxlabel(_plain(f'{plot.x.label}\n\n{marks}'), fontsize=9)
        figure.supylabel(_plain(plot.y.label), fontsize=9)
    else:
        axes = figure.add_subplot()
        handles = _fill(axes, plot, plot.layers)
        axes.set_xlabel(_plain(textwrap.fill(plot.x.label, 90)))
        axes.set_ylabel(_plain(textwrap.fill(plot.y.label, 58)))
        axes.set_title(_plain(marks), fontsize=9)
        if len(names) > 1:
            # Below the axes, where it can hide nothing.
            figure.legend(
                handles=[handles[name] for name in names],
                labels=[_plain(textwrap.shorten(name, 100, placeholder='...')) for name in names],
                loc='outside lower center', ncols=_columns(names), frameon=False, fontsize=9,
            )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not savefig(), which draws twice to lay out, though drawing lays out by itself.
    canvas.print_png(path)
    return path


def _size(plot: Plot) -> tuple[float, float]:
    """Width and height in inches."""
    names = plot.names
    if plot.panels:
        return 8.0, 1.2 + 2.3 * -(-len(names) // _across(names))
    body = 4.6 if not plot.y.names else 0.8 + 0.5 * len(plot.y.names)
    return 8.0, body + 0.8 + 0.22 * -(-len(names) // _columns(names))


def _columns(names: Sequence[str]) -> int:
    longest = max(map(len, names))
    most = 1 if longest > 2 * _WIDTH else 2 if longest > 28 else 3 if longest > 14 else 4
    return min(len(names), most)


def _across(names: Sequence[str]) -> int:
    """Panels side by side: two of four, so that no place stays empty."""
    return min(len(names), 2 if len(names) == 4 else 3)


def _fill(axes: Axes, plot: Plot, layers: Iterable[Layer]) -> dict[str, Any]:
    """Draw layers and dress the axes; returns what stands for each name in a legend."""
    handles: dict[str, Any] = {}
    shown: dict[str, str] = {}
    ends: dict[float, list[float]] = {}
    if plot.rule is not None:
        (axes.axhline if plot.rule_axis == 'y' else axes.axvline)(plot.rule, color='0.35', linewidth=1.0, zorder=1)
    for layer in layers:
        handle = _draw(axes, layer, ends)
        if layer.name not in handles or layer.kind == 'means' or shown[layer.name] == 'runs':
            handles[layer.name], shown[layer.name] = handle, layer.kind
    _axis(axes, axes.xaxis, plot.x)
    _axis(axes, axes.yaxis, plot.y)
    axes.grid(True, which='major', axis='x' if plot.y.names else 'both', color='0.9', linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    return handles


def _draw(axes: Axes, layer: Layer, ends: dict[float, list[float]]) -> Any:
    """Draw a layer; returns what stands for it in the legend."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    look, x, y = layer.style, list(layer.x), list(layer.y)
    if layer.kind == 'bars':
        _bars(axes, layer, ends)
        return Patch(color=look.colour)
    if layer.kind == 'band':
        axes.fill_between(x, y, list(layer.high), color=look.colour, alpha=0.18, linewidth=0, zorder=2)
    elif layer.kind == 'runs':
        axes.scatter(x, y, s=14, color=look.colour, alpha=0.3, linewidths=0, zorder=3)
    elif layer.kind == 'means':
        axes.errorbar(
            x, y, yerr=list(layer.spread) if any(layer.spread) else None, color=look.colour, marker=look.marker,
            markersize=6, linestyle='none', elinewidth=1.0, capsize=3, zorder=5,
        )
    elif layer.kind == 'front':
        axes.step(x, y, where='post', color=look.colour, linewidth=5.0, alpha=0.6, zorder=1, solid_joinstyle='round')
        return Line2D([], [], color=look.colour, linewidth=5.0, alpha=0.6)
    else:
        style: dict[str, Any] = {
            'color': look.colour, 'linestyle': look.line, 'linewidth': 0.8 if layer.faint else 1.6,
            'alpha': 0.3 if layer.faint else 1.0, 'zorder': 3 if layer.faint else 4,
        }
        if layer.kind == 'steps':
            axes.step(x, y, where='post', **style)
        else:
            axes.plot(x, y, **style)
        return Line2D([], [], color=look.colour, linestyle=look.line, linewidth=1.6)
    return Line2D([], [], color=look.colour, marker=look.marker, markersize=6, linestyle=look.line)


def _bars(axes: Axes, layer: Layer, ends: dict[float, list[float]]) -> None:
    """Bars on top of those drawn before; negative lengths go the other way from the zero line."""
    for length, place in zip(layer.x, layer.y, strict=True):
        reached = ends.setdefault(place, [0.0, 0.0])
        side = 0 if length >= 0 else 1
        axes.barh(place, length, left=reached[side], height=0.62, color=layer.style.colour, edgecolor='white',
                  linewidth=0.6)
        reached[side] += length


def _axis(axes: Axes, axis: MatplotlibAxis, asked: Axis) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter, StrMethodFormatter

    horizontal = axis is axes.xaxis
    if asked.limits is not None:
        (axes.set_xlim if horizontal else axes.set_ylim)(*asked.limits)
    if asked.names:
        axis.set_ticks(range(len(asked.names)))
        width = _WIDTH if not horizontal else max(8, 90 // len(asked.names))
        axis.set_ticklabels([_plain(textwrap.fill(textwrap.shorten(name, 3 * width, placeholder='...'), width))
                             for name in asked.names])
        if not horizontal:
            axes.invert_yaxis()
    elif asked.log:
        (axes.set_xscale if horizontal else axes.set_yscale)('log')
        low, high = sorted(axis.get_data_interval())
        axis.set_major_locator(LogLocator(subs=steps(low, high)))
        axis.set_minor_formatter(NullFormatter())
        if low >= 1e-3 and high < 1e6:
            formatter = ScalarFormatter()
            formatter.set_scientific(False)
            axis.set_major_formatter(formatter)
    elif asked.suffix:
        axis.set_major_formatter(StrMethodFormatter('{x:g}' + asked.suffix))
    elif asked.whole:
        axis.set_major_locator(MaxNLocator(integer=True, nbins='auto'))


def _plain(text: str) -> str:
    """Text that Matplotlib takes as it stands: a pair of dollar signs would begin a formula."""
    return text.replace('$', r'\$')
