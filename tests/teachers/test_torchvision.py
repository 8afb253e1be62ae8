"""Torchvision's published weights as teachers, with files of random weights in their places."""

import threading
import urllib.error
import urllib.request

import pytest
import torch
import torchvision
import yaml
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import Distillation
from composer_kd.models import build_model
from composer_kd.models.published import file_of, published_weights
from composer_kd.runs import RunFolder
from composer_kd.teachers import build_teachers, digest_of, model_of_run, parse_teachers
from tests.common import trainer

NAME = {'torchvision': 'shufflenet_v2_x0_5', 'weights': 'IMAGENET1K_V1'}
FILE = 'shufflenetv2_x0.5-f707e7126e.pth'


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder, and no network."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr('composer_kd.models.outside.PAUSES', ())

    def refuse(request, *args, **kwargs):
        raise urllib.error.URLError('there is no network here')
    monkeypatch.setattr(urllib.request, 'urlopen', refuse)
    monkeypatch.setattr('torch.hub.urlopen', refuse)
    folder = tmp_path / 'hub' / 'checkpoints'
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def here(hub):
    """The published file's place, with random weights."""
    torch.manual_seed(5)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), hub / FILE)
    return hub / FILE


def student(classes=1000):
    return ComposerClassifier(nn.Sequential(nn.Flatten(), nn.LazyLinear(classes)), num_classes=classes)


def data(size=32):
    torch.manual_seed(2)
    pairs = torch.utils.data.TensorDataset(torch.randn(8, 3, size, size), torch.randint(0, 1000, (8,)))
    return torch.utils.data.DataLoader(pairs, batch_size=4)


def fit(kd, classes=1000):
    model = student(classes)
    model((torch.zeros(1, 3, 32, 32), None))
    return trainer(kd, model, data(), lr=1e-3, max_duration='2ba')


@pytest.mark.parametrize(('teacher', 'error', 'told'), [
    ({'torchvision': 'resnet110'}, ValueError,
     r"teachers\[0\]\.torchvision: unknown architecture 'resnet110'\. Did you mean 'resnet101'\?"),
    ({'torchvision': 'fcn_resnet50'}, ValueError, 'Known are the classification models'),
    ({'torchvision': 'resnet101', 'weights': 'IMAGENET1K_V3'}, ValueError,
     r"teachers\[0\]\.weights: unknown weights 'IMAGENET1K_V3' of resnet101\. Did you mean 'IMAGENET1K_V[12]'\? "
     'Known: IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT'),
    ({'torchvision': 'vgg16', 'weights': 'IMAGENET1K_FEATURES'}, ValueError, 'Known: IMAGENET1K_V1, DEFAULT'),
    ({'torchvision': 'resnet101', 'weights': 2}, TypeError, r'teachers\[0\]\.weights: expected a name .*got 2'),
    ({'torchvision': ''}, ValueError, "torchvision: expected torchvision's name of a classification model, got ''"),
    ({'torchvision': 'resnet101', 'model': 'x'}, ValueError, r"teachers\[0\]: unknown key 'model'"),
    ({'torchvison': 'resnet101'}, ValueError, "unknown key 'torchvison'. Did you mean 'torchvision'"),
    ({'run': 'x', 'weights': 'DEFAULT'}, ValueError, "unknown key 'weights'"),
])
def test_names_are_checked_before_anything_is_downloaded(teacher, error, told, hub):
    with pytest.raises(error, match=told):
        Distillation(teacher)


def test_names_and_origin(hub):
    first, second = parse_teachers([{'torchvision': 'resnet101'}, {**NAME, 'name': 'small', 'weight': 2}])
    assert (first.name, first.origin) == ('teacher0', 'torchvision:resnet101/IMAGENET1K_V2')
    assert (second.name, second.weight, second.origin) == ('small', 2, 'torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1')
    assert str(file_of(published_weights('resnet101'))) == str(hub / 'resnet101-cd907fc2.pth')


def test_it_teaches_with_the_weights_of_the_file_and_is_left_alone(here):
    kd = Distillation(NAME)
    run = fit(kd)
    teacher, = kd.teachers
    module = torchvision.models.shufflenet_v2_x0_5()
    module.load_state_dict(torch.load(here))
    images = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(teacher.outputs((images, None)), module.eval()(images).detach())
    with pytest.warns(UserWarning, match='no better than chance'):
        run.fit()
    assert kd.summary()['active_batches'] == 2
    assert kd.summary()['teachers'][0]['origin'] == 'torchvision:shufflenet_v2_x0_5/IMAGENET1K_V1'
    assert kd.summary()['teachers'][0]['digest'] == digest_of(module)
    assert not [name for name in run.state.model.state_dict() if 'stage' in name]


