"""English reference prose from Python's standard library, as C4 comes: documents in MDS shards, and a tokenizer."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

VOCABULARY = 2000
CHARACTERS = 240
EVERY = 20


def documents() -> list[str]:
    """The prose of ``pydoc_data.topics``, cut between words into some 2,000 documents of at most 240 characters."""
    from pydoc_data.topics import topics

    return [piece for name in sorted(topics) for piece in textwrap.wrap(' '.join(topics[name].split()), CHARACTERS)]


def write(out: Path) -> None:
    """Write ``out/tokenizer`` and ``out/c4/{train,val}``, every 20th document in ``val``.

    Args:
        out: The folder; it is made where it is missing. What is there under these names is replaced.
    """
    texts = documents()
    _write_tokenizer(texts, out / 'tokenizer')
    _write_mds([text for place, text in enumerate(texts) if place % EVERY], out / 'c4' / 'train')
    _write_mds(texts[::EVERY], out / 'c4' / 'val')


def _write_tokenizer(texts: list[str], folder: Path) -> None:
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    trained = BertWordPieceTokenizer(lowercase=True)
    special = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    # The trainer numbers what continues a word in the order of a hash table, and breaks ties between merges by these
    # numbers. Naming them beforehand makes the vocabulary the same each time.
    letters = sorted({letter for text in texts for letter in text.lower() if letter.isalnum()})
    trained.train_from_iterator(
        texts, vocab_size=VOCABULARY, show_progress=False, special_tokens=[*special, *(f'##{x}' for x in letters)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    (vocabulary,) = trained.save_model(str(folder))
    BertTokenizerFast(vocab_file=vocabulary, do_lower_case=True, model_max_length=512).save_pretrained(folder)


def _write_mds(texts: list[str], folder: Path) -> None:
    from streaming import MDSWriter

    if folder.exists():
        shutil.rmtree(folder)
    with MDSWriter(columns={'text': 'str'}, out=str(folder), size_limit=1 << 17) as shards:
        for text in texts:
            shards.write({'text': text})
