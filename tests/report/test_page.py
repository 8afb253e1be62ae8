from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from composer_kd.report.page import page, write_page
from composer_kd.report.plain import text_of
from composer_kd.report.study_report import Report, gather
from tests.report.synthetic import METHODS, comparison

EVIL = '</script><script>alert("x")</script> & <b>$x$</b>'


class Reader(HTMLParser):
    """What a page shows and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.hidden = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.hidden += tag in ('script', 'style')
        for name, value in attrs:
            # A link that somebody has to click fetches nothing.
            if name in ('src', 'srcset', 'data', 'poster') or (name == 'href' and tag != 'a'):
                self.fetched.append(value)

    def handle_endtag(self, tag):
        self.hidden -= tag in ('script', 'style')

    def handle_data(self, data):
        if not self.hidden and data.strip():
            self.text.append(' '.join(data.split()))


@pytest.fixture(scope='module')
def report(tmp_path_factory) -> Report:
    return gather([comparison(tmp_path_factory.mktemp('studies') / 'digits', seeds=3)])


@pytest.fixture(scope='module')
def text(report) -> str:
    return page(report)


def plots_in(text: str) -> list[dict]:
    return json.loads(re.search(r'<script type="application/json" id="plots">(.*?)</script>', text, re.DOTALL)[1])


def test_the_answer_comes_first(report, text):
    reader = Reader(text)
    shown = ' '.join(reader.text[1:])  # the first is the title of the window
    assert reader.text[0] == report.title
    assert shown.replace(' .', '.').replace('( ', '(').startswith(report.headline[0].split(':')[0])
    assert reader.tags.index('h1') < min(reader.tags.index(tag) for tag in ('p', 'dl', 'table', 'figure'))


def test_it_needs_no_network(text):
    reader = Reader(text)
    assert [address for address in reader.fetched if not address.startswith('data:')] == []
    style = re.search(r'<style>(.*?)</style>', text, re.DOTALL)[1]
    assert 'url(' not in style
    assert '@import' not in style
    assert text.count('Plotly.newPlot(place') == 1
    assert 'plotly.js v' in text


def test_it_holds_every_table_and_every_plot(report, text):
    reader = Reader(text)
    for table in report.tables:
        for row in table.rows:
            for cell in row:
                assert ' '.join(text_of(cell).split()) in reader.text or not text_of(cell)
    drawn = plots_in(text)
    assert {plot['id'] for plot in drawn} == {
        'quality_over_cost', 'overhead', *(f'speedup_over_quality-{i}' for i in range(len(METHODS) - 1)),
    }
    for plot in drawn:
        assert f'id="{plot["id"]}"' in text
    assert all(note in ' '.join(reader.text) for note in report.notes)


def test_verdicts_are_marked(text):
    marked = re.findall(r'<span class="(gained|lost|noise)">([^<]*)</span>', text)
    assert ('lost', 'lost') in marked
    assert ('noise', 'cannot be told apart from noise') in marked
    assert {kind for kind, words in marked if words == 'gained'} <= {'gained'}
    # Counted verdicts are no verdict on one method.
    assert re.search(r'of 5 ways, \d [a-z ]+,', text)


def test_names_cannot_break_the_page(tmp_path):
    methods = {'baseline': METHODS['baseline'], EVIL: METHODS['always on']}
    study = comparison(tmp_path / 'a', methods, seeds=3, title=EVIL, description=EVIL, label=EVIL)
    text = page(gather([study]))
    assert '<script>alert' not in text
    reader = Reader(text)
    assert EVIL in reader.text
    assert reader.tags.count('script') == 3
    names = {trace['name'] for plot in plots_in(text) for trace in plot['data']}
    assert not any('<script' in name for name in names)


def test_left_out_runs_are_listed(tmp_path):
    from tests.report.synthetic import run

    study = comparison(tmp_path / 'a', {'baseline': METHODS['baseline']}, seeds=3)
    run(study / 'runs' / 'cut', method='baseline', duration=2, seed=9, quality=0.6, status='unfinished')
    reader = Reader(page(gather([study])))
    assert 'Left out' in reader.text
    assert ': it did not finish' in reader.text


def test_write(report, tmp_path):
    path = write_page(report, tmp_path / 'deep' / 'a.html')
    assert path == tmp_path / 'deep' / 'a.html'
    assert path.read_text(encoding='utf-8').startswith('<!doctype html>')


def test_the_package_carries_its_templates():
    setup = (Path(__file__).parents[2] / 'setup.py').read_text()
    assert "'report/templates/*'" in setup
