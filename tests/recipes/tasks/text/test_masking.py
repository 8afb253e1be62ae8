"""Masks: BERT's and Hugging Face's in distribution, each sample's by itself."""

import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling

from composer_kd.recipes.tasks.text.masking import Masking

SPECIAL = [0, 1, 2, 3, 4]
WORDS = 50


def masking(seed=17, probability=0.15):
    return Masking(4, SPECIAL, WORDS, probability, seed)


def texts(samples, length=60):
    ids = np.random.default_rng(0).integers(5, WORDS, (samples, length))
    ids[:, 0], ids[:, -9], ids[:, -8:] = 2, 3, 0
    ids[:, 20] = 1    # a word that the tokenizer does not know is special as well
    return ids


def keys(samples, epoch=0):
    return [(epoch, index) for index in range(samples)]


def shares(ids, inputs, labels):
    chosen = labels != -100
    ordinary = ~np.isin(ids, SPECIAL)
    assert not chosen[~ordinary].any()
    assert (labels[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()
    masked = (inputs == 4)[chosen].mean()
    same = (inputs == ids)[chosen].mean()
    return np.array([chosen[ordinary].mean(), masked, same])


def test_as_hugging_faces_collator_in_distribution(tokenizer):
    samples, length = 4000, 60
    ids = np.random.default_rng(0).integers(5, len(tokenizer), (samples, length))
    ids[:, 0], ids[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    ours = Masking(tokenizer.mask_token_id, tokenizer.all_special_ids, len(tokenizer), 0.15, 17)(ids, keys(samples))
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    theirs = [x.numpy() for x in collate.torch_mask_tokens(torch.tensor(ids))]
    count = samples * (length - 2)
    chosen = 0.15 * count
    # A word drawn at random is now and then the one that was there, or the mask.
    expected = np.array([0.15, 0.8 + 0.1 / len(tokenizer), 0.1 + 0.1 / len(tokenizer)])
    spread = np.sqrt(expected * (1 - expected) / [count, chosen, chosen])
    for found in (ours, theirs):
        assert (np.abs(shares(ids, *found) - expected) < 4.5 * spread).all()
    words = [x[(y != -100) & (x != ids) & (x != tokenizer.mask_token_id)] for x, y in (ours, theirs)]
    histograms = [np.histogram(found, 10, (0, len(tokenizer)))[0] for found in words]
    assert np.abs(histograms[0] - histograms[1]).max() < 6 * np.sqrt(histograms[1].mean())


def test_random_words_come_from_the_whole_vocabulary():
    ids = texts(3000)
    inputs, labels = masking()(ids, keys(3000))
    drawn = inputs[(labels != -100) & (inputs != 4) & (inputs != ids)]
    assert set(drawn) == set(range(WORDS)) - {4}


@pytest.mark.parametrize('probability', [0.05, 0.4])
def test_the_probability_is_the_share(probability):
    ids = texts(2000)
    assert shares(ids, *masking(probability=probability)(ids, keys(2000)))[0] == pytest.approx(probability, rel=0.05)


@pytest.mark.parametrize('seed', [17, None])
def test_a_samples_mask_is_its_own(seed):
    ids = texts(8)
    inputs, labels = masking(seed)(ids, keys(8))
    order = [5, 0, 3]
    wider = np.pad(ids[order], ((0, 0), (0, 30)))
    again = masking(seed)(wider, [(0, index) for index in order])
    assert (again[0][:, :60] == inputs[order]).all()
    assert (again[1][:, :60] == labels[order]).all()


def test_training_masks_anew_each_epoch_and_for_each_seed():
    ids = texts(8)
    found = [masking(seed)(ids, keys(8, epoch))[1] for seed, epoch in ((17, 0), (17, 1), (18, 0), (17, 0))]
    assert (found[0] == found[3]).all()
    assert not any((a == b).all(axis=1).any() for a, b in ((found[0], found[1]), (found[0], found[2])))


def test_evaluation_has_one_mask_a_sample():
    ids = texts(8)
    first, later = (masking(None)(ids, keys(8, epoch)) for epoch in (0, 3))
    assert (first[0] == later[0]).all()
    assert (first[1] == later[1]).all()
    assert len({tuple(row) for row in first[1] != -100}) == 8


def test_a_short_text_is_never_without_a_label():
    ids = np.tile([2, 7, 8, 9, 3, 0], (6000, 1))
    inputs, labels = masking()(ids, keys(6000))
    chosen = labels != -100
    assert chosen.any(axis=1).all()
    alone = chosen[chosen.sum(axis=1) == 1][:, 1:4].mean(axis=0)
    assert np.abs(alone - 1 / 3).max() < 0.03
    assert (inputs == 4)[chosen].mean() == pytest.approx(0.8, abs=0.03)


def test_a_text_without_words_has_no_label_and_what_is_given_stays():
    ids = np.array([[2, 3, 0, 0], [2, 7, 3, 0]])
    before = ids.copy()
    inputs, labels = masking()(ids, keys(2))
    assert (ids == before).all()
    assert (labels[0] == -100).all()
    assert (inputs[0] == ids[0]).all()
    assert labels[1].tolist() == [-100, 7, -100, -100]


@pytest.mark.parametrize('probability', [0.0, 1.0, -0.1, float('nan')])
def test_a_probability_out_of_range(probability):
    with pytest.raises(ValueError, match='mask_probability: expected a number above 0 and below 1, got'):
        masking(probability=probability)
