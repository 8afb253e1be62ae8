"""A reliability diagram (Guo et al. 2017, arXiv 1706.04599, figure 4) as a PNG file."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import numpy as np

from composer_kd.inspecting.result import Inspected


def check_plot(path: str | os.PathLike[str]) -> None:
    """Refuse a place for a diagram before anything is measured.

    Raises:
        ValueError: If it does not end in ``.png``, or cannot be written.
    """
    place = Path(path)
    if place.suffix.lower() != '.png':
        raise ValueError(f"--plot: expected a file that ends in .png, got '{path}'.")
    folder = place.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK) or place.is_dir():
        raise ValueError(f"--plot: '{path}' cannot be written. See to the permissions of '{folder}', or give another.")


def save_plot(found: Inspected, path: str | os.PathLike[str]) -> Path:
    """Draw confidence against accuracy, at temperature 1 and at the best one, each above how many labels there are.

    Args:
        found: What was found; with a calibration.
        path: The PNG file; its folder is made if it is missing.

    Returns:
        The path.

    Raises:
        ValueError: Without a calibration.
        OSError: If the file cannot be written.
    """
    # No pyplot: it would keep the figure and pick a backend for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    one = found.calibration
    if one is None:
        raise ValueError('--plot: the labels of this data are no classes, so there is nothing to draw. Leave it out.')
    figure = Figure(figsize=(8.0, 5.0), dpi=150, layout='constrained')
    canvas = FigureCanvasAgg(figure)
    title = f'{found.identity.origin} on {found.data} of {found.recipe}'.replace('$', r'\$')
    figure.suptitle(textwrap.fill(textwrap.shorten(title, 150, placeholder='...'), 80), fontsize=11)
    grid = figure.subplots(2, 2, squeeze=False, sharex=True, gridspec_kw={'height_ratios': [3, 1]}, sharey='row')
    for column, (bins, heat) in enumerate(((one.bins, 1.0), (one.bins_then, one.temperature))):
        upper, lower = grid[0][column], grid[1][column]
        full, count = bins.counts > 0, len(bins.counts)
        width, middle = 0.94 / count, (np.arange(count) + 0.5) / count
        right, short = bins.accuracy[full], (bins.confidence - bins.accuracy)[full]
        upper.bar(middle[full], right, width, color='#4477aa', label='right', zorder=2)
        upper.bar(
            middle[full], short, width, right, color='#ee667755', edgecolor='#ee6677', hatch='//', linewidth=0.8,
            label='gap to confidence', zorder=3,
        )
        upper.plot([0, 1], [0, 1], color='#555555', linestyle='--', linewidth=1, label='as sure as right', zorder=4)
        upper.set_title(f'temperature {heat:.3g}: calibration error {bins.error:.3f}', fontsize=10)
        upper.set_xlim(0, 1)
        upper.set_ylim(0, 1)
        share = bins.counts / max(1, int(bins.counts.sum()))
        lower.bar(middle, share, width, color='#bbbbbb', zorder=2)
        lower.set_xlabel('confidence')
        for axes in (upper, lower):
            axes.grid(alpha=0.3, zorder=0)
            axes.spines[['top', 'right']].set_visible(False)
    grid[0][0].set_ylabel('share that is right')
    grid[1][0].set_ylabel('share of labels')
    grid[0][0].legend(loc='upper left', fontsize=8, frameon=False)
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(place)
    return place
