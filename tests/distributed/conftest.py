import pytest

from tests.distributed.launches import Student, kill, make_teachers
from tests.yamls.overlay import workshop

__all__ = ['workshop']


@pytest.fixture(scope='session')
def teachers(tmp_path_factory):
    """Two earlier runs."""
    return make_teachers(tmp_path_factory.mktemp('earlier') / 'teachers')


@pytest.fixture(scope='session')
def alone(tmp_path_factory, teachers):
    """A student that nothing happened to."""
    student = Student(tmp_path_factory.mktemp('alone'), teachers)
    status, text = student.run()
    assert status == 0, text
    return student


@pytest.fixture(scope='session')
def interrupted(tmp_path_factory, teachers):
    """The folder of one that was killed in mid-training, to be copied."""
    student = Student(tmp_path_factory.mktemp('interrupted'), teachers)
    launch = student.start()
    try:
        student.until(launch, 30)
        kill(list(launch.pids().values()))
        launch.gone()
    finally:
        launch.clear()
    return student.root
