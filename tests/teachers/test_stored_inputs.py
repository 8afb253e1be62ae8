"""Stored answers are answers to certain inputs: any others are refused, whoever made them others."""

import copy

import pytest
import torch
from composer import algorithms as ca
from composer.core import Algorithm, Event
from composer.models import ComposerClassifier
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.answers import Identity, Store
from composer_kd.recipes.tasks.sampling import EpochDataset, make_loader
from tests.answers.training import data, live, stored, train, trained
from tests.common import loader, same, weights

pytestmark = pytest.mark.filterwarnings(
    'ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length', 'ignore:Some targets have less',
)


class Own(ca.MixUp):
    pass


WHO = r"^teachers\[0\] \('teacher0'\)\.cache: "


@pytest.mark.parametrize(('change', 'message'), [
    ({'seed': 18}, r'view\.seed is 17 in the store and 18 in this training'),
    ({'view_seed': 3}, r'view\.seed is 17 in the store and 3 in this training'),
    ({'noise': 0.2}, r'view\.noise is 0\.3 in the store and 0\.2 in this training'),
    ({'shift': 2}, r'view\.shift is 1 in the store and 2 in this training'),
    ({'split': 'validation', 'train_size': None}, r"data\.split is train in the store and validation in this training"),
    ({'shift': 0, 'noise': 0.0}, r'view\.noise is .*; view\.shift is'),
], ids=str)
def test_other_inputs(store, change, message):
    for teachers in (stored(store), live(store)):
        with pytest.raises(ValueError, match=WHO + rf'the answers in .* were given to other inputs than this training has: .*{message}'):
            train(teachers, spec=data(**change))


def test_samples_and_views_that_are_not_there(store):
    with pytest.raises(ValueError, match=WHO + r"this training asks for answers to 96 samples in view 2 \(epoch 2\), and .* has none to 96 of them, such as \d+\. Set train_data\.views"):
        train(stored(store), duration='3ep')
    train(stored(store), spec=data(views=2), duration='3ep')
    with pytest.raises(ValueError, match=r'samples in view 0 .* has none to 32 of them'):
        train(stored(store), spec=data(train_size=128))
    train(stored(store), spec=data(train_size=48))


def test_what_counts(store):
    with pytest.raises(ValueError, match=r'rows\.ignore_index is -100 in the store and 3 in this training'):
        train(stored(store), ignore_index=3)


class Same(torch.utils.data.Dataset):
    """The digits as they are, or with something else in them: their identity does not tell."""

    def __init__(self, inner, change):
        self.inner, self.change = inner, change

    def __len__(self):
        return len(self.inner)

    def __getattr__(self, name):
        if name == 'inner':
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __getitems__(self, keys):
        return self.change(*self.inner.__getitems__(keys))


CHANGES = {
    'a pixel': lambda images, labels: (images.index_fill(3, torch.tensor([7]), 0.5), labels),
    'the last bit': lambda images, labels: ((images.view(torch.int32) ^ 1).view(torch.float32), labels),
    'labels': lambda images, labels: (images, (labels + 1) % 10),
    'the order': lambda images, labels: (images.flip(0), labels.flip(0)),
}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('change', CHANGES)
def test_inputs_that_say_they_are_the_same_and_are_not(store, change, workers):
    spec = data(num_workers=workers)
    keyed = spec.dataloader.dataset
    keyed.data = Same(keyed.data, CHANGES[change])
    with pytest.raises(ValueError, match=WHO + r'the stored answer to sample \d+, view 0, was given to another input than this training has there.*torch') as caught:
        train(stored(store), spec=spec)
    assert 'Traceback' not in str(caught.value)
    same_again = data(num_workers=workers)
    same_again.dataloader.dataset.data = Same(same_again.dataloader.dataset.data, lambda *batch: batch)
    train(stored(store), spec=same_again)


class Shorter(Algorithm):
    """An algorithm that nobody knows."""

    def match(self, event, state):
        return event == Event.AFTER_DATALOADER

    def apply(self, event, state, logger):
        images, labels = state.batch
        state.batch = images[1:], labels[1:]


