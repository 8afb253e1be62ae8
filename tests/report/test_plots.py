from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plotly.graph_objects import Figure

from composer_kd.report import Curve, Point, speedup
from composer_kd.report.plots import Axis, Layer, Plot, Style, styles
from composer_kd.report.plots_curves import quality_over_cost, speedup_over_quality
from composer_kd.report.plots_page import figure, panels
from composer_kd.report.plots_png import save_png
from composer_kd.report.plots_words import number, scale, wide
from composer_kd.report.study_report import Report, gather
from tests.report.synthetic import METHODS, comparison, search, sequence

LONG = 'a teacher that was trained for twenty-four epochs and is asked on every batch of the whole run, start to end'


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert('RGB')).astype(int)


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i:i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(image - wanted).max(axis=2) <= 2).sum() > 20)


def uncut(image: np.ndarray) -> bool:
    """Nothing runs into the edge of the picture."""
    return all(bool((edge == 255).all()) for edge in (image[0], image[-1], image[:, 0], image[:, -1]))


def curve(method: str, gain: float = 0.0, seeds: int = 3, durations: tuple[int, ...] = (1, 2, 4, 8)) -> Curve:
    draw = random.Random(method)
    return Curve.of(method, [
        Point(f'{d}ep', s, 10.0 * d, 0.8 - 0.3 / d + gain / d + draw.gauss(0, 0.01)) for d in durations for s in range(seeds)
    ])


def plots_of(report: Report) -> dict[str, Plot]:
    return {plot.key: plot for plot in report.plots}


# --- looks ---

def test_each_method_has_a_look_of_its_own():
    methods = ['baseline', *(f'm{i}' for i in range(42))]
    looks = styles(methods, 'baseline')
    assert list(looks) == methods
    assert len({(look.colour, look.marker) for look in looks.values()}) == 43
    assert [name for name, look in looks.items() if look.colour == '#000000'] == ['baseline']
    # The same look whichever methods a plot shows, as long as the study is the same.
    assert styles(['m0', 'baseline', 'm1'], 'baseline')['m1'] == looks['m1']
    assert '#000000' not in {look.colour for look in styles(['a', 'b'], None).values()}


@pytest.mark.parametrize(('cost', 'largest', 'unit', 'factor'), [
    ('train_seconds', 599, 's', 1.0), ('train_seconds', 601, 'min', 1 / 60), ('wall_seconds', 11000, 'h', 1 / 3600),
    ('flops', 5e5, 'FLOPs', 1.0), ('flops', 5e16, 'PFLOPs', 1e-15), ('gpu_hours', 1e6, 'GPU-hours', 1.0), ('money', 3, '', 1.0),
])
def test_units(cost, largest, unit, factor):
    found = scale(cost, 'Time (s, x) FLOPs', largest)
    assert (found.unit, found.factor) == (unit, pytest.approx(factor))
    assert f'({unit}, x)' in found.label or not cost.endswith('seconds')


def test_numbers():
    assert [number(x) for x in (0.68321, 0.7, 12.34567, 123456.0, -0.5, 0.0, math.nan)] == [
        '0.6832', '0.7', '12.35', '123,456', '-0.5', '0', '-',
    ]
    assert wide([1, 5])
    assert not wide([1, 4])
    assert not wide([0, 5])
    assert not wide([])


# --- as PNG ---

@pytest.fixture(scope='module')
def reports(tmp_path_factory) -> dict[str, Report]:
    folder = tmp_path_factory.mktemp('studies')
    return {
        'comparison': gather([comparison(folder / 'comparison', seeds=3)]),
        'search': gather([search(folder / 'search', failed=(4,))]),
        'sequence': gather([sequence(folder / 'sequence')]),
    }


@pytest.mark.parametrize(('kind', 'key'), [
    ('comparison', 'quality_over_cost'), ('comparison', 'speedup_over_quality'), ('search', 'best_over_cost'),
    ('search', 'best_over_runs'), ('sequence', 'quality_over_steps'), ('sequence', 'cost_over_steps'),
])
def test_every_method_is_in_the_picture(reports, kind, key, tmp_path):
    report = reports[kind]
    plot = plots_of(report)[key]
    image = pixels(save_png(plot, tmp_path / 'deep' / 'a.png', 'What the runs are'))
    for method in plot.names:
        if method != 'Pareto front':
            assert has_colour(image, report.looks[method].colour), method
    assert uncut(image)


