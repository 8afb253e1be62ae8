"""Training on stored answers is training with the teacher that gave them: bit for bit where they are kept so."""

import shutil

import pytest
import torch

from composer_kd.answers import Store
from tests.answers.training import data, keeper, live, stored, teacher, train, trained
from tests.common import Counting, same, weights

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length', 'ignore:No batches were trained',
    'ignore:The ``compute`` method of metric', 'ignore:start and end are both',
)


@pytest.fixture(scope='module')
def filled(tmp_path_factory):
    """A store that a run of two epochs filled, and the weights of one with the live teacher."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('filled') / 'store'
    want = trained(live())
    fit = train(live(path))
    assert (keeper(fit).read, keeper(fit).asked) == (0, 192)
    assert same(weights(fit), want), 'the run that fills it reads what it would have read'
    return path, want


def test_without_distillation_the_weights_are_others(filled):
    assert not same(trained(live(), end='1ba', check_batches=0), filled[1]), 'so the equalities below say something'


@pytest.mark.parametrize('workers', [0, 1, 2])
@pytest.mark.parametrize('microbatch', [16, 4])
def test_read_alone(filled, workers, microbatch):
    path, want = filled
    if microbatch != 16:
        want = trained(live(), device_train_microbatch_size=microbatch)
    fit = train(stored(path), spec=data(num_workers=workers), device_train_microbatch_size=microbatch)
    assert same(weights(fit), want)
    assert keeper(fit).read == 192
    assert keeper(fit).asked == 0
    teacher, = fit.kd.summary()['teachers']
    assert teacher['samples'] == 192
    assert teacher['origin'].startswith('cache:')
    assert 'module:' in teacher['origin'], 'it says whose answers they are'


def test_uneven_microbatches(tmp_path):
    settings = {'device_train_microbatch_size': 5}
    train(live(tmp_path / 'store'), **settings)
    assert same(trained(stored(tmp_path / 'store'), **settings), trained(live(), **settings))


def test_read_beside_the_live_teacher_which_is_not_asked(filled):
    path, want = filled
    counting = Counting(teacher())
    fit = train({'module': counting.inner, 'cache': {'path': str(path)}})
    assert same(weights(fit), want)
    assert (keeper(fit).read, keeper(fit).asked) == (192, 0)


def test_a_teacher_that_is_never_asked_runs_never(filled):
    calls = []
    module = teacher()
    module.register_forward_hook(lambda *_: calls.append(1))
    train({'module': module, 'cache': str(filled[0])})
    assert calls == []


def test_nothing_is_written_that_is_there_already(filled, tmp_path):
    path = shutil.copytree(filled[0], tmp_path / 'store')
    before = Store.open(path).bytes
    fit = train(live(path))
    assert keeper(fit).asked == 0
    assert Store.open(path).bytes == before


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('batch', [4, 6, 9])
def test_resumed(filled, tmp_path, workers, batch):
    path, want = filled
    first = {'save_folder': str(tmp_path), 'save_interval': '1ba', 'save_filename': 'ba{batch}.pt', 'save_num_checkpoints_to_keep': -1}
    train(stored(path), spec=data(num_workers=workers), **first)
    fit = train(stored(path), spec=data(num_workers=workers), load_path=str(tmp_path / f'ba{batch}.pt'))
    assert keeper(fit).read == (12 - batch) * 16
    assert same(weights(fit), want)


def test_filled_by_a_run_that_is_stopped_and_resumed(filled, tmp_path):
    _, want = filled
    path = tmp_path / 'store'
    train(live(path), spec=data(), save_folder=str(tmp_path), save_interval='3ba', save_filename='ba{batch}.pt', duration='9ba', end='12ba')
    assert Store.open(path).samples == 144
    fit = train(live(path), load_path=str(tmp_path / 'ba9.pt'), duration='12ba', end='12ba')
    assert (keeper(fit).read, keeper(fit).asked) == (0, 48)
    assert same(weights(fit), want)
    assert Store.open(path).samples == 192
    assert same(trained(stored(path)), want)


def test_the_rest_of_a_store_that_ends_in_mid_batch(tmp_path):
    """Some samples of a batch are read and some asked for; each row lands in its own place."""
    path = tmp_path / 'store'
    train(live(path), duration='2ba', spec=data(batch_size=10))
    assert Store.open(path).samples == 20
    fit = train(live(path), duration='1ep')
    assert (keeper(fit).read, keeper(fit).asked) == (20, 76)
    # a convolution over fewer samples may round otherwise, so only nearly
    want = trained(live(), duration='1ep')
    for name, value in weights(fit).items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('microbatch', [16, 4])
def test_views_that_come_again(tmp_path, microbatch):
    """Of five epochs the first two fill the store, and the others read what they wrote."""
    def spec():
        return data(views=2)
    path = tmp_path / 'store'
    want = trained(live(), spec=spec(), duration='5ep', device_train_microbatch_size=microbatch)
    fit = train(live(path), spec=spec(), duration='5ep', device_train_microbatch_size=microbatch)
    assert (keeper(fit).read, keeper(fit).asked) == (3 * 96, 2 * 96)
    # what was rounded with one neighbour is read beside another: nearly, here, and to the bit from here on
    for name, value in weights(fit).items():
        torch.testing.assert_close(value, want[name], rtol=1e-4, atol=1e-5)
    assert Store.open(path).samples == 192
    again = train(stored(path), spec=data(views=2, num_workers=2), duration='5ep', device_train_microbatch_size=microbatch)
    assert same(weights(again), weights(train(live(path), spec=spec(), duration='5ep', device_train_microbatch_size=microbatch)))


def test_workers_that_are_kept_read_what_was_written_meanwhile(tmp_path):
    fit = train(live(tmp_path / 'store'), spec=data(views=1, num_workers=2), duration='3ep')
    assert (keeper(fit).read, keeper(fit).asked) == (2 * 96, 96)


def test_two_teachers_fill_their_stores_and_read_them_again(tmp_path):
    fit = train([live(tmp_path / 'a'), live(tmp_path / 'b', seed=2)], spec=data(views=1), duration='3ep')
    assert [(keeper(fit, i).read, keeper(fit, i).asked) for i in (0, 1)] == [(192, 96)] * 2


def test_another_run_in_another_order_with_the_same_views(tmp_path):
    """A run of another seed sees the same views in another order, once view_seed says so."""
    path = tmp_path / 'store'
    train(live(path), spec=data(views=2, view_seed=3))
    fit = train(stored(path), spec=data(seed=99, views=2, view_seed=3), duration='4ep', seed=99)
    assert keeper(fit).read == 4 * 96
    with pytest.raises(ValueError, match='has none to 96 of them'):
        train(stored(path), spec=data(seed=99, views=3, view_seed=3), duration='4ep', seed=99)


WINDOWS = {
    'a window': {'start': '3ba', 'end': '8ba'},
    'a window in epochs': {'start': '1ep', 'end': '1dur'},
    'the first half': {'end': '0.5dur'},
    'an end after the training': {'end': '50ep'},
    'every second batch': {'interval': 2},
    'every second epoch': {'interval': '2ep'},
    'by chance': {'probability': 0.5},
    'by chance in a window': {'probability': 0.6, 'interval': 2, 'start': '2ba', 'end': '11ba'},
    'samples': {'start': '32sp', 'end': '100sp'},
    'never': {'start': '2ep', 'end': '2ep'},
    'weight by a schedule': {'kd_loss_weight': {'linear': {'alpha_f': 0.1}}},
}


@pytest.mark.parametrize('checked', [0, 2])
@pytest.mark.parametrize('name', WINDOWS)
def test_schedules(tmp_path, name, checked):
    settings = {**WINDOWS[name], 'check_batches': checked}
    want = trained(live(), **settings)
    fit = train(live(tmp_path / 'store'), **settings)
    assert same(weights(fit), want)
    asked = keeper(fit).asked
    assert asked == Store.open(tmp_path / 'store').samples <= 192
    # another number of batches to look at: what is not stored is not looked at
    again = train(stored(tmp_path / 'store'), **{**settings, 'check_batches': 2})
    assert same(weights(again), want)


def test_a_window_of_which_less_is_stored_is_told_before_training(tmp_path):
    path = tmp_path / 'store'
    train(live(path), end='4ba')
    with pytest.raises(ValueError, match=r"teachers\[0\] \('teacher0'\)\.cache: .* asks for answers to 96 samples in view 0 \(epoch 0\).* has none to 32 of them"):
        train(stored(path))
    with pytest.raises(ValueError, match=r'asks for answers to 64 samples in view 0 .* has none to 16'):
        train(stored(path), start='1ba', end='5ba')
    train(stored(path), start='1ba', end='4ba')


POOLS = {
    'in turn': {'teachers_per_batch': 1, 'sampling': 'round_robin'},
    'by chance': {'teachers_per_batch': 1, 'sampling': 'random'},
    'both, logits': {'combine': 'logits'},
    'both, probabilities': {'combine': 'probabilities', 'loss': {'name': 'kl_divergence', 'temperature': 2.0}},
    'by rank': {'teachers_per_batch': 1, 'sampling': 'by_rank'},
}


@pytest.mark.parametrize('name', POOLS)
def test_two_teachers_one_of_them_stored(tmp_path, name):
    settings = POOLS[name]
    one, other = tmp_path / 'one', tmp_path / 'other'
    share = {'weight': 1.0 if name == 'by rank' else 2.0}
    want = trained([live(**share), live(seed=2)], **settings)
    fit = train([live(one, **share), live(other, seed=2)], **settings)
    assert same(weights(fit), want)
    assert same(trained([stored(one, **share), live(seed=2)], **settings), want)
    assert same(trained([live(**share), stored(other)], **settings), want)
    assert same(trained([stored(one, **share), stored(other)], **settings), want)
    swapped = [{**live(seed=2, **share), 'cache': str(other)}, {**live(), 'cache': str(one)}]
    assert not same(trained(swapped, **settings), want)


@pytest.mark.parametrize('loss', [
    'kl_divergence', {'name': 'kl_divergence', 'temperature': 4.0}, 'reverse_kl', 'jensen_shannon', 'soft_cross_entropy', 'hard_label',
    'mse', {'name': 'mse', 'class_reduction': 'mean'}, 'binary_kl_divergence',
], ids=str)
def test_every_loss_on_dense_answers(filled, loss):
    assert same(trained(stored(filled[0]), loss=loss), trained(live(), loss=loss))


def test_a_loss_of_ones_own(filled):
    def loss(student, teacher):
        return (student - teacher).abs().mean()
    assert same(trained(stored(filled[0]), loss=loss), trained(live(), loss=loss))


def test_a_teacher_asked_in_parts_fills_the_same(filled, tmp_path):
    fit = train(live(tmp_path / 'store'), teacher_microbatch_size=5, device_train_microbatch_size=8)
    assert Store.open(tmp_path / 'store').samples == 192
    assert same(weights(fit), trained(live(), teacher_microbatch_size=5, device_train_microbatch_size=8))


def test_the_window_closes_and_the_store_is_let_go(tmp_path):
    fit = train(live(tmp_path / 'store'), end='3ba', check_batches=0)
    assert Store.open(tmp_path / 'store').samples == 48
    assert fit.state.train_dataloader.notes is None
    assert fit.kd.teachers[0].released
    again = train(stored(tmp_path / 'store'), end='3ba', check_batches=0)
    assert same(weights(again), weights(fit))
    assert again.kd.teachers[0].released


def test_no_random_number_of_the_training_moves(filled):
    """Dropout in the student: its masks are those of a run without a store."""
    from composer.models import ComposerClassifier

    def model():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 10))
        return ComposerClassifier(net, num_classes=10)
    for workers in (0, 2):
        want = trained(live(), spec=data(num_workers=workers), model=model())
        assert same(trained(stored(filled[0]), spec=data(num_workers=workers), model=model()), want), workers


def test_a_store_that_cannot_be_written_does_not_stop_the_training(filled, tmp_path, caplog):
    (tmp_path / 'parts').write_text('in the way')
    fit = train(live(tmp_path))
    assert 'cannot be written' in caplog.text
    assert 'The training goes on' in caplog.text
    assert same(weights(fit), filled[1])
