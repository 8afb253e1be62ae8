"""Masks for masked language modelling: drawn anew each epoch, and for each sample by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from composer_kd.recipes.tasks.sampling import Key, generator

IGNORED = -100
"""The label of positions that are not predicted."""

_TRAINING, _FIXED = range(2)
_TO_MASK, _TO_RANDOM = 0.8, 0.9

Ids = NDArray[np.int64]


class Masking:
    """Hides tokens for a model to predict (Devlin et al. 2018, arXiv 1810.04805, section 3.1).

    Each token but special ones and padding is chosen by itself with ``probability``. Of the chosen, 80 % become the
    mask token, 10 % a token drawn from the vocabulary, and 10 % stay; all of them are labelled. That is what Hugging
    Face's ``DataCollatorForLanguageModeling`` does, with one exception: where no token of a sample is chosen, one of
    them, each as likely, is chosen after all, as the paper's own code does, so that a short text is never without a
    label. (Only a text without tokens is; it counts for nothing in a mean over labels.)

    What is drawn follows from the seed, the epoch and the sample's index alone.

    Args:
        mask_id: Of the mask token.
        special_ids: Of the tokens that are never chosen, padding among them.
        vocab_size: Random tokens are drawn from 0 to this; 1 or more.
        probability: Share of the tokens to choose, above 0 and below 1.
        seed: The run's seed, or ``None`` for one fixed mask per sample, whatever the seed and the epoch.

    Raises:
        ValueError: For a probability out of range.

    Example:
        >>> masking = Masking(mask_id=4, special_ids=[0, 2, 3], vocab_size=100, probability=0.15, seed=17)
        >>> inputs, labels = masking(np.array([[2, 50, 51, 52, 3, 0]]), [(0, 7)])
        >>> inputs.tolist(), labels.tolist()
        ([[2, 50, 4, 52, 3, 0]], [[-100, -100, 51, -100, -100, -100]])
    """

    def __init__(
        self, mask_id: int, special_ids: Sequence[int], vocab_size: int, probability: float, seed: int | None,
    ) -> None:
        if not 0 < probability < 1:
            raise ValueError(f'mask_probability: expected a number above 0 and below 1, got {probability}.')
        self._mask_id, self._vocab_size, self._probability, self._seed = mask_id, vocab_size, probability, seed
        self._ordinary = np.ones(vocab_size, bool)
        self._ordinary[list(special_ids)] = False

    def _draws(self, key: Key, length: int) -> NDArray[np.float64]:
        epoch, index = key
        source = (_FIXED, index) if self._seed is None else (_TRAINING, self._seed, epoch, index)
        # Position by position, so that what a token gets does not depend on how far the batch is padded.
        return generator(*source).random((length, 3))

    def __call__(self, ids: Ids, keys: Sequence[Key]) -> tuple[Ids, Ids]:
        """Mask a batch.

        Args:
            ids: Tokens ``(N, L)``, 0 to ``vocab_size - 1``; left as they are.
            keys: Epoch and index of each sample, ``N``.

        Returns:
            Inputs ``(N, L)``, and labels ``(N, L)``: the token where it was chosen, -100 elsewhere.
        """
        choice, kind, word = np.moveaxis(np.stack([self._draws(key, ids.shape[1]) for key in keys]), 2, 0)
        ordinary = self._ordinary[ids]
        chosen = ordinary & (choice < self._probability)
        without = np.flatnonzero(~chosen.any(axis=1) & ordinary.any(axis=1))
        chosen[without, np.where(ordinary[without], choice[without], 2).argmin(axis=1)] = True
        inputs = np.where(chosen & (kind < _TO_MASK), self._mask_id, ids)
        random = chosen & (kind >= _TO_MASK) & (kind < _TO_RANDOM)
        inputs[random] = (word[random] * self._vocab_size).astype(np.int64)
        return inputs, np.where(chosen, ids, IGNORED)
