"""Text from MDS for masked language modelling."""

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
from composer_kd.recipes.tasks.sampling import views_of
from composer_kd.recipes.tasks.text.collate import Collate, count_samples, count_tokens, split_batch
from composer_kd.recipes.tasks.text.masking import Masking
from composer_kd.recipes.tasks.text.shards import (
    PUBLISHED,
    check_index,
    fast_tokenizer,
    folder_of,
    found_in,
    split_name,
)

_WAY = 1
"""One higher whenever the same text, settings and seed come to give other masks."""

def _tokenizer(name: str) -> Any:
    tokenizer = fast_tokenizer(name)
    for kind in ('mask', 'pad'):
        if getattr(tokenizer, f'{kind}_token_id') is None:
            raise ValueError(
                f"tokenizer: masked language modelling needs a {kind} token, and {name!r} has none. Give one that was "
                "made for it, such as 'bert-base-uncased'.",
            )
    return tokenizer


@DATA.register('masked_text')
def masked_text(
    batch_size: int,
    seed: int,
    train: bool,
    path: str,
    tokenizer: str,
    remote: str | None = None,
    split: str | None = None,
    max_seq_len: int = 128,
    part: Part | None = None,
    mask_probability: float = 0.15,
    views: int | None = None,
    view_seed: int | None = None,
    num_workers: int = 0,
    streaming: dict[str, Any] | None = None,
) -> DataSpec:
    """Text from MDS shards for masked language modelling (Devlin et al. 2018, arXiv 1810.04805, section 3.1).

    The shards have a column ``text``, one document a sample, which is tokenised as it is read, cut off after
    ``max_seq_len`` tokens and padded; or a column ``tokens``, arrays that ``scripts/convert.py text --tokenizer``
    packed (longer ones are cut, the last token kept). Masks are drawn by
    :class:`~composer_kd.recipes.tasks.text.masking.Masking`.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed: order and masks follow from it.
        train: Whether to shuffle and to mask anew each epoch; an epoch's last, smaller batch is left out. If not, all
            samples come in order with one fixed mask each, whatever the seed.
        path: The folder on this machine, with the shards in it or in ``path/split``; the cache, with a ``remote``.
        tokenizer: A Hugging Face tokenizer with a mask token, by its folder or its name on the hub.
        remote: Where the shards are fetched from as they are needed, a folder or a URI; ``None`` if they are all here.
        split: The folder below ``path`` and ``remote``; by default ``'train'`` for training, otherwise ``'val'``.
        max_seq_len: Tokens of a sample, special ones and padding included; 3 or more.
        part: Use only the samples between two shares of the split, ``[0.5, 1]`` for its second half, in the shards'
            order; only of shards that lie here uncompressed, or in an evaluator.
        mask_probability: Share of the tokens to predict, above 0 and below 1.
        views: How many maskings of a text are kept and come again epoch by epoch; ``None`` for a new one each epoch.
            Stored answers are answers to views.
        view_seed: The seed of the views; ``None`` for the run's own. Runs that share stored answers share it.
        num_workers: Worker processes of this rank; 0 reads in the training process itself.
        streaming: Further arguments of ``streaming.StreamingDataset``, such as ``cache_limit`` or ``predownload``.

    Returns:
        Batches of ``input_ids``, ``attention_mask`` and ``labels`` (-100 where nothing is predicted), each
        ``(N, max_seq_len)`` int64; once split, with ``masked_positions`` ``(M,)`` int64, the places of the labels in
        the flattened microbatch.

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: For a tokenizer without a mask token, damaged shards, columns of another kind, tokens of another
            vocabulary, samples that were packed shorter than ``max_seq_len``, or a value out of range.

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
        ...     data = masked_text(1, seed=17, train=False, path=folder, tokenizer=folder, max_seq_len=6)
        ...     next(iter(data.dataloader))['attention_mask'].tolist()
        [[1, 1, 1, 1, 0, 0]]
    """
    words = _tokenizer(tokenizer)
    if max_seq_len < 3:
        raise ValueError(f'max_seq_len: expected 3 tokens or more, two of them special, got {max_seq_len}.')
    drawn_from = views_of(seed, train, views, view_seed)
    masking = Masking(
        words.mask_token_id, words.all_special_ids, len(words), mask_probability, drawn_from if train else None,
    )
    looks = {
        'seed': drawn_from, 'mask_probability': mask_probability, 'max_seq_len': max_seq_len, 'way': _WAY,
        'vocabulary': vocabulary_digest(words),
    }
    below = split_name(split, train)
    if remote is None:
        read_index(folder_of(path, below))
        check_index(folder_of(path, below), words, tokenizer, max_seq_len)
    # Workers and ranks are what runs in parallel here; threads of the tokenizer on top of them only get in their way.
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    loader = mds_loader(
        path, remote, below, (), found_in, Collate(words, max_seq_len, masking), batch_size, seed, train, num_workers,
        streaming, {'vocabulary': vocabulary_digest(words), 'max_seq_len': max_seq_len}, part, views, looks,
    )
    if remote is not None:
        check_index(folder_of(path, below), words, tokenizer, max_seq_len)
    return DataSpec(
        loader, split_batch=split_batch, get_num_samples_in_batch=count_samples, get_num_tokens_in_batch=count_tokens,
    )


@describes('masked_text')
def masked_text_shape(
    train: bool,
    path: str,
    split: str | None = None,
    remote: str | None = None,
    max_seq_len: int = 128,
    part: Part | None = None,
    mask_probability: float = 0.15,
    streaming: Mapping[str, Any] | None = None,
    **settings: Any,
) -> DataShape:
    """What is known of the text without reading it: counted where it lies on this machine.

    Example:
        >>> masked_text_shape(True, path='none', tokenizer='any').batch(2)['input_ids'].shape
        torch.Size([2, 128])
    """
    folder = folder_of(path, split_name(split, train))

    def batch(count: int) -> dict[str, Any]:
        shape = (count, max_seq_len)
        predicted = max(1, round(mask_probability * count * max_seq_len))
        return {
            'input_ids': torch.zeros(shape, dtype=torch.int64),
            'attention_mask': torch.ones(shape, dtype=torch.int64),
            'labels': torch.zeros(shape, dtype=torch.int64),
            'masked_positions': torch.zeros(predicted, dtype=torch.int64),
        }

    if remote is not None or is_mds(folder):
        check_part(part, train, folder, remote, streaming)
    if remote is None and is_mds(folder):
        index = read_index(folder)
        return DataShape(len(window(part, index.samples)), batch, max_seq_len, index.bytes, f'counted in {folder}')
    note = 'documents of C4 English, as published; the data is not on this machine'
    return DataShape(len(window(part, PUBLISHED[train])), batch, max_seq_len, None, note)
