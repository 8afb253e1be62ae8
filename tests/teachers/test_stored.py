"""What does not go together with stored answers is refused, and the message names it and the difference."""

import json
import shutil

import pytest
from composer.core import Event

from composer_kd import Distillation
from composer_kd.answers import Store
from composer_kd.teachers import keeper, parse_teachers
from tests.answers.training import data, live, stored, teacher, train, trained
from tests.common import Watch, classifier, same, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length', 'ignore:Some targets have less')
SOFT = {'name': 'kl_divergence', 'temperature': 2.0}
TOP = {'name': 'top_k', 'k': 3, 'temperature': 2.0}
DRAWN = {'name': 'sampled', 'k': 12, 'temperature': 2.0}
WHO = r"^teachers\[0\] \('teacher0'\)\.cache: "


@pytest.fixture(scope='module')
def top(tmp_path_factory):
    path = tmp_path_factory.mktemp('top') / 'store'
    train(live(path, form=TOP), loss=SOFT)
    return path


@pytest.fixture(scope='module')
def drawn(tmp_path_factory):
    path = tmp_path_factory.mktemp('drawn') / 'store'
    train(live(path, form=DRAWN), loss=SOFT)
    return path


# what is written for it

@pytest.mark.parametrize(('said', 'error', 'message'), [
    ({'cache': 3}, TypeError, r'teachers\[0\]\.cache: expected a path or \{path: PATH, fill: true\}, got 3'),
    ({'cache': {'path': ''}}, ValueError, r"teachers\[0\]\.cache\.path: expected the folder of a store, got ''"),
    ({'cache': {}}, ValueError, r'teachers\[0\]\.cache\.path: .*got None'),
    ({'cache': {'path': 'x', 'fil': True}}, ValueError, r"teachers\[0\]\.cache.*'fil'"),
    ({'cache': {'path': 'x', 'fill': True}}, ValueError, r"teachers\[0\]\.cache.*'fill'"),
    ({'cache': 'x', 'format': 'dense'}, ValueError, r"teachers\[0\].*'format'"),
    ({'cache': 'none/here'}, FileNotFoundError, r"teachers\[0\]\.cache: there is no manifest\.json in 'none/here'.*composer-kd cache"),
    ({'module': teacher(), 'cache': 'none/here'}, FileNotFoundError, r"teachers\[0\]\.cache: .*fill: true"),
    ({'module': teacher(), 'cache': {'path': 'x', 'fill': 'yes'}}, TypeError, r"teachers\[0\]\.cache\.fill: expected true or false, got 'yes'"),
    ({'module': teacher(), 'cache': {'path': 's3://bucket/x', 'fill': True}}, ValueError, r"teachers\[0\]\.cache\.path: beside a teacher.*'s3://bucket/x'"),
    ({'module': teacher(), 'run': 'x', 'cache': 'y'}, ValueError, r'teachers\[0\]: expected one of the keys .* got module and run'),
    ({'cache': 'x', 'weight': 0}, (ValueError, FileNotFoundError), r'teachers\[0\]'),
])
def test_settings(said, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        parse_teachers([said])


def test_a_format_that_is_none_is_told_before_any_data(tmp_path):
    for form, message in (('topk', r"\.cache\.format: expected dense, top_k, sampled, got 'topk'"), ({'name': 'top_k', 'k': 10}, r'\.cache\.format\.k: expected fewer than the 10 classes'),
                          ({'name': 'top_k', 'kk': 1}, r"\.cache\.format.*'kk'"), ({'name': 'top_k', 'temperature': -1}, r'\.cache\.format\.temperature')):
        with pytest.raises(ValueError, match=message):
            train(live(tmp_path / 'store', form=form))
    assert list(tmp_path.iterdir()) == []


def test_the_temperature_of_a_store_is_the_losss_where_none_is_given(tmp_path):
    train(live(tmp_path / 'a', form={'name': 'top_k', 'k': 3}), loss=SOFT, duration='1ba')
    assert Store.open(tmp_path / 'a').format.temperature == 2.0
    with pytest.raises(ValueError, match=r"\.cache\.format: 'top_k' keeps probabilities at one temperature, and the loss has none or one that varies"):
        train(live(tmp_path / 'b', form={'name': 'top_k', 'k': 3}), loss={'name': 'kl_divergence', 'temperature': {'linear': {'alpha_f': 0.5}}})


# whose answers

def test_another_teacher(store):
    other = live(store, seed=2, fill=False, form='dense')
    with pytest.raises(ValueError, match=WHO + r".*holds other answers than this teacher's: teacher\.digest is .* in the store and .* in this training"):
        train({**other, 'cache': str(store)})
    with pytest.raises(ValueError, match=r'teacher\.digest is'):
        train(live(store, seed=2))
    digest = Store.open(store).manifest.teacher['digest']
    train(stored(store, digest=digest[:12]), duration='1ba')
    with pytest.raises(ValueError, match=rf"\.digest: the answers in .* were to be those of the teacher 0123456789ab, and are those of {digest[:16]} \(module:Sequential\)"):
        train(stored(store, digest='0123456789ab'))


def test_another_form_than_the_store_has(store, top):
    with pytest.raises(ValueError, match=WHO + r'.*format\.dtype is .?float32.? in the store and .?float16.? in this training'):
        train(live(store, form='dense'))
    with pytest.raises(ValueError, match=r'format\.k is 3 in the store and 4 in this training'):
        train(live(top, form={**TOP, 'k': 4}), loss=SOFT)


def test_another_number_of_classes(store):
    with pytest.raises(ValueError, match=WHO + r'the answers in .* are over 10 classes, and the student has 7\. .*same classes'):
        train(stored(store), model=classifier(0, 7))


def test_a_store_of_damaged_files(store, tmp_path):
    path = shutil.copytree(store, tmp_path / 'store')
    shard = next(path.rglob('*.mds'))
    shard.write_bytes(shard.read_bytes()[:-1])
    for teachers in (stored(path), live(path)):
        with pytest.raises(ValueError, match=WHO + rf".*{shard.name}' has .* of .* bytes: the store was not copied whole"):
            train(teachers)
    shutil.rmtree(shard.parent)
    with pytest.raises(ValueError, match=WHO + r'this training asks for answers to 96 samples in view 0'):
        train(stored(path))
    fit = train(live(path))
    assert Store.open(path).samples == 192
    assert same(weights(fit), trained(live()))


@pytest.mark.parametrize('workers', [0, 2])
def test_a_flipped_bit_stops_the_training_and_names_the_file(store, tmp_path, workers):
    path = shutil.copytree(store, tmp_path / 'store')
    shard = next(path.rglob('*.mds'))
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 4
    shard.write_bytes(raw)
    with pytest.raises(ValueError, match=WHO + rf"'.*{shard.name}' is damaged: .* \(met at sample \d+, view \d\)\. Copy the store anew") as caught:
        train(stored(path), spec=data(num_workers=workers))
    assert 'Traceback' not in str(caught.value), 'of a worker'
    assert 'Caught' not in str(caught.value)
    with pytest.raises(ValueError, match='is damaged'):
        train(live(path), spec=data(num_workers=workers))


@pytest.mark.parametrize('workers', [0, 2])
def test_a_file_that_goes_away_while_it_is_read(store, tmp_path, workers):
    path = shutil.copytree(store, tmp_path / 'store')
    spec = data(num_workers=workers)



    gone = Watch(Event.EPOCH_START, lambda _: [file.unlink() for file in path.rglob('*.mds')])
    with pytest.raises((ValueError, OSError), match=r'\.mds') as caught:
        train(stored(path), spec=spec, algorithms=[gone])
    assert 'Traceback' not in str(caught.value)


# for which loss

@pytest.mark.parametrize('loss', ['mse', 'binary_kl_divergence'])
def test_losses_that_ask_for_all_logits(top, drawn, loss):
    for path in (top, drawn):
        with pytest.raises(ValueError, match=rf"stored answers of the format '.*' hold probabilities of some classes, and the loss '{loss}' asks for all logits\. Store them as dense"):
            train(stored(path), loss=loss)


def test_a_function_that_asks_for_logits(top):
    with pytest.raises(ValueError, match='asks for all logits'):
        train(stored(top), loss=lambda s, t: (s - t).abs().mean())


@pytest.mark.parametrize('temperature', [1.0, 4.0, {'linear': {'alpha_f': 0.5}}], ids=str)
def test_another_temperature(top, temperature):
    has = r'1\.' if temperature == 1.0 else r'4\.' if temperature == 4.0 else 'one that varies'
    with pytest.raises(ValueError, match=rf'at the temperature 2, and the loss has {has}.* Set loss\.temperature to 2'):
        train(stored(top), loss={'name': 'kl_divergence', 'temperature': temperature})


def test_a_temperature_that_varies_is_fine_with_all_logits(store):
    loss = {'name': 'kl_divergence', 'temperature': {'linear': {'alpha_f': 0.5}}}
    assert same(trained(stored(store), loss=loss), trained(live(), loss=loss))


@pytest.mark.parametrize('loss', ['reverse_kl', 'jensen_shannon', 'hard_label'])
def test_losses_for_which_draws_are_not_right_on_average(drawn, loss):
    said = loss if loss == 'hard_label' else {'name': loss, 'temperature': 2.0}
    with pytest.raises(ValueError, match=rf"that were drawn: they are right on average for losses that are linear .*, which '{loss}' is not"):
        train(stored(drawn), loss=said)


def test_several_at_once(store, top, drawn):
    both = {'loss': SOFT, 'combine': 'probabilities'}
    for pool in ([stored(top), stored(top, name='b')], [stored(top), stored(drawn, name='b')]):
        with pytest.raises(ValueError, match=r'^teachers: 2 answer for a batch, and \d of them are stored as top_k'):
            train(pool, **both)
        train(pool, loss=SOFT, teachers_per_batch=1)
    with pytest.raises(ValueError, match=r"^combine: 2 teachers answer for a batch and the answers of 1 are stored as probabilities.*combine='probabilities'"):
        train([stored(store), stored(top, name='b')], loss=SOFT)
    for pool in ([stored(store), stored(top, name='b')], [stored(drawn), stored(drawn, name='b')], [stored(top), live(seed=2, name='b')], [stored(drawn), stored(store, name='b')]):
        train(pool, **both)


# and what else goes on

def test_a_run_that_stores_in_another_form_is_another_teacher(store, tmp_path):
    """Resuming with the float16 of a teacher is told apart from resuming with the teacher."""
    saved = {'save_folder': str(tmp_path), 'save_interval': '3ba', 'save_filename': 'ba{batch}.pt'}
    train(live(), duration='6ba', end='12ba', **saved)
    path = str(tmp_path / 'ba3.pt')
    with pytest.raises(ValueError, match='teacher'):
        train(live(tmp_path / 'half', form='dense'), load_path=path, duration='12ba', end='12ba')


def test_a_store_is_told_of_in_the_record_of_a_check(store, top):
    kd = Distillation([stored(store), {'module': teacher(), 'cache': str(store), 'name': 'b'}])
    found = kd.check_teachers(classifier(0, 10))
    assert found['teacher0'].startswith('fits, digest ')
    assert '192 stored answers (dense, float32)' in found['teacher0']
    assert '192 stored answers' in found['b']
    with pytest.raises(ValueError, match='over 10 classes, and the student has 7'):
        Distillation(stored(store)).check_teachers(classifier(0, 7))
    with pytest.raises(ValueError, match='asks for all logits'):
        Distillation(stored(top), loss='mse').check_teachers(classifier(0, 10))


def test_two_teachers_fill_one_store_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'cache'):
        train([live(tmp_path / 'store'), live(tmp_path / 'store', seed=2)])


