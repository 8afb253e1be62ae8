"""Going on from a checkpoint without the algorithm that made it: works, and the run recorder says what is missing."""

import warnings

import pytest

from composer_kd import Distillation
from composer_kd.callbacks import RunRecorder
from tests.common import network, trainer

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')


def make(folder, algorithms, **settings):
    return trainer(algorithms, callbacks=[RunRecorder(folder)], **{'max_duration': '4ba', **settings})


def test_a_warning_names_the_teachers_that_are_missing(tmp_path):
    kd = Distillation({'module': network(seed=9), 'name': 'first'}, check_batches=0)
    make(tmp_path / 'a', [kd], save_folder=str(tmp_path / 'saved'), save_interval='2ba', save_filename='ba{batch}.pt').fit()
    load = {'load_path': str(tmp_path / 'saved' / 'ba2.pt')}
    without = make(tmp_path / 'b', [], **load, save_folder=str(tmp_path / 'again'), save_interval='1ba',
                   save_filename='ba{batch}.pt')
    with pytest.warns(UserWarning, match=r'made with distillation from first \(module:Sequential\)\. This trainer has no'):
        without.fit()
    assert int(without.state.timestamp.batch) == 4
    # and again, however often it goes on
    third = make(tmp_path / 'c', [], load_path=str(tmp_path / 'again' / 'ba3.pt'))
    with pytest.warns(UserWarning, match='made with distillation from first'):
        third.fit()
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'The checkpoint that')
        again = Distillation({'module': network(seed=9), 'name': 'first'}, check_batches=0)
        make(tmp_path / 'd', [again], **load).fit()
        make(tmp_path / 'e', []).fit()
