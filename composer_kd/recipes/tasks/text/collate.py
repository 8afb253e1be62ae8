"""From documents, or from tokens that were packed beforehand, to batches for masked language modelling."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from composer_kd.batches import POSITIONS
from composer_kd.recipes.tasks.text.masking import IGNORED, Masking

Batch = dict[str, Tensor]
Item = tuple[Any, int, int]
"""A document or its tokens, the epoch, and the sample's index."""

# English takes 4 to 5 characters a token; where that many are too few, the whole document is tokenised after all.
_CHARACTERS_PER_TOKEN = 6


class Encoder:
    """Tokenises documents, special tokens added, cut off after ``max_seq_len`` tokens.

    Of a long document only as much is tokenised as is kept, wherever the tokenizer looks at words one by one: the same
    tokens several times faster.

    Args:
        tokenizer: A fast Hugging Face tokenizer; its own truncation and padding are left as they are.
        max_seq_len: Tokens to keep, 2 or more.
    """

    def __init__(self, tokenizer: Any, max_seq_len: int) -> None:
        from tokenizers.pre_tokenizers import BertPreTokenizer

        self._backend = copy.deepcopy(tokenizer.backend_tokenizer)
        self._backend.no_padding()
        self._backend.enable_truncation(max_seq_len)
        self._length = max_seq_len
        by_word = isinstance(self._backend.pre_tokenizer, BertPreTokenizer)
        self._enough = _CHARACTERS_PER_TOKEN * max_seq_len if by_word else None

    def _beginning(self, text: str) -> str:
        if self._enough is None or len(text) <= self._enough:
            return text
        end = text.rfind(' ', 0, self._enough)
        return text[:end] if end > 0 else text

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text."""
        beginnings = [self._beginning(text) for text in texts]
        found = [encoding.ids for encoding in self._backend.encode_batch_fast(beginnings)]
        for row, (text, beginning) in enumerate(zip(texts, beginnings, strict=True)):
            if len(found[row]) < self._length and len(beginning) < len(text):
                found[row] = self._backend.encode(text).ids
        return found


class Collate:
    """Makes a batch of documents, or of tokens (arrays, or the bytes of int64): tokenises, pads, and masks.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        max_seq_len: Tokens of every sample in a batch.
        masking: What hides tokens.
    """

    def __init__(self, tokenizer: Any, max_seq_len: int, masking: Masking) -> None:
        self._rows, self._masking = Rows(tokenizer, max_seq_len), masking

    def __call__(self, items: Sequence[Item]) -> Batch:
        """The batch: ``input_ids``, ``attention_mask`` and ``labels``, each ``(N, L)`` int64."""
        ids, there = self._rows(items)
        inputs, labels = self._masking(ids, [(epoch, index) for _, epoch, index in items])
        return batch_of(inputs, there, labels)


class CausalCollate:
    """Makes a batch in which each token is to be predicted from those before it: its label is the token itself.

    Args:
        tokenizer: A fast Hugging Face tokenizer.
        max_seq_len: Tokens of every sample in a batch.
    """

    def __init__(self, tokenizer: Any, max_seq_len: int) -> None:
        self._rows = Rows(tokenizer, max_seq_len, keep_end=False)

    def __call__(self, items: Sequence[Item]) -> Batch:
        """The batch: ``input_ids``, ``attention_mask`` and ``labels`` (-100 at padding), each ``(N, L)`` int64."""
        ids, there = self._rows(items)
        return batch_of(ids, there, np.where(there, ids, IGNORED))


def batch_of(inputs: NDArray[Any], there: NDArray[Any], labels: NDArray[Any]) -> Batch:
    """A batch of arrays ``(N, L)``; ``there`` says where there is no padding."""
    arrays = {'input_ids': inputs, 'attention_mask': there.astype(np.int64), 'labels': labels}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


class Rows:
    """Documents, or tokens that were packed beforehand, as padded rows of tokens.

    Args:
        tokenizer: A fast Hugging Face tokenizer; without a padding token, padding is that which ends a text, or 0.
        max_seq_len: Tokens of a row.
        keep_end: Whether the last of too many tokens is kept, as it ends the sample. If not, a document ends with the
            token for that, as far as there is room.
    """

    def __init__(self, tokenizer: Any, max_seq_len: int, keep_end: bool = True) -> None:
        self._encoder, self._length, self._keep_end = Encoder(tokenizer, max_seq_len), max_seq_len, keep_end
        self._end = tokenizer.eos_token_id
        pads = (tokenizer.pad_token_id, self._end, 0)
        self._pad, self._words = int(next(pad for pad in pads if pad is not None)), len(tokenizer)

    def _tokens(self, found: Any, index: int) -> NDArray[Any]:
        tokens = np.frombuffer(found, np.int64) if isinstance(found, bytes) else np.asarray(found)
        if len(tokens) > self._length:
            tokens = np.append(tokens[:self._length - 1], tokens[-1]) if self._keep_end else tokens[:self._length]
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self._words:
            raise ValueError(
                f'path: sample {index} holds a token numbered {tokens.max()}, and the tokenizer has {self._words}: the '
                'data was made with another one. Convert it again with this one, or give the one it was made with.',
            )
        return tokens

    def __call__(self, items: Sequence[Item]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Tokens ``(N, L)`` int64, and where there are some, ``(N, L)`` bool."""
        found = [item[0] for item in items]
        if isinstance(found[0], str):
            rows: Sequence[Any] = self._ended(self._encoder(found))
        else:
            rows = [self._tokens(tokens, index) for tokens, (_, _, index) in zip(found, items, strict=True)]
        ids = np.full((len(rows), self._length), self._pad, np.int64)
        lengths = np.array([len(row) for row in rows])
        there = np.arange(self._length) < lengths[:, None]
        ids[there] = np.concatenate(rows)
        return ids, there

    def _ended(self, rows: list[list[int]]) -> list[list[int]]:
        if self._keep_end or self._end is None:
            return rows
        return [row if row and row[-1] == self._end else [*row, self._end][:self._length] for row in rows]