def test_overhead_is_stacked_and_below_zero_it_goes_the_other_way(reports, tmp_path):
    plot = plots_of(reports['comparison'])['overhead']
    assert [layer.name for layer in plot.layers] == ['teacher', 'loss', 'data', 'rest']
    assert plot.y.names == tuple(method for method in METHODS if method != 'baseline')
    total = [sum(layer.x[place] for layer in plot.layers) for place in range(len(plot.y.names))]
    told = next(table for table in reports['comparison'].tables if table.name == 'overhead')
    assert total == pytest.approx([100 * row[5].value for row in told.rows])
    image = pixels(save_png(plot, tmp_path / 'a.png'))
    assert has_colour(image, '#44546A')
    assert has_colour(image, '#8497B0')
    assert uncut(image)
    bar = Plot('b', 'B', '', '', Axis('x'), Axis('', names=('m',)), (
        Layer('up', 'bars', Style('#00FF00'), [2.0], [0]), Layer('down', 'bars', Style('#FF0000'), [-1.0], [0]),
    ))
    image = pixels(save_png(bar, tmp_path / 'b.png'))
    rows = image[: int(0.6 * len(image))]
    red, green = (np.argwhere((rows == colour).all(axis=2))[:, 1] for colour in ((255, 0, 0), (0, 255, 0)))
    assert red.max() < green.min()
    assert (green.max() - green.min()) == pytest.approx(2 * (red.max() - red.min()), rel=0.05)


@pytest.mark.parametrize('count', [2, 11])
def test_long_names_are_not_cut(count, tmp_path):
    names = ['baseline', *(f'{LONG} {i}' for i in range(count))]
    curves = {name: curve(name) for name in names}
    looks = styles(names, 'baseline')
    results = [speedup(curves['baseline'], curves[name], resamples=50) for name in names[1:]]
    for plot in (quality_over_cost(curves, LONG, 'train_seconds', looks), speedup_over_quality(results, LONG, looks)):
        assert uncut(pixels(save_png(plot, tmp_path / 'a.png', LONG)))


def test_names_are_no_formulas(tmp_path):
    # An unfinished formula between dollar signs would be an error of Matplotlib.
    names = ['$x_{$', '^_', '\\frac$ $']
    plot = quality_over_cost({n: curve(n) for n in names}, '$metric_{$', 'cost $', styles(names, None))
    assert uncut(pixels(save_png(plot, tmp_path / 'a.png', '$title^{$')))


def test_one_run_and_one_duration(tmp_path):
    plot = quality_over_cost({'a': curve('a', seeds=1, durations=(2,))}, 'q', 'train_seconds', styles(['a'], 'a'))
    assert plot.marks == 'Marks: single runs'
    assert 'Pareto' not in ''.join(plot.names)
    assert uncut(pixels(save_png(plot, tmp_path / 'a.png')))
    Figure(figure(plot))


def test_nothing_to_plot():
    with pytest.raises(ValueError, match='Nothing to plot'):
        quality_over_cost({}, 'q', 'train_seconds', {})
    low, high = curve('low'), curve('high', gain=9.0)
    assert speedup_over_quality([speedup(low, high, resamples=20)], 'q', styles(['low', 'high'], 'low')) is None


# --- what they say ---

def test_hover_of_a_mean_and_of_a_run(reports):
    plot = plots_of(reports['comparison'])['quality_over_cost']
    means = next(layer for layer in plot.layers if layer.kind == 'means' and layer.name == 'first 25 %')
    told = next(table for table in reports['comparison'].tables if table.name == 'quality')
    cell = next(row for row in told.rows if row[0] == 'first 25 %')[1]
    assert means.hover[0].splitlines() == [
        'first 25 %, 2ep', '3 seeds', f'{number(means.x[0])} s',
        f'Test accuracy {number(cell.value)} ± {number(cell.sd, 2)}',
    ]
    runs = next(layer for layer in plot.layers if layer.kind == 'runs' and layer.name == 'first 25 %')
    assert runs.hover[1].startswith('first 25 %, 2ep, seed 1\n')


def test_a_line_is_straight_over_cost_where_the_axis_is_logarithmic():
    plot = quality_over_cost({'a': curve('a')}, 'q', 'train_seconds', styles(['a'], 'a'))
    assert plot.x.log
    line = next(layer for layer in plot.layers if layer.kind == 'line')
    mean = curve('a')
    middle = np.interp(60.0, line.x, line.y)
    assert middle == pytest.approx((mean.mean_quality[2] + mean.mean_quality[3]) / 2, abs=1e-4)


