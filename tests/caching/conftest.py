import pytest

from tests.caching.made import digits, write


@pytest.fixture
def recipe(tmp_path):
    """The digits' recipe as a file."""
    return write(digits(tmp_path), tmp_path)
