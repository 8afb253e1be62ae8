"""The maths against NumPy written from the paper, in float64."""

import math

import numpy as np
import pytest

from composer_kd.inspecting import best_temperature, reliability, scaled_confidence
from composer_kd.inspecting.calibration import COLDEST, HOTTEST, nll


def softmax(logits, temperature=1.0):
    powers = np.exp(logits / temperature - (logits / temperature).max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def ece(confidence, right, bins):
    """Section 2, eq. 3: bins are (0, 1/M], (1/M, 2/M], ..."""
    total = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence) if m / bins < c <= (m + 1) / bins]
        if inside:
            total += abs(np.mean([right[i] for i in inside]) - np.mean([confidence[i] for i in inside])) * len(inside)
    return total / len(confidence)


@pytest.fixture
def drawn():
    """Logits whose softmax at temperature 2.5 is what the labels were drawn from."""
    source = np.random.default_rng(0)
    logits = source.normal(size=(4000, 6)) * 4
    labels = np.array([source.choice(6, p=p) for p in softmax(logits, 2.5)])
    return logits, labels


@pytest.mark.parametrize('bins', [1, 2, 7, 15])
def test_expected_calibration_error(drawn, bins):
    logits, labels = drawn
    probable = softmax(logits)
    confidence, right = probable.max(1), probable.argmax(1) == labels
    found = reliability(confidence, right, bins)
    assert found.error == pytest.approx(ece(confidence, right, bins), abs=1e-10)
    assert found.counts.sum() == 4000
    assert found.error > 0.1, 'overconfident'


def test_edges_and_empty_bins():
    found = reliability(np.array([0.5, 1.0, 1.0]), np.array([True, True, False]), 2)
    assert found.counts.tolist() == [1, 2]
    assert found.accuracy.tolist() == [1.0, 0.5]
    assert found.error == pytest.approx((0.5 + 2 * 0.5) / 3)
    empty = reliability(np.empty(0), np.empty(0, bool))
    assert (empty.error, empty.counts.sum()) == (0.0, 0)


def test_a_calibrated_model_has_no_error():
    """Right as often as it says, in every bin."""
    found = reliability(np.repeat([0.25, 0.75], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0], bool), 4)
    assert found.error == 0


def test_the_best_temperature_is_the_one_that_labels_were_drawn_at(drawn):
    logits, labels = drawn
    best = best_temperature(logits, labels)
    assert best == pytest.approx(2.5, rel=0.06)
    around = [nll(logits, labels, heat) for heat in np.geomspace(0.5, 10, 400)]
    assert nll(logits, labels, best) <= min(around) + 1e-9
    then = reliability(scaled_confidence(logits, best), logits.argmax(1) == labels)
    assert then.error < 0.03


def test_scaled_by_hand(drawn):
    logits, labels = drawn
    for heat in (0.3, 1.0, 4.0):
        assert scaled_confidence(logits, heat) == pytest.approx(softmax(logits, heat).max(1))
        own = softmax(logits, heat)[np.arange(len(labels)), labels]
        assert nll(logits, labels, heat) == pytest.approx(-np.log(own).mean())
    assert scaled_confidence(logits.astype(np.float32) + 1e4, 1.0) == pytest.approx(softmax(logits).max(1), abs=2e-3)


def test_ends():
    logits = np.array([[3.0, 0.0], [0.0, 3.0]])
    assert best_temperature(logits, np.array([0, 1])) == COLDEST, 'always right'
    assert best_temperature(logits, np.array([1, 0])) == HOTTEST, 'always wrong'


def test_forbidden_classes():
    logits = np.array([[1.0, -np.inf, 0.0]] * 3)
    assert math.isfinite(nll(logits, np.array([0, 0, 2])))
    assert scaled_confidence(logits, 1.0)[0] == pytest.approx(softmax(logits)[0].max())
    assert COLDEST < best_temperature(logits, np.array([0, 0, 2])) < HOTTEST


@pytest.mark.parametrize(('call', 'told'), [
    (lambda: reliability(np.array([0.5]), np.array([True]), 0), 'bins: expected 1 or more, got 0'),
    (lambda: reliability(np.array([0.5]), np.array([True, False])), r'right: expected one value for each'),
    (lambda: reliability(np.array([1.5]), np.array([True])), 'expected probabilities from 0 to 1'),
    (lambda: reliability(np.array([np.nan]), np.array([True])), 'expected probabilities from 0 to 1'),
    (lambda: best_temperature(np.empty((0, 2)), np.empty(0, np.int64)), 'n above 0'),
])
def test_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call()
