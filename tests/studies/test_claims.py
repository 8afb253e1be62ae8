"""What is booked when: a worker that dies between any two of its steps leaves a study that ends as it would have."""

import hashlib
import itertools

import pytest

from composer_kd.runs import Evaluation, Record, RunFolder
from composer_kd.runs.lock import FolderBusy
from composer_kd.studies.file.schema import load_study
from composer_kd.studies.progress.overview import run_states
from composer_kd.studies.store.attempts import Attempts
from composer_kd.studies.store.trials import STOPPED, Trials
from composer_kd.studies.training import child
from composer_kd.studies.work.alive import ORPHANED
from composer_kd.studies.work.claims import Claim, Claims, Ended
from composer_kd.studies.work.cleaning import Cleaner
from composer_kd.studies.work.folder import take_folder
from composer_kd.studies.work.jobs import BUSY, PRUNED, REFUSED, Answer, Job
from tests.studies.small import write_study

SEARCH = {
    'search': {
        'space': {'optimizer.lr': {'low': 0.01, 'high': 0.5, 'log': True}, 'optimizer.momentum': {'low': 0.5, 'high': 0.9}},
        'sampler': {'name': 'tpe', 'n_startup_trials': 2}, 'runs': 5,
    },
    'methods': {'taught': {'teachers': {'policy': 'random', 'count': 2}, 'distillation': {'end': '0.5dur'}}},
}
GRID = {'space': {'optimizer.lr': [0.1, 0.2], 'model.width': [4, 6]}, 'sampler': 'grid', 'runs': 9}


def pretend_to_train(job, quality=None):
    """A finished run whose quality follows from what it was given."""
    said = f'{sorted(job.set.items())} {job.seed} {[folder.rsplit("/", 1)[1] for folder in job.teachers]}'
    if quality is None:
        quality = int(hashlib.sha256(said.encode()).hexdigest()[:6], 16) / 16**6
    folder = RunFolder(job.run_folder)
    folder.write_record(Record(
        run_name=job.run_name, started_at='2024-01-01T00:00:00Z', updated_at='2024-01-01T00:00:00Z', status='finished',
        tags=job.tags, batches=8, max_duration='8ba', train_seconds=1.0,
        evaluations=[Evaluation(batch=8, epoch=1, sample=8, train_seconds=1.0,
                                metrics={'test': {'MulticlassAccuracy': quality}})],
    ))
    folder.checkpoints.mkdir(exist_ok=True)
    (folder.checkpoints / 'ep1-ba8-rank0.pt').write_bytes(b'PK\5\6' + bytes(18))  # an empty zip file, which is whole


def begun(folder, **changed):
    """The claims of a study whose folder was taken."""
    spec = load_study(write_study(folder, **changed))
    take_folder(spec)
    return Claims(spec, 0)


def go_on(claims, limit=1000):
    """Make runs until there are none, or so many."""
    for _ in range(limit):
        taken = claims.take()
        if taken is None:
            return
        if isinstance(taken, Claim):
            pretend_to_train(Job.read(taken.job))
            claims.close(taken, Answer(status=0))


def outcome(claims):
    trials = claims.trials.everything()
    return {
        key: (tries[-1].outcome, trials[key].params, trials[key].value,
              [folder.rsplit('/', 1)[1] for folder in trials[key].user_attrs['teachers']], trials[key].user_attrs['set'])
        for key, tries in claims.attempts.all().items()
    }


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


STEPS = [(Attempts, 'claim'), (Trials, 'open'), (Trials, 'give'), (Job, 'write'), (Claims, '_mark'), (Trials, 'tell'),
         (Attempts, 'end')]


def dying(monkeypatch, step, when, number):
    """Let the ``number``-th call of a step be the last thing that happens, before or after it."""
    kind, name = step
    real, count = getattr(kind, name), itertools.count()

    def wrapped(*args, **kwargs):
        if next(count) != number:
            return real(*args, **kwargs)
        if when == 'after':
            real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(kind, name, wrapped)


@pytest.fixture(scope='module')
def expected(tmp_path_factory):
    claims = begun(tmp_path_factory.mktemp('alone'), **SEARCH)
    go_on(claims)
    found = outcome(claims)
    claims.shut()
    assert len(found) == 5
    assert [len(run[3]) for run in found.values()] == [0, 1, 2, 2, 2]
    return found


