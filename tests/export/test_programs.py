"""What no library builds: a program that torch runs without the model's code."""

import pytest
import torch

from composer_kd.export import export_run
from composer_kd.models import build_model
from composer_kd.recipes import train
from composer_kd.teachers import model_of_run
from tests.export.made import assert_no_trace, by_its_card, hand_made, texts, weights
from tests.models.words import tokenizer_folder
from tests.recipes.tiny import recipe

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')

IMAGES = {'name': 'imagenet', 'path': 'nowhere', 'crop_size': 32, 'num_classes': 3, 'batch_size': 6}
RESNET = {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 3}
CIFAR = {'name': 'cifar', 'path': 'nowhere', 'batch_size': 6}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The tiny recipe, with a teacher and checkpoints by the batch."""
    root = tmp_path_factory.mktemp('composer_kd-runs')
    train(recipe(root / 'earlier'))
    train(recipe(
        root / 'run', max_duration='4ba', save_interval='2ba', eval_interval='2ba', scheduler=None,
        algorithms={'distillation': {'teachers': [{'run': str(root / 'earlier')}]}},
    ))
    return root


def expected(run, images):
    with torch.no_grad():
        return model_of_run(str(run))((images, None))


def test_torch_runs_it_by_the_card_alone(trained):
    made = export_run(trained / 'run', trained / 'out')
    assert sorted(path.name for path in made.path.iterdir()) == ['README.md', 'SHA256SUMS', 'model.pt2', 'model.safetensors']
    images = torch.randn(5, 1, 8, 8)
    found, = by_its_card(made.path, {'images': images}, alone=True)
    torch.testing.assert_close(found, expected(trained / 'run', images), atol=1e-5, rtol=1e-5)
    assert_no_trace(made.path, str(trained), 'earlier', 'distillation', '_DigitsResNet', '.py')
    state = model_of_run(str(trained / 'run')).module.state_dict()
    assert weights(made.path).keys() == state.keys() == build_model({'name': 'digits_resnet', 'width': 4}).module.state_dict().keys()
    assert all(torch.equal(weights(made.path)[name], value) for name, value in state.items())
    assert 'model.pt2/serialized_exported_program.json' in texts(made.path), 'the archive was looked into'


def test_another_checkpoint_than_the_latest(trained):
    earlier = trained / 'run' / 'checkpoints' / 'ep0-ba2-rank0.pt'
    made = export_run(trained / 'run', trained / 'second', checkpoint=str(earlier))
    state = torch.load(earlier, weights_only=False)['state']['model']
    assert all(torch.equal(value, state[f'module.{name}']) for name, value in weights(made.path).items())
    assert not torch.equal(weights(made.path)['head.weight'], model_of_run(str(trained / 'run')).module.head.weight)
    told = (made.path / 'README.md').read_text()
    assert 'Evaluated after 2 batches of training:' in told
    assert made.checkpoint == str(earlier)


@pytest.mark.parametrize(('model', 'data', 'algorithms'), [
    ({'name': 'resnet_cifar', 'depth': 8}, CIFAR, {'ghost_batchnorm': {'ghost_batch_size': 4}}),
    (RESNET, IMAGES, {'blurpool': {}}),
    ({'name': 'resnet_cifar', 'depth': 8}, CIFAR, {'squeeze_excite': {'min_channels': 16}, 'channels_last': {}}),
    ({'name': 'resnet_cifar', 'depth': 8}, CIFAR, {'factorize': {'min_channels': 8, 'latent_channels': 4}}),
], ids=lambda value: ','.join(value) if 'name' not in value else None)
def test_rewritten_models_and_architectures_of_no_library(tmp_path, model, data, algorithms):
    run = hand_made(tmp_path / 'composer_kd-run', model=model, train_data=data, evaluators={}, algorithms=algorithms)
    made = export_run(run.path, tmp_path / 'out')
    assert made.libraries == made.tried == ('torch',)
    assert_no_trace(made.path, str(tmp_path))
    program = torch.export.load(made.path / 'model.pt2').module()
    for samples in (4, 7):
        images = torch.randn(samples, 3, 32, 32)
        wanted = expected(run.path, images)
        torch.testing.assert_close(program(images), wanted, atol=1e-5 * float(wanted.abs().max()), rtol=1e-5)
    assert program(torch.randn(1, 3, 32, 32)).shape == (1, wanted.shape[1])


@pytest.mark.filterwarnings('ignore:Attempted to insert a get_attr Node', 'ignore:Node .* does not reference')
def test_a_rewritten_text_model_takes_its_tokenizer_along(tmp_path):
    words = tokenizer_folder(tmp_path / 'composer_kd-words')
    model = {'name': 'bert_masked_lm', 'tokenizer': str(words), 'vocab_size': 20, 'hidden_size': 16, 'num_hidden_layers': 1,
             'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 12}
    data = {'name': 'masked_text', 'path': 'nowhere', 'tokenizer': str(words), 'max_seq_len': 9, 'batch_size': 4}
    run = hand_made(tmp_path / 'run', model=model, train_data=data, evaluators={}, algorithms={'gated_linear_units': {}})
    made = export_run(run.path, tmp_path / 'out')
    assert made.libraries == ('torch',)
    assert_no_trace(made.path, str(tmp_path), 'MaskedBert', 'MaskedRows')
    ids = torch.randint(0, 20, (3, 9))
    inputs = {'input_ids': ids, 'attention_mask': (ids > 3).long(), 'token_type_ids': (ids > 9).long()}
    found, = by_its_card(made.path, inputs)
    with torch.no_grad():
        torch.testing.assert_close(found, model_of_run(str(run.path))(inputs).logits, atol=1e-5, rtol=1e-5)
    assert (made.path / 'tokenizer.json').exists()
