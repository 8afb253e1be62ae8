"""From documents to samples of tokens."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.recipes.tasks.text.collate import Encoder

_AT_ONCE = 1000


class Packer:
    """Makes samples of tokens from documents, each beginning and ending with the tokenizer's tokens for that.

    Args:
        tokenizer: A fast Hugging Face tokenizer with such tokens (``[CLS]`` and ``[SEP]``), or with one that ends a
            text (GPT-2's ``<|endoftext|>``), which then stands after each document, and samples are cut anywhere.
        seq_len: Tokens of a sample, 3 or more.
        concat: Join the documents, the ending token between them, and cut them into samples that are all ``seq_len``
            long; what does not fill one at the end is left out. If not, a document is a sample, cut off at
            ``seq_len``.

    Raises:
        ValueError: For a tokenizer that will not do, or a length below 3.

    Example:
        >>> from tokenizers import BertWordPieceTokenizer
        >>> from transformers import BertTokenizerFast
        >>> words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'one', 'two', 'three']
        >>> backend = BertWordPieceTokenizer(vocab={word: number for number, word in enumerate(words)})
        >>> tokenizer = BertTokenizerFast(tokenizer_object=backend._tokenizer)
        >>> [row.tolist() for row in Packer(tokenizer, 4, concat=True)(['one', 'two three'])]
        [[2, 5, 3, 3], [2, 6, 7, 3]]
    """

    def __init__(self, tokenizer: Any, seq_len: int, concat: bool) -> None:
        if not tokenizer.is_fast:
            raise ValueError(f'tokenizer: expected one with a tokenizer.json, got {type(tokenizer).__name__}.')
        ends = (tokenizer.cls_token_id, tokenizer.sep_token_id)
        self._framed = None not in ends
        if not self._framed and tokenizer.eos_token_id is None:
            raise ValueError(
                'tokenizer: expected one with tokens that begin and end a text (cls_token and sep_token), or with one '
                'that ends it (eos_token).',
            )
        if seq_len < 3:
            raise ValueError(f'seq_len: expected 3 tokens or more, two of them special, got {seq_len}.')
        self._begin, self._end = map(int, ends if self._framed else (tokenizer.eos_token_id, tokenizer.eos_token_id))
        self._length, self._concat = seq_len, concat
        self._encoder = Encoder(tokenizer, seq_len)
        self._plain = copy.deepcopy(tokenizer.backend_tokenizer)
        self._plain.no_padding()
        self._plain.no_truncation()
        self._dtype = 'uint16' if len(tokenizer) <= 2**16 else 'uint32'
        self.columns = {'tokens': f'ndarray:{self._dtype}:{seq_len}' if concat else f'ndarray:{self._dtype}'}

    def __call__(self, texts: Sequence[str]) -> Sequence[NDArray[Any]]:
        """The samples of some documents, each of ``seq_len`` tokens, or fewer where documents are not joined."""
        batches = [texts[first:first + _AT_ONCE] for first in range(0, len(texts), _AT_ONCE)]
        if not self._concat:
            rows = [row for batch in batches for row in self._encoder(batch)]
            ended = rows if self._framed else [[*row, self._end][:self._length] for row in rows]
            return [np.array(row, self._dtype) for row in ended]
        tokens = [
            np.array([*found.ids, self._end], self._dtype)
            for batch in batches for found in self._plain.encode_batch_fast(batch, add_special_tokens=False)
        ]
        joined = np.concatenate(tokens) if tokens else np.empty(0, self._dtype)
        inner = self._length - 2 if self._framed else self._length
        joined = joined[:len(joined) // inner * inner].reshape(-1, inner)
        if not self._framed:
            return list(joined)
        return list(np.pad(joined, ((0, 0), (1, 1)), constant_values=((0, 0), (self._begin, self._end))))
