"""Answers in few numbers against NumPy float64: likeliest classes, drawn classes, and a student on the same outcomes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd import functional
from composer_kd.answers import Format, Sparse, on_the_same
from composer_kd.functional import all_classes, draw, on_outcomes, top_k
from tests.functional import reference
from tests.functional.cases import gradient, logits

IN_CHUNKS_TOO = pytest.mark.usefixtures('whole_or_in_chunks')
SPARSE_LOSSES = ('kl_divergence', 'reverse_kl', 'jensen_shannon', 'soft_cross_entropy')


def log_of(values):
    with np.errstate(divide='ignore'):
        return np.log(values)


def expected_outcomes(z, classes, temperature):
    """Log-probabilities of some classes of each row and of the others together, one row after another."""
    found = []
    for row, kept in zip(z, classes, strict=True):
        p = reference.softmax(row / temperature)
        others = np.ones(len(row), bool)
        others[kept] = False
        found.append([*log_of(p[kept]), log_of(p[others].sum())])
    return np.array(found)


def outcomes_of(z, k, temperature):
    classes, kept, rest = top_k(z, k, temperature)
    return classes, torch.cat([kept, rest.unsqueeze(-1)], dim=-1)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('k', [1, 3, 8, 9])
def test_the_likeliest_classes_and_the_rest(k, temperature, dtype):
    z = logits(20, 9, dtype=dtype)[1]
    classes, found = outcomes_of(z, k, temperature)
    exact = z.double().numpy()
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    values = np.take_along_axis(exact, classes.numpy(), -1)
    # ties are broken as they come: it is the values that are the largest, in their order
    assert np.array_equal(values, -np.sort(-exact, axis=-1)[:, :k])
    assert all(len(set(row)) == k for row in classes.tolist())
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    want = expected_outcomes(exact, classes.numpy(), temperature)
    np.testing.assert_allclose(found.exp().sum(-1), 1, atol=tolerance)
    # the mass of the rest is a sum of small numbers, so that its logarithm keeps its digits too
    np.testing.assert_allclose(found.numpy()[:, :k], want[:, :k], atol=tolerance * 10)
    if k < 9:
        np.testing.assert_allclose(found.numpy()[:, k], want[:, k], atol=tolerance * 10)
    else:
        assert (found[:, k] == -torch.inf).all()


def test_a_rest_far_below_the_precision_of_one_keeps_its_digits():
    z = torch.tensor([[0.0, -40.0, -41.0, -42.0]])
    _, _, rest = top_k(z, 1)
    assert rest.item() == pytest.approx(np.log(np.exp([-40.0, -41, -42]).sum()), rel=1e-6)
    assert on_outcomes(z, torch.tensor([[0]]), None)[0, 1].item() == pytest.approx(rest.item(), rel=1e-6)


@pytest.mark.parametrize('sign', [1, -1])
def test_logits_of_ten_thousand(sign):
    z = torch.tensor([[1e4, -1e4, 0.0, 1e4]]) * sign
    for k in (1, 2, 3):
        _, found = outcomes_of(z, k, 1.0)
        assert not found.isnan().any()
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(1))
    student = torch.tensor([[-1e4, 1e4, 5.0, 0.0]])
    grad = gradient(lambda s, c: functional.kl_divergence(on_outcomes(s, c, None), found, reduction='none'), student, top_k(z, 3)[0])
    assert torch.isfinite(grad).all()


def test_forbidden_classes():
    z = torch.tensor([[1.0, -torch.inf, 2.0, -torch.inf], [0.0, -torch.inf, -torch.inf, -torch.inf]])
    classes, found = outcomes_of(z, 2, 2.0)
    want = expected_outcomes(z.numpy().astype(float), classes.numpy(), 2.0)
    assert not found.isnan().any()
    np.testing.assert_allclose(found.exp(), np.exp(want), atol=1e-6)
    drawn, counts = draw(z, torch.rand(2, 64, dtype=torch.float64))
    assert set(drawn[counts > 0].tolist()) <= {0, 2}
    assert counts.sum(-1).tolist() == [64, 64]


def test_what_is_refused():
    z = torch.randn(3, 5)
    for k in (0, 6, -1):
        with pytest.raises(ValueError, match=f'^k: expected 1 to 5.*got {k}'):
            top_k(z, k)
    for temperature in (0.0, -1.0, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='temperature'):
            top_k(z, 2, temperature)
        with pytest.raises(ValueError, match='temperature'):
            draw(z, torch.rand(3, 4), temperature)


@IN_CHUNKS_TOO
@pytest.mark.parametrize('temperature', [0.7, 1.0, 4.0])
def test_a_student_on_the_outcomes(temperature):
    student, _ = logits(30, 12)
    generator = torch.Generator().manual_seed(3)
    classes = torch.stack([torch.randperm(12, generator=generator)[:5] for _ in range(30)])
    found = on_outcomes(student, classes, None, temperature)
    want = expected_outcomes(student.numpy(), classes.numpy(), temperature)
    np.testing.assert_allclose(found / temperature, want, atol=1e-12)


@IN_CHUNKS_TOO
def test_places_that_are_not_used_take_nothing_away_and_add_nothing():
    student, _ = logits(1, 6)
    classes = torch.tensor([[2, 4, 0, 0]])
    found = on_outcomes(student, classes, torch.tensor([[True, True, False, False]]))
    want = expected_outcomes(student.numpy(), np.array([[2, 4]]), 1.0)
    np.testing.assert_allclose(found[:, [0, 1, 4]], want, atol=1e-12)
    assert (found[:, 2:4] == -torch.inf).all()


@IN_CHUNKS_TOO
@pytest.mark.parametrize('used', [None, [[True, True, False], [True, False, False]]])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_gradcheck(used, temperature):
    student, _ = logits(2, 5)
    classes = torch.tensor([[3, 1, 0], [2, 0, 0]]) if used else torch.tensor([[3, 1, 0], [2, 4, 0]])
    mask = None if used is None else torch.tensor(used)

    def probabilities(z):
        return (on_outcomes(z, classes, mask, temperature) / temperature).exp()
    assert torch.autograd.gradcheck(probabilities, (student.requires_grad_(),))


@IN_CHUNKS_TOO
@pytest.mark.parametrize('loss', SPARSE_LOSSES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('scale', [3.0, 1e4])
def test_gradients_are_finite(loss, dtype, scale):
    student, teacher = logits(40, 11, scale=scale, dtype=dtype)
    classes, found = outcomes_of(teacher, 3, 1.0)
    grad = gradient(lambda s: getattr(functional, loss)(on_outcomes(s, classes, None), found, reduction='none'), student)
    assert grad.dtype == dtype
    assert torch.isfinite(grad).all()


@IN_CHUNKS_TOO
@pytest.mark.parametrize('kept', [3, 4])
def test_a_student_that_forbids_what_the_teacher_leaves_out(kept):
    """The rest is nothing then, and its gradient is nothing too."""
    student = torch.tensor([[0.3, -torch.inf, 1.0, -0.5]], dtype=torch.float64)
    teacher = student * 2
    classes = torch.tensor([[2, 0, 3, 1]])[:, :kept]
    target = torch.tensor(expected_outcomes(teacher.numpy(), classes.numpy(), 1.0))

    def loss(s):
        return functional.kl_divergence(on_outcomes(s, classes, None), target, reduction='none')
    grad = gradient(loss, student)
    assert torch.isfinite(loss(student)).all()
    assert torch.isfinite(grad).all(), grad
    dense = gradient(lambda s: functional.kl_divergence(s, teacher, reduction='none'), student)
    np.testing.assert_allclose(grad, dense, atol=1e-12)


@pytest.mark.parametrize('loss', SPARSE_LOSSES)
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_of_a_thing_with_itself_nothing_is_left(loss, temperature):
    z = logits(20, 10, dtype=torch.float32)[0]
    _, found = outcomes_of(z, 4, temperature)
    form = Format('top_k', 10, 'float32', 4, temperature)
    seen, (target,) = on_the_same(z, [form.unpack(form.pack(z))])
    torch.testing.assert_close(target, found * temperature, rtol=0, atol=1e-6)
    value = getattr(functional, loss)(seen, target, temperature=temperature, reduction='none')
    if loss == 'soft_cross_entropy':
        p = (found).exp()
        value = value + temperature**2 * (p * found).sum(-1)
    torch.testing.assert_close(value, torch.zeros(20), rtol=0, atol=2e-5)
    grad = gradient(lambda s: getattr(functional, loss)(on_the_same(s, [form.unpack(form.pack(z))])[0], target, temperature=temperature, reduction='none'), z)
    assert grad.abs().max() < 1e-5


@pytest.mark.parametrize('loss', ['kl_divergence', 'reverse_kl', 'jensen_shannon'])
@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_on_fewer_outcomes_a_divergence_is_never_more(loss, temperature):
    """Data-processing inequality; with all classes but one it is the whole."""
    student, teacher = logits(200, 12)
    divergence = getattr(functional, loss)
    whole = divergence(student, teacher, temperature=temperature, reduction='none')
    last = torch.zeros_like(whole)
    for k in (1, 2, 4, 8, 11):
        classes, found = outcomes_of(teacher, k, temperature)
        value = divergence(on_outcomes(student, classes, None, temperature), found * temperature, temperature=temperature, reduction='none')
        assert (value <= whole + 1e-10).all()
        assert (value >= last - 1e-10).all(), 'outcomes of more classes are finer'
        last = value
    torch.testing.assert_close(last, whole)


@pytest.mark.parametrize('loss', SPARSE_LOSSES)
def test_against_the_paper_formula_on_the_outcomes(loss):
    student, teacher = logits(25, 9)
    classes, found = outcomes_of(teacher, 3, 2.0)
    s, t = (expected_outcomes(z.numpy(), classes.numpy(), 2.0) * 2 for z in (student, teacher))
    value = getattr(functional, loss)(on_outcomes(student, classes, None, 2.0), found * 2, temperature=2.0, reduction='none')
    np.testing.assert_allclose(value, getattr(reference, loss)(s, t, temperature=2.0), rtol=1e-10, atol=1e-12)


def drawn_distribution(z, n, times, temperature=1.0, seed=0):
    """The mean, over many draws, of the drawn probabilities, and how often each row was drawn from."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(times, n, generator=generator, dtype=torch.float64)
    classes, counts = draw(z.expand(times, -1), uniform, temperature)
    assert (counts.sum(-1) == n).all()
    share = torch.where(counts > 0, counts.double() / n, 0).log()
    return all_classes(classes, share, z.shape[-1]).exp()


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
def test_draws_are_right_on_average(temperature, dtype):
    z = (torch.randn(20, generator=torch.Generator().manual_seed(1)) * 3).to(dtype)
    n, times = 16, 20_000
    p = reference.softmax(z.double().numpy() / temperature)
    found = drawn_distribution(z, n, times, temperature)
    error = np.sqrt(p * (1 - p) / (n * times))
    assert (np.abs(found.mean(0).numpy() - p) <= 4 * error + 1e-6).all()