def test_loading_it_leaves_the_trainings_random_numbers_alone(here):
    specs = parse_teachers(NAME)
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    build_teachers(specs, student())
    assert torch.equal(torch.rand(3), expected)


def test_without_file_and_network_the_error_says_what_to_put_where(hub):
    with pytest.raises(FileNotFoundError) as told:
        fit(Distillation({**NAME, 'name': 'small'}))
    message = str(told.value)
    assert message.startswith("teachers[0] ('small'): ")
    assert 'there is no network here' in message
    assert f'Fetch https://download.pytorch.org/models/{FILE}' in message
    assert f'put it at {hub / FILE}' in message
    assert not list(hub.iterdir())


def test_a_truncated_file_and_another_networks_file(here):
    whole = here.read_bytes()
    here.write_bytes(whole[:len(whole) // 2])
    with pytest.raises(ValueError, match=r'may be truncated or something else\. Remove it, so that it is downloaded anew'):
        fit(Distillation(NAME))
    torch.save(torchvision.models.shufflenet_v2_x1_0().state_dict(), here)
    with pytest.raises(ValueError, match='cannot be read as the weights IMAGENET1K_V1 of shufflenet_v2_x0_5'):
        fit(Distillation(NAME))


def test_no_code_in_the_file_is_run(here):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ('code in the file was run',))
    torch.save({'a': Evil()}, here)
    with pytest.raises(ValueError, match='cannot be read as the weights'):
        fit(Distillation(NAME))


def test_another_number_of_classes_is_told_before_the_download(hub):
    with pytest.raises(ValueError, match='has 1000 outputs and the student 10'):
        fit(Distillation(NAME), classes=10)


def test_validation_looks_at_what_is_here_and_downloads_nothing(here):
    kd = Distillation([NAME, {'torchvision': 'resnet101', 'name': 'large'}], input_key=0)
    looked = kd.check_teachers(student())
    assert list(looked) == ['teacher0', 'large']
    assert looked['teacher0'].startswith('fits, digest ')
    assert looked['large'] == 'not on this machine: downloaded at the start'
    with pytest.raises(ValueError, match=r"teachers\[0\] \('large'\) .* has 1000 outputs and the student 10"):
        Distillation({'torchvision': 'resnet101', 'name': 'large'}).check_teachers(student(10))


def test_one_rank_of_a_machine_downloads_and_the_others_wait(here, monkeypatch):
    # A second rank finds nothing, waits without asking the network, and reads what the first has put there.
    waiting = here.rename(here.with_suffix('.part'))
    monkeypatch.setattr('composer.utils.dist.get_local_rank', lambda: 1)
    later = threading.Timer(0.5, lambda: waiting.rename(here))
    later.start()
    teacher, = build_teachers(parse_teachers(NAME), student())
    assert type(teacher.module).__name__ == 'ShuffleNetV2'
    assert here.exists()
    later.join()


def test_a_teacher_lies_in_memory_as_the_student_does(here):
    specs = parse_teachers(NAME)
    for format_, expected in ((torch.contiguous_format, False), (torch.channels_last, True)):
        model = ComposerClassifier(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), num_classes=1000)
        teacher, = build_teachers(specs, model.to(memory_format=format_))
        weight = teacher.module.conv1[0].weight
        assert (weight.stride(1) == 1) == expected
    assert torch.equal(weight, torch.load(here)['conv1.0.weight'])


def test_a_model_starts_from_published_weights(hub):
    torch.manual_seed(1)
    state = torchvision.models.resnet18().state_dict()
    file = file_of(published_weights('resnet18'))
    spec = {'name': 'resnet', 'architecture': 'resnet18', 'weights': 'DEFAULT', 'loss': 'binary_cross_entropy'}
    with pytest.raises(FileNotFoundError, match=f'weights: {file.name}, .* is not on this machine'):
        build_model(spec)
    torch.save(state, file)
    model = build_model(spec)
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())


def test_a_run_that_started_from_them_teaches_without_them(hub, tmp_path):
    folder = RunFolder(tmp_path / 'run')
    spec = {'name': 'resnet', 'architecture': 'resnet18', 'num_classes': 1000}
    trained = build_model(spec)
    folder.checkpoints.mkdir(parents=True)
    folder.recipe_path.write_text(yaml.safe_dump({'model': {**spec, 'weights': 'DEFAULT'}}))
    torch.save({'state': {'model': trained.state_dict()}}, folder.checkpoints / 'latest-rank0.pt')
    assert digest_of(model_of_run(str(folder.path))) == digest_of(trained)


def test_every_classification_model_has_an_entry():
    known = torchvision.models.list_models(module=torchvision.models)
    assert len(known) >= 80
    assert all(published_weights(name).meta['categories'] for name in known)
