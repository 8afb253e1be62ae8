"""What a kill leaves in a run folder is put right by the next start, and what a disk refuses is told."""

import errno
import os
import re

import pytest
import torch
from composer.core import Callback
from torch.distributed.checkpoint.api import CheckpointException

from composer_kd.recipes import build_trainer, train
from composer_kd.recipes.build import forget
from composer_kd.recipes.errors import cannot_write
from composer_kd.recipes.mending import latest_link, mend
from composer_kd.runs import RunFolder
from tests.recipes.tiny import recipe

LINK = 'latest-rank0.pt'


@pytest.fixture
def run(tmp_path):
    """A run that was killed: its recipe, and the folder of its checkpoints."""
    made = recipe(tmp_path / 'run', save_interval='2ba')
    folder = RunFolder(tmp_path / 'run')
    folder.write_recipe(made.plain())
    folder.checkpoints.mkdir()
    return made, folder.checkpoints


def save(folder, *names, torn=()):
    for name in (*names, *torn):
        path = folder / name
        if name.endswith('.pt') or '.pt.' in name:
            torch.save({'state': torch.arange(1000)}, path)
            if name in torn:
                path.write_bytes(path.read_bytes()[:-50])
        else:
            path.mkdir()
            (path / '__0_0.distcp').touch()
            if name not in torn:
                (path / '.metadata').touch()


def link(folder, name):
    (folder / LINK).symlink_to(name)


def after(run, **changes):
    """Where the link leads after mending, and what else is there."""
    made, folder = run
    mend(made.model_copy(update=changes))
    there = os.readlink(folder / LINK) if (folder / LINK).is_symlink() else None
    return there, sorted(path.name for path in folder.iterdir() if path.name != LINK)


@pytest.mark.parametrize('names', [('ep0-ba2-rank0.pt', 'ep0-ba10-rank0.pt'), ('ep0-ba2', 'ep0-ba10')])
def test_a_lost_link_leads_to_the_newest_again(run, names):
    save(run[1], *names)
    assert after(run) == (names[1], sorted(names))


@pytest.mark.parametrize(('old', 'new'), [('ep0-ba2-rank0.pt', 'ep0-ba4-rank0.pt'), ('ep0-ba2', 'ep0-ba4')])
def test_what_was_cut_short_is_removed_and_never_taken(run, old, new, caplog):
    save(run[1], old, torn=[new])
    assert after(run) == (old, [old])
    assert f'cut short while it was written: {new}' in caplog.text
    (run[1] / LINK).unlink()
    link(run[1], old)
    save(run[1], torn=[new])
    assert after(run) == (old, [old])


def test_one_that_was_complete_before_its_link_was_made(run):
    save(run[1], 'ep0-ba2-rank0.pt', 'ep0-ba4-rank0.pt')
    link(run[1], 'ep0-ba2-rank0.pt')
    assert after(run)[0] == 'ep0-ba4-rank0.pt'


def test_a_first_one_that_was_cut_short_leaves_nothing(run):
    save(run[1], torn=['ep0-ba2-rank0.pt'])
    assert after(run) == (None, [])


def test_the_latest_was_damaged_later(run, caplog):
    save(run[1], 'ep0-ba2-rank0.pt', torn=['ep0-ba4-rank0.pt'])
    link(run[1], 'ep0-ba4-rank0.pt')
    assert after(run) == ('ep0-ba2-rank0.pt', ['ep0-ba2-rank0.pt'])
    assert "is cut short; the run goes on from 'ep0-ba2-rank0.pt'" in caplog.text


def test_the_only_one_was_damaged_later(run, caplog):
    save(run[1], torn=['ep0-ba4-rank0.pt'])
    link(run[1], 'ep0-ba4-rank0.pt')
    with pytest.raises(ValueError, match=r"run_folder: .*ep0-ba4-rank0\.pt', is cut short.* remove it to begin from scratch"):
        mend(run[0])
    assert (run[1] / 'ep0-ba4-rank0.pt').exists(), 'it may be of use to someone'
    (run[1] / 'ep0-ba4-rank0.pt').unlink()
    assert after(run)[1] == []
    assert 'is gone; the run begins from scratch' in caplog.text


def test_a_link_that_a_copy_made_a_file(run):
    save(run[1], 'ep0-ba2-rank0.pt', LINK)
    assert after(run) == (None, ['ep0-ba2-rank0.pt'])
    (run[1] / LINK).write_bytes(b'cut')
    assert after(run) == ('ep0-ba2-rank0.pt', ['ep0-ba2-rank0.pt'])


def test_packed_ones_do_not_show_whether_they_are_whole(run):
    save(run[1], 'ep0-ba2-rank0.pt.lz4')
    link(run[1], 'ep0-ba2-rank0.pt.lz4')
    save(run[1], torn=['ep0-ba4-rank0.pt.lz4'])
    there = after(run, save_num_checkpoints_to_keep=1)
    assert there == ('ep0-ba2-rank0.pt.lz4', ['ep0-ba2-rank0.pt.lz4', 'ep0-ba4-rank0.pt.lz4'])


def test_restarts_leave_no_pile(run):
    names = [f'ep0-ba{batch}-rank0.pt' for batch in (2, 4, 6, 10)]
    save(run[1], *names)
    link(run[1], names[-1])
    assert after(run)[1] == sorted(names), 'all of them by default'
    assert after(run, save_num_checkpoints_to_keep=2) == (names[-1], sorted(names[-2:]))


