"""In a step with distillation nothing is asked of the device whose answer the host has to wait for."""

from contextlib import nullcontext

import pytest
import torch
import transformers
from composer.algorithms import LabelSmoothing
from composer.core import Event
from composer.core.data_spec import DataSpec
from composer.models import HuggingFaceModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.recipes.tasks.text.collate import count_samples, count_tokens, split_batch
from tests.common import classifier, loader, network, trainer
from tests.integration.test_huggingface import LENGTH, VOCABULARY, bert, composer_model, masked
from tests.integration.test_masked_positions import sparse

pytestmark = pytest.mark.filterwarnings(
    'ignore:Some targets have less', 'ignore:Cannot split tensor of length', 'ignore:Teacher .* no better than',
)

# what returns numbers to the host, or a tensor whose shape depends on numbers
WAITS = {f'aten::{name}' for name in (
    'nonzero', 'masked_select', '_local_scalar_dense', 'equal', 'unique', '_unique', '_unique2', 'unique_dim',
    'unique_consecutive', 'is_nonzero',
)}
WATCHED = (Event.AFTER_FORWARD, Event.BEFORE_BACKWARD)


class NoWaiting(TorchDispatchMode):
    """Refuses operations for which a GPU would be waited for; here there is none, and they run as well as any."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        NoWaiting.seen += 1
        name = func._schema.name
        indices = args[1] if name.startswith(('aten::index', 'aten::_index')) and len(args) > 1 else ()
        by_mask = isinstance(indices, (list, tuple)) and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices
        )
        assert name not in WAITS, f'{name} waits for the device'
        assert not by_mask, f'{name} with a mask waits for the device'
        return func(*args, **(kwargs or {}))


@pytest.fixture
def watched(monkeypatch):
    original = Distillation.apply

    def apply(self, event, state, logger):
        # in the first batch a prepared teacher's answer is held against the plain one's, which may wait
        with NoWaiting() if event in WATCHED and int(state.timestamp.batch) > 0 else nullcontext():
            return original(self, event, state, logger)
    monkeypatch.setattr(Distillation, 'apply', apply)
    NoWaiting.seen = 0


def without_waiting(model):
    """The model, its forward under watch too."""
    forward = model.forward

    def watched_forward(batch):
        with NoWaiting():
            return forward(batch)
    model.forward = watched_forward
    return model


def fit(kd, model, data, more=(), **settings):
    trainer([*more, kd], model=model, data=data, max_duration='2ba', **settings).fit()
    assert NoWaiting.seen > 0
    assert kd.summary()['active_batches'] == 2


def text(data, ours):
    spec = {'split_batch': split_batch} if ours else {}
    return DataSpec(DataLoader(data, batch_size=6), get_num_samples_in_batch=count_samples,
                    get_num_tokens_in_batch=count_tokens, **spec)


@pytest.mark.parametrize('microbatch', [16, 6])
@pytest.mark.parametrize('more', [[], [LabelSmoothing(0.1)]], ids=['labels', 'smoothed labels'])
@pytest.mark.parametrize('settings', [
    {}, {'on_nonfinite': 'skip'}, {'loss': 'mse', 'combine': 'logits'},
    {'combine': 'probabilities', 'kd_loss_weight': {'linear': {'alpha_f': 0.5}}},
], ids=str)
def test_images(watched, microbatch, more, settings):
    kd = Distillation([network(seed=1), classifier(seed=2)], check_batches=0, **settings)
    fit(kd, without_waiting(classifier()), loader(batch_size=16), more, device_train_microbatch_size=microbatch)


def plain(seed):
    # of a mask for its fastest attention transformers' BERT asks whether all of it is ones; for 'eager' it does not
    return composer_model(seed, attn_implementation='eager')


@pytest.mark.parametrize('microbatch', [6, 4])
@pytest.mark.parametrize('tokens', [False, True], ids=['by samples', 'by tokens'])
@pytest.mark.parametrize('kind', [sparse, plain], ids=['ours', 'Hugging Face'])
def test_our_text(watched, microbatch, tokens, kind):
    kd = Distillation([kind(1), kind(2)], check_batches=0)
    fit(kd, without_waiting(kind(0)), text(masked(), True), device_train_microbatch_size=microbatch,
        accumulate_train_batch_on_tokens=tokens)


def causal(seed):
    config = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=16,
                                     resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, attn_implementation='eager')
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize('microbatch', [6, 4])
@pytest.mark.parametrize('tokens', [False, True], ids=['by samples', 'by tokens'])
@pytest.mark.parametrize('counts', [[1, 0, 7, 2], [LENGTH], [LENGTH - 1, LENGTH]], ids=['few', 'all', 'nearly all'])
def test_other_peoples_text_for_causal_models(watched, microbatch, tokens, counts):
    student = HuggingFaceModel(causal(0), shift_labels=True)
    fit(Distillation(causal(1), check_batches=0), student, text(masked(counts=counts), False),
        device_train_microbatch_size=microbatch, accumulate_train_batch_on_tokens=tokens)


def test_what_waits_is_noticed(watched):
    with pytest.raises(AssertionError, match='waits for the device'):
        fit(Distillation(bert(seed=1), check_batches=0), composer_model(), text(masked(), False))


def test_losses_on_layers_of_pictures_and_of_text_do_not_wait(watched):
    losses = ['kl_divergence', {'name': 'hint', 'student_layer': 'module.4', 'teacher_layer': '4'}]
    fit(Distillation(network(seed=1), losses=losses, check_batches=0), without_waiting(classifier()),
        loader(batch_size=16), device_train_microbatch_size=6)
    losses = [{'name': 'hidden_mse', 'student_layer': 'bert.encoder.layer.0'},
              {'name': 'attention_mse', 'student_layer': 'bert.encoder.layer.0.attention.self'}]
    fit(Distillation(plain(1), losses=losses, check_batches=0), without_waiting(plain(0)), text(masked(), True),
        device_train_microbatch_size=4)
