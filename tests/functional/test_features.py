"""Losses of features against the float64 reference, and what all of them promise."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from composer_kd.features import FEATURE_LOSSES, FeatureSpec, make_feature_loss
from composer_kd.functional import features
from composer_kd.functional.features import samples as of_samples

from . import reference_features

TOKENS, MAPS, FLAT, ATTENTION = (4, 5, 6), (4, 3, 4, 4), (4, 6), (4, 2, 5, 5)
CASES = [
    ('hint', FLAT, {}), ('hint', TOKENS, {}), ('hint', MAPS, {}),
    ('hidden_mse', TOKENS, {}), ('hidden_mse', FLAT, {}),
    ('cosine_hidden', TOKENS, {}), ('cosine_hidden', FLAT, {}),
    ('attention_transfer', MAPS, {}),
    ('attention_mse', ATTENTION, {}), ('attention_kl', ATTENTION, {}),
    ('minilm', TOKENS, {}), ('minilm', TOKENS, {'relation_heads': 3}),
    *((name, shape, {}) for name in ('rkd_distance', 'rkd_angle', 'similarity_preserving', 'contrastive')
      for shape in (FLAT, TOKENS, MAPS)),
]
each = pytest.mark.parametrize(('name', 'shape', 'settings'), CASES, ids=str)
but_contrastive = pytest.mark.parametrize(
    ('name', 'shape', 'settings'), [case for case in CASES if case[0] != 'contrastive'], ids=str,
)
ANY_WIDTH = ('attention_transfer', 'minilm', 'rkd_distance', 'rkd_angle', 'similarity_preserving')


def made(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    both = torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return tuple((x.softmax(-1) if name == 'attention_kl' else x).to(dtype) for x in both)


def rows_of(name: str, student: Tensor, teacher: Tensor, settings: Any, **more: Any) -> Tensor:
    return make_feature_loss({'name': name, **settings}).rows(student, teacher, **more)


def expected(name: str, student: Tensor, teacher: Tensor, settings: Any) -> np.ndarray:
    return getattr(reference_features, name)(*(x.detach().double().numpy() for x in (student, teacher)), **settings)


@each
def test_float64_is_the_paper(name, shape, settings):
    for size in (shape, (1, *shape[1:])):
        student, teacher = made(name, size)
        rows = rows_of(name, student, teacher, settings)
        assert rows.dtype == torch.float64
        np.testing.assert_allclose(rows, expected(name, student, teacher, settings), rtol=1e-8, atol=1e-12)
        mean = getattr(features, name)(student, teacher, **settings)
        np.testing.assert_allclose(mean, rows.mean(), rtol=1e-10)
    if name in ANY_WIDTH:
        student, teacher = made(name, shape)
        wide = torch.cat([teacher, teacher.flip(0) * 2], 1 if len(shape) == 4 else -1)
        rows = rows_of(name, student, wide, settings)
        np.testing.assert_allclose(rows, expected(name, student, wide, settings), rtol=1e-8, atol=1e-12)


@each
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_low_precision_is_calculated_in_float32(name, shape, settings, dtype):
    student, teacher = made(name, shape, dtype)
    rows = rows_of(name, student, teacher, settings)
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows, expected(name, student, teacher, settings), rtol=1e-4, atol=2e-5)


@each
def test_autocast_changes_nothing(name, shape, settings):
    student, teacher = made(name, shape, torch.bfloat16)
    with torch.autocast('cpu', torch.bfloat16):
        inside = rows_of(name, student, teacher, settings)
    assert torch.equal(inside, rows_of(name, student, teacher, settings))


@each
def test_features_of_ten_thousand(name, shape, settings):
    student, teacher = (1e4 * x.sign() for x in made(name, shape, torch.float32))
    if name == 'attention_kl':
        student, teacher = (x.softmax(-1) for x in (student * made(name, shape, torch.float32)[0], teacher))
    leaf = student.clone().requires_grad_()
    rows = rows_of(name, leaf, teacher, settings)
    rows.sum().backward()
    assert rows.isfinite().all()
    assert leaf.grad.isfinite().all()


@but_contrastive  # its Z has no gradient, so that differences of values are not its slope: see below
def test_gradcheck(name, shape, settings):
    student, teacher = made(name, shape)
    student, teacher = student[:3, :3].clone(), teacher[:3, :3].clone()
    assert torch.autograd.gradcheck(lambda x: rows_of(name, x, teacher, settings), student.requires_grad_())


@but_contrastive
def test_of_itself_is_zero(name, shape, settings):
    student, _ = made(name, shape, torch.float32)
    for feature in (student, student * 1e-6 if name != 'attention_kl' else student, torch.zeros_like(student)):
        leaf = feature.clone().requires_grad_()
        rows = rows_of(name, leaf, feature, settings)
        assert rows.count_nonzero() == 0
        rows.sum().backward()
        assert leaf.grad.isfinite().all()


@each
def test_what_does_not_count_may_hold_anything(name, shape, settings):
    student, teacher = made(name, shape, torch.float32)
    by_token = shape in (TOKENS, ATTENTION)
    mask = torch.tensor([True, True, True, False])
    if by_token:
        mask = mask[:, None] & torch.tensor([True, True, True, False, False])
    out = ~mask
    bad_student, bad_teacher = student.clone(), teacher.clone()
    if shape == ATTENTION:
        for where in (out[:, None, :, None], out[:, None, None, :]):
            bad_student, bad_teacher = bad_student.masked_fill(where, torch.nan), bad_teacher.masked_fill(where, torch.inf)
        small = [x[:3, :, :3, :3] for x in (student, teacher)]
    else:
        bad_student[out], bad_teacher[out] = torch.nan, torch.inf
        small = [x[:3, :3] if by_token else x[:3] for x in (student, teacher)]
    want = rows_of(name, *small, settings)
    leaf = bad_student.requires_grad_()
    rows = rows_of(name, leaf, bad_teacher, settings, mask=mask)
    got = rows[:3, :3] if rows.dim() == 2 else rows[:3]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
    assert rows.sum().item() == pytest.approx(got.sum().item(), rel=1e-5)
    rows.sum().backward()
    assert leaf.grad.isfinite().all()
    torch.testing.assert_close(getattr(features, name)(leaf, bad_teacher, **settings, mask=mask), want.mean(), rtol=1e-4, atol=1e-6)
    nothing = getattr(features, name)(leaf, bad_teacher, **settings, mask=torch.zeros_like(mask))
    assert nothing.item() == 0
    assert nothing.requires_grad
    nothing.backward()
    assert leaf.grad.isfinite().all()


def test_samples_of_one_class_are_no_negatives():
    student, teacher = made('contrastive', (5, 6))
    loss, labels = make_feature_loss('contrastive'), torch.tensor([0, 1, 0, 2, 0])
    assert (loss.needs_labels, loss.takes_labels, loss.projector) == (False, True, True)
    rows = loss.rows(student, teacher, labels=labels)
    want = reference_features.contrastive(student.numpy(), teacher.numpy(), labels=labels.numpy())
    np.testing.assert_allclose(rows, want, rtol=1e-9)
    without = loss.rows(student, teacher)
    assert not torch.allclose(rows, without)
    for none in (None, torch.rand(5, 3), torch.zeros(5, 7).long()):  # mixed labels, tokens' labels
        torch.testing.assert_close(loss.rows(student, teacher, labels=none), without)
    assert loss.rows(student, teacher, labels=torch.zeros(5).long()).count_nonzero() == 0
    with pytest.raises(ValueError, match='labels: it needs a label'):
        features.contrastive(student, teacher, labels=torch.zeros(3))
    with pytest.raises(ValueError, match='temperature: expected'):
        make_feature_loss({'name': 'contrastive', 'temperature': 0})


def test_the_slope_of_contrastive_is_that_with_its_level_held():
    student, teacher = made('contrastive', (4, 3))

    def alike(x):
        return torch.nn.functional.normalize(x) @ torch.nn.functional.normalize(teacher).T / 0.5

    level = alike(student).exp().mean()

    def written_out(x):
        h = alike(x).exp() / (alike(x).exp() + 3 * level)
        off = ~torch.eye(4, dtype=torch.bool)
        away = (1 - h).log().masked_fill(~off, 0)
        return -2 * h.diagonal().log() - away.sum(1) - away.sum(0)

    leaves = [student.clone().requires_grad_() for _ in range(2)]
    features.contrastive(leaves[0], teacher, temperature=0.5).backward()
    written_out(leaves[1]).mean().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_contrastive_brings_a_sample_to_its_own_and_from_others():
    _, teacher = made('contrastive', (6, 8), torch.float32)
    student = torch.nn.Parameter(made('contrastive', (6, 8), torch.float32, seed=1)[0])
    optimizer = torch.optim.Adam([student], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        features.contrastive(student, teacher, temperature=0.5).backward()
        optimizer.step()
    alike = torch.cosine_similarity(student[:, None], teacher[None], dim=-1)
    assert alike.argmax(1).tolist() == alike.argmax(0).tolist() == list(range(6))


def test_maps_of_another_resolution_are_averaged_down():
    small = torch.rand(2, 3, 4, 4)
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    for both in ((small, large), (large, small)):
        assert features.hint(*both).item() == pytest.approx(0, abs=1e-12)
        assert features.attention_transfer(*both).item() == pytest.approx(0, abs=1e-12)


def test_angles_of_a_few_anchors_at_a_time(monkeypatch):
    student, teacher = made('rkd_angle', (7, 3))
    want, slopes = features.rkd_angle(student, teacher, reduction='none'), []
    for elements in (2**24, 100):
        monkeypatch.setattr(of_samples, '_ELEMENTS', elements)
        leaf = student.clone().requires_grad_()
        rows = features.rkd_angle(leaf, teacher, reduction='none')
        torch.testing.assert_close(rows, want)
        rows.sum().backward()
        slopes.append(leaf.grad)
    torch.testing.assert_close(*slopes)


def test_scores_behind_a_models_own_mask_count_as_zero():
    student, teacher = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    student[..., 1], teacher[..., 1] = -1e4, -torch.inf
    assert features.attention_mse(student, teacher).item() == 0


@pytest.mark.parametrize(('name', 'student', 'teacher', 'told'), [
    ('hint', (2, 3), (2, 4), 'one shape, got (2, 3)'), ('hint', (2, 3), (2, 3, 4), 'one shape'),
    ('attention_transfer', (2, 3), (2, 3), '4 dimensions'), ('hidden_mse', (2, 3, 4, 4), (2, 3, 4, 4), '2 or 3'),
    ('attention_mse', (2, 4, 5, 5), (2, 2, 5, 5), 'one shape'), ('rkd_angle', (2, 3), (3, 3), 'samples'),
    ('minilm', (2, 5, 3), (2, 6, 3), 'tokens'),
])
def test_features_that_cannot_be_compared_are_refused(name, student, teacher, told):
    with pytest.raises(ValueError, match=rf"loss '{name}': .*{re.escape(told)}"):
        make_feature_loss(name).rows(torch.zeros(student), torch.zeros(teacher))


@pytest.mark.parametrize(('value', 'settings', 'told'), [
    ('hnt', {}, 'hint'), ('minilm', {'relation_heads': 0}, 'relation_heads'),
    ('minilm', {'relation_heads': True}, 'relation_heads'), ('hint', {'power': 2}, 'power'),
])
def test_settings_are_checked_before_anything_runs(value, settings, told):
    with pytest.raises(ValueError, match=told):
        make_feature_loss({'name': value, **settings})


def test_relation_heads_divide_the_width():
    with pytest.raises(ValueError, match='divisor of the width 6, got 4'):
        make_feature_loss({'name': 'minilm', 'relation_heads': 4}).rows(torch.zeros(1, 2, 6), torch.zeros(1, 2, 6))


def test_an_own_loss_of_features(monkeypatch):
    def gap(student, teacher, *, labels, power=1, reduction='mean'):
        assert reduction == 'none'
        return (student - teacher).abs().pow(power).sum(-1) * labels
    monkeypatch.setitem(FEATURE_LOSSES._items, 'gap', FeatureSpec(gap, 'hidden'))
    loss = make_feature_loss({'name': 'gap', 'power': 2})
    assert (loss.settings, loss.needs_labels, loss.takes_mask) == ({'power': 2}, True, False)
    student = torch.tensor([[1.0, 2.0], [torch.nan, 0.0]])
    rows = loss.rows(student, torch.zeros(2, 2), mask=torch.tensor([True, False]), labels=torch.tensor([3, 1]))
    assert rows.tolist() == [15, 0]
    with pytest.raises(ValueError, match='needs a label'):
        loss.rows(student, student)
    monkeypatch.setitem(FEATURE_LOSSES._items, 'flat', lambda student, teacher, reduction: student.sum())
    with pytest.raises(ValueError, match='one value a sample'):
        make_feature_loss('flat').rows(student, student)
