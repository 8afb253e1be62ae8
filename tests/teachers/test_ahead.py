"""A teacher asked about several microbatches at once says what it says to each."""

import logging
import weakref

import composer.algorithms as ca
import pytest
import torch
from composer.core import Algorithm, Callback, DataSpec, Event
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.batches import labelled
from composer_kd.models import build_model
from tests.common import classifier, loader, network, trainer, weights

pytestmark = [
    pytest.mark.filterwarnings('ignore:SAM has known issues'), pytest.mark.filterwarnings('ignore:Some targets have less than 1'),
    pytest.mark.filterwarnings('ignore:Teacher .* no better than chance'),
]
BERT = {
    'name': 'bert_masked_lm', 'vocab_size': 40, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2,
    'intermediate_size': 16, 'max_position_embeddings': 8, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0,
}


def watched(model):
    """The model, and a list of how many samples it was asked about, each time."""
    sizes = []

    def note(module, inputs, named, output):
        first = inputs[0] if inputs else named['input_ids']
        sizes.append(len(first['input_ids'] if isinstance(first, dict) else first))
    model.register_forward_hook(note, with_kwargs=True)
    return model, sizes


def close(one, other):
    assert one.keys() == other.keys()
    for name, weight in other.items():
        torch.testing.assert_close(one[name], weight, rtol=1e-4, atol=1e-5)


def run(size, microbatch=2, teachers=1, samples=40, **more):
    """A training of 40 samples in batches of 16, so that the last of each epoch holds 8."""
    asked = [watched(network(seed=9 + i)) for i in range(teachers)]
    settings = {key: more.pop(key) for key in ('sampling', 'teachers_per_batch', 'end', 'interval', 'check_batches') if key in more}
    kd = Distillation([model for model, _ in asked], teacher_microbatch_size=size, **{'check_batches': 0, **settings})
    algorithms = [*more.pop('algorithms', []), kd]
    fit = trainer(algorithms, data=loader(samples, 16), device_train_microbatch_size=microbatch, **more)
    fit.fit()
    return weights(fit), [sizes for _, sizes in asked]


@pytest.mark.parametrize(('size', 'sizes'), [
    (None, [2] * 20), (2, [2] * 20), (3, [2] * 20), (4, [4] * 10), (7, [6, 6, 4, 6, 6, 4, 6, 2]), (16, [16, 16, 8]), (100, [16, 16, 8]),
])
def test_as_many_whole_microbatches_as_fit(size, sizes):
    found, seen = run(size, max_duration='1ep')
    assert seen == [sizes]
    close(found, run(None, max_duration='1ep')[0])


@pytest.mark.parametrize('settings', [
    {'teachers': 3}, {'teachers': 3, 'teachers_per_batch': 1, 'sampling': 'round_robin'},
    {'teachers': 2, 'teachers_per_batch': 1}, {'end': '3ba'}, {'interval': 2}, {'check_batches': 3}, {'teachers': 2, 'teachers_per_batch': 1, 'check_batches': 1},
], ids=str)
def test_whatever_the_schedule(settings):
    close(run(8, **settings)[0], run(None, **settings)[0])


def test_sam_asks_again():
    found, seen = run(16, algorithms=[ca.SAM()], max_duration='1ep')
    assert seen == [[16, 16, 16, 16, 8, 8]]
    close(found, run(None, algorithms=[ca.SAM()], max_duration='1ep')[0])


class Kept(Callback):
    """How many of a teacher's answers are still there after each batch."""

    def __init__(self, teacher):
        self.answers, self.after = [], []
        teacher.register_forward_hook(lambda module, inputs, output: self.answers.append(weakref.ref(output)))

    def batch_end(self, state, logger):
        self.after.append(sum(answer() is not None for answer in self.answers))


@pytest.mark.parametrize('settings', [{'end': '2ba'}, {'interval': 2}], ids=str)
def test_no_answer_is_kept_for_batches_that_ask_nobody(settings):
    teacher = network(seed=9)
    kept = Kept(teacher)
    kd = Distillation(teacher, teacher_microbatch_size=16, check_batches=0, prepare='none', **settings)
    trainer(kd, data=loader(40, 16), device_train_microbatch_size=2, callbacks=[kept]).fit()
    assert len(kept.answers) in (2, 3)
    assert kept.after == [0] * 6


