from __future__ import annotations

import csv
import io
import math

import pytest

from composer_kd.report import Number, PlainTable, to_text
from composer_kd.report.interval import Estimate
from composer_kd.report.plain import cost_number, estimate_number, mean_sd_number, plain_number, remarks

TABLE = PlainTable(
    'A [bold]title[/bold]', ('method', 'two\nlines', 'text'),
    (('a, "b"', Number(1.5, '1.50 [1.0, 2.0]', 1.0, 2.0), 'x'), ('[red]', Number(None, '-'), 'y')), ('A note.',), 'name',
)


def test_terminal_shows_brackets_as_they_are():
    text = to_text(TABLE)
    for words in ('A [bold]title[/bold]', '1.50 [1.0, 2.0]', '[red]', 'A note.'):
        assert words in text


def test_csv_is_read_back():
    header, *rows = csv.reader(io.StringIO(TABLE.to_csv()))
    assert header == ['method', 'two lines', 'two lines low', 'two lines high', 'text']
    assert rows == [['a, "b"', '1.5', '1.0', '2.0', 'x'], ['[red]', '', '', '', 'y']]


def test_numeric_columns():
    assert [TABLE.numeric(column) for column in range(3)] == [False, True, False]


def test_words_keep_room_beside_numbers():
    wide = PlainTable('t', ('method', *'abcd'), (('a long name of a method', *[Number(1.0, '+0.1234 [+0.1000, +0.2000]')] * 4),))
    text = to_text(wide, 80)
    for words in ('a long', 'method', '+0.1234', '[+0.1000,', '+0.2000]'):
        assert words in text


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match='expected 2 cells in each row, got 1'):
        PlainTable('t', ('a', 'b'), (('x',),))


def test_numbers():
    assert plain_number(math.nan).text == '-'
    assert plain_number(0.1234, 1, percent=True).text == '12.3 %'
    assert plain_number(0.5, 2, signed=True).text == '+0.50'
    mean = mean_sd_number([1.0, 3.0, math.inf], 1)
    assert (mean.text, mean.value, mean.sd) == ('2.0 ± 1.4', 2.0, pytest.approx(math.sqrt(2)))
    assert mean_sd_number([]).value is None
    assert (cost_number(0.01234).text, cost_number(123456.0).text, cost_number(2.5e15).text) == ('0.01234', '123,456', '2.5e+15')


@pytest.mark.parametrize('value', [-0.0, -0.0004, 0.0004, 0.0])
def test_what_rounds_to_zero_has_no_sign(value):
    assert plain_number(value, 1, percent=True).text == '0.0 %'
    assert plain_number(value, 2, signed=True).text == '0.00'
    assert plain_number(value, 0).text == '0'
    assert estimate_number(Estimate(value, value, 1.0, 10, 10, ''), signed=True).text == '0.00 [0.00, +1.00]'
    assert mean_sd_number([value], 2).text == '0.00'
    assert not cost_number(value).text.startswith('-0 ')
    assert (plain_number(-0.006, 2).text, plain_number(-10.0, 0).text, cost_number(-0.0).text) == ('-0.01', '-10', '0')


def test_names_with_commas_stay_apart_in_remarks():
    assert remarks([('taught', 'x'), ('taught, 8 epochs', 'x'), ('taught', 'x')]) == ("'taught', 'taught, 8 epochs': x.",)


def test_estimates():
    whole = Estimate(1.5, 1.0, 2.0, 10, 10, 'gained')
    assert estimate_number(whole).text == '1.50 [1.00, 2.00]'
    assert estimate_number(Estimate(1.5, 1.0, 2.0, 9, 10, 'gained'), between='\n').text == '1.50\n[1.00, 2.00]*'
    assert estimate_number(Estimate(0.5, None, None, 0, 0, 'gained'), 0, percent=True).text == '50 %'
    share = Estimate(0.5, 0.25, 0.75, 0, 0, 'gained')
    assert estimate_number(share, 0, percent=True).text == '50 [25, 75] %'
    assert estimate_number(share, 0, percent=True, between='\n').text == '50 %\n[25, 75] %'
    assert estimate_number(Estimate(0.5, None, None, 0, 0, 'gained'), 0, percent=True, between='\n').text == '50 %'
    assert estimate_number(Estimate(None, None, None, 0, 0, 'gained')).text == '-'
