"""What is trained: a student, a teacher and a batch, of random weights and data, since only time is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from composer.core import DataSpec
from composer.models import HuggingFaceModel
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM
from transformers.utils import logging as transformers_logging

from composer_kd.models import build_model
from composer_kd.recipes.tasks.text.collate import count_samples, count_tokens, split_batch

IGNORED = -100
MASKED = 0.15
TEMPERATURE, KD_WEIGHT, BASE_WEIGHT = 4.0, 0.9, 0.1
LOSS = {'name': 'kl_divergence', 'temperature': TEMPERATURE}


@dataclass(frozen=True)
class Case:
    """One pair of models and one size of batch.

    Attributes:
        name: In tables.
        student: Settings of one of our models, ``name`` among them.
        teacher: Likewise.
        batch_size: Samples.
        shape: Of an image, channels first; of a text, its tokens alone.
        classes: Classes, or words of the vocabulary.
        precision: Composer's name of it.
        optimizer: ``'sgd'`` (momentum 0.9) or ``'adamw'``.
        everywhere: Whether a text's vocabulary head and KD are at all tokens, not at the masked ones alone.
        microbatches: Into how many parts Composer splits the batch.
    """

    name: str
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    batch_size: int
    shape: tuple[int, ...]
    classes: int
    precision: str = 'fp32'
    optimizer: str = 'sgd'
    everywhere: bool = False
    microbatches: int = 1

    @property
    def text(self) -> bool:
        """Whether it is masked language modelling."""
        return len(self.shape) == 1

    @property
    def masked(self) -> int:
        """How many tokens of a sample are to be predicted."""
        return max(1, round(MASKED * self.shape[0]))

    @property
    def rows(self) -> int:
        """How many rows of logits the KD loss compares."""
        if not self.text:
            return self.batch_size
        return self.batch_size * (self.shape[0] if self.everywhere else self.masked)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'case': self.name, 'batch_size': self.batch_size, 'shape': list(self.shape), 'classes': self.classes,
            'precision': self.precision, 'optimizer': self.optimizer, 'microbatches': self.microbatches,
        }


def batch_of(case: Case, seed: int) -> Any:
    """A batch on the host, the same for a seed: ``(images, labels)``, or a mapping of a text's tensors."""
    random = torch.Generator().manual_seed(seed)
    if not case.text:
        images = torch.randn((case.batch_size, *case.shape), generator=random)
        return images, torch.randint(case.classes, (case.batch_size,), generator=random)
    words = torch.randint(case.classes, (case.batch_size, *case.shape), generator=random)
    labels = torch.full_like(words, IGNORED)
    hidden = torch.rand(words.shape, generator=random).argsort(dim=1)[:, :case.masked]
    labels.scatter_(1, hidden, words.gather(1, hidden))
    return {'input_ids': words, 'attention_mask': torch.ones_like(words), 'labels': labels}


def _model(case: Case, settings: Mapping[str, Any], seed: int) -> Any:
    torch.manual_seed(seed)
    if not (case.text and case.everywhere):
        return build_model(dict(settings))
    # transformers' own, whose vocabulary head runs at every token
    transformers_logging.set_verbosity_error()
    given = {name: value for name, value in settings.items() if name != 'name'}
    return HuggingFaceModel(BertForMaskedLM(BertConfig(**given)), use_logits=True, shift_labels=False)


def student_of(case: Case) -> Any:
    """The student, for Composer; the same weights each time."""
    return _model(case, case.student, 1)


def teacher_of(case: Case, number: int = 0) -> Any:
    """A teacher, for Composer; the same weights for a number each time."""
    return _model(case, case.teacher, 2 + number)


class Flat(torch.nn.Module):
    """A network that takes one tensor and gives logits ``(rows, classes)``, as plain loops and peers want it.

    Of texts, all tokens' logits are laid out one after the other: peers average over the first dimension, and the
    softmax of some runs over the second.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.network = model.module if hasattr(model, 'module') else model.model
        self._text = not hasattr(model, 'module')

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits, shape ``(rows, classes)``."""
        if not self._text:
            logits: Tensor = self.network(inputs)
            return logits
        return self.network(input_ids=inputs).logits.flatten(0, 1)  # type: ignore[no-any-return]


def flat_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Input and labels for such a network."""
    if isinstance(batch, Mapping):
        return batch['input_ids'], batch['labels'].flatten()
    images, labels = batch
    return images, labels


def optimizer_of(case: Case, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer, with a rate so small that nothing ever diverges."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if case.optimizer == 'adamw':
        return torch.optim.AdamW(parameters, lr=1e-6)
    return torch.optim.SGD(parameters, lr=1e-6, momentum=0.9)


@dataclass
class _Endless:
    """The same few batches, over and over."""

    batches: list[Any] = field(default_factory=list)

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self.batches


def data_of(case: Case, gpu: bool) -> DataSpec:
    """A stream of batches without an end, for Composer; on a GPU's machine in pinned memory, as a loader gives it."""
    batches = batches_of(case, gpu)
    if not case.text:
        return DataSpec(_Endless(batches), get_num_samples_in_batch=lambda batch: len(batch[1]))
    # the usual split says where the masked tokens are, and KD would be at those alone
    split = None if case.everywhere else split_batch
    return DataSpec(
        _Endless(batches), split_batch=split, get_num_samples_in_batch=count_samples,
        get_num_tokens_in_batch=count_tokens,
    )


def batches_of(case: Case, gpu: bool) -> list[Any]:
    """A few batches on the host."""
    batches = [batch_of(case, seed) for seed in range(4)]
    if not gpu:
        return batches
    return [
        {key: value.pin_memory() for key, value in batch.items()} if isinstance(batch, dict)
        else tuple(value.pin_memory() for value in batch) for batch in batches
    ]
