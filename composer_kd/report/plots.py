"""What a plot shows, whatever draws it: layers of marks, axes, and one style a method in every plot of a report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from composer_kd.report.curves import Curve

LineStyle = Literal['solid', 'dashed', 'dashdot', 'dotted']
Kind = Literal['means', 'runs', 'line', 'steps', 'band', 'front', 'bars']

# Okabe and Ito's palette without its yellow, too pale for lines on white; shapes say the same for those who print grey.
COLOURS = ('#000000', '#D55E00', '#0072B2', '#009E73', '#CC79A7', '#E69F00', '#56B4E9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
PALE = '#D5D5D5'
LINES: tuple[LineStyle, ...] = ('solid', 'dashdot', 'dotted')


class Style(NamedTuple):
    """How a method looks: a colour, a marker of Matplotlib's and a line."""

    colour: str
    marker: str = 'o'
    line: LineStyle = 'solid'


def styles(methods: Iterable[str], baseline: str | None) -> dict[str, Style]:
    """The look of each method, the same in every plot: the baseline black and dashed, the others by their order.

    Args:
        methods: Names, in the order of the study; the baseline may be among them or not.
        baseline: The method without distillation; ``None`` if there is none, and nothing is black.

    Example:
        >>> found = styles(['baseline', 'always on'], 'baseline')
        >>> found['baseline'].line, found['always on'].colour
        ('dashed', '#D55E00')
    """
    others = [method for method in dict.fromkeys(methods) if method != baseline]
    # Six colours and seven shapes have no common divisor: 42 methods look different.
    found = {
        method: Style(
            COLOURS[1 + index % (len(COLOURS) - 1)], MARKERS[(1 + index) % len(MARKERS)],
            LINES[index // (len(COLOURS) - 1) % len(LINES)],
        )
        for index, method in enumerate(others)
    }
    return found if baseline is None else {baseline: Style(COLOURS[0], MARKERS[0], 'dashed'), **found}


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        label: What it measures, with the unit.
        log: Whether it is logarithmic.
        whole: Whether only whole numbers make sense on it.
        suffix: What stands behind every number on it.
        names: Names of the places 0, 1, 2, ... of an axis that has no numbers.
        limits: Its ends; ``None``: what the marks need.
    """

    label: str
    log: bool = False
    whole: bool = False
    suffix: str = ''
    names: tuple[str, ...] = ()
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Layer:
    """Marks of one kind that belong together.

    Attributes:
        name: What the legend calls it; all layers of a name are hidden together.
        kind: ``means`` (marks with bars of one standard deviation), ``runs`` (faint dots), ``line``, ``steps`` (a value
            holds until the next), ``band`` (between ``y`` and ``high``), ``front`` (a broad pale line below the others)
            or ``bars`` (lying, from the zero line, layers on top of each other).
        style: Its look.
        x: Horizontal places; of bars their lengths.
        y: Vertical places; of bars the index of the name on the axis.
        spread: Of means: one standard deviation each, 0 for a single run.
        high: Of a band: its upper edge.
        hover: What the page tells about each mark, lines parted by line breaks; empty: nothing.
        faint: Whether it stands for a single replicate among several.
    """

    name: str
    kind: Kind
    style: Style
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] = ()
    high: Sequence[float] = ()
    hover: Sequence[str] = ()
    faint: bool = False


@dataclass(frozen=True)
class Plot:
    """One plot.

    Attributes:
        key: Name of its file without the ending, and its place in the page.
        title: What it shows.
        marks: What its marks stand for, in a line.
        reading: How to read it, a few sentences for the page.
        x: Horizontal axis.
        y: Vertical axis.
        layers: In the order in which they are drawn.
        rule: A value of the axis of ``rule_axis`` where a thin line says that nothing is gained; ``None`` for none.
        rule_axis: The axis of the rule.
        panels: Whether every name has a panel of its own, with the lines of the others pale behind: what overlaps too
            much in one.
    """

    key: str
    title: str
    marks: str
    reading: str
    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    rule: float | None = None
    rule_axis: Literal['x', 'y'] = 'y'
    panels: bool = False

    @property
    def names(self) -> list[str]:
        """What the legend lists, in order; what is no method comes last."""
        ordered = sorted(self.layers, key=lambda layer: layer.kind == 'front')
        return list(dict.fromkeys(layer.name for layer in ordered))

    def panel(self, name: str) -> list[Layer]:
        """The layers of one panel: those of that name before pale lines of the others."""
        others = [
            replace(layer, style=Style(PALE), hover=(), name='')
            for layer in self.layers if layer.name != name and layer.kind in ('line', 'steps')
        ]
        return [*others, *(layer for layer in self.layers if layer.name == name)]


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
        cost: A name in ``report.costs.COSTS``, or a label with its unit.
        title: What the runs are.
        baseline: Name of the method without distillation.
        log_cost: Whether the cost axis is logarithmic; ``None``: if costs span more than a factor of 4.

    Returns:
        The path.

    Raises:
        ValueError: If there is no curve.
    """
    from composer_kd.report.plots_curves import quality_over_cost
    from composer_kd.report.plots_png import save_png

    plot = quality_over_cost(curves, metric, cost, styles(curves, baseline), log_cost=log_cost)
    return save_png(replace(plot, title=title or plot.title), path)
