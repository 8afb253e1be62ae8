"""What may be written for teachers, and the look at each before it is trusted."""

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import Distillation
from composer_kd.teachers import parse_teachers
from tests.common import classifier, images, loader, network, trainer

linear = nn.Linear(2, 2)


@pytest.mark.parametrize(('teachers', 'error', 'message'), [
    ([], ValueError, 'at least one teacher'),
    ('runs/x', TypeError, r"expected a torch\.nn\.Module, \{run: FOLDER\}.*got str: 'runs/x'"),
    ([3], TypeError, r'teachers\[0\].*got int: 3'),
    ({'rum': 'x'}, ValueError, r"teachers\[0\]: unknown key 'rum'\. Did you mean 'run'\?"),
    ([linear, {'run': 'x', 'wieght': 1}], ValueError, r"teachers\[1\]: unknown key 'wieght'\. Did you mean 'weight'\?"),
    ({'run': 'x', 'checkpoint': 'y'}, ValueError, 'got run and checkpoint'),
    ({'name': 'x'}, ValueError, 'got none of them'),
    ({'module': 'x'}, TypeError, r'teachers\[0\]\.module: expected a torch\.nn\.Module, got str'),
    ({'module': linear, 'weight': 0}, ValueError, r'teachers\[0\]\.weight: expected a finite number above 0, got 0'),
    ({'module': linear, 'weight': float('inf')}, ValueError, 'finite number above 0'),
    ({'module': linear, 'weight': '2'}, ValueError, 'finite number above 0'),
    ({'checkpoint': ''}, ValueError, 'expected a path or URI'),
    ({'checkpoint': 'no/such.pt'}, FileNotFoundError, r'teachers\[0\]\.checkpoint: there is nothing at no/such\.pt'),
    ({'checkpoint': 'x.pt', 'algorithms': {'blurpool': {}}}, ValueError, "there is no 'model'"),
    ([{'module': linear, 'name': 'a'}, {'module': linear, 'name': 'a'}], ValueError, "name 'a' is given 2 times"),
    ({'run': 'no/such/folder'}, FileNotFoundError, r'teachers\[0\]\.run: .*no/such/folder'),
])
def test_what_is_no_teacher_is_refused(teachers, error, message):
    with pytest.raises(error, match=message):
        Distillation(teachers)


def test_a_folder_that_holds_no_run(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r'teachers\[0\]\.run: '):
        Distillation({'run': str(tmp_path)})


def test_names_and_origins():
    specs = parse_teachers([linear, {'module': classifier(), 'name': 'b', 'weight': 2}])
    assert [(s.name, s.weight, s.origin) for s in specs] == [
        ('teacher0', 1.0, 'module:Linear'), ('b', 2.0, 'module:Sequential')]


def test_another_number_of_classes_is_seen_before_any_data():
    class NoData:
        batch_size = 8

        def __len__(self):
            return 6

        def __iter__(self):
            raise AssertionError('data was read')
    with pytest.raises(ValueError, match=r"teachers\[0\] \('teacher0'\).*has 7 outputs and the student 5"):
        trainer(Distillation(classifier(classes=7)), data=NoData())


def test_another_number_of_classes_of_a_plain_module_is_seen_before_the_first_step():
    fit = trainer(Distillation(network(classes=7), start='5ba'))
    with pytest.raises(ValueError, match=r"Teacher 'teacher0' \(module:Sequential\) gives logits of shape \(8, 7\)"):
        fit.fit()
    assert int(fit.state.timestamp.batch) == 0


def test_values_that_are_not_finite_are_seen_on_the_first_batch():
    broken = network()
    with torch.no_grad():
        broken[7].bias[2] = float('nan')
    fit = trainer(Distillation(broken, start='1ep'))
    with pytest.raises(RuntimeError, match=r"stopped at batch 0 .*logits that are not finite from teacher 'teacher0'"):
        fit.fit()
    assert int(fit.state.timestamp.batch) == 1, 'before any checkpoint of that step'


def test_a_forbidden_class_is_fine():
    teacher = network()
    with torch.no_grad():
        teacher[7].bias[2] = float('-inf')
    fit = trainer(Distillation(teacher, check_batches=1), max_duration='2ba', data=loader())
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit.fit()
    assert all(torch.isfinite(p).all() for p in fit.state.model.parameters())


class Constant(nn.Module):
    """Always answers with one class, which is not among the labels."""

    def __init__(self, classes):
        super().__init__()
        self.register_buffer('answer', torch.eye(classes)[0])

    def forward(self, x):
        return self.answer.expand(len(x), -1)


def test_a_teacher_no_better_than_chance_is_named_with_the_figure():
    x, y = images(32).tensors
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y.clamp(min=1)), batch_size=8)
    with pytest.warns(UserWarning, match=r'right on 0\.0% of 16 labels.*no better than chance \(20\.0% for 5'):
        trainer(Distillation(Constant(5)), data=data).fit()


def test_a_good_teacher_is_not_warned_of():
    class Knows(nn.Module):
        def forward(self, x):
            return nn.functional.one_hot((x.mean((1, 2, 3)) * 2).round().long().clamp(0, 4), 5).float()
    trainer(Distillation(Knows())).fit()


def test_no_look_where_none_is_wanted():
    x, y = images(32).tensors
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y.clamp(min=1)), batch_size=8)
    trainer(Distillation(Constant(5), check_batches=0), data=data).fit()


def test_a_composer_model_gets_the_batch_and_a_plain_module_the_input():
    seen = []

    class Model(ComposerClassifier):
        def forward(self, batch):
            seen.append(batch)
            return super().forward(batch)

    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            seen.append(x)
            return self.inner(x)
    kd = Distillation([Model(network(), num_classes=5), Plain()], check_batches=0, prepare='none')
    trainer(kd, max_duration='1ba').fit()
    (inputs, target), plain = seen
    assert target is None, 'labels are withheld'
    assert torch.equal(inputs, plain)


@pytest.mark.parametrize('loss', ['mse', 'reverse_kl'])
def test_a_forbidden_class_is_refused_where_the_loss_is_infinite_for_it(loss):
    teacher = network()
    with torch.no_grad():
        teacher[7].bias[2] = float('-inf')
    with pytest.raises(RuntimeError, match='not finite'):
        trainer(Distillation(teacher, loss=loss)).fit()


def test_a_guessing_teacher_is_hardly_ever_trusted():
    from composer_kd.teachers import Look
    trusted = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        look = Look('guess', 'module:x')
        for _ in range(2):
            logits, labels = torch.randn(8, 5, generator=generator), torch.randint(0, 5, (8,), generator=generator)
            look.at(logits, logits, labels, labels != -100)
        try:
            with pytest.warns(UserWarning, match='no better than chance'):
                look.verdict()
        except pytest.fail.Exception:
            trusted += 1
    assert trusted <= 6


def test_keys_that_would_be_ignored_are_refused():
    with pytest.raises(ValueError, match='input_key: 0 says where a plain module'):
        trainer(Distillation(classifier(seed=3), input_key=0))
    with pytest.raises(ValueError, match='target_key: there is nothing under 9'):
        trainer(Distillation(network(), target_key=9)).fit()
    with pytest.raises(TypeError, match=r'teachers\[0\]\.name: expected a string'):
        Distillation({'module': network(), 'name': ['a']})
    with pytest.raises(ValueError, match='nothing to learn'):
        Distillation(network(), kd_loss_weight=0, base_loss_weight=0)