def test_draws_have_the_spread_of_draws():
    """Of classes drawn with replacement: the counts are multinomial, so their variance is known too."""
    z = torch.tensor([0.0, 1.0, 2.0, -1.0])
    n, times = 10, 20_000
    p = reference.softmax(z.double().numpy())
    spread = drawn_distribution(z, n, times).var(0).numpy()
    np.testing.assert_allclose(spread, p * (1 - p) / n, rtol=0.06)


def test_every_class_of_a_long_tail_has_its_own_draws():
    """30,000 classes after the likeliest, each below the last digit of the sums up to it in float32."""
    z = torch.cat([torch.tensor([0.0]), torch.linspace(-17.5, -16.5, 30_000)])
    reached = np.cumsum(np.exp(z.double().numpy()))
    middle = (reached - np.exp(z.double().numpy()) / 2) / reached[-1]
    classes, counts = draw(z.unsqueeze(0), torch.from_numpy(middle).unsqueeze(0))
    assert torch.equal(classes[0], torch.arange(30_001))
    assert (counts == 1).all()


def test_the_largest_number_below_one_draws_a_class_that_there_is():
    z = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf], [0.0, 1.0, -200.0, -torch.inf]])
    most = torch.full((2, 3), np.nextafter(1.0, 0.0), dtype=torch.float64)
    assert draw(z, most)[0][:, 0].tolist() == [1, 1]
    least = torch.zeros(2, 3, dtype=torch.float64)
    z = torch.tensor([[-torch.inf, 1.0, 2.0], [-torch.inf, -torch.inf, 0.0]])
    assert draw(z, least)[0][:, 0].tolist() == [1, 2]


