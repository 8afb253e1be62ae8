"""A tokenizer of a few words, in the files that transformers reads."""

from pathlib import Path

from transformers import BertTokenizerFast

SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']


def tokenizer_folder(folder: Path, words=('cat', 'dog', 'the', 'a', 'sat', 'ran')) -> Path:
    folder.mkdir(parents=True)
    vocabulary = folder / 'vocab.txt'
    vocabulary.write_text('\n'.join([*SPECIAL, *words]) + '\n')
    BertTokenizerFast(vocab_file=str(vocabulary)).save_pretrained(folder)
    return folder
