"""Values that nobody should give, and text that is nearly right."""

from __future__ import annotations

import datetime
from typing import Any

from hypothesis import strategies as st

HUGE = 10**400
"""More than any float."""

numbers = st.sampled_from([
    0, -1, 1, 2, 7, 2**31, -2**31, 2**63, -2**63 - 1, 10**30, HUGE, -HUGE, 0.0, -0.0, 0.5, 1.5, -0.1, 1e-320, 1e308,
    float('nan'), float('inf'), float('-inf'), True, False,
])
words = st.sampled_from([
    '', ' ', '\n', '\t', '\0', 'null', 'true', 'nan', 'inf', '-inf', '1', '-1', '1.5', '0.5dur', '1.5dur', '-1ba', 'infba',
    'nandur', 'infdur', '1e400ep', '1e30ba', '1_0ba', '٣ba', '3 ep', '10sec', '1h', '3epep', 'auto', 'name', '~', '.', '..', '/',
    'ä', '名', '\u202e', '\U0001f600', '\ud800', 'a\0b', 'x' * 3000, '9' * 5000, '{run_name}', '{', '}', '%s', "'", '"', '[0]', 'a.b', 'a: b',
])
scalars = st.none() | numbers | words | st.text(max_size=8) | st.sampled_from([
    b'\xff', datetime.date(2024, 1, 1), datetime.datetime(2024, 1, 1),
])
keys = st.sampled_from(['', ' ', 'name', 'x', '0', 'a.b', 'ä', 'x' * 300, '[0]', '${x}']) | st.text(max_size=5)
odd_keys = keys | st.sampled_from([None, 0, 1.5, True, -1, HUGE])


def _nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = [{'a': value}]
    return value


values = st.recursive(
    scalars | st.sampled_from([[], {}, [[]], {'name': None}, {'name': 'x'}]).map(lambda value: value.copy()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(odd_keys, inner, max_size=2), max_leaves=3,
) | st.integers(20, 40).map(_nested)
"""Anything that YAML can hold."""

times = st.tuples(
    st.sampled_from(['', '-', '+', '0', '1', '12', '1e', '1e5', '1e400', 'nan', 'inf', '.5', '0.', '1_0', '٣', ' 1', '1 ', '0x1', '1e-5']),
    st.sampled_from(['', 'ba', 'ep', 'sp', 'tok', 'iter', 'dur', 'sec', 'BA', 's', 'h', 'm', 'baba', 'epoch', ' ba', 'ba\n']),
).map(''.join) | words | st.text('0123456789e.+-_ badurepsptokiternfhm', max_size=10)
"""Text that is a time, or nearly."""