def test_what_writers_leave_and_what_is_not_ours(run):
    _, folder = run
    save(folder, 'ep0-ba2-rank0.pt', torn=['ep0-ba4-notes'])
    (folder / 'ep0-ba4-notes' / 'thesis.txt').touch()
    for name in ('.record.json.12.tmp', '.recipe.yaml.12.tmp', 'notes.txt'):
        (folder.parent / name).touch()
    for name in ('._signal_file_node0_abc_0', f'.{LINK}.12.tmp'):
        (folder / name).touch()
    assert after(run)[1] == ['ep0-ba2-rank0.pt', 'ep0-ba4-notes']
    assert sorted(path.name for path in folder.parent.iterdir()) == ['checkpoints', 'notes.txt', 'recipe.yaml']


def test_other_folders_are_left_alone(run, tmp_path):
    save(run[1], 'ep0-ba2-rank0.pt')
    for changes in ({'save_folder': str(tmp_path / 'elsewhere')}, {'autoresume': False}):
        assert latest_link(run[0].model_copy(update=changes)) is None
        assert after(run, **changes)[0] is None


class Interruption(Callback):
    """A kill at an event of a batch."""

    def __init__(self, event, batch, folder=None):
        self.batch, self.seen = batch, []
        setattr(self, event, self.stop)
        self.folder = folder

    def stop(self, state, logger):
        if int(state.timestamp.batch) == self.batch:
            self.seen.append(self.folder.read_record().status)
            raise KeyboardInterrupt


@pytest.mark.parametrize('event', ['batch_checkpoint', 'fit_end', 'eval_start', 'eval_batch_end'])
@pytest.mark.parametrize(('length', 'interval'), [('12ba', '5ba'), ('2ep', '5ba'), ('12ba', '1ep')])
def test_killed_after_its_last_checkpoint(tmp_path, event, length, interval):
    changes = {'max_duration': length, 'eval_interval': interval, 'save_interval': '3ba'}
    alone = train(recipe(tmp_path / 'alone', **changes))
    killed = RunFolder(tmp_path / 'killed')
    interruption = Interruption(event, 12, killed)
    broken = build_trainer(recipe(killed.path, **changes))
    broken.state.callbacks.append(interruption)
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    broken.engine.close()
    forget(broken)
    if (event, interval) == ('fit_end', '1ep'):
        assert interruption.seen == ['finished'], 'nothing was left to do'
        return
    assert interruption.seen == ['unfinished'], 'its last evaluation was not done'
    assert killed.latest_checkpoint().name.split('-')[1] == 'ba12'
    train(recipe(killed.path, **changes))
    one, other = alone.read_record(), killed.read_record()
    assert (other.status, other.batches, other.epochs) == ('finished', 12, one.epochs)
    ends = [[(e.batch, e.epoch, e.metrics) for e in record.evaluations] for record in (one, other)]
    assert ends[0] == ends[1]
    assert [e.batch for e in other.evaluations] == ([6, 12] if interval == '1ep' else [5, 10, 12])


def test_a_checkpoint_of_its_end_from_elsewhere_is_refused_as_ever(tmp_path):
    first = train(recipe(tmp_path / 'first'))
    with pytest.raises(ValueError, match='max_duration'):
        train(recipe(tmp_path / 'second', load_path=str(first.latest_checkpoint())))


def full(name=None):
    return OSError(errno.ENOSPC, 'No space left on device', *([name] if name else []))


def behind(cause, error):
    error.__context__ = cause
    return error


@pytest.mark.parametrize(('error', 'told'), [
    (full(), r"a disk is full \(No space left on device\); that of '.*run' has [\d,.]+ MiB free"),
    (full('/cache/shard.mds'), r'a disk is full \(No space left on device: /cache/shard\.mds\)'),
    (OSError(errno.EDQUOT, 'Disk quota exceeded'), r'a disk is full \(Disk quota exceeded\)'),
    (behind(full(), RuntimeError('inline_container.cc:659] unexpected pos 64 vs 0')), 'a disk is full'),
    (CheckpointException('save', {1: (full(), None)}), 'a disk is full'),
    (OSError(errno.EROFS, 'Read-only file system', '{run}/.lock'), r"'.*run' cannot be written: Read-only file system \(.*lock\)"),
    (OSError(errno.EACCES, 'Permission denied', '{run}/..'), 'cannot be written: Permission denied'),
    (OSError(errno.EIO, 'Input/output error'), 'cannot be written: Input/output error'),
    (OSError(errno.EACCES, 'Permission denied', '/data/picture.jpeg'), None),
    (FileNotFoundError(errno.ENOENT, 'No such file', '{run}/checkpoints/a.pt'), None),
    (ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer'), None),
    (RuntimeError('inline_container.cc:659] unexpected pos 64 vs 0'), None),
    (RuntimeError('no space left'), None),
])
def test_what_a_disk_refuses(tmp_path, error, told):
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(run=tmp_path / 'run')
    found = cannot_write(tmp_path / 'run', error)
    if told is None:
        assert found is None
    else:
        assert found is not None
        assert found.startswith('run_folder: ')
        assert '\n' not in found
        assert re.search(told, found)