def test_speedup_is_drawn_over_the_common_range_alone(reports):
    plot = plots_of(reports['comparison'])['speedup_over_quality']
    told = {row[0]: row for row in next(t for t in reports['comparison'].tables if t.name == 'speed-up').rows}
    for layer in plot.layers:
        low, high = (float(end) for end in told[layer.name][2].split(' to '))
        assert (min(layer.x), max(layer.x)) == pytest.approx((low, high), abs=1e-4)
    assert plot.panels
    assert plot.rule == 1.0
    band = next(layer for layer in plot.layers if layer.kind == 'band')
    assert all(low <= high for low, high in zip(band.y, band.high, strict=True))


def test_wide_bands_do_not_press_the_lines_flat():
    base, method = curve('base'), curve('method', gain=0.05)
    result = speedup(base, method, np.linspace(0.6, 0.75, 9).tolist(), resamples=50)
    for estimate in result.at.values():
        object.__setattr__(estimate, 'high', 500.0)
    plot = speedup_over_quality([result], 'q', styles(['base', 'method'], 'base'))
    assert plot.y.limits[1] < 5


def test_search_plots(reports):
    plots = plots_of(reports['search'])
    for key in ('best_over_cost', 'best_over_runs'):
        for layer in plots[key].layers:
            if layer.kind == 'steps':
                assert list(layer.y) == sorted(layer.y), 'the best so far never gets worse'
    runs = next(layer for layer in plots['best_over_runs'].layers if layer.kind == 'runs')
    assert 'optimizer.lr' in runs.hover[0]
    assert 'run 1' in runs.hover[0]
    # One of twelve failed, in each of five searches.
    assert len(runs.x) == 55


def test_sequence_plots(reports):
    plots = plots_of(reports['sequence'])
    assert plots['quality_over_steps'].x.names == ('1', '2', '3', '4', '5')
    line = next(layer for layer in plots['cost_over_steps'].layers if layer.kind == 'means')
    assert list(line.y) == sorted(line.y)


# --- for the page ---

def test_plotly_takes_every_plot(reports):
    seen = set()
    for report in reports.values():
        for plot in report.plots:
            for heading, part in panels(plot):
                drawn = Figure(figure(part, small=bool(heading)))
                assert len(drawn.data) > 0
                seen |= {layer.kind for layer in part.layers}
    assert seen == {'means', 'runs', 'line', 'steps', 'band', 'front', 'bars'}


def test_one_entry_in_the_legend_hides_all_of_a_method(reports):
    plot = plots_of(reports['comparison'])['quality_over_cost']
    traces = figure(plot)['data']
    assert [trace['legendgroup'] for trace in traces if trace['showlegend']] == [*METHODS, 'Pareto front']
    assert sum(trace['legendgroup'] == 'always on' for trace in traces) == 4


def test_panels_show_the_others_pale(reports):
    plot = plots_of(reports['comparison'])['speedup_over_quality']
    parts = dict(panels(plot))
    assert list(parts) == [method for method in METHODS if method != 'baseline']
    layers = parts['first 25 %'].layers
    assert sum(layer.style.colour == '#D5D5D5' for layer in layers) == 4
    assert {layer.name for layer in layers if layer.style.colour != '#D5D5D5'} == {'first 25 %'}


def test_text_is_not_read_as_html():
    line = Layer('<b>&$x$', 'line', Style('#000000'), [1.0, math.nan], [1.0, 2.0], hover=['a\n<i>', 'b'])
    drawn = figure(Plot('a', 'A', '', '', Axis('<u>'), Axis('y'), (line,)))
    assert drawn['data'][0]['name'] == '&lt;b&gt;&amp;&#36;x&#36;'
    assert drawn['data'][0]['hovertext'] == ['a<br>&lt;i&gt;', 'b']
    assert drawn['data'][0]['x'] == [1.0, None]
    assert drawn['layout']['xaxis']['title']['text'] == '&lt;u&gt;'


def test_ticks_of_a_logarithmic_axis():
    def ticks(*x: float) -> list[str]:
        line = Layer('a', 'line', Style('#000000'), x, [1.0] * len(x))
        return figure(Plot('a', 'A', '', '', Axis('x', log=True), Axis('y'), (line,)))['layout']['xaxis']['ticktext']

    assert ticks(12.0, 450.0) == ['5', '10', '20', '50', '100', '200', '500', '1,000']
    assert '30' in ticks(11.0, 60.0)
