"""GLUE as batches of tokens, each as long as its longest sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from composer.core import DataSpec
from torch import Tensor

from composer_kd.answers import Identity
from composer_kd.models import load_tokenizer, vocabulary_digest
from composer_kd.names import check_keys
from composer_kd.recipes.tasks.glue.files import Samples, find_file, read_file
from composer_kd.recipes.tasks.glue.hub import read_hub, saved_in
from composer_kd.recipes.tasks.glue.tasks import TASKS
from composer_kd.recipes.tasks.part import Part, window
from composer_kd.recipes.tasks.registry import DATA, DataShape, describes
from composer_kd.recipes.tasks.sampling import EpochDataset, Key, make_loader
from composer_kd.runs.files import digest

Sample = tuple[tuple[str, ...], float]

# Tensor cores want lengths in eights.
_MULTIPLE = 8

_WAY = 1
"""One higher whenever the same sentences and settings come to give other tokens."""


class Sentences(EpochDataset[Sample]):
    """Sentences, or pairs of them, with a label each.

    Args:
        samples: The sentences of each sample, and the labels.
        classes: Number of classes; 0 where the labels are scores.
        vocabulary: Digest of the tokenizer's words.
        max_seq_len: Tokens of the longest sample.

    Attributes:
        num_classes: Number of classes; ``None`` where the labels are scores.
    """

    def __init__(self, samples: Samples, classes: int, vocabulary: str, max_seq_len: int) -> None:
        self.sentences, self.labels = samples
        self.num_classes = classes or None
        self.vocabulary, self.max_seq_len = vocabulary, max_seq_len

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, key: Key) -> Sample:
        return self.sentences[key[1]], self.labels[key[1]]


class _Tokenize:
    """Samples to a batch; a class, as worker processes may have to pickle it."""

    def __init__(self, tokenizer: Any, max_seq_len: int, classes: int) -> None:
        self._tokenizer, self._max_seq_len = tokenizer, max_seq_len
        self._dtype = torch.int64 if classes else torch.float32

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        columns = [list(column) for column in zip(*(sentences for sentences, _ in samples), strict=True)]
        batch = self._tokenizer(
            *columns,
            truncation=True,
            max_length=self._max_seq_len,
            padding='longest',
            pad_to_multiple_of=None if self._max_seq_len % _MULTIPLE else _MULTIPLE,
            return_attention_mask=True,
            return_token_type_ids=True,
            return_tensors='pt',
        )
        return {**batch, 'labels': torch.tensor([label for _, label in samples], dtype=self._dtype)}


def _split(batch: dict[str, Tensor], size: int | float) -> list[dict[str, Tensor]]:
    # As Composer splits, without its warning for every batch that is smaller than the others.
    parts = zip(*(values.split(int(size)) for values in batch.values()), strict=True)
    return [dict(zip(batch, part, strict=True)) for part in parts]


@DATA.register('glue')
def glue(
    batch_size: int,
    seed: int,
    train: bool,
    task: str,
    tokenizer: str,
    path: str | None = None,
    split: str | None = None,
    max_seq_len: int = 256,
    part: Part | None = None,
    num_workers: int = 0,
) -> DataSpec:
    r"""A task of GLUE (Wang et al. 2018, arXiv 1804.07461), labels numbered as in Hugging Face's version.

    Args:
        batch_size: Samples of one rank's batch.
        seed: The run's seed: the order follows from it.
        train: Whether to shuffle anew each epoch; an epoch's last, smaller batch is left out. If not, all samples come
            in order.
        task: ``cola``, ``mnli``, ``mrpc``, ``qnli``, ``qqp``, ``rte``, ``sst2`` or ``stsb``.
        tokenizer: Folder or hub name of the model's tokenizer.
        path: A folder on this machine: the GLUE download (which holds ``CoLA``, ``MNLI``, ...), one task's folder in
            it, or what ``datasets.save_to_disk`` wrote; ``null`` for Hugging Face's ``nyu-mll/glue``, or its cache.
        split: ``train``, ``validation``, or for MNLI ``validation_matched`` and ``validation_mismatched``; default:
            ``train`` for training and the first other one otherwise.
        max_seq_len: Longer samples are cut to so many tokens, the longer of two sentences first; 8 or more.
        part: Use only the samples between two shares of the split, ``[0.5, 1]`` for its second half, in its order.
        num_workers: Worker processes, which tokenize.

    Returns:
        Batches ``{'input_ids', 'attention_mask', 'token_type_ids'}`` ``(N, L)`` int64 and ``'labels'`` ``(N,)``, int64,
        or for STS-B float32 from 0 to 5. ``L`` is the length of the batch's longest sample.

    Raises:
        FileNotFoundError: For a missing folder or file.
        ValueError: For an unknown task or split, a value out of range, or files that are not the task's.

    Example:
        >>> import tempfile
        >>> from tokenizers import Tokenizer, models, pre_tokenizers
        >>> from transformers import PreTrainedTokenizerFast
        >>> words = Tokenizer(models.WordLevel({'[PAD]': 0, '[UNK]': 1, 'good': 2}, unk_token='[UNK]'))
        >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, 'dev.tsv').write_text('sentence\tlabel\nA good one\t1\nNot bad\t1\n')
        ...     _ = PreTrainedTokenizerFast(tokenizer_object=words, pad_token='[PAD]').save_pretrained(folder)
        ...     loader = glue(2, 17, False, 'sst2', tokenizer=folder, path=folder).dataloader
        >>> next(iter(loader))['input_ids'].tolist()
        [[1, 2, 1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    """
    check_keys({task: None}, TASKS, 'task')
    said = TASKS[task]
    split = said.split(split, train)
    if not max_seq_len >= _MULTIPLE:
        raise ValueError(f'max_seq_len: expected {_MULTIPLE} tokens or more, got {max_seq_len}.')
    words = load_tokenizer(tokenizer)
    if words.pad_token_id is None:
        raise ValueError(
            f'tokenizer: {tokenizer!r} has no padding token, and samples of a batch differ in length. Give one with '
            'a pad_token, such as that of the pre-training.',
        )
    folder = None if path is None else Path(path)
    saved = None if folder is None else saved_in(folder, task)
    samples = read_hub(task, said, split, saved) if folder is None or saved is not None else read_file(
        find_file(folder, said, split), said, split,
    )
    dataset = Sentences(samples, len(said.classes), vocabulary_digest(words), max_seq_len)
    collate = _Tokenize(words, max_seq_len, len(said.classes))
    made_of = {'name': f'glue {task}', 'samples': len(dataset), 'content': digest([dataset.sentences, dataset.labels])}
    looks = {'max_seq_len': max_seq_len, 'vocabulary': dataset.vocabulary, 'way': _WAY}
    loader = make_loader(
        # nothing is drawn: every epoch has the same view
        dataset, batch_size, seed, train, num_workers, collate, part, None, 1, Identity(made_of, looks),
    )
    return DataSpec(loader, split_batch=_split)


@describes('glue')
def glue_shape(
    train: bool, task: str, tokenizer: str = '', path: str | None = None, split: str | None = None,
    max_seq_len: int = 256, part: Part | None = None, num_workers: int = 0,
) -> DataShape:
    """What is known of a task: its size as published, or counted where the file is on this machine.

    Raises:
        ValueError: For an unknown task or split.
    """
    check_keys({task: None}, TASKS, 'task')
    said = TASKS[task]
    split = said.split(split, train)
    samples, size = said.sizes[split], None
    note = f'{said.folder} {split} as published'
    if path is not None:
        try:
            file = find_file(Path(path), said, split)
        except FileNotFoundError:
            note += '; the data is not on this machine'
        else:
            if file.suffix == '.tsv':
                with open(file, 'rb') as text:
                    samples = sum(1 for line in text if line.strip()) - (not said.header)
                note = f'counted in {file}'
            size = file.stat().st_size

    def batch(count: int) -> dict[str, Tensor]:
        whole = {name: torch.zeros(count, max_seq_len, dtype=torch.int64) for name in ('input_ids', 'token_type_ids')}
        labels = torch.zeros(count, dtype=torch.int64 if said.classes else torch.float32)
        return {**whole, 'attention_mask': torch.ones(count, max_seq_len, dtype=torch.int64), 'labels': labels}

    return DataShape(
        len(window(part, samples)), batch, max_seq_len, size,
        f'{note}; a batch is as long as its longest sample, {max_seq_len} at most',
    )