class Sentences(torch.utils.data.Dataset):
    """Of eight words, of which no word up to all are to be predicted."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        words = torch.randint(0, 40, (8,), generator=random)
        return {'input_ids': words, 'attention_mask': torch.ones_like(words),
                'labels': torch.where(torch.rand(8, generator=random) < index % 5 / 4, words, -100)}


def read(size, spec=None):
    torch.manual_seed(3)
    teacher, sizes = watched(build_model(BERT))
    fit = trainer(
        Distillation(teacher, teacher_microbatch_size=size, check_batches=0), model=build_model(BERT),
        data=spec or DataLoader(Sentences(), batch_size=8), device_train_microbatch_size=2, max_duration='1ep',
    )
    fit.fit()
    return weights(fit), sizes


def test_positions_of_each_microbatch():
    found, sizes = read(6)
    assert sizes == [6, 2, 6, 2, 4]
    close(found, read(None)[0])


def test_parts_and_transforms_are_the_trainers_own():
    def tripled(batch):
        return {**batch, 'input_ids': (batch['input_ids'] * 3) % 40}

    def spec():
        return DataSpec(DataLoader(Sentences(), batch_size=8), microbatch_transforms=tripled)
    found, sizes = read(4, spec())
    assert sizes == [4, 4, 4, 4, 4]
    close(found, read(None, spec())[0])


def test_a_transform_in_place():
    """On a CPU, where the parts that teachers are asked about lie where the student's do."""
    def halved(batch):
        return batch[0].mul_(0.5), batch[1]

    def train(size):
        kd = Distillation(network(seed=9), teacher_microbatch_size=size, check_batches=0)
        spec = DataSpec([(images.clone(), labels) for images, labels in loader(40, 16)], microbatch_transforms=halved)
        fit = trainer(kd, data=spec, device_train_microbatch_size=4, max_duration='1ep')
        fit.fit()
        return weights(fit)
    close(train(16), train(None))


def test_positions_in_any_order():
    def split(batch, size):
        parts = DataSpec([]).split_batch(batch, size)
        return [{**part, 'masked_positions': labelled(part['labels'], -100).flip(0)} for part in parts]

    def spec():
        return DataSpec(DataLoader(Sentences(), batch_size=8), split_batch=split, get_num_samples_in_batch=lambda batch: len(batch['labels']))
    close(read(6, spec())[0], read(None, spec())[0])


class OwnMixUp(ca.MixUp):
    pass


@pytest.mark.parametrize('mix', [ca.MixUp(alpha=0.2), ca.CutMix(alpha=1.0), OwnMixUp(alpha=0.2)], ids=lambda mix: type(mix).__name__)
def test_what_is_mixed_later_is_refused(mix):
    with pytest.raises(ValueError, match=rf'^teacher_microbatch_size: 8 is more than one microbatch of 2, and {type(mix).__name__} mixes .* Give 2 or leave it out\.$'):
        run(8, algorithms=[mix])
    assert run(2, algorithms=[mix], max_duration='1ep')[1] == [[2] * 20]
    assert run(8, microbatch=8, algorithms=[mix], max_duration='1ep')[1] == [[8] * 5], 'one microbatch'


class Brighter(Algorithm):
    def match(self, event, state):
        return event == Event.BEFORE_FORWARD

    def apply(self, event, state, logger):
        state.batch = (state.batch[0] + 1, state.batch[1])


def test_inputs_that_someone_else_changes(caplog):
    with caplog.at_level(logging.WARNING, 'composer_kd'):
        found, seen = run(16, algorithms=[Brighter()])
    assert [record.message for record in caplog.records if 'other inputs' in record.message] == [
        'teacher_microbatch_size: the student gets other inputs than the loader gave, so teachers are asked microbatch by microbatch.',
    ]
    assert seen == [[2] * 40]
    close(found, run(None, algorithms=[Brighter()])[0])


def test_a_device_without_the_memory(caplog):
    """As where the whole batch does not fit beside the student."""
    teacher, sizes = watched(network(seed=9))

    def full(module, inputs):
        if len(inputs[0]) > 4:
            raise torch.OutOfMemoryError('CUDA out of memory.')
    teacher.register_forward_pre_hook(full)
    kd = Distillation(teacher, teacher_microbatch_size=16, check_batches=0)
    fit = trainer(kd, model=classifier(), data=loader(40, 16), device_train_microbatch_size=2)
    with caplog.at_level(logging.WARNING, 'composer_kd'):
        fit.fit()
    assert [record.message for record in caplog.records if 'runs out of memory' in record.message] == [
        "Teacher 'teacher0' runs out of memory on 16 samples at once (teacher_microbatch_size): from here on teachers are "
        'asked microbatch by microbatch.',
    ]
    assert sizes == [2] * 40
    close(weights(fit), run(None)[0])
