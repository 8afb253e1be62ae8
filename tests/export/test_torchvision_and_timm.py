"""Torchvision's models, trained with a teacher and an average of weights: what comes out knows of neither."""

import json
import math

import pytest
import timm
import torch
import torchvision
from composer import Callback, functional
from composer.models import ComposerClassifier
from torch.utils.data import default_collate
from torchvision.models.resnet import Bottleneck

from composer_kd.export import export_run
from composer_kd.export.evaluating import for_evaluation
from composer_kd.models import build_model
from composer_kd.recipes import parse_recipe, train
from composer_kd.recipes.tasks import imagenet
from composer_kd.recipes.tasks.images.transforms import EvaluationView
from composer_kd.teachers import model_of_run
from tests.export.made import assert_no_trace, by_its_card, hand_made, texts, weights
from tests.recipes.tasks.images.pictures import as_bytes, photographs, write_folder
from tests.recipes.tiny import plain

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than')

MODEL = {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 3}


def pictures(root):
    return {'name': 'imagenet', 'path': str(root), 'crop_size': 32, 'num_classes': 3, 'num_workers': 0}


def recipe(root, name, **algorithms):
    return parse_recipe(plain(
        run_folder=str(root / name), model=MODEL, train_data={**pictures(root / 'data'), 'batch_size': 6},
        evaluators={'val': {'data': {**pictures(root / 'data'), 'resize_size': 37, 'batch_size': 6}}},
        max_duration='2ba', eval_interval='2ba', save_interval='2ba', scheduler=None, algorithms=algorithms,
    ))


