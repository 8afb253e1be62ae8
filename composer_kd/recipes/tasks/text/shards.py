"""What every task of text has in common: where its shards lie, and whether they hold what is wanted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest
from composer_kd.recipes.tasks.mds import is_mds
from composer_kd.recipes.tasks.text.collate import Item

PUBLISHED = {True: 364_868_892, False: 364_608}
"""Documents of C4 English to train on and to validate on."""


def split_name(name: str | None, train: bool) -> str:
    """The folder of a split, below that of the data."""
    return name if name is not None else 'train' if train else 'val'


def folder_of(path: str, below: str) -> Path:
    """Where the shards lie: in the folder of the split, or in that of the data itself."""
    return Path(path) / below if is_mds(Path(path) / below) else Path(path)


def fast_tokenizer(name: str) -> Any:
    """A tokenizer that reads many texts at once.

    Raises:
        ValueError: For one that does not.
    """
    tokenizer = load_tokenizer(name)
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer: expected one with a tokenizer.json (a 'fast' one), got {type(tokenizer).__name__} from "
            f'{name!r}.',
        )
    return tokenizer


def check_index(folder: Path, tokenizer: Any, name: str, max_seq_len: int) -> None:
    """Refuse shards of other columns, of another vocabulary, or of samples that are too short.

    Raises:
        ValueError: Saying what they hold.
    """
    index = json.loads((folder / 'index.json').read_text())
    columns = index['shards'][0]['column_names']
    if not {'text', 'tokens'} & set(columns):
        raise ValueError(
            f"path: the MDS shards in '{folder}' have the columns {', '.join(sorted(columns))}; expected 'text' "
            "(documents) or 'tokens' (packed tokens). Convert the data with 'scripts/convert.py text'.",
        )
    # Only our converter says what its tokens are; those of others are looked at batch by batch alone.
    made = index.get('tokens') if 'tokens' in columns else None
    if made is None:
        return
    if made['vocabulary'] != vocabulary_digest(tokenizer):
        raise ValueError(
            f"tokenizer: the tokens in '{folder}' are those of {made['tokenizer']!r}, whose vocabulary differs from "
            f'that of {name!r}. Give that one, or convert the text again with this one.',
        )
    if made['seq_len'] < max_seq_len:
        raise ValueError(
            f"max_seq_len: the samples in '{folder}' have {made['seq_len']} tokens, fewer than {max_seq_len}; make it "
            f"{made['seq_len']} or less, or convert the text again with --seq-len {max_seq_len}.",
        )


def found_in(raw: Mapping[str, Any], view: int, index: int) -> Item:
    """A sample's text or tokens, its view and its index."""
    return raw['tokens'] if 'tokens' in raw else raw['text'], view, index