def ends_as(expected, path, monkeypatch):
    """The next worker finds the last one dead, and the study ends as one that was left alone."""
    monkeypatch.setattr('composer_kd.studies.store.attempts.is_gone', lambda worker: True)
    claims = Claims(load_study(path), 0)
    go_on(claims)
    assert outcome(claims) == expected
    assert claims.pending() == 0
    claims.shut()


@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('step', STEPS, ids=[f'{kind.__name__}.{name}' for kind, name in STEPS])
def test_a_death_between_any_two_steps_changes_nothing(step, when, tmp_path, monkeypatch, expected):
    path = write_study(tmp_path / 'killed', **SEARCH)
    take_folder(load_study(path))
    for number in (0, 2):
        with monkeypatch.context() as patch:
            dying(patch, step, when, number)
            claims = Claims(load_study(path), 0)
            with pytest.raises(Killed):
                go_on(claims)
            claims.shut()
        monkeypatch.setattr('composer_kd.studies.store.attempts.is_gone', lambda worker: True)
    ends_as(expected, path, monkeypatch)


def test_killed_in_the_middle_of_the_suggestions(tmp_path, monkeypatch, expected):
    path = write_study(tmp_path / 'killed', **SEARCH)
    take_folder(load_study(path))
    with monkeypatch.context() as patch:
        count = itertools.count()
        from composer_kd.studies.store import trials as module
        real = module.suggest

        def suggest(*args):
            if next(count) == 5:  # the second value of the third run
                raise Killed
            return real(*args)

        patch.setattr(module, 'suggest', suggest)
        claims = Claims(load_study(path), 0)
        with pytest.raises(Killed):
            go_on(claims)
        claims.shut()
    ends_as(expected, path, monkeypatch)


def test_how_a_run_ended_decides_whether_it_is_tried_again(tmp_path):
    claims = begun(tmp_path, **SEARCH, retries=1)
    first = claims.take()
    assert claims.close(first, Answer(status=BUSY, message='held')).outcome == 'released'
    second = claims.take()
    assert second.planned == first.planned
    assert second.given == first.given
    assert claims.close(second, Answer(status=ORPHANED)).outcome == 'released'
    third = claims.take()
    assert claims.close(third, Answer(status=-9, message='killed')).outcome == 'died'
    fourth = claims.take()
    assert fourth.attempt.attempt == 4
    ended = claims.close(fourth, Answer(status=1, message='the last\0 lines'))
    assert (ended.outcome, ended.reason) == ('failed', 'the last\0 lines')
    run = claims.take()
    assert run.planned.index == 1
    assert run.given.teachers == []
    assert claims.close(run, Answer(status=REFUSED, message='no')).outcome == 'died', 'a disk may come back'
    run = claims.take()
    pretend_to_train(Job.read(run.job), float('nan'))
    ended = claims.close(run, Answer(status=0))
    assert ended.outcome == 'failed'
    assert 'nan' in ended.reason
    run = claims.take()
    assert claims.close(run, Answer(status=0)).outcome == 'died', 'it says that it finished, and its record does not'
    run = claims.take()
    pretend_to_train(Job.read(run.job))
    assert claims.close(run, Answer(status=PRUNED)).outcome == 'pruned'
    assert RunFolder(claims.folder(run.planned.key)).read_record().tags['ended'] == 'pruned'
    states = {state.planned.key: state.state for state in run_states(claims)}
    assert list(states.values()) == ['failed', 'failed', 'pruned', 'waiting', 'waiting']
    assert next(tries[-1].reason for tries in claims.attempts.all().values()) == 'the last lines'
    claims.shut()


def test_runs_that_failed_are_made_again_as_they_were(tmp_path):
    claims = begun(tmp_path, **SEARCH, retries=0)
    first = claims.take()
    claims.close(first, Answer(status=REFUSED, message='the disk was not there'))
    go_on(claims)
    assert claims.pending() == 0
    again = begun(tmp_path, **SEARCH, retries=0)
    assert again.try_again() == [first.planned.key]
    assert again.pending() == 1
    second = again.take()
    assert second.planned == first.planned
    assert second.given.number != first.given.number
    assert (second.given.set, second.given.params) == (first.given.set, first.given.params)
    pretend_to_train(Job.read(second.job))
    assert again.close(second, Answer(status=0)).outcome == 'finished'
    assert again.try_again() == []
    claims.shut()
    again.shut()