@pytest.mark.parametrize('teachers', ['stored', 'live'])
@pytest.mark.parametrize('algorithm', [
    ca.MixUp(alpha=0.2), ca.MixUp(alpha=0.2, interpolate_loss=True), ca.CutMix(alpha=1.0), ca.ColOut(), ca.CutOut(), ca.ProgressiveResizing(),
    ca.SelectiveBackprop(start=0.0, end=1.0), Own(alpha=0.2), ca.Alibi(max_sequence_length=32),
], ids=lambda algorithm: type(algorithm).__name__)
def test_algorithms_that_change_the_inputs(store, algorithm, teachers):
    with pytest.raises(ValueError, match=rf'^teachers: {type(algorithm).__name__} .* stored answers are answers to what was loaded\. Leave one of them out'):
        train(stored(store) if teachers == 'stored' else live(store), algorithms=[algorithm])


def test_other_samples_than_were_loaded(store):
    with pytest.raises(ValueError, match='a batch of 16 samples was loaded and has 15 now'):
        train(stored(store), algorithms=[Shorter()])
    train(live(), algorithms=[Shorter()], duration='1ba')


@pytest.mark.parametrize('algorithm', [ca.LabelSmoothing(0.1), ca.EMA(half_life='2ba'), ca.BlurPool(min_channels=4), ca.ChannelsLast(), ca.GradientClipping('norm', 1.0), ca.Alibi(32, train_sequence_length_scaling=1)],
                         ids=lambda algorithm: type(algorithm).__name__)
def test_algorithms_that_do_not(store, algorithm, tmp_path):
    want = trained(live(), algorithms=[copy.deepcopy(algorithm)])
    assert same(trained(stored(store), algorithms=[algorithm]), want)


@pytest.mark.filterwarnings('ignore::UserWarning:composer')
def test_sam_reads_each_answer_twice(store):
    want = trained(live(), algorithms=[ca.SAM()])
    assert same(trained(stored(store), algorithms=[ca.SAM()]), want)


@pytest.mark.parametrize('spec', [loader(classes=10), DataLoader(TensorDataset(torch.randn(16, 1, 8, 8), torch.arange(16) % 10), 4)], ids=['a', 'b'])
def test_a_loader_that_does_not_say_which_samples_it_gives(store, spec, tmp_path):
    for teachers in (stored(store), live(tmp_path / 'new')):
        with pytest.raises(ValueError, match=r'^teachers: stored answers belong to samples, and a DataLoader does not say which samples are in its batches\. .*make_loader'):
            train(teachers, spec=spec)
    assert not (tmp_path / 'new').exists()


def test_placements_that_go(store, tmp_path):
    for prepare in ('none', 'auto'):
        want = trained(live(), prepare=prepare)
        for placement in ('host', 'replicated', 'auto')[prepare == 'auto':]:  # in host memory nothing is prepared
            path = tmp_path / prepare / placement
            assert same(trained(live(path), placement=placement, prepare=prepare), want)
            assert same(trained(stored(path), placement=placement), want)


def test_segmentation(tmp_path):
    """One row for each label that counts, whatever its place."""
    class Scenes(EpochDataset):
        num_classes = 4

        def __len__(self):
            return 12

        def __getitem__(self, key):
            generator = torch.Generator().manual_seed(key[1])
            labels = torch.randint(-1, 4, (4, 4), generator=generator)
            return torch.randn(2, 4, 4, generator=generator), torch.where(labels < 0, -100, labels)

    def model(seed=0):
        torch.manual_seed(seed)
        return ComposerClassifier(torch.nn.Conv2d(2, 4, 1), num_classes=4, train_metrics={}, val_metrics={}, loss_fn=torch.nn.functional.cross_entropy)

    def spec():
        return make_loader(Scenes(), 4, 17, True, views=1, identity=Identity({'name': 'scenes'}, {}))
    for form in ({'name': 'dense', 'dtype': 'float32'}, {'name': 'top_k', 'k': 3, 'dtype': 'float32', 'temperature': 1.0}):
        path = tmp_path / form['name']
        cached = {'module': model(1).module, 'cache': {'path': str(path), 'fill': True, 'format': form}}
        fit = train(cached, spec=spec(), model=model(), duration='1ep')
        assert Store.open(path).samples == 12
        assert same(trained(stored(path), spec=spec(), model=model(), duration='1ep'), weights(fit))
        want = trained({'module': model(1).module}, spec=spec(), model=model(), duration='1ep')
        for name, value in weights(fit).items():
            torch.testing.assert_close(value, want[name], rtol=1e-5, atol=1e-6)
