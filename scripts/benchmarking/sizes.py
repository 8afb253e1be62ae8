"""How large everything is: on a GPU as in real trainings, on a CPU so that all ends within half an hour, or tiny."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarking.cases import Case

WORDS = 30_522
DIGITS = 'digits'
"""In place of a ResNet's name: the network of a few thousand weights for images of one channel."""

_TINY_BERT = {
    'vocab_size': 200, 'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32,
    'max_position_embeddings': 64, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0,
}
_MINI_BERT = {
    'vocab_size': WORDS, 'hidden_size': 256, 'num_hidden_layers': 4, 'num_attention_heads': 4,
    'intermediate_size': 1024,
}
_LONG_BERT = {**_MINI_BERT, 'max_position_embeddings': 2048}


@dataclass(frozen=True)
class Sizes:
    """Of all sections.

    Attributes:
        precision: Composer's name of it.
        images: The cases of images: sides, in pixels.
        image_batch: Samples.
        image_classes: Classes.
        text_batch: Samples.
        mini_batch: Samples of the smaller model of texts.
        bert: Settings of the model of texts.
        mini_bert: Of a smaller one, most of whose work is its vocabulary (BERT-mini of arXiv 1908.08962).
        length: Tokens of a text.
        bookkeeping: Samples of a batch of the tiny model, whose step is mostly Python.
        ensemble: How many teachers the plain ensemble of ``overhead`` has.
        ensemble_batch: Samples, of images of the first side.
        growing_side: Of the images of ``growth``.
        growing_batch: Samples.
        growing_bert: Settings of its model of texts.
        growing_text_batch: Samples.
        loss_rows: Of the loss alone.
        teachers: Points of the curve.
        classes: Likewise.
        lengths: Likewise.
        microbatches: Likewise.
        architecture: Of the larger ResNet.
        smaller: Of the smaller one.
    """

    precision: str
    images: tuple[int, ...]
    image_batch: int
    image_classes: int
    text_batch: int
    mini_batch: int
    bert: Mapping[str, Any]
    mini_bert: Mapping[str, Any]
    length: int
    bookkeeping: int
    ensemble: int
    ensemble_batch: int
    growing_side: int
    growing_batch: int
    growing_bert: Mapping[str, Any]
    growing_text_batch: int
    loss_rows: int
    teachers: tuple[int, ...] = (1, 2, 4, 8)
    classes: tuple[int, ...] = (10, 100, 1000, 10_000, 100_000)
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    microbatches: tuple[int, ...] = (1, 2, 4, 8, 16)
    architecture: str = 'resnet50'
    smaller: str = 'resnet18'


CPU = Sizes(
    precision='fp32', images=(224,), image_batch=8, image_classes=1000, text_batch=4, mini_batch=16,
    bert={'vocab_size': WORDS}, mini_bert=_MINI_BERT, length=128, bookkeeping=128, ensemble=5, ensemble_batch=4,
    growing_side=64, growing_batch=16, growing_bert=_LONG_BERT, growing_text_batch=2, loss_rows=64,
)
GPU = Sizes(
    precision='amp_bf16', images=(176, 224), image_batch=256, image_classes=1000, text_batch=256,
    mini_batch=256, bert={'vocab_size': WORDS}, mini_bert=_MINI_BERT, length=128, bookkeeping=1024, ensemble=5,
    ensemble_batch=256, growing_side=176, growing_batch=256, growing_bert=_LONG_BERT, growing_text_batch=16,
    loss_rows=4096,
)
SMALL = Sizes(
    precision='fp32', images=(8,), image_batch=2, image_classes=10, text_batch=2, mini_batch=2,
    bert=_TINY_BERT, mini_bert=_TINY_BERT, length=16,
    bookkeeping=4, ensemble=2, ensemble_batch=2, growing_side=8, growing_batch=4, growing_bert=_TINY_BERT,
    growing_text_batch=2, loss_rows=4, teachers=(1, 2), classes=(10, 100), lengths=(16, 32), microbatches=(1, 2),
    architecture=DIGITS, smaller=DIGITS,
)


def resnet(architecture: str, classes: int) -> dict[str, Any]:
    """Settings of our model."""
    if architecture == DIGITS:
        return {'name': 'digits_resnet', 'num_classes': classes}
    return {'name': 'resnet', 'architecture': architecture, 'num_classes': classes}


def image_case(sizes: Sizes, side: int, student: str | None = None) -> Case:
    """A ResNet that learns from the larger one.

    Args:
        sizes: The sizes.
        side: Of the images, in pixels.
        student: Its architecture; ``None`` for the larger one.
    """
    mine, large = student or sizes.architecture, sizes.architecture
    classes = sizes.image_classes
    return Case(
        f'{_spelt(mine)} from {_spelt(large)}, {side} px', resnet(mine, classes), resnet(large, classes),
        sizes.image_batch, _shape(large, side), classes, sizes.precision,
    )


def text_case(sizes: Sizes, everywhere: bool = False, mini: bool = False) -> Case:
    """A BERT that learns from one of its size."""
    model = {'name': 'bert_masked_lm', **(sizes.mini_bert if mini else sizes.bert)}
    name = 'BERT-mini' if mini else 'BERT-base'
    return Case(
        f'{name} from {name}, {sizes.length} tokens', model, model, sizes.mini_batch if mini else sizes.text_batch,
        (sizes.length,), int(model['vocab_size']), sizes.precision, 'adamw', everywhere,
    )


def small_case(sizes: Sizes) -> Case:
    """A network of a few thousand weights, whose step is mostly Composer's and our own Python."""
    model = resnet(DIGITS, 10)
    return Case('digits, 8 px', model, model, sizes.bookkeeping, (1, 8, 8), 10, sizes.precision)


def growing_image(sizes: Sizes, classes: int = 0, microbatches: int = 1) -> Case:
    """The smaller ResNet from its like, at a point of a curve."""
    count = classes or sizes.image_classes
    model = resnet(sizes.smaller, count)
    side = sizes.growing_side
    return Case(
        f'{_spelt(sizes.smaller)}, {side} px', model, model, sizes.growing_batch, _shape(sizes.smaller, side),
        count, sizes.precision, microbatches=microbatches,
    )


def growing_text(sizes: Sizes, length: int) -> Case:
    """A small BERT from its like, at a point of a curve."""
    case = text_case(dataclasses.replace(sizes, bert=sizes.growing_bert, length=length))
    return dataclasses.replace(case, name='small BERT', batch_size=sizes.growing_text_batch)


def _shape(architecture: str, side: int) -> tuple[int, int, int]:
    return 1 if architecture == DIGITS else 3, side, side


def _spelt(architecture: str) -> str:
    return architecture.replace('resnet', 'ResNet-')
