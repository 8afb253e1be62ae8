"""Plots for the page, as plain data for Plotly's JavaScript; the package itself is only needed for that script."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from composer_kd.report.plots import Axis, Layer, Plot
from composer_kd.report.plots_words import number, steps

_SYMBOLS = {'o': 'circle', 's': 'square', '^': 'triangle-up', 'D': 'diamond', 'v': 'triangle-down', 'P': 'cross',
            'X': 'x'}
_DASHES = {'solid': 'solid', 'dashed': 'dash', 'dashdot': 'dashdot', 'dotted': 'dot'}
_FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
_GRID = '#e6e6e6'


def panels(plot: Plot) -> list[tuple[str, Plot]]:
    """The plots that a plot with panels consists of, each with its heading; the plot itself, without one, if not."""
    if not plot.panels:
        return [('', plot)]
    return [(name, replace(plot, layers=tuple(plot.panel(name)), panels=False)) for name in plot.names]


def figure(plot: Plot, small: bool = False) -> dict[str, Any]:
    """A plot as Plotly's ``data`` and ``layout``; a click on a name in the legend hides all that bears it.

    Args:
        plot: What to draw, without panels.
        small: Whether it is one of several side by side: without a legend.

    Returns:
        Plain data for ``Plotly.newPlot``, and for ``plotly.graph_objects.Figure``.

    Example:
        >>> from composer_kd.report.plots import Style
        >>> line = Layer('kd', 'line', Style('#000000'), [1.0, 2.0], [0.5, 0.6])
        >>> drawn = figure(Plot('a', 'A', '', '', Axis('cost'), Axis('quality'), (line,)))
        >>> [(trace['name'], trace['showlegend']) for trace in drawn['data']]
        [('kd', False), ('kd', True)]
    """
    bars = any(layer.kind == 'bars' for layer in plot.layers)
    traces = [_trace(layer) for layer in plot.layers]
    if not bars:
        traces += [_legend(next(layer for layer in reversed(plot.layers) if layer.name == name)) for name in plot.names]
    layout: dict[str, Any] = {
        'font': {'family': _FONT, 'size': 12 if small else 13, 'color': '#222'},
        'paper_bgcolor': 'rgba(0,0,0,0)', 'plot_bgcolor': 'rgba(0,0,0,0)',
        'hovermode': 'closest', 'hoverlabel': {'align': 'left', 'namelength': -1},
        'margin': {'l': 48, 'r': 8, 't': 8, 'b': 44} if small else {'l': 64, 'r': 16, 't': 16, 'b': 56},
        'xaxis': _axis(plot.x, (value for layer in plot.layers for value in layer.x)),
        'yaxis': _axis(plot.y, (value for layer in plot.layers for value in layer.y)),
        # Below the plot and measured from the edge, where it neither hides marks nor meets the axis' label.
        'legend': {'orientation': 'h', 'yref': 'container', 'y': 0, 'yanchor': 'bottom', 'x': 0, 'xanchor': 'left',
                   'traceorder': 'normal'},
        'showlegend': len(plot.names) > 1 and not small,
        'shapes': [] if plot.rule is None else [_rule(plot)],
    }
    if bars:
        # One bar alone would be as broad as the plot.
        layout |= {'barmode': 'relative', 'bargap': max(0.35, 0.75 - 0.15 * len(plot.y.names))}
        layout['yaxis'] |= {'autorange': 'reversed', 'showgrid': False}
    # Along the short side a long label would not fit.
    label = plot.y.label if len(plot.y.label) <= 28 else plot.y.label.replace(' (', '\n(', 1)
    layout['yaxis']['title']['text'] = _text(label)
    return {'data': traces, 'layout': layout}


def _trace(layer: Layer) -> dict[str, Any]:
    look = layer.style
    trace: dict[str, Any] = {
        'type': 'scatter', 'name': _text(layer.name), 'legendgroup': layer.name, 'showlegend': False,
        'x': _finite(layer.x), 'y': _finite(layer.y),
    }
    line = {'color': look.colour, 'dash': _DASHES[look.line], 'width': 1 if layer.faint else 2}
    if layer.kind == 'bars':
        trace |= {'type': 'bar', 'orientation': 'h', 'showlegend': True, 'marker': {'color': look.colour}}
    elif layer.kind == 'band':
        trace |= {
            'x': _finite([*layer.x, *reversed(layer.x)]), 'y': _finite([*layer.y, *reversed(layer.high)]),
            'mode': 'lines', 'line': {'width': 0}, 'fill': 'toself', 'fillcolor': _pale(look.colour, 0.12),
        }
    elif layer.kind == 'runs':
        trace |= {'mode': 'markers', 'marker': {'color': look.colour, 'size': 6, 'opacity': 0.3}}
    elif layer.kind == 'means':
        trace |= {'mode': 'markers', 'marker': _marker(layer)}
        if any(layer.spread):
            trace['error_y'] = {'type': 'data', 'array': list(layer.spread), 'thickness': 1.2, 'width': 4}
    elif layer.kind == 'front':
        trace |= {'mode': 'lines', 'line': {'color': look.colour, 'width': 7, 'shape': 'hv'}, 'opacity': 0.55}
    else:
        trace |= {'mode': 'lines', 'line': line | ({'shape': 'hv'} if layer.kind == 'steps' else {}),
                  'opacity': 0.3 if layer.faint else 1.0}
    if layer.hover:
        trace |= {'hovertext': [_text(text) for text in layer.hover], 'hovertemplate': '%{hovertext}<extra></extra>'}
    else:
        trace['hoverinfo'] = 'skip'
    return trace


def _legend(layer: Layer) -> dict[str, Any]:
    """A trace without a mark, whose entry in the legend stands for all layers of its name."""
    look = layer.style
    front = layer.kind == 'front'
    return {
        'type': 'scatter', 'name': _text(_folded(layer.name, 44)), 'legendgroup': layer.name, 'showlegend': True,
        'x': [None], 'y': [None], 'mode': 'lines' if front or layer.kind in ('line', 'steps') else 'lines+markers',
        'line': {'color': look.colour, 'dash': _DASHES[look.line], 'width': 7 if front else 2},
        'opacity': 0.55 if front else 1.0, 'marker': _marker(layer), 'hoverinfo': 'skip',
    }


def _marker(layer: Layer) -> dict[str, Any]:
    return {'color': layer.style.colour, 'symbol': _SYMBOLS[layer.style.marker], 'size': 9}


def _axis(asked: Axis, values: Iterable[float]) -> dict[str, Any]:
    axis: dict[str, Any] = {
        'title': {'text': _text(asked.label), 'standoff': 12}, 'automargin': True, 'gridcolor': _GRID,
        'zeroline': False, 'showline': True, 'linecolor': '#888', 'ticks': 'outside', 'tickcolor': '#888',
    }
    if asked.names:
        axis |= {'tickvals': list(range(len(asked.names))), 'ticktext': [_text(_folded(name)) for name in asked.names]}
    elif asked.log:
        # Plotly's own labels between powers of ten are small and crowded.
        ticks = _between(values)
        axis |= {'type': 'log', 'tickvals': ticks, 'ticktext': [number(tick) for tick in ticks]}
    elif asked.whole:
        axis |= {'tickformat': 'd', 'dtick': max(1, math.ceil(max(values) / 12))}
    elif asked.suffix:
        axis |= {'ticksuffix': asked.suffix}
    if asked.limits is not None:
        axis['range'] = [math.log10(end) if asked.log else end for end in asked.limits]
    return axis


def _between(values: Iterable[float]) -> list[float]:
    """1, 2, 5, 10, ... as far as positive values go, and more of them if they do not go far."""
    found = [value for value in values if value > 0]
    low, high = min(found), max(found)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks = (step * 10.0**power for power in powers for step in steps(low, high))
    return [tick for tick in ticks if 0.3 * low <= tick <= 3 * high]


def _rule(plot: Plot) -> dict[str, Any]:
    across = {'x': 'y', 'y': 'x'}[plot.rule_axis]
    return {
        'type': 'line', f'{plot.rule_axis}0': plot.rule, f'{plot.rule_axis}1': plot.rule,
        f'{across}0': 0, f'{across}1': 1, f'{across}ref': 'paper', 'line': {'color': '#555', 'width': 1.2},
        'layer': 'below',
    }


def _finite(values: Iterable[float]) -> list[float | None]:
    """JSON has no NaN; Plotly leaves a gap where there is nothing."""
    return [float(value) if math.isfinite(value) else None for value in values]


def _text(text: str) -> str:
    """Text that Plotly shows as it stands: it reads some HTML, and formulas between dollar signs."""
    return html.escape(text, quote=False).replace('$', '&#36;').replace('\n', '<br>')


def _folded(text: str, width: int = 24, rows: int = 3) -> str:
    lines = textwrap.wrap(text, width)
    return '\n'.join([*lines[:rows - 1], lines[rows - 1] + '...'] if len(lines) > rows else lines)


def _pale(colour: str, opacity: float) -> str:
    red, green, blue = (int(colour[index:index + 2], 16) for index in (1, 3, 5))
    return f'rgba({red},{green},{blue},{opacity})'
