"""What a rank needs memory for, and what a checkpoint takes on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor, nn

from composer_kd.callbacks import untouched
from composer_kd.components import OPTIMIZERS, build
from composer_kd.plan.onmeta import Kept, OnMeta, id_of
from composer_kd.plan.result import Memory
from composer_kd.recipes import Recipe

GIB = 2**30
RESERVE = GIB
"""What CUDA, cuDNN and NCCL take for themselves on an A100, about."""

FITS = 0.9
"""The share of a GPU's memory that an estimate may fill and be said to fit; the rest is lost between blocks."""

_ENTRY, _REST = 250, 18_000
# Of a checkpoint: the headers of a tensor in the archive, and clocks, generators and the recipe of the model.


@dataclass(frozen=True)
class Activations:
    """What a training-mode forward with its loss keeps for the backward.

    Attributes:
        per_sample: Bytes that come with each sample.
        casts: Bytes that come once: parameters in the lower precision.
        logits: Numbers of the output of one sample.
    """

    per_sample: int
    casts: int
    logits: int


def activations(
    model: ComposerModel, batch: Callable[[int], Any], precision: str, gpu: bool, samples: tuple[int, int] = (8, 16),
) -> Activations:
    """Count the tensors that are kept, on the meta device, for two sizes of batch.

    Args:
        model: The model, on the meta device.
        batch: Makes a batch of that many samples.
        precision: Of the training.
        gpu: Whether CUDA's fused kernels run.
        samples: The two sizes.

    Raises:
        Exception: Whatever the model raises, as where it looks at values that are not there.
    """
    found, logits = [], 0
    for size in samples:
        with torch.device('meta'), OnMeta(precision, gpu), untouched(model), torch.enable_grad():
            model.train()
            given, kept = batch(size), Kept(model)
            own = {id_of(tensor) for tensor in tensors_of(given)}
            with kept:
                outputs = model(given)
                model.loss(outputs, given)
            logits = _numbers(outputs) // size
            # The batch itself lies in memory as well, kept or not.
            found.append(kept.bytes(without=own) + sum(t.nbytes for t in tensors_of(given)))
    per_sample = (found[1] - found[0]) / (samples[1] - samples[0])
    return Activations(math.ceil(per_sample), max(0, round(found[0] - per_sample * samples[0])), logits)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in a batch or in outputs.

    Example:
        >>> len(tensors_of({'a': torch.zeros(2), 'b': [torch.zeros(3), 'text']}))
        2
    """
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_of(item)] if isinstance(value, (list, tuple)) else []


def _numbers(outputs: Any) -> int:
    if isinstance(outputs, Mapping):
        outputs = outputs.get('logits')
    return sum(tensor.numel() for tensor in tensors_of(outputs))


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors, each once.

    Example:
        >>> layer = nn.Linear(4, 3)
        >>> size_of([layer.weight, layer.bias, layer.weight])
        60
    """
    return sum({id_of(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def optimizer_state(recipe: Recipe) -> tuple[float, int]:
    """What the recipe's optimizer keeps for each parameter, found out by one step on a tensor of a few numbers.

    Returns:
        Bytes for each number of a parameter, and bytes for each parameter.

    Raises:
        Exception: Whatever the optimizer raises, as one that needs a closure.
    """
    settings = dict(recipe.optimizer)
    weight = nn.Parameter(torch.ones(3, 5))
    with untouched(), torch.enable_grad():
        optimizer = build(OPTIMIZERS, settings.pop('name'), settings, 'optimizer', params=[weight])
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    state = [value for value in optimizer.state[weight].values() if isinstance(value, Tensor)]
    whole = sum(value.nbytes for value in state if value.shape == weight.shape)
    return whole / weight.numel(), sum(value.nbytes for value in state if value.shape != weight.shape)


@dataclass(frozen=True)
class Weights:
    """Bytes of what a training keeps for its parameters."""

    model: int
    trained: int
    optimizer: int
    sam: int
    ema: int
    swa: int
    tensors: int

    @classmethod
    def of(cls, model: nn.Module, recipe: Recipe) -> Weights:
        """Of a model and the recipe's optimizer and algorithms."""
        own = {id_of(p): p for p in model.parameters() if p.requires_grad}
        numbers, trained = sum(p.numel() for p in own.values()), size_of(own.values())
        each, once = optimizer_state(recipe)
        whole = size_of((*model.parameters(), *model.buffers()))
        has = recipe.algorithms
        return cls(
            whole, trained, round(each * numbers) + once * len(own), trained if 'sam' in has else 0,
            whole if 'ema' in has else 0, whole if 'swa' in has else 0, len(model.state_dict()),
        )

    def checkpoint(self, weights_only: bool) -> int:
        """Bytes of a checkpoint on disk."""
        if weights_only:
            return self.model + self.tensors * _ENTRY + _REST
        # Composer saves the state of SAM's own optimizer in the place of that of the one it wraps.
        optimizer = self.sam or self.optimizer
        kinds = 1 + (optimizer > 0) + (self.ema > 0) + (self.swa > 0)
        return self.model + optimizer + self.ema + self.swa + kinds * self.tensors * _ENTRY + _REST


def sharded(recipe: Recipe, ranks: int, per_node: int) -> tuple[int, int]:
    """Over how many ranks FSDP divides parameters, and gradients with the state of the optimizer.

    Example:
        >>> from composer_kd.recipes import parse_recipe
        >>> said = {'run_name': 'a', 'model': 'm', 'train_data': {'name': 'd', 'batch_size': 8}, 'optimizer': 'adam',
        ...         'max_duration': '1ep', 'parallelism_config': {'fsdp': {'sharding_strategy': 'SHARD_GRAD_OP'}}}
        >>> sharded(parse_recipe(said), ranks=8, per_node=8)
        (1, 8)
    """
    parallelism = recipe.parallelism_config
    if parallelism is None or (parallelism.fsdp is None and parallelism.fsdp2 is None):
        return 1, 1
    if parallelism.fsdp is None:
        return ranks, ranks
    strategy = str(parallelism.fsdp.get('sharding_strategy', 'FULL_SHARD')).upper()
    if strategy == 'NO_SHARD':
        return 1, 1
    over = per_node if 'HYBRID' in strategy else ranks
    return (1 if strategy in ('SHARD_GRAD_OP', '_HYBRID_SHARD_ZERO2') else over), over


def copies(teachers: int) -> int:
    """How many tensors of the logits' size distillation has at a time: answers, their mean, the student's gradient.

    Example:
        >>> copies(1), copies(3)
        (2, 5)
    """
    return teachers + (2 if teachers > 1 else 1)


def estimate(
    weights: Weights, kept: Activations | None, teachers: int, kd: int, recipe: Recipe, ranks: int, per_node: int,
    batch_per_rank: int, limit: int, gpu: bool,
) -> Memory:
    """The memory of a rank.

    Args:
        weights: What is kept for the parameters.
        kept: What a forward keeps; ``None`` where it could not be counted.
        teachers: Bytes of the teachers' parameters and buffers.
        kd: Copies of the logits that distillation makes, in float32; 0 without it.
        recipe: The recipe.
        ranks: In all.
        per_node: On one machine.
        batch_per_rank: Samples of a step on one rank.
        limit: Bytes of a GPU.
        gpu: Whether CUDA takes its share.
    """
    shard, shard_rest = sharded(recipe, ranks, per_node)
    # Without FSDP, ranks exchange gradients through buckets as large as the gradients themselves.
    buckets = weights.trained if ranks > 1 and shard_rest == 1 else 0
    base = Memory(
        parameters=math.ceil(weights.model / shard),
        gradients=math.ceil(weights.trained / shard_rest) + buckets,
        optimizer=math.ceil((weights.optimizer + weights.sam) / shard_rest),
        averages=math.ceil(weights.ema / shard),
        teachers=teachers,
        casts=kept.casts if kept else 0,
        reserve=RESERVE if gpu else 0,
        activations_per_sample=kept.per_sample if kept else None,
        kd_per_sample=4 * kept.logits * kd if kept else 0,
        limit=limit,
    )
    if kept is None:
        return base
    fixed = (
        base.parameters + base.gradients + base.optimizer + base.averages + base.teachers + base.casts + base.reserve
    )
    each = kept.per_sample + base.kd_per_sample
    asked = recipe.device_train_microbatch_size
    size = batch_per_rank if asked is None or asked == 'auto' else max(1, min(batch_per_rank, int(float(asked))))
    if asked == 'auto':
        # As Composer tries: the whole batch, then half of it, and so on.
        while size > 1 and fixed + size * each > FITS * limit:
            size //= 2
    return base.model_copy(update={'microbatch': size, 'total': fixed + size * each})
