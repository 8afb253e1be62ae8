import pytest
import torch

from composer_kd.recipes import recipe_digest
from composer_kd.recipes.folder import claim_folder
from composer_kd.runs import Record, RunFolder
from tests.recipes.tiny import plain, recipe


@pytest.fixture
def claimed(tmp_path):
    """A folder with a run of the tiny recipe in it."""
    folder = RunFolder(tmp_path / 'a')
    claim(recipe(folder.path))
    folder.checkpoints.mkdir()
    torch.save({}, folder.checkpoints / 'ep1-ba6-rank0.pt')
    folder.logs.mkdir()
    (folder.path / 'notes.txt').write_text('mine')
    return folder


def claim(recipe):
    start, lock = claim_folder(recipe)
    lock.release()
    return start


def finish(folder, status='finished'):
    folder.write_record(Record(run_name='tiny', status=status, started_at='', updated_at=''))


def kept(folder):
    return (folder.checkpoints / 'ep1-ba6-rank0.pt').exists()


def test_a_new_folder_gets_the_resolved_recipe(tmp_path):
    assert claim(recipe(tmp_path / 'b' / 'c')) == 1
    assert RunFolder(tmp_path / 'b' / 'c').read_recipe() == plain(run_folder=str(tmp_path / 'b' / 'c'), seed=17)
    (tmp_path / 'empty').mkdir()
    assert claim(recipe(tmp_path / 'empty')) == 1


def test_an_unfinished_run_of_the_same_recipe_goes_on(claimed):
    (claimed.logs / 'start1-rank0.txt').touch()
    finish(claimed, 'unfinished')
    assert claim(recipe(claimed.path)) == 2
    assert claim(recipe(claimed.path, overwrite=True, run_name='other', progress_bar=True)) == 2
    assert kept(claimed)


@pytest.mark.parametrize(('changes', 'told'), [
    ({'seed': 3}, 'holds the run of another recipe: seed is 17 there and 3 here'),
    ({'optimizer': {'name': 'decoupled_sgdw', 'lr': 0.2}}, 'optimizer.lr is 0.1 there and 0.2 here'),
    ({'algorithms': {'ema': {'half_life': '1ba'}}}, "algorithms is None there and {'ema': {'half_life': '1ba'}} here"),
    ({'autoresume': False}, 'unfinished, and autoresume is false'),
])
def test_another_run_is_left_alone(claimed, changes, told):
    with pytest.raises(ValueError, match=told):
        claim(recipe(claimed.path, **changes))
    assert kept(claimed)
    assert claim(recipe(claimed.path, **changes, overwrite=True)) == 1
    assert not kept(claimed)
    assert (claimed.path / 'notes.txt').read_text() == 'mine', 'only what a run writes is removed'


def test_a_finished_run_is_left_alone_unless_overwrite_says_otherwise(claimed):
    finish(claimed)
    with pytest.raises(ValueError, match=r'holds this run, finished\. Choose another run_name, or remove that run with'):
        claim(recipe(claimed.path))
    assert kept(claimed)
    assert claim(recipe(claimed.path, overwrite=True)) == 1
    assert not kept(claimed)
    assert not claimed.record_path.exists()


@pytest.mark.parametrize('broken', ['recipe_path', 'record_path'])
def test_a_damaged_folder_is_left_alone_unless_overwrite_says_otherwise(claimed, broken):
    getattr(claimed, broken).write_text('{')
    with pytest.raises(ValueError, match='Cannot read'):
        claim(recipe(claimed.path))
    assert claim(recipe(claimed.path, overwrite=True)) == 1


def test_what_is_no_run_folder_is_never_emptied(tmp_path):
    (tmp_path / 'thesis.txt').write_text('important')
    for overwrite in (False, True):
        with pytest.raises(ValueError, match='nothing there was touched'):
            claim(recipe(tmp_path, overwrite=overwrite))
        with pytest.raises(ValueError, match='is a file'):
            claim(recipe(tmp_path / 'thesis.txt', overwrite=overwrite))
    assert (tmp_path / 'thesis.txt').read_text() == 'important'


def test_the_digest_sees_what_is_trained_and_nothing_else():
    one = plain(algorithms={'ema': {}, 'sam': {}})
    assert recipe_digest(one) == recipe_digest({**one, 'run_name': 'b', 'tags': {'a': 'b'}, 'run_folder': 'x'})
    assert recipe_digest(one) != recipe_digest({**one, 'seed': 5})
    assert recipe_digest(one) != recipe_digest({**one, 'algorithms': {'sam': {}, 'ema': {}}}), 'order matters'


def test_the_number_of_workers_may_change_while_a_run_goes_on(tmp_path):
    one, other = (recipe(tmp_path, train_data={**plain()['train_data'], 'num_workers': workers}) for workers in (0, 2))
    assert recipe_digest(one.plain()) == recipe_digest(other.plain())
    assert recipe_digest(one.plain()) != recipe_digest({**one.plain(), 'seed': 99})
