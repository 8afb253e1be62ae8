"""An input for a model that is to be compared with another, and what the run's own model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from composer.algorithms.ghost_batchnorm.ghost_batchnorm import _GhostBatchNorm
from composer.models import ComposerModel, HuggingFaceModel
from torch import Tensor

from composer_kd.batches import find_logits
from composer_kd.names import split_named
from composer_kd.recipes import DATA, Recipe
from composer_kd.recipes.tasks.registry import SHAPES

TOLERANCE = 1e-5
"""The largest difference of outputs that counts as none, as a share of the largest output where that is above 1."""


@dataclass(frozen=True)
class EvaluationData:
    """The data a model was evaluated on, as its recipe says it.

    Attributes:
        where: Its path in the recipe.
        name: Of :data:`composer_kd.recipes.DATA`.
        settings: What the recipe says besides.
        train: Whether it is what the model was trained on, as nothing was evaluated on the same kind of data.
    """

    where: str
    name: str
    settings: dict[str, Any]
    train: bool

    def batch(self, samples: int) -> Any:
        """A batch of zeros and ones, in the shape that the model gets.

        Raises:
            ValueError: If the shape is not known without the data.
        """
        if self.name not in SHAPES:
            raise ValueError(
                f'{self.where}: nothing is known of the shape of the data {self.name!r}, so there is nothing to try '
                'the model on. Register its shape with composer_kd.recipes.tasks.registry.describes.',
            )
        return SHAPES[self.name](self.train, **self.settings).batch(samples)


def evaluation_data(recipe: Recipe) -> EvaluationData:
    """That of the first evaluator with data of the kind that was trained on, or else the training data."""
    specs = {f'evaluators.{label}.data': spec.data for label, spec in recipe.evaluators.items()}
    trained = split_named(recipe.train_data, 'train_data')[0]
    for where, spec in [*specs.items(), ('train_data', recipe.train_data)]:
        name, settings = split_named(spec, where)
        DATA.get(name, where)  # what describes data is imported with what builds it
        if name == trained:
            settings.pop('batch_size', None)
            return EvaluationData(where, name, settings, where == 'train_data')
    raise AssertionError('the training data is of its own kind')


@dataclass(frozen=True)
class Probe:
    """Random inputs by name and what the run's model gives for them.

    Attributes:
        inputs: By the names of ``forward``'s parameters; those of an image classifier go by the name ``images``.
        expected: The logits.
    """

    inputs: Mapping[str, Tensor]
    expected: Tensor

    def difference(self, model: Callable[..., Any]) -> float:
        """The largest difference between a model's logits and the expected, as a share of ``max(1, largest logit)``."""
        return difference(self.call(model), self.expected)

    def call(self, model: Callable[..., Any]) -> Tensor:
        """What a model gives for the inputs, by position for images and by name for text."""
        with torch.no_grad():
            outputs = model(self.inputs['images']) if 'images' in self.inputs else model(**self.inputs)
        return find_logits(outputs, None, 'the exported model')


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of ``max(1, largest expected)``; infinite for another shape or NaN."""
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float('inf')
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1))


def probe(model: ComposerModel, data: EvaluationData, length: int | None = None) -> Probe:
    """Ask the run's model about a few random samples.

    Args:
        model: The run's model, in eval mode.
        data: What it was evaluated on.
        length: Tokens of a text; default: that of the data.

    Raises:
        ValueError: If the model gives something that is not finite: its training diverged.
    """
    generator = torch.Generator().manual_seed(0)
    # GhostBatchNorm takes no batch that is smaller than its own, in evaluation either.
    ghosts = [module.ghost_batch_size for module in model.modules() if isinstance(module, _GhostBatchNorm)]
    samples = max([2, *ghosts])
    if isinstance(model, HuggingFaceModel):
        shape = (samples, length or data.batch(1)['input_ids'].shape[1])
        mask = torch.ones(shape, dtype=torch.int64)
        if not getattr(model, 'shift_labels', False):  # a causal model's answers at padding are nobody's
            mask[0, shape[1] // 2 + 1:] = 0
        words = torch.randint(0, int(model.config.vocab_size), shape, generator=generator)
        inputs = {'input_ids': words, 'attention_mask': mask}
        if getattr(model.config, 'type_vocab_size', 0) > 1 and 'token_type_ids' in model.model_forward_args:
            inputs['token_type_ids'] = torch.randint(0, 2, shape, generator=generator)
        batch: Any = dict(inputs)
    else:
        images, labels = data.batch(samples)
        inputs = {'images': torch.randn(images.shape, generator=generator)}
        batch = inputs['images'], labels
    with torch.no_grad():
        expected = find_logits(model(batch), None, "the run's model")
    if not bool(torch.isfinite(expected).all()):
        raise ValueError(
            "export: the run's model gives outputs that are not finite, so there is nothing to compare with. Its "
            'training diverged; give an earlier checkpoint (--checkpoint).',
        )
    return Probe(inputs, expected)
