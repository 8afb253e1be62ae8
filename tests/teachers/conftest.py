import pytest

from tests.answers.training import live, train


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    """A store that a training on the digits has filled."""
    path = tmp_path_factory.mktemp('filled') / 'store'
    train(live(path))
    return path
