"""Training on answers of which a part is kept, and on answers that are none."""

import pytest
import torch
from composer.models import ComposerClassifier

from composer_kd.answers import Format, Store
from composer_kd.answers.keys import key_of
from composer_kd.teachers.packing import uniform_for
from tests.answers.training import BATCHES, data, live, stored, teacher, train, trained
from tests.common import same, weights

pytestmark = pytest.mark.filterwarnings('ignore:Teacher .* no better than', 'ignore:Cannot split tensor of length')

FORMS = {
    'top_k': {'name': 'top_k', 'k': 3, 'temperature': 2.0}, 'top_k float32': {'name': 'top_k', 'k': 9, 'dtype': 'float32', 'temperature': 2.0},
    'sampled': {'name': 'sampled', 'k': 12, 'temperature': 2.0}, 'dense float16': {'name': 'dense', 'dtype': 'float16'},
    'dense bfloat16': {'name': 'dense', 'dtype': 'bfloat16'},
}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('name', FORMS)
def test_a_run_that_fills_learns_what_a_run_that_reads_learns(tmp_path, name, workers):
    settings = {'loss': {'name': 'kl_divergence', 'temperature': 2.0}}
    fit = train(live(tmp_path / 'store', form=FORMS[name]), **settings)
    path = tmp_path / 'store'
    assert same(trained(stored(path), spec=data(num_workers=workers), **settings), weights(fit))
    assert not same(weights(fit), trained(live(), **settings)), 'and it is not the live teacher to the bit'


@pytest.mark.parametrize('name', ['top_k float32', 'dense float16', 'dense bfloat16'])
def test_how_far_the_weights_are_from_those_of_the_live_teacher(tmp_path, name):
    settings = {'loss': {'name': 'kl_divergence', 'temperature': 2.0}}
    want = trained(live(), **settings)
    found = trained(live(tmp_path / 'store', form=FORMS[name]), **settings)
    without = trained(live(), kd_loss_weight=0.0, **settings)

    def distance(one, other):
        return float(torch.cat([(one[n].double() - other[n].double()).flatten() for n in one if one[n].is_floating_point()]).norm())
    share = {'top_k float32': 1e-3, 'dense float16': 1e-2, 'dense bfloat16': 5e-2}[name]
    assert distance(found, want) < share * distance(without, want)


@pytest.mark.parametrize('name', ['top_k', 'sampled'])
@pytest.mark.parametrize('loss', ['kl_divergence', 'soft_cross_entropy', 'reverse_kl', 'jensen_shannon', 'hard_label'])
def test_losses_on_few_classes(tmp_path, name, loss):
    said = {'name': loss} if loss == 'hard_label' else {'name': loss, 'temperature': 2.0}
    form = {**FORMS[name]}
    path = tmp_path / 'store'
    if name == 'sampled' and loss not in ('kl_divergence', 'soft_cross_entropy'):
        with pytest.raises(ValueError, match=f"that were drawn: .* linear .* which '{loss}' is not"):
            train(live(path, form=form), loss=said)
        assert not path.exists(), 'and nothing was written'
        return
    fit = train(live(path, form=form), loss=said)
    assert same(trained(stored(path), loss=said), weights(fit))


@pytest.mark.parametrize('name', ['top_k', 'sampled'])
def test_a_student_learns_from_few_classes_alone(tmp_path, name):
    """Nothing but the teacher's stored answers: the student comes to agree with it."""
    settings = {'loss': {'name': 'kl_divergence', 'temperature': 1.0}, 'kd_loss_weight': 1.0}
    form = {**FORMS[name], 'temperature': 1.0, **({'k': 40} if name == 'sampled' else {})}

    class Sharp(torch.nn.Module):
        """A teacher with much to say."""

        def __init__(self):
            super().__init__()
            with torch.random.fork_rng():
                torch.manual_seed(4)
                self.layer = torch.nn.Linear(64, 10)

        def forward(self, x):
            return self.layer(x.flatten(1)) * 6
    def run(teachers, duration):
        torch.manual_seed(0)
        model = ComposerClassifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), num_classes=10)
        return train(teachers, spec=data(views=1), model=model, duration=duration, lr=0.3, **settings)
    teachers = {'module': Sharp(), 'cache': {'path': str(tmp_path / 'store'), 'fill': True, 'format': form}}
    run(teachers, '1ep')
    fit = run(stored(tmp_path / 'store'), '30ep')
    pixels = torch.cat([images for images, _ in data(views=1).dataloader])
    with torch.no_grad():
        agree = (fit.state.model.eval()((pixels, None)).argmax(-1) == Sharp()(pixels).argmax(-1)).float().mean()
    assert agree > 0.8


