"""Text from MDS for causal language modelling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from composer.core import DataSpec

from composer_kd.models.tokenizers import vocabulary_digest
from composer_kd.recipes.tasks.mds import check_part, is_mds, mds_loader, read_index
from composer_kd.recipes.tasks.part import Part, window
from composer_kd.recipes.tasks.registry import DATA, DataShape, describes
from composer_kd.recipes.tasks.text.collate import CausalCollate, count_causal_tokens, count_samples
from composer_kd.recipes.tasks.text.shards import (
    PUBLISHED,
    check_index,
    fast_tokenizer,
    folder_of,
    found_in,
    split_name,
)


@DATA.register('causal_text')
def causal_text(
    batch_size: int,
    seed: int,
    train: bool,
    path: str,
    tokenizer: str,
    remote: str | None = None,
    split: str | None = None,
    max_seq_len: int = 1024,
    part: Part | None = None,
    num_workers: int = 0,
    streaming: dict[str, Any] | None = None,
) -> DataSpec:
    """Text from MDS shards, each token to be predicted from those before it.

    The shards have a column ``text``, one document a sample, which is tokenised as it is read, ended with the
    tokenizer's token for that, cut off after ``max_seq_len`` tokens and padded; or a column ``tokens``, arrays that
    ``scripts/convert.py text --tokenizer --concat`` packed, so that nothing is padded. A sample looks the same in every
    epoch, so stored answers need no views.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed: the order follows from it.
        train: Whether to shuffle; an epoch's last, smaller batch is left out. If not, all samples come in order.
        path: The folder on this machine, with the shards in it or in ``path/split``; the cache, with a ``remote``.
        tokenizer: A Hugging Face tokenizer, by its folder or its name on the hub.
        remote: Where the shards are fetched from as they are needed, a folder or a URI; ``None`` if they are all here.
        split: The folder below ``path`` and ``remote``; by default ``'train'`` for training, otherwise ``'val'``.
        max_seq_len: Tokens of a sample, padding included; 2 or more.
        part: Use only the samples between two shares of the split, ``[0.5, 1]`` for its second half, in the shards'
            order; only of shards that lie here uncompressed, or in an evaluator.
        num_workers: Worker processes of this rank; 0 reads in the training process itself.
        streaming: Further arguments of ``streaming.StreamingDataset``, such as ``cache_limit`` or ``predownload``.

    Returns:
        Batches of ``input_ids``, ``attention_mask`` and ``labels`` (the tokens themselves, -100 at padding), each
        ``(N, max_seq_len)`` int64. The model shifts the labels.

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: For damaged shards, columns of another kind, tokens of another vocabulary, samples that were packed
            shorter than ``max_seq_len``, or a value out of range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from streaming import MDSWriter
        >>> from transformers import BertTokenizerFast
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     words = Path(folder) / 'vocab.txt'
        ...     _ = words.write_text('[PAD] [UNK] [CLS] [SEP] [MASK] one two'.replace(' ', chr(10)))
        ...     _ = BertTokenizerFast(vocab_file=str(words)).save_pretrained(folder)
        ...     with MDSWriter(out=f'{folder}/val', columns={'text': 'str'}) as shards:
        ...         shards.write({'text': 'one two'})
        ...     data = causal_text(1, seed=17, train=False, path=folder, tokenizer=folder, max_seq_len=6)
        ...     next(iter(data.dataloader))['labels'].tolist()
        [[2, 5, 6, 3, -100, -100]]
    """
    words = fast_tokenizer(tokenizer)
    if max_seq_len < 2:
        raise ValueError(f'max_seq_len: expected 2 tokens or more, got {max_seq_len}.')
    looks = {'max_seq_len': max_seq_len, 'vocabulary': vocabulary_digest(words), 'causal': True}
    below = split_name(split, train)
    if remote is None:
        read_index(folder_of(path, below))
        check_index(folder_of(path, below), words, tokenizer, max_seq_len)
    # Workers and ranks are what runs in parallel here; threads of the tokenizer on top of them only get in their way.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    loader = mds_loader(
        path, remote, below, (), found_in, CausalCollate(words, max_seq_len), batch_size, seed, train, num_workers,
        streaming, {'vocabulary': vocabulary_digest(words), 'max_seq_len': max_seq_len}, part, 1, looks,
    )
    if remote is not None:
        check_index(folder_of(path, below), words, tokenizer, max_seq_len)
    return DataSpec(
        loader, get_num_samples_in_batch=count_samples, get_num_tokens_in_batch=count_causal_tokens,
    )


@describes('causal_text')
def causal_text_shape(
    train: bool,
    path: str,
    split: str | None = None,
    remote: str | None = None,
    max_seq_len: int = 1024,
    part: Part | None = None,
    streaming: Mapping[str, Any] | None = None,
    **settings: Any,
) -> DataShape:
    """What is known of the text without reading it: counted where it lies on this machine.

    Example:
        >>> causal_text_shape(True, path='none', tokenizer='any').batch(2)['input_ids'].shape
        torch.Size([2, 1024])
    """
    folder = folder_of(path, split_name(split, train))

    def batch(count: int) -> dict[str, Any]:
        return {
            name: torch.full((count, max_seq_len), value, dtype=torch.int64)
            for name, value in (('input_ids', 0), ('attention_mask', 1), ('labels', 0))
        }

    if remote is not None or is_mds(folder):
        check_part(part, train, folder, remote, streaming)
    if remote is None and is_mds(folder):
        index = read_index(folder)
        return DataShape(len(window(part, index.samples)), batch, max_seq_len, index.bytes, f'counted in {folder}')
    note = 'documents of C4 English, as published; the data is not on this machine'
    return DataShape(len(window(part, PUBLISHED[train])), batch, max_seq_len, None, note)