def test_a_manifest_gone_and_another_teacher_does_not_take_the_parts_over(store, tmp_path):
    path = shutil.copytree(store, tmp_path / 'store')
    (path / 'manifest.json').unlink()
    with pytest.raises(ValueError, match='was written for another store'):
        train(live(path, seed=2))


@pytest.mark.parametrize('views', [1, None], ids=['read again', 'only written'])
def test_another_store_begun_at_the_same_place_during_the_training(tmp_path, views, monkeypatch, caplog):
    """Its answers are not read, and none are written among them."""
    path = tmp_path / 'store'
    monkeypatch.setattr(keeper, 'PART_SAMPLES', 16)

    def replaced(state):
        if state.timestamp.batch == 6:
            shutil.rmtree(path)
            train(live(path, seed=2), spec=data(views=views), duration='1ep')
    watch = Watch(Event.EPOCH_END, replaced)
    if views is None:
        train(live(path), algorithms=[watch])
        assert 'another store was begun at the same place meanwhile' in caplog.text
    else:
        with pytest.raises(ValueError, match=WHO + r"another store was begun in '.*' during this training: teacher\.digest is "):
            train(live(path), spec=data(views=1), algorithms=[watch])
    assert Store.open(path).samples == 96


def test_a_manifest_of_another_version(store, tmp_path):
    path = shutil.copytree(store, tmp_path / 'store')
    said = json.loads((path / 'manifest.json').read_text())
    (path / 'manifest.json').write_text(json.dumps({**said, 'version': 7}))
    for teachers in (stored(path), live(path)):
        with pytest.raises(ValueError, match=WHO + r'.* is of version 7, and this composer_kd knows 1'):
            train(teachers)


def test_views_that_come_again_are_looked_through_once(store, monkeypatch):
    looked = []
    missing = Store.missing
    monkeypatch.setattr(Store, 'missing', lambda self, view, indices: looked.append((view, len(indices))) or missing(self, view, indices))
    train(stored(store), '5ep', data(views=2))
    assert looked == [(0, 96), (1, 96)]
    looked.clear()
    train(stored(store), '5ep', data(views=2), end='8ba')
    assert looked == [(0, 96), (1, 32)], 'of the second epoch what its first two batches ask for'