def test_drawn_classes_are_ascending_and_each_once():
    z = logits(50, 8, dtype=torch.float32)[0]
    classes, counts = draw(z, torch.rand(50, 30))
    for row, often in zip(classes.tolist(), counts.tolist(), strict=True):
        there = [c for c, n in zip(row, often, strict=True) if n]
        assert there == sorted(set(there))
        assert set(often[len(there):]) <= {0}
        assert set(row[len(there):]) <= {0}
    again = draw(z, torch.full((50, 7), 0.5))
    assert (again[1][:, 0] == 7).all()


def test_the_gradient_of_drawn_answers_is_right_on_average():
    """Where the loss is linear in the teacher's probabilities and the student is compared on all that was drawn."""
    student, teacher = (z[:1] for z in logits(1, 12, dtype=torch.float64))
    times, n = 4000, 8
    generator = torch.Generator().manual_seed(5)
    uniform = torch.rand(times, n, generator=generator, dtype=torch.float64)
    classes, counts = draw(teacher.expand(times, -1), uniform)
    share = (counts.double() / n).log()
    answers = Sparse(classes, share, torch.full((times,), -torch.inf, dtype=torch.float64), 1.0, True, 12)
    many = student.expand(times, -1)

    def loss(s: Tensor) -> Tensor:
        seen, (target,) = on_the_same(s, [answers])
        return functional.kl_divergence(seen, target, reduction='none')
    grads = gradient(loss, many)
    want = gradient(lambda s: functional.kl_divergence(s, teacher, reduction='none'), student)[0]
    error = grads.std(0) / np.sqrt(times)
    assert ((grads.mean(0) - want).abs() <= 4 * error + 1e-9).all()
    # and exactly the student's probabilities less what was drawn, draw by draw
    p = student.softmax(-1)[0]
    drawn = all_classes(classes, share, 12).exp()
    torch.testing.assert_close(grads, p - drawn)