def test_a_run_that_the_pruner_stopped_stays_stopped_where_nobody_heard_of_it(tmp_path, monkeypatch):
    claims = begun(tmp_path, **SEARCH)
    run = claims.take()
    pretend_to_train(Job.read(run.job))
    claims.trials.storage.set_trial_user_attr(claims.trials.trial_id(run.planned, run.given.number), STOPPED, 'at 3')
    monkeypatch.setattr('composer_kd.studies.store.attempts.is_gone', lambda worker: True)
    ended = claims.take()
    assert isinstance(ended, Ended)
    assert (ended.planned, ended.outcome, ended.reason) == (run.planned, 'pruned', 'at 3')
    claims.shut()


def test_a_worker_that_lost_its_run_books_nothing(tmp_path, monkeypatch):
    slow = begun(tmp_path, **SEARCH)
    fast = begun(tmp_path, **SEARCH)
    run = slow.take()
    with monkeypatch.context() as patch:
        patch.setattr('composer_kd.studies.store.attempts.is_gone', lambda worker: True)
        taken = fast.take()
    assert taken.planned == run.planned
    assert slow.close(run, Answer(status=1, message='killed')).outcome == 'lost'
    pretend_to_train(Job.read(taken.job))
    assert fast.close(taken, Answer(status=0)).outcome == 'finished'
    slow.shut()
    fast.shut()


def test_one_database_for_two_folders_of_one_name_is_refused(tmp_path):
    storage = f'sqlite:///{tmp_path}/shared.db'
    for number, folder in enumerate(('a', 'b')):
        spec = load_study(write_study(tmp_path / folder, **SEARCH, storage=storage))
        identity = take_folder(spec)
        assert take_folder(spec) == identity
        claims = Claims(spec, 0)
        if number == 0:
            claims.attempts.belong_to(identity)
            claims.attempts.belong_to(identity)
        else:
            with pytest.raises(ValueError, match='begun in another folder'):
                claims.attempts.belong_to(identity)
        assert claims.attempts.all() == {}
        claims.shut()


def test_a_study_may_change_until_its_first_run_and_not_after(tmp_path):
    begun(tmp_path, **SEARCH).shut()
    changed = {**SEARCH, 'methods': {'taught': {'teachers': 'best', 'distillation': {'end': '0.5dur'}}}}
    claims = begun(tmp_path, **changed)
    go_on(claims, 1)
    claims.shut()
    with pytest.raises(ValueError, match=r'begun otherwise: methods\.taught\.teachers'):
        begun(tmp_path, **SEARCH)
    (tmp_path / 'study' / '.study.yaml.1.tmp').write_text('torn')
    begun(tmp_path, **changed).shut()


def test_a_comparison_without_its_teachers_is_not_trained_under_their_name(tmp_path):
    claims = begun(
        tmp_path, search=None, comparison={'durations': ['1ep'], 'earlier': {'duration': '2ep'}}, retries=0,
        methods={'alone': {}, 'taught': {'teachers': 'latest', 'distillation': {'end': '0.5dur'}}},
    )
    earlier = claims.take()
    assert earlier.planned.key == 'earlier-0'
    waiting = claims.take()
    assert waiting.planned.key == 'alone-1ep-seed0', 'the taught one waits for its teacher'
    assert claims.take() is None
    claims.close(earlier, Answer(status=REFUSED, message='no'))
    ended = claims.take()
    assert isinstance(ended, Ended)
    assert ended.planned.key == 'taught-1ep-seed0'
    assert ended.outcome == 'failed'
    assert 'none of the runs that were to teach it' in ended.reason
    claims.shut()


def test_a_grid_ends_with_its_last_point(tmp_path):
    claims = begun(tmp_path, search=GRID, methods={'alone': {}}, keep='best')
    go_on(claims)
    found = outcome(claims)
    done = [run[1] for run in found.values() if run[0] == 'finished']
    assert sorted(map(str, done)) == sorted(
        str({'optimizer.lr': lr, 'model.width': width}) for lr in (0.1, 0.2) for width in (4, 6)
    )
    assert claims.pending() == 0
    claims.shut()


