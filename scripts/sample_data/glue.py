"""Sentences and pairs of them from Python's standard library, in GLUE's own files, with labels that follow from them.

Nothing here is GLUE's data. Each task asks something of the same kind: CoLA whether words stand in their order, SST-2
whether a sentence is long, MRPC and QQP whether one is the other with words left out, RTE, QNLI and MNLI whether both
stand together in the prose, STS-B how many words they share. Of so few samples a small BERT without pre-training learns
SST-2's question and little of the others'.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path

TRAIN, DEV = 320, 96
"""Samples of each task's files; MNLI has as many in each of its two dev files."""

_FEWEST, _MOST = 5, 24


def paragraphs() -> list[list[str]]:
    """The sentences of ``pydoc_data.topics``, by paragraph; those of 5 to 24 words, without markup, each once."""
    from pydoc_data.topics import topics

    found: dict[str, int] = {}
    number = 0
    for name in sorted(topics):
        for block in re.split(r'\n\s*\n', topics[name]):
            number += 1
            text = ' '.join(re.sub(r'[*`"|\\]', '', block).split())
            for sentence in re.split(r'(?<=[.?!:;])\s+', text):
                plain = re.match(r'[A-Z](?!.*[=~-]{4})', sentence) and sentence.isprintable()
                if plain and _FEWEST <= len(sentence.split()) <= _MOST:
                    found.setdefault(sentence, number)
    return [[sentence for sentence, _ in group] for _, group in groupby(found.items(), key=itemgetter(1))]


class _Prose:
    """Draws of sentences, each from its own share of the paragraphs, so that dev holds none of train's."""

    def __init__(self, blocks: list[list[str]], seed: int) -> None:
        self._blocks, self._pairs = blocks, [block for block in blocks if len(block) > 1]
        self.draw = random.Random(seed)

    def sentence(self) -> str:
        return self.draw.choice(self.draw.choice(self._blocks))

    def neighbours(self) -> tuple[str, str]:
        block = self.draw.choice(self._pairs)
        first = self.draw.randrange(len(block) - 1)
        return block[first], block[first + 1]

    def shuffled(self, sentence: str) -> str:
        words = sentence.split()
        while words == sentence.split():
            self.draw.shuffle(words)
        return ' '.join(words)

    def shortened(self, sentence: str) -> str:
        words = sentence.split()
        for _ in range(max(1, len(words) // 4)):
            del words[self.draw.randrange(len(words))]
        return ' '.join(words)


def overlap(one: str, other: str) -> float:
    """Shared words / all words of two sentences, from 0 to 1."""
    first, second = set(one.lower().split()), set(other.lower().split())
    return len(first & second) / len(first | second)


def _cola(prose: _Prose, count: int) -> Iterator[list[object]]:
    for index in range(count):
        sentence, good = prose.sentence(), index % 2
        yield ['topics', good, '' if good else '*', sentence if good else prose.shuffled(sentence)]


def _sst2(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['sentence', 'label']
    for index in range(count):
        sentence = prose.sentence()
        while (len(sentence.split()) > (_FEWEST + _MOST) // 2) != bool(index % 2):
            sentence = prose.sentence()
        yield [f'{sentence} ', index % 2]


def _same(prose: _Prose, index: int) -> tuple[str, str]:
    """A sentence and itself with words left out, for odd indices; or another one."""
    sentence = other = prose.sentence()
    while other == sentence:
        other = prose.sentence()
    return sentence, prose.shortened(sentence if index % 2 else other)


def _mrpc(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['Quality', '#1 ID', '#2 ID', '#1 String', '#2 String']
    for index in range(count):
        yield [index % 2, 2 * index, 2 * index + 1, *_same(prose, index)]


def _qqp(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['id', 'qid1', 'qid2', 'question1', 'question2', 'is_duplicate']
    for index in range(count):
        yield [index, 2 * index, 2 * index + 1, *_same(prose, index), index % 2]


def _related(prose: _Prose, index: int) -> tuple[str, str, str]:
    """Neighbours in the prose, and what GLUE calls them, for odd indices; or two sentences of anywhere."""
    if index % 2:
        return (*prose.neighbours(), 'entailment')
    return prose.sentence(), prose.sentence(), 'not_entailment'


def _rte(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['index', 'sentence1', 'sentence2', 'label']
    for index in range(count):
        yield [index, *_related(prose, index)]


def _qnli(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['index', 'question', 'sentence', 'label']
    for index in range(count):
        first, second, label = _related(prose, index)
        yield [index, f"What of {' '.join(first.split()[:6])}?", second, label]


def _mnli(prose: _Prose, count: int, opinions: int = 1) -> Iterator[list[object]]:
    """The train file has one opinion and the gold label, the dev files five and the gold label."""
    labels = ('entailment', 'neutral', 'contradiction')
    yield ['index', 'promptID', 'pairID', 'genre', 'sentence1_binary_parse', 'sentence2_binary_parse',
           'sentence1_parse', 'sentence2_parse', 'sentence1', 'sentence2',
           *(f'label{number + 1}' for number in range(opinions)), 'gold_label']
    for index in range(count):
        first, second = prose.neighbours()
        label = labels[index % 3]
        second = {'entailment': prose.shortened(first), 'neutral': second}.get(label) or prose.shuffled(second)
        parses = [f'( {first} )', f'( {second} )', f'(ROOT (S {first}))', f'(ROOT (S {second}))']
        yield [index, index, f'{index}{label[0]}', 'reference', *parses, first, second, *[label] * (opinions + 1)]


def _stsb(prose: _Prose, count: int) -> Iterator[list[object]]:
    yield ['index', 'genre', 'filename', 'year', 'old_index', 'source1', 'source2', 'sentence1', 'sentence2', 'score']
    for index in range(count):
        own, words = prose.sentence().split(), prose.sentence().split()
        kept = len(own) * (index % 6) // 5  # from a stranger to the sentence itself in five steps
        first, second = ' '.join(own), ' '.join([*own[:kept], *words[kept:]])
        score = 5 * overlap(first, second)
        yield [index, 'main-reference', 'topics', '2012', index, 'none', 'none', first, second, f'{score:.3f}']


def _write(path: Path, rows: Iterable[list[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join('\t'.join(map(str, row)) + '\n' for row in rows), encoding='utf-8')


def write(out: Path) -> None:
    """Write ``out/glue/{CoLA,MNLI,MRPC,QNLI,QQP,RTE,SST-2,STS-B}/*.tsv``; the same files each time.

    Args:
        out: The folder; it is made where it is missing. What is there under these names is replaced.
    """
    blocks = paragraphs()
    train, dev = [block for i, block in enumerate(blocks) if i % 4], blocks[::4]
    tasks = {
        'CoLA': _cola, 'MRPC': _mrpc, 'QNLI': _qnli, 'QQP': _qqp, 'RTE': _rte, 'SST-2': _sst2, 'STS-B': _stsb,
    }
    for number, (folder, rows) in enumerate(tasks.items()):
        _write(out / 'glue' / folder / 'train.tsv', rows(_Prose(train, number), TRAIN))
        _write(out / 'glue' / folder / 'dev.tsv', rows(_Prose(dev, 100 + number), DEV))
    _write(out / 'glue' / 'MNLI' / 'train.tsv', _mnli(_Prose(train, 50), TRAIN))
    _write(out / 'glue' / 'MNLI' / 'dev_matched.tsv', _mnli(_Prose(dev, 51), DEV, opinions=5))
    _write(out / 'glue' / 'MNLI' / 'dev_mismatched.tsv', _mnli(_Prose(dev, 52), DEV, opinions=5))