def test_draws_follow_from_the_sample_and_its_view(tmp_path):
    """Drawn anew they are the same, and no two samples or views share them."""
    settings = {'loss': {'name': 'kl_divergence', 'temperature': 2.0}}
    one, other = (trained(live(tmp_path / name, form=FORMS['sampled']), **settings) for name in ('one', 'other'))
    assert same(one, other)
    form = Format('sampled', 10, k=12)
    found = [tuple(uniform_for(form, key_of(view, index), 2).flatten()) for view in range(3) for index in range(5)]
    assert len(set(found)) == 15
    assert uniform_for(form, key_of(1, 2), 5)[:2].tolist() == uniform_for(form, key_of(1, 2), 2).tolist()


def test_two_sampled_teachers_at_once(tmp_path):
    settings = {'loss': {'name': 'kl_divergence', 'temperature': 2.0}, 'combine': 'probabilities'}
    one, other = tmp_path / 'one', tmp_path / 'other'
    fit = train([live(one, form=FORMS['sampled']), live(other, seed=2, form=FORMS['sampled'])], **settings)
    assert same(trained([stored(one), stored(other)], **settings), weights(fit))
    mixed = train([stored(one), live(seed=2)], **settings)
    assert not same(weights(mixed), weights(fit))


@pytest.mark.parametrize('form', [{'name': 'dense', 'dtype': 'float32'}, {'name': 'top_k', 'k': 3}, {'name': 'sampled', 'k': 5}], ids=lambda form: form['name'])
def test_answers_that_are_not_finite_are_not_stored(tmp_path, form):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.bad = teacher(), True

        def forward(self, x):
            z = self.inner(x)
            if self.bad:
                z = z.clone()
                z[3, 2], z[5] = float('nan'), float('inf')
            return z

    def cached(name):
        return {'module': Broken(), 'cache': {'path': str(tmp_path / name), 'fill': True, 'format': form}}

    settings = {'loss': {'name': 'kl_divergence', 'temperature': 2.0}, 'duration': '1ep'}
    fit = train(cached('store'), on_nonfinite='skip', **settings)
    assert Store.open(tmp_path / 'store').samples == 96 - 2 * BATCHES
    assert fit.kd.summary()['skipped_rows'] == 2 * BATCHES, 'nor learnt from'
    for checked in (0, 2):
        with pytest.raises(RuntimeError, match=r"at batch 0 .*: logits that are not finite from teacher 'teacher0' \(module:Broken\) on rank 0"):
            train(cached(f'{checked}'), check_batches=checked, **settings)
    with pytest.raises(RuntimeError, match="logits that are not finite from teacher 'teacher0'"):
        train(cached('later'), start='4ba', **settings)  # looked at before it is asked


def test_a_class_that_the_teacher_forbids_is_an_answer(tmp_path):
    class Forbids(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = teacher()

        def forward(self, x):
            return self.inner(x).index_fill(1, torch.tensor([4]), -torch.inf)
    for form in ({'name': 'dense', 'dtype': 'float32'}, {'name': 'top_k', 'k': 9, 'dtype': 'float32', 'temperature': 1.0}, {'name': 'sampled', 'k': 9, 'temperature': 1.0}):
        path = tmp_path / form['name']
        cached = {'module': Forbids(), 'cache': {'path': str(path), 'fill': True, 'format': form}}
        fit = train(cached, duration='1ep')
        assert Store.open(path).samples == 96
        assert all(torch.isfinite(value.double()).all() for value in weights(fit).values())
        assert same(trained(stored(path), duration='1ep'), weights(fit))
        if form['name'] == 'dense':
            assert same(trained({'module': Forbids()}, duration='1ep'), weights(fit))
