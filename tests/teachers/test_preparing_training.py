"""Prepared teachers in whole trainings: what is learnt, kept in checkpoints and stores, logged and recorded."""

import json

import pytest
import torch
from composer.algorithms import SAM
from composer.core import Event

from composer_kd import Distillation
from composer_kd.teachers import digest_of
from tests.answers.training import data, keeper, live, stored, train, trained
from tests.common import Watch, same, trainer, weights
from tests.integration.test_contract import Steps
from tests.teachers.preparing_models import TokensAsChannels, lived_in, small

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:SAM has known issues', 'ignore:No batches were trained')
BOTH = ['fold_batchnorm (1)', 'channels_last']


def distilled(prepare='auto', teacher=None, **settings):
    kd = Distillation(small() if teacher is None else teacher, prepare=prepare, **settings.pop('kd', {}))
    fit = trainer([kd, *settings.pop('algorithms', [])], **settings)
    fit.fit()
    fit.kd = kd
    return fit


def test_a_training_learns_what_it_learns_from_the_untouched_teacher():
    plain, auto = distilled('none'), distilled()
    for name, value in weights(auto).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=1e-3, atol=1e-4)
    assert not same(weights(plain), weights(auto))
    assert [fit.kd.summary()['teachers'][0]['prepared'] for fit in (plain, auto)] == [[], BOTH]
    assert same(weights(distilled()), weights(auto)), 'and the same each time'


@pytest.mark.parametrize('more', [{'device_train_microbatch_size': 3}, {'algorithms': 'sam'}, {'kd': {'teacher_microbatch_size': 3}},
                                  {'kd': {'end': '3ba'}}, {'kd': {'start': '5ba', 'check_batches': 0}}], ids=str)
def test_whatever_the_batches(more):
    more = {**more, 'max_duration': '8ba'}
    sets = {'algorithms': [SAM()]} if more.pop('algorithms', None) else {}
    fits = []
    for prepare in ('none', 'auto'):
        torch.manual_seed(0)
        fits.append(distilled(prepare, **more, **sets))
    for name, value in weights(fits[1]).items():
        torch.testing.assert_close(value, weights(fits[0])[name], rtol=1e-3, atol=1e-4)


def test_the_users_module_is_what_it_was():
    teacher = small()
    kept, digest = weights(teacher), digest_of(teacher)
    fit = distilled(teacher=teacher, kd={'end': '5ba'})
    assert same(weights(teacher), kept)
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())
    assert fit.kd.teachers[0].released
    assert fit.kd.teachers[0].digest == digest
    assert fit.kd.summary()['teachers'][0]['prepared'] == BOTH