def test_hours_end_a_search_and_gpu_hours_count_gpus(tmp_path, monkeypatch):
    clock = itertools.count(start=1000.0, step=300.0)  # asked when a run is claimed, looked at and ended
    monkeypatch.setattr('composer_kd.studies.store.attempts.time.time', lambda: next(clock))
    search = {'space': SEARCH['search']['space'], 'hours': 1.0}
    hours = begun(tmp_path / 'a', search=search, methods={'alone': {}})
    go_on(hours)
    assert len(hours.attempts.all()) == 6, 'ten minutes each'
    assert hours.pending() == 0
    hours.shut()
    search = {'space': SEARCH['search']['space'], 'gpu_hours': 1.0}
    gpus = begun(tmp_path / 'b', search=search, methods={'alone': {}}, where={'launcher': 'composer'})
    gpus.gpus = 2
    go_on(gpus)
    assert len(gpus.attempts.all()) == 3
    gpus.shut()


@pytest.mark.parametrize(('keep', 'kept'), [('all', 5), ('needed', 2), ('best', 1)])
def test_checkpoints_that_no_later_run_can_need_are_removed(keep, kept, tmp_path, monkeypatch):
    methods = {'taught': {'teachers': {'latest': 1}, 'distillation': {'end': '0.5dur'}}}
    spec = load_study(write_study(tmp_path, search=SEARCH['search'], methods=methods, keep=keep))
    take_folder(spec)
    claims = Claims(spec, 0)
    now = [0.0]
    monkeypatch.setattr('composer_kd.studies.work.cleaning.time.monotonic', lambda: now[0])
    cleaner = Cleaner(spec, claims)

    def there():
        return [run.parent.name for run in sorted((tmp_path / 'study' / 'runs').glob('*/checkpoints'))]

    go_on(claims, 3)
    assert cleaner.clean() == []
    assert len(there()) == 3, 'another worker may just have chosen one of them'
    now[0] = 100.0
    cleaner.clean()
    best = max(outcome(claims).items(), key=lambda item: item[1][2])[0]
    if keep != 'all':
        assert set(there()) == {'taught-seed0-run02', best}
    go_on(claims)
    cleaner.clean(at_end=True)
    best = max(outcome(claims).items(), key=lambda item: item[1][2])[0]
    expected = {'all': 5, 'needed': {best, 'taught-seed0-run04'}, 'best': {best}}[keep]
    assert (len(there()) if keep == 'all' else set(there())) == expected
    claims.shut()


def test_a_teacher_whose_checkpoint_was_removed_by_hand_is_passed_over(tmp_path):
    claims = begun(tmp_path, **SEARCH)
    go_on(claims, 2)
    (claims.folder('taught-seed0-run00') / 'checkpoints' / 'ep1-ba8-rank0.pt').unlink()
    run = claims.take()
    assert [folder.rsplit('/', 1)[1] for folder in run.given.teachers] == ['taught-seed0-run01']
    claims.shut()


def test_a_finished_run_is_not_made_again_where_nobody_could_book_it(tmp_path, monkeypatch):
    """The process that trained had ended, its worker died before it heard of it."""
    claims = begun(tmp_path, **SEARCH)
    job = Job.read(claims.take().job)
    pretend_to_train(job)
    from composer_kd.recipes import recipe_digest
    from composer_kd.studies.training.making import make_recipe
    folder = RunFolder(job.run_folder)
    record = folder.read_record()
    record.recipe_digest = recipe_digest(make_recipe(job).plain())
    folder.write_record(record)
    monkeypatch.setattr('composer_kd.recipes.build.build_trainer', lambda *a, **k: pytest.fail('it was trained again'))
    assert child.train_job(job) == Answer(status=0)
    claims.shut()


def test_a_folder_that_is_still_held_is_no_fault_of_the_run():
    def busy():
        raise FolderBusy('held')

    assert child._answered(busy).status == BUSY
    assert child._answered(lambda: 1 / 0).status == 1
