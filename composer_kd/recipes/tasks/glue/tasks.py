"""The eight tasks of GLUE: what their files and columns are called, and what their labels mean."""

from __future__ import annotations

from dataclasses import dataclass

from composer_kd.names import check_keys


@dataclass(frozen=True)
class Task:
    """One task of GLUE.

    Attributes:
        folder: Its folder in the GLUE download.
        texts: The columns of its files that hold the sentence or the two sentences.
        label: The column that holds the label.
        hub_texts: The columns of Hugging Face's version that hold the sentences; its label is in ``label``.
        classes: The labels as the files write them, in Hugging Face's order; empty for a regression.
        sizes: Samples of each split, as published.
        header: The columns of files that have no header.
        broken: The share of lines with too few columns that is passed over, as Hugging Face does.
    """

    folder: str
    texts: tuple[str, ...]
    label: str
    hub_texts: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: dict[str, int]
    header: tuple[str, ...] = ()
    broken: float = 0.0

    def split(self, name: str | None, train: bool) -> str:
        """The split of that name, or the one to train on or to evaluate on.

        Raises:
            ValueError: If there is no such split.
        """
        splits = list(self.sizes)
        if name is None:
            return splits[0 if train else 1]
        check_keys({name: None}, splits, 'split')
        return name


def _sizes(train: int, **others: int) -> dict[str, int]:
    return {'train': train, **others}


TASKS = {
    'cola': Task(
        'CoLA', ('sentence',), 'label', ('sentence',), ('0', '1'), _sizes(8551, validation=1043),
        header=('source', 'label', 'mark', 'sentence'),
    ),
    'mnli': Task(
        'MNLI', ('sentence1', 'sentence2'), 'gold_label', ('premise', 'hypothesis'),
        ('entailment', 'neutral', 'contradiction'),
        _sizes(392702, validation_matched=9815, validation_mismatched=9832),
    ),
    'mrpc': Task(
        'MRPC', ('#1 String', '#2 String'), 'Quality', ('sentence1', 'sentence2'), ('0', '1'),
        _sizes(3668, validation=408),
    ),
    'qnli': Task(
        'QNLI', ('question', 'sentence'), 'label', ('question', 'sentence'), ('entailment', 'not_entailment'),
        _sizes(104743, validation=5463),
    ),
    # Questions with line breaks in them broke some two dozen lines of the published file.
    'qqp': Task(
        'QQP', ('question1', 'question2'), 'is_duplicate', ('question1', 'question2'), ('0', '1'),
        _sizes(363846, validation=40430), broken=0.001,
    ),
    'rte': Task(
        'RTE', ('sentence1', 'sentence2'), 'label', ('sentence1', 'sentence2'), ('entailment', 'not_entailment'),
        _sizes(2490, validation=277),
    ),
    'sst2': Task(
        'SST-2', ('sentence',), 'label', ('sentence',), ('0', '1'), _sizes(67349, validation=872),
    ),
    'stsb': Task(
        'STS-B', ('sentence1', 'sentence2'), 'score', ('sentence1', 'sentence2'), (), _sizes(5749, validation=1500),
    ),
}
"""By the name that Hugging Face gives them. WNLI is left out, as in the recipes these stand for."""

LARGEST_SCORE = 5.0
"""STS-B's scores go from 0 to this."""