def split_batch(batch: Mapping[str, Tensor], size: int | float) -> list[Batch]:
    """Microbatches of that many samples, each with the places of its labels.

    Composer calls this before the batch goes to the device, so that the model need not wait there for a count.

    Returns:
        Microbatches with ``masked_positions`` ``(M,)`` int64 added: where the flattened labels are not -100.

    Example:
        >>> labels = torch.tensor([[-100, 5], [-100, -100], [7, -100]])
        >>> [part['masked_positions'].tolist() for part in split_batch({'labels': labels}, 2)]
        [[1], [0]]
    """
    # Composer also cuts what is too much off a microbatch of the last batch of an evaluation, which has places already.
    whole = {name: value for name, value in batch.items() if name != POSITIONS}
    parts: list[Batch] = [
        dict(zip(whole, values, strict=True))
        for values in zip(*(value.split(int(size)) for value in whole.values()), strict=True)
    ]
    for part in parts:
        part[POSITIONS] = (part['labels'].reshape(-1) != IGNORED).nonzero().squeeze(1)
    return parts


def count_samples(batch: Mapping[str, Tensor]) -> int:
    """Samples in a batch, split or not."""
    return len(batch['input_ids'])


def count_causal_tokens(batch: Mapping[str, Tensor]) -> dict[str, int]:
    """As :func:`count_tokens`, where no sample's first token is predicted."""
    return {
        'total': int(batch['attention_mask'].sum()),
        'loss_generating': int((batch['labels'][:, 1:] != IGNORED).sum()),
    }


def count_tokens(batch: Mapping[str, Tensor]) -> dict[str, int]:
    """Tokens of a batch that are not padding (``total``), and those that are predicted (``loss_generating``)."""
    return {
        'total': int(batch['attention_mask'].sum()),
        'loss_generating': int((batch['labels'] != IGNORED).sum()),
    }
