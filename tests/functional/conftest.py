import pytest

from composer_kd.functional import chunks


@pytest.fixture(params=['whole', 'in chunks'])
def whole_or_in_chunks(request, monkeypatch):
    """A test runs twice: with formulas as they are written, and with rows taken a few at a time, two or so of them."""
    if request.param == 'in chunks':
        monkeypatch.setattr(chunks, '_ELEMENTS_PER_THREAD', 12)
        monkeypatch.setattr(chunks, '_ELEMENTS_ON_DEVICE', 12)