def test_no_check_after_the_first_batch():
    forwards = []

    class Teacher(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()

        def forward(self, x):
            if type(x) is torch.Tensor:
                forwards.append(isinstance(self.body[1], torch.nn.Identity))
            return self.body(x)
    seen = Watch(Event.BATCH_END, lambda state: (len(forwards), kd.teachers[0].prepared.untouched))
    kd = Distillation(Teacher(), check_batches=0)
    trainer([kd, seen], max_duration='3ba').fit()
    # 8 samples of a batch of 8: the prepared answer that is checked is the answer
    assert seen.seen == [(2, None), (3, None), (4, None)]
    assert forwards == [False, True, True, True]


def test_what_is_logged():
    log = Steps()
    kd = Distillation([small(), {'module': small(4), 'prepare': 'none', 'name': 'b'}], prepare={'channels_last': False})
    trainer(kd, loggers=[log], max_duration='1ba').fit()
    assert log.hyperparameters['distillation']['prepare'] == {'channels_last': False}
    assert log.hyperparameters['distillation_prepared'] == {'teacher0': ['fold_batchnorm (1)'], 'b': []}


def test_resumed_is_uninterrupted_and_another_preparation_may_go_on(tmp_path):
    saved = {'save_folder': str(tmp_path), 'save_interval': '1ba', 'save_filename': 'ba{batch}.pt', 'save_num_checkpoints_to_keep': -1}
    whole = distilled(**saved)
    resumed = distilled(load_path=str(tmp_path / 'ba7.pt'))
    assert same(weights(resumed), weights(whole))
    for prepare in ('none', {'precision': 'fp32'}, {'tolerance': 0.5}):
        other = distilled(prepare, load_path=str(tmp_path / 'ba7.pt'))
        for name, value in weights(other).items():
            torch.testing.assert_close(value, weights(whole)[name], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"made with other distillation: teacher 'teacher0' \(module:Sequential\) had the digest"):
        distilled({'resolution': 6}, load_path=str(tmp_path / 'ba7.pt'))


def test_what_was_left_out_is_left_out_after_a_restart(tmp_path):
    """Though its first answer there would pass."""
    teacher = lived_in(TokensAsChannels())
    saved = {'save_folder': str(tmp_path), 'save_interval': '1ba', 'save_filename': 'ba{batch}.pt', 'save_num_checkpoints_to_keep': -1}
    with pytest.warns(UserWarning, match='That is left out'):
        whole = distilled(teacher=teacher, **saved)
    books = json.loads(dict(torch.load(tmp_path / 'ba5.pt', weights_only=False)['state']['algorithms'])['Distillation']['books'])
    assert books['left_out'] == {'teacher0': ['fold_batchnorm']}
    resumed = distilled({'tolerance': 100}, teacher, load_path=str(tmp_path / 'ba5.pt'))
    assert resumed.kd.summary()['teachers'][0]['prepared'] == []
    assert same(weights(resumed), weights(whole))


def test_what_was_asked_for_and_fails_stops_the_training_in_its_first_batch(tmp_path):
    fit = trainer(Distillation(lived_in(TokensAsChannels()), prepare={'fold_batchnorm': True}), save_folder=str(tmp_path), save_interval='1ba')
    with pytest.raises(ValueError, match=r"Teacher 'teacher0' \(module:TokensAsChannels\): prepare\.fold_batchnorm"):
        fit.fit()
    assert not list(tmp_path.rglob('*.pt'))


@pytest.mark.parametrize('prepare', ['auto', {'precision': 'bf16', 'tolerance': 0.5}, {'resolution': 6}], ids=str)
def test_stored_answers_are_those_of_the_prepared_teacher(tmp_path, prepare):
    path = tmp_path / 'store'
    want = trained(live(), prepare=prepare)
    fit = train(live(path), prepare=prepare)
    assert same(weights(fit), want)
    assert same(trained(stored(path)), want)
    again = train(live(path), prepare=prepare)
    assert same(weights(again), want)
    assert keeper(again).asked == 0
    assert again.kd.summary()['teachers'][0]['resolution_agreement'] is None, 'nobody was asked'


def test_a_store_of_another_resolution_is_another_teachers(tmp_path):
    train(live(tmp_path / 'store'))
    with pytest.raises(ValueError, match=r'holds other answers than this teacher.s: teacher\.digest is'):
        train(live(tmp_path / 'store'), prepare={'resolution': 6})


def test_a_step_that_is_left_out_while_a_store_is_filled(tmp_path):
    teacher = {'module': lived_in(_Ten()), 'cache': {'path': str(tmp_path), 'fill': True, 'format': {'name': 'dense', 'dtype': 'float32'}}}
    with pytest.warns(UserWarning, match='That is left out'):
        fit = train(teacher)
    assert same(weights(fit), trained({'module': teacher['module']}, prepare='none'))
    assert same(weights(fit), trained(stored(tmp_path)))


class _Ten(TokensAsChannels):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 10)


@pytest.mark.filterwarnings('ignore:Cannot split tensor of length')
def test_the_command_that_stores_answers_prepares_as_the_recipe_says(tmp_path):
    from composer_kd.caching.asking import prepare as made_ready
    from composer_kd.caching.write import write_store
    from composer_kd.recipes import parse_recipe
    from composer_kd.recipes import train as train_recipe
    from tests.caching.made import digits

    for said, steps in (('auto', ['fold_batchnorm (7)', 'channels_last']), ('none', [])):
        recipe = digits(tmp_path)
        distillation = recipe['algorithms']['distillation']
        distillation['prepare'] = said
        asked = made_ready(parse_recipe(recipe), form={'name': 'dense', 'dtype': 'float32'})
        write_store(asked, str(tmp_path / said))
        told = json.loads((tmp_path / said / 'manifest.json').read_text())
        assert told['teacher']['prepared'] == ', '.join(steps)
        teacher = distillation['teachers'][0]
        of_both = []
        for name, changed in (('live', teacher), ('stored', {'cache': str(tmp_path / said)})):
            run = {**recipe, 'run_folder': str(tmp_path / f'{said} {name}'), 'run_name': name}
            run['algorithms'] = {'distillation': {**distillation, 'teachers': [changed]}}
            train_recipe(parse_recipe(run))
            of_both.append(_last(tmp_path / f'{said} {name}'))
            record = json.loads((tmp_path / f'{said} {name}' / 'record.json').read_text())
            assert record['teachers'][0]['prepared'] == (steps if name == 'live' else [])
        assert same(*of_both)


def _last(folder):
    from composer_kd.teachers import read_weights
    return read_weights(str(next((folder / 'checkpoints').glob('latest*'))))


def test_data_are_left_as_they_are():
    spec = data()
    before = [batch[0].clone() for batch in spec.dataloader]
    train(live(), spec=spec, prepare={'resolution': 6}, duration='1ba')
    assert all(torch.equal(one, other[0]) for one, other in zip(before, spec.dataloader, strict=True))
