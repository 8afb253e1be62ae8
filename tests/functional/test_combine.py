"""Several teachers as one."""

import numpy as np
import pytest
import torch

from composer_kd.functional import combine_logits, combine_probabilities, kl_divergence

from .cases import logits
from .memory import most_bytes
from .reference import sigmoid, softmax

pytestmark = pytest.mark.usefixtures('whole_or_in_chunks')

F_OF = {'softmax': softmax, 'sigmoid': sigmoid}


def three(dtype=torch.float64):
    return [*logits(4, 2, 6, dtype=dtype), logits(4, 2, 6, seed=9, dtype=dtype)[0]]


@pytest.mark.parametrize('weights', [None, [1, 1, 1], [0.5, 2, 0.25], [0, 3, 1], (1, 0, 0)], ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64], ids=str)
def test_combine_logits_is_the_weighted_mean(weights, dtype):
    teachers = three(dtype)
    expected = np.average([t.double().numpy() for t in teachers], axis=0, weights=weights)
    combined = combine_logits(teachers, weights)
    assert combined.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.bfloat16 else (1e-12, 1e-12)
    np.testing.assert_allclose(combined.double().numpy(), expected, rtol, atol)


@pytest.mark.parametrize('space', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('weights', [None, [0.5, 2, 0.25], [0, 3, 1]], ids=str)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_combine_probabilities_averages_probabilities(space, temperature, weights, dtype):
    teachers = three(dtype)
    f = F_OF[space]
    each = [f(t.double().numpy() / temperature) for t in teachers]
    expected = np.average(each, axis=0, weights=weights)
    combined = combine_probabilities(teachers, weights, temperature=temperature, space=space)
    got = f(combined.double().numpy() / temperature)
    np.testing.assert_allclose(got, expected, rtol=1e-9 if dtype == torch.float64 else 1e-4, atol=1e-9)


@pytest.mark.parametrize('space', ['softmax', 'sigmoid'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_teachers_who_agree_give_their_logits_back(space, dtype):
    teacher, _ = logits(4, 6, dtype=dtype)
    same = [teacher, teacher.clone(), teacher.clone()]
    combined = combine_probabilities(same, [1, 2, 4], temperature=3.0, space=space)
    torch.testing.assert_close(combined, teacher)


@pytest.mark.parametrize(('space', 'last'), [('softmax', -np.log(2)), ('sigmoid', -np.log(3))])
def test_far_too_unlikely_for_float32(space, last):
    """Where a mean of probabilities would have underflowed to zero, the order of the classes is still right."""
    one = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float32)
    other = torch.tensor([[1e4, -9e3, -100.0]], dtype=torch.float32)
    combined = combine_probabilities([one, other], space=space)
    expected = torch.tensor([[1e4, -9e3 - np.log(2), last]], dtype=torch.float32)
    torch.testing.assert_close(combined, expected, rtol=0, atol=5e-3)


@pytest.mark.parametrize('space', ['softmax', 'sigmoid'])
def test_forbidden_classes(space):
    one, other = logits(3, 5)
    one[:, 1] = other[:, 1] = -torch.inf
    one[:, 2] = -torch.inf
    combined = combine_probabilities([one, other], temperature=2.0, space=space)
    assert (combined[:, 1] == -torch.inf).all()
    f = F_OF[space]
    expected = (f(one.numpy() / 2) + f(other.numpy() / 2)) / 2
    np.testing.assert_allclose(f(combined.numpy() / 2), expected, rtol=1e-9)
    assert kl_divergence(combined + 1, combined).abs().item() < 1e-12


def test_a_teacher_of_weight_zero_may_hold_anything():
    fine, broken = torch.tensor([[1.0, 2.0]]), torch.tensor([[torch.nan, -torch.inf]])
    for combined in (combine_logits([broken, fine], [0, 2]), combine_probabilities([broken, fine], [0, 2])):
        assert combined.tolist() == [[1, 2]]


def test_one_teacher_is_itself():
    teacher, _ = logits(3, 5, dtype=torch.bfloat16)
    assert torch.equal(combine_logits([teacher], [0.3]), teacher.float())
    for space in ('softmax', 'sigmoid'):
        assert torch.equal(combine_probabilities([teacher], [0.3], temperature=4.0, space=space), teacher.float())


def test_no_graph_and_nothing_changed():
    teachers = [t.requires_grad_() for t in three()]
    before = [t.detach().clone() for t in teachers]
    results = [combine_logits(teachers), combine_logits(teachers[:1]), combine_probabilities(teachers[:1])]
    results += [combine_probabilities(teachers, space=space) for space in ('softmax', 'sigmoid')]
    assert not any(r.requires_grad for r in results)
    assert all(torch.equal(a, b) for a, b in zip(teachers, before, strict=True))


@pytest.mark.parametrize('function', [combine_logits, combine_probabilities])
@pytest.mark.parametrize(
    ('teachers', 'weights', 'error', 'part'),
    [
        ([], None, ValueError, 'empty list'),
        (torch.zeros(2, 3), None, TypeError, 'Tensor'),
        ([torch.zeros(2, 3), torch.zeros(2, 4)], None, ValueError, '[(2, 3), (2, 4)]'),
        ([torch.zeros(2, 3), 'x'], None, ValueError, 'str'),
        ([torch.zeros(2, 3).long()], None, ValueError, 'int64'),
        ([torch.zeros(2, 3)] * 2, [1.0], ValueError, 'got [1.0]'),
        ([torch.zeros(2, 3)] * 2, [1.0, -1.0], ValueError, 'zero or more'),
        ([torch.zeros(2, 3)] * 2, [0, 0], ValueError, 'not all zero'),
        ([torch.zeros(2, 3)] * 2, [1, float('nan')], ValueError, 'finite'),
        ([torch.zeros(2, 3)] * 2, ['a', 'b'], ValueError, "['a', 'b']"),
    ],
)
def test_what_cannot_be_combined(function, teachers, weights, error, part):
    with pytest.raises(error) as raised:
        function(teachers, weights)
    assert part in str(raised.value)


def test_settings_of_combine_probabilities():
    with pytest.raises(ValueError, match="space: expected 'softmax' or 'sigmoid', got 'logits'"):
        combine_probabilities([torch.zeros(2, 3)], space='logits')
    with pytest.raises(ValueError, match='temperature: expected'):
        combine_probabilities([torch.zeros(2, 3)], temperature=0)


@pytest.mark.parametrize('combine', [combine_logits, combine_probabilities])
def test_nothing_large_is_made_but_the_result(combine, monkeypatch):
    monkeypatch.undo()
    teachers = [torch.randn(512, 8000, dtype=torch.bfloat16) for _ in range(3)]
    taken = most_bytes(lambda: combine(teachers))
    assert 512 * 8000 * 4 <= taken < 512 * 8000 * 4 + 12 * 2**20