def test_all_classes():
    classes = torch.tensor([[3, 1, 0, 0], [0, 2, 4, 1]])
    logs = log_of(np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.3, 0.4]]))
    found = all_classes(classes, torch.tensor(logs), 6).exp()
    np.testing.assert_allclose(found, [[0, 0.5, 0, 0.5, 0, 0], [0.1, 0.4, 0.2, 0, 0.3, 0]], atol=1e-12)


@IN_CHUNKS_TOO
@pytest.mark.parametrize('combine', ['sampled and sampled', 'sampled and dense', 'top_k and dense'])
def test_several_teachers_on_the_same_outcomes(combine):
    student, one = logits(6, 10, dtype=torch.float32)
    other = logits(6, 10, seed=4, dtype=torch.float32)[0]
    uniform = torch.rand(2, 6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    first, second = combine.split(' and ')
    answers = []
    for kind, z, u in ((first, one, uniform[0]), (second, other, uniform[1])):
        form = Format(kind, 10, 'float32', 4 if kind == 'top_k' else 20)
        answers.append(form.unpack(form.pack(z, u)))
    seen, targets = on_the_same(student, answers)
    assert all(target.shape == seen.shape for target in targets)
    mean = functional.combine_probabilities(targets, [1.0, 3.0], temperature=1.0, space='softmax').softmax(-1)
    dense = [a.dense() if isinstance(a, Sparse) and a.drawn else z for a, z in zip(answers, (one, other), strict=True)]
    want = 0.25 * dense[0].softmax(-1) + 0.75 * dense[1].softmax(-1)
    if 'top_k' in combine:
        classes = answers[0].classes
        kept = want.gather(-1, classes)
        want = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], dim=-1)
    torch.testing.assert_close(mean, want, rtol=1e-4, atol=1e-6)


def test_the_best_class_is_never_all_the_others():
    z = torch.zeros(2, 30)
    z[:, 7] = 0.1
    form = Format('top_k', 30, 'float32', 2)
    answer = form.unpack(form.pack(z))
    assert answer.log_rest.exp().min() > 0.9
    seen, (target,) = on_the_same(torch.randn(2, 30), [answer], only_best=True)
    assert answer.classes[:, 0].tolist() == [7, 7] == answer.likeliest().tolist()
    assert target.argmax(-1).tolist() == [0, 0]
    student = torch.randn(2, 30)
    seen, _ = on_the_same(student, [answer], only_best=True)
    torch.testing.assert_close(functional.hard_label(seen, target, reduction='none'), functional.hard_label(student, z, reduction='none'))
