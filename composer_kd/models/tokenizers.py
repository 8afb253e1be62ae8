"""Tokenizers by name or folder, and whether two of them number the same words alike."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any


@lru_cache(maxsize=8)
def load_tokenizer(name_or_path: str, revision: str | None = None, subfolder: str = '') -> Any:
    r"""A Hugging Face tokenizer.

    Args:
        name_or_path: A folder that ``save_pretrained`` wrote, or a name on the Hugging Face hub.
        revision: A branch, tag or commit on the hub.
        subfolder: In which folder of that it lies.

    Returns:
        A ``PreTrainedTokenizerBase``, the same object each time it is asked for.

    Raises:
        ValueError: If there is no such folder and the hub gives none of that name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\none')
        ...     _ = (Path(folder) / 'tokenizer_config.json').write_text('{"tokenizer_class": "BertTokenizerFast"}')
        ...     load_tokenizer(folder)('one one')['input_ids']
        [2, 5, 5, 3]
    """
    from transformers import AutoTokenizer

    try:
        # no code that lies beside a tokenizer is run, and nobody is asked whether it should be
        return AutoTokenizer.from_pretrained(
            name_or_path, revision=revision, subfolder=subfolder, trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        here = 'The folder holds none' if Path(name_or_path).is_dir() else 'There is no folder of that name'
        raise ValueError(
            f"tokenizer: expected a Hugging Face tokenizer's folder or its name on the hub, got {name_or_path!r}. "
            f'{here}, and loading it by name failed: {str(error).strip().splitlines()[0]}',
        ) from error


@lru_cache(maxsize=8)
def vocabulary_digest(tokenizer: Any) -> str:
    """SHA-256 of all words with their numbers, and of the special ones' part.

    Logits of two models can be compared word by word only where this is the same.

    Example:
        >>> from tokenizers import Tokenizer
        >>> from tokenizers.models import WordLevel
        >>> from transformers import PreTrainedTokenizerFast
        >>> one, other = (
        ...     PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, unk_token='?')))
        ...     for words in ({'?': 0, 'a': 1, 'b': 2}, {'?': 0, 'b': 1, 'a': 2})
        ... )
        >>> vocabulary_digest(one) == vocabulary_digest(other)
        False
    """
    said = {'words': sorted(tokenizer.get_vocab().items()), 'special': sorted(map(int, tokenizer.all_special_ids))}
    return hashlib.sha256(json.dumps(said, ensure_ascii=True).encode()).hexdigest()
