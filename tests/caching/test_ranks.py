"""``composer -n 2 -c composer-kd cache ...``: two ranks share the work, print once, and stop together."""

import pytest
import torch

from tests.caching.made import answers, digits, left_over, start, write, written

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('ranks')


@pytest.fixture(scope='module')
def recipe(folder):
    return write(digits(folder, dist_timeout=30.0), folder)


@pytest.fixture(scope='module')
def alone(recipe, folder):
    written(recipe, '--out', folder / 'alone', '--views', 5)
    return answers(folder / 'alone')


def run(log, *arguments, ranks=2, part=100):
    """Exit status and what was printed."""
    process = start(*arguments, ranks=ranks, log=log, part=part)
    try:
        status = process.wait(240)
    finally:
        process.kill()
        process.wait()
    return status, log.read_text()


def test_two_ranks_go_on_where_one_stopped_and_print_once(recipe, alone, tmp_path):
    out, log = tmp_path / 'out', tmp_path / 'log'
    written(recipe, '--out', out, '--views', 1)
    status, text = run(log, recipe, '--out', out, '--views', 5)
    assert status == 0, text
    assert answers(out) == alone
    assert text.count(f'500 answers in {out}') == 1
    assert text.count('400 of them new') == 1
    assert text.count('teachers: [{cache:') == 1
    assert text.count('answers: 100%') == 1, text
    assert not left_over(out)
    assert ', 0 of them new' in written(recipe, '--out', out, '--views', 5).stdout


def test_what_is_refused_is_told_once(recipe, tmp_path):
    log = tmp_path / 'log'
    written(recipe, '--out', tmp_path / 'out', '--views', 1)
    status, text = run(log, recipe, '--out', tmp_path / 'out', 'train_data.noise=0.1')
    assert status == 1
    assert text.count('error: ') == 1, text
    assert 'view.noise is 0.2 in the store and 0.1 in this recipe' in text
    assert 'Traceback' not in text


def test_ranks_whose_teacher_says_nan_stop_together(tmp_path):
    """Both say so at once; the first is told, and neither waits for the other."""
    recipe = digits(tmp_path, dist_timeout=30.0)
    recipe['train_data'] |= {'noise': 0.0, 'shift': 0, 'batch_size': 4}
    state = torch.load(tmp_path / 'teacher.pt')
    path, log = write(recipe, tmp_path), tmp_path / 'log'
    written(path, '--out', tmp_path / 'fine', '--views', 1)
    last = [name for name in state if name.endswith('bias')][-1]
    state[last][0] = float('nan')
    torch.save(state, tmp_path / 'teacher.pt')
    status, text = run(log, path, '--out', tmp_path / 'out', '--views', 40)
    assert status == 1, text
    assert text.count('error: ') == 1, text
    assert 'answers sample 0, view 0, with values that are not finite' in text
    assert 'Traceback' not in text
    assert not left_over(tmp_path / 'out')
