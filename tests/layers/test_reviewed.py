"""What a reader of the code found: hooks that stay, features changed in place, attention behind dropout, widths alone."""

import io

import pytest
import torch
import transformers
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn
from torch.utils.data import DataLoader

from composer_kd import Distillation
from tests.common import loader, network, trainer
from tests.integration.test_huggingface import composer_model, masked

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')


def hint(path='0', **changes):
    return {'name': 'hint', 'student_layer': path, 'teacher_layer': path, **changes}


def kd(losses, teacher=None, **settings):
    return Distillation(network(seed=9) if teacher is None else teacher, losses=losses, check_batches=0, **settings)


def test_no_hook_stays_on_the_student_and_a_second_fit_has_them_again():
    algorithm = kd([hint()], end='100ba')
    fit = trainer(algorithm, max_duration='2ba')
    fit.fit()
    torch.save(fit.state.model, io.BytesIO())
    assert not any(module._forward_hooks for module in fit.state.model.modules())
    fit.fit(duration='2ba')
    assert algorithm.summary()['active_batches'] == 4
    assert not any(module._forward_hooks for module in fit.state.model.modules())


@pytest.mark.parametrize('side', ['the student', "teacher 'teacher0'"])
def test_a_feature_that_is_changed_in_place_is_refused_by_name(side):
    def made(seed, inplace):
        net = network(seed=seed)
        net[2] = nn.ReLU(inplace=inplace)
        return net
    model = ComposerClassifier(made(0, side == 'the student'), num_classes=5)
    algorithm = kd([hint('1')], made(9, side != 'the student'), prepare='none')
    with pytest.raises(ValueError, match=rf"what module '.*1' of {side}.* gives is changed in place by what follows"):
        trainer(algorithm, model=model)


def llama(dropout, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HuggingFaceModel(transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, attention_dropout=dropout, attn_implementation='eager', use_cache=False,
        )), shift_labels=True)


@pytest.mark.parametrize('dropout', [0.0, 0.3])
def test_attention_that_is_seen_behind_dropout_alone_is_refused(dropout):
    path = 'model.model.layers.0.self_attn'
    entry = {'name': 'attention_mse', 'student_layer': path, 'teacher_layer': path}
    fit = trainer(kd([entry], llama(0.0, 1)), model=llama(dropout, 0), data=DataLoader(masked(8), batch_size=4), max_duration='1ba')
    if dropout:
        with pytest.raises(ValueError, match=r'shows its attention after dropout alone.*Set its attention dropout to 0'):
            fit.fit()
    else:
        fit.fit()


def bert(seed, width=16):
    return composer_model(seed=seed, attn_implementation='eager', hidden_size=width)


def test_what_is_not_finite_of_attention_is_left_out_query_by_query():
    path = 'model.bert.encoder.layer.0.attention.self'
    entry = {'name': 'attention_mse', 'student_layer': path, 'teacher_layer': path}
    found = {}
    for way in ('stop', 'skip'):
        model = bert(0)
        fit = trainer(kd([entry], bert(1), on_nonfinite=way), model=model, data=DataLoader(masked(8), batch_size=4), max_duration='2ba')
        fit.fit()
        found[way] = torch.cat([value.detach().flatten() for value in model.parameters()])
    torch.testing.assert_close(found['stop'], found['skip'], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('width', [12, 16])
def test_a_feature_of_samples_as_wide_as_the_text_is_long_is_no_token(width):
    # the texts have 12 tokens
    def model(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return HuggingFaceModel(transformers.BertForSequenceClassification(transformers.BertConfig(
                vocab_size=40, hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=16, num_labels=3)), shift_labels=False)
    data = [{**item, 'labels': torch.tensor(i % 3)} for i, item in enumerate(masked(8))]
    entry = {'name': 'hidden_mse', 'student_layer': 'model.bert.pooler', 'teacher_layer': 'model.bert.pooler'}
    trainer(kd([entry], model(1)), model=model(0), data=DataLoader(data, batch_size=4), max_duration='1ba').fit()


def test_widths_that_are_said_make_a_projector_of_maps_too():
    projector = {'kind': 'linear', 'student_width': 16, 'teacher_width': 24}
    fit = trainer(kd([hint('0', projector=projector)], network(width=24, seed=9)), max_duration='1ba')
    fit.state.train_dataloader = None
    fit.fit()
    from composer import Trainer
    algorithm = kd([hint('0', projector=projector)], network(width=24, seed=9))
    model = ComposerClassifier(network(), num_classes=5)
    late = Trainer(model=model, algorithms=[algorithm], optimizers=torch.optim.SGD(model.parameters(), lr=0.1), progress_bar=False)
    late.fit(train_dataloader=loader(), duration='2ba')
    assert algorithm.summary()['active_batches'] == 2


def test_other_projectors_begin_anew_where_a_change_is_only_warned_of(tmp_path, caplog):
    def run(losses, load=None, **settings):
        algorithm = kd(losses, **settings)
        fit = trainer(algorithm, max_duration='2ba' if load is None else '4ba', save_folder=str(tmp_path), save_interval='2ba',
                      save_overwrite=True, load_path=load)
        fit.fit()
        return algorithm
    run([hint('0', projector='linear')])
    checkpoint = str(tmp_path / 'ep0-ba2-rank0.pt')
    with pytest.raises(ValueError, match='losses|loss'):
        run([hint('0', projector='mlp')], checkpoint)
    run([hint('0', projector='mlp')], checkpoint, on_change='warn')
    assert 'Projectors begin anew' in caplog.text