class LastStep(Callback):
    """Keeps what the last step left, which is not what is saved where weights are averaged."""

    def after_train_batch(self, state, logger):
        LastStep.weights = {name.removeprefix('module.'): value.clone() for name, value in state.model.state_dict().items()}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A run, and one that learnt from it with an average of its weights."""
    root = tmp_path_factory.mktemp('composer_kd-runs')
    for split in ('train', 'val'):
        write_folder(root / 'data', split)
    train(recipe(root, 'earlier'))
    train(callbacks=[LastStep()], recipe=recipe(
        root, 'later', distillation={'teachers': [{'run': str(root / 'earlier')}]}, channels_last={},
        ema={'half_life': '1ba', 'update_interval': '1ba'}, label_smoothing={'smoothing': 0.1},
    ))
    return root


@pytest.fixture(scope='module')
def exported(runs):
    return export_run(runs / 'later', runs / 'out')


def checkpoint(folder):
    return torch.load(folder / 'checkpoints' / 'ep0-ba2-rank0.pt', weights_only=False)['state']


def leaves(value):
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in leaves(part)]
    return [leaf for part in value for leaf in leaves(part)] if isinstance(value, (list, tuple)) else [value]


def test_the_checkpoint_of_a_run_with_a_teacher_holds_the_student_alone(runs):
    state, alone = checkpoint(runs / 'later'), build_model(MODEL)
    assert list(state['model']) == list(alone.state_dict())
    optimizer, = state['optimizers'].values()
    assert len(optimizer['state']) == len(list(alone.parameters()))
    (_, kept), = [entry for entry in state['algorithms'] if entry[0] == 'Distillation']
    assert {type(leaf) for leaf in leaves(kept)} <= {int, float, str, bool, type(None)}
    assert any(str(runs / 'earlier') in str(leaf) for leaf in leaves(kept)), 'where the teacher came from is kept'


def test_the_weights_are_the_averages_under_torchvisions_names(runs, exported):
    found, model = weights(exported.path), model_of_run(str(runs / 'later')).module
    assert found.keys() == torchvision.models.resnet18(num_classes=3).state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    assert not torch.allclose(found['conv1.weight'], LastStep.weights['conv1.weight'], rtol=1e-4)


def test_torchvision_and_timm_load_it_by_the_card_alone(runs, exported):
    assert exported.libraries == exported.tried == ('torchvision', 'timm')
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model_of_run(str(runs / 'later'))((images, None))
    by_torchvision, by_timm = by_its_card(exported.path, {'images': images}, alone=True)
    torch.testing.assert_close(by_torchvision, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_timm, expected, atol=1e-5, rtol=1e-5)


def test_timm_prepares_pictures_as_the_evaluation_did(runs, exported, tmp_path):
    model = timm.create_model(f'local-dir:{exported.path}', pretrained=True)
    assert model.pretrained_cfg['label_names'] == ['class0', 'class1', 'class2']
    prepare = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    picture = photographs()[0].crop((0, 0, 70, 55))
    data = imagenet(1, 17, False, **{key: value for key, value in pictures(runs / 'data').items() if key != 'name'}, resize_size=37)
    ours = EvaluationView(37, 32, 'pil')(as_bytes(picture, 'PNG'), 'a picture')
    ours, _ = data.microbatch_transforms(default_collate([(ours, 0)]))
    torch.testing.assert_close(prepare(picture), ours[0], atol=1e-5, rtol=1e-5)


def test_there_is_no_trace(runs, exported):
    assert sorted(texts(exported.path)) == ['README.md', 'SHA256SUMS', 'config.json', 'model.safetensors']
    assert_no_trace(exported.path, str(runs), 'distillation', 'ema_model', 'optimizer')
    assert weights(exported.path).keys() == torchvision.models.resnet18(num_classes=3).state_dict().keys()


def test_the_card_says_what_it_is_and_how_good(runs, exported):
    told = (exported.path / 'README.md').read_text()
    record = json.loads((runs / 'later' / 'record.json').read_text())
    value = record['evaluations'][-1]['metrics']['val']['MulticlassAccuracy']
    assert told.startswith('# resnet18\n\n11,178,051 parameters')
    for words in (
        '3 classes: 0 class0, 1 class1, 2 class2.', '3 x 32 x 32', 'resized to 37 pixels', '(0.485, 0.456, 0.406)',
        'Trained on the data "imagenet", with channels_last, ema, label_smoothing.', 'after 2 batches',
        f'- val: MulticlassAccuracy {value:.6g}',
    ):
        assert words in told


@pytest.mark.parametrize(('architecture', 'algorithms'), [
    ('resnet18', {'ghost_batchnorm': {'ghost_batch_size': 3}, 'weight_standardization': {}}),
    ('resnet50', {'stochastic_depth': {'target_layer_name': 'ResNetBottleneck', 'stochastic_method': 'sample'}}),
], ids=lambda value: value if isinstance(value, str) else ', '.join(value))
def test_what_matters_in_training_alone_is_taken_out(tmp_path, architecture, algorithms):
    data = {**pictures(tmp_path / 'nowhere'), 'batch_size': 6}
    run = hand_made(tmp_path / 'run', model={**MODEL, 'architecture': architecture}, train_data=data, evaluators={},
                    algorithms=algorithms)
    made = export_run(run.path, tmp_path / 'out')
    assert made.libraries == ('torchvision', 'timm')
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = model_of_run(str(run.path))((images, None))
    for found in by_its_card(made.path, {'images': images}):
        torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-5)


@pytest.mark.parametrize('method', ['block', 'sample'])
def test_stochastic_depth_goes_into_the_norms(method):
    model = ComposerClassifier(torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], num_classes=3), num_classes=3)
    functional.apply_stochastic_depth(model, 'ResNetBottleneck', method, drop_rate=0.5)
    functional.apply_ghost_batchnorm(model, ghost_batch_size=2)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        expected = model.eval()((images, None))
        plain = torchvision.models.ResNet(Bottleneck, [1, 2, 1, 1], num_classes=3).eval()
        names = [name.replace('.batchnorm', '') for name in model.module.state_dict()]
        plain.load_state_dict(dict(zip(names, model.module.state_dict().values(), strict=True)))
        assert (plain(images) - expected).abs().max() > 1e-3, 'the weights as they are would not do'
        for_evaluation(model)
        plain.load_state_dict(model.module.state_dict())
        for module in (plain, model.module):
            torch.testing.assert_close(module(images), expected, atol=1e-5, rtol=1e-5)


def test_cifar_has_its_own_statistics(tmp_path):
    data = {'name': 'cifar', 'path': 'nowhere', 'classes': 100, 'batch_size': 6}
    run = hand_made(tmp_path / 'run', model={**MODEL, 'num_classes': 100}, train_data=data, evaluators={})
    made = export_run(run.path, tmp_path / 'out')
    config = json.loads((made.path / 'config.json').read_text())['pretrained_cfg']
    assert (config['input_size'], config['mean'], config['crop_pct']) == ([3, 32, 32], [0.5071, 0.4865, 0.4409], 1.0)
    assert "100 classes, numbered from 0 as in CIFAR-100's fine labels." in (made.path / 'README.md').read_text()


def test_the_share_that_timm_crops_is_rounded_as_timm_rounds():
    from composer_kd.export.vision import crop_share
    for crop in range(8, 300):
        for resize in range(crop, crop + 60):
            assert math.floor(crop / crop_share(crop, resize)) == resize
