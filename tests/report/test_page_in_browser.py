"""The page opened in Chromium, without a network: nothing fails, nothing is fetched, every plot is drawn."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from composer_kd.report.page import write_page
from composer_kd.report.study_report import gather
from tests.report.synthetic import METHODS, comparison, search, sequence

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='there is no Chromium on this machine')
playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')

EVIL = '</script><img src="http://localhost/x"> & $x_{$ "method"'
# What each plot shows: its size, its marks, and the paths that were drawn for them.
DRAWN = """
() => plots.map(plot => {
  const place = document.getElementById(plot.id), box = place.getBoundingClientRect();
  const svg = place.querySelector('svg.main-svg').getBoundingClientRect();
  return {
    id: plot.id, width: box.width, height: box.height, svg: [svg.width, svg.height], traces: place.data.length,
    marks: place.querySelectorAll('.plot .trace path, .plot .barlayer path').length,
    right: svg.right - document.documentElement.clientWidth,
  };
})
"""
# How many of a method's traces are there, and how many of them are shown.
SHOWN = """
([id, method]) => {
  const mine = document.getElementById(id)._fullData.filter(trace => trace.legendgroup === method);
  return [mine.length, mine.filter(trace => trace.visible === true).length];
}
"""


@pytest.fixture(scope='module')
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp('studies')
    evil = {'baseline': METHODS['baseline'], EVIL: METHODS['always on']}
    studies = {
        'comparison': comparison(folder / 'comparison', seeds=3), 'search': search(folder / 'search', runs=5, replicates=3),
        'sequence': sequence(folder / 'sequence', steps=3, replicates=3),
        'evil': comparison(folder / 'evil', evil, seeds=3, title=EVIL),
    }
    return {name: write_page(gather([study]), folder / f'{name}.html') for name, study in studies.items()}


@pytest.fixture(scope='module')
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(
            executable_path=CHROMIUM,
            args=['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--host-resolver-rules=MAP * ~NOTFOUND'],
        )
        yield started
        started.close()


def opened(browser: Any, path: Path, width: int = 1280) -> tuple[Any, list[str]]:
    """A page, and everything that went wrong in it or that it asked for."""
    page = browser.new_context(offline=True, viewport={'width': width, 'height': 900}).new_page()
    told: list[str] = []
    page.on('console', lambda message: told.append(f'console: {message.text}'))
    page.on('pageerror', lambda error: told.append(f'error: {error}'))
    page.on('requestfailed', lambda request: told.append(f'failed: {request.url}'))
    page.on('request', lambda request: None if request.url == path.as_uri() or request.url.startswith('data:')
            else told.append(f'request: {request.url}'))
    page.goto(path.as_uri())
    page.wait_for_function('plots.every(plot => document.getElementById(plot.id).querySelector("svg.main-svg"))')
    return page, told


@pytest.mark.parametrize(('name', 'width'), [
    ('comparison', 1280), ('comparison', 390), ('search', 390), ('sequence', 390), ('evil', 1280), ('evil', 390),
])
def test_every_plot_is_drawn_and_nothing_else_happens(browser, pages, name, width):
    page, told = opened(browser, pages[name], width)
    drawn = page.evaluate(DRAWN)
    assert len(drawn) >= 2
    for plot in drawn:
        assert min(plot['traces'], plot['marks']) > 0, plot
        assert plot['svg'] == pytest.approx([plot['width'], plot['height']], abs=1), plot
        assert min(plot['width'], plot['height']) > 150, plot
        assert plot['right'] <= 1, f'{plot} goes beyond the right edge'
    # Tables scroll by themselves; the page does not.
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    assert told == []
    page.close()


def test_a_click_in_the_legend_hides_a_method(browser, pages):
    page, told = opened(browser, pages['comparison'])
    asked = ['quality_over_cost', 'always on']
    every, shown = page.evaluate(SHOWN, asked)
    assert every == shown == 4
    page.locator('#quality_over_cost .legend .traces', has_text='always on').locator('.legendtoggle').click()
    # A double click would show the method alone, so Plotly waits for one before it hides anything.
    page.wait_for_function(f'(asked) => ({SHOWN})(asked)[1] === 0', arg=asked)
    assert page.evaluate(SHOWN, ['quality_over_cost', 'baseline']) == [4, 4]
    assert told == []
    page.close()


def test_a_mark_tells_what_it_is(browser, pages):
    page, told = opened(browser, pages['comparison'])
    page.evaluate("""
    () => {
      const place = document.getElementById('quality_over_cost');
      const curve = place.data.findIndex(t => t.legendgroup === 'baseline' && t.error_y);
      Plotly.Fx.hover(place, [{curveNumber: curve, pointNumber: 1}]);
    }
    """)
    text = page.locator('#quality_over_cost .hoverlayer').text_content()
    for part in ('baseline, 4ep', '3 seeds', ' s', 'Test accuracy', '±'):
        assert part in text, text
    assert told == []
    page.close()


def test_on_paper_nothing_is_beyond_the_edge(browser, pages):
    page, told = opened(browser, pages['comparison'])
    page.set_viewport_size({'width': 700, 'height': 1000})
    page.emulate_media(media='print')
    page.wait_for_function(
        'plots.every(p => document.getElementById(p.id).querySelector("svg.main-svg").getBoundingClientRect().right <= 701)',
    )
    assert page.evaluate('document.documentElement.scrollWidth') <= 701
    assert len(page.pdf(format='A4')) > 10_000
    assert told == []
    page.close()
