"""The steps that prepare a teacher: which are taken on this device, and what each does."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from composer.core import Precision
from torch import Tensor, nn
from torch.nn import functional

from composer_kd.teachers.preparing.asked import Prepare
from composer_kd.teachers.preparing.copies import castable, has_images, keep_in, to_channels_last
from composer_kd.teachers.preparing.folding import Pairs, find_pairs, fold

log = logging.getLogger(__name__)

_DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
_RUNS = {Precision.AMP_BF16: torch.bfloat16, Precision.AMP_FP16: torch.float16}
_SHORT = {torch.bfloat16: 'bf16', torch.float16: 'fp16'}


@dataclass(frozen=True)
class Step:
    """One thing that is done to a teacher.

    Attributes:
        name: The setting that asks for it.
        label: What it does, for logs and records.
        asked: Whether the user asked for it by name; ``'auto'`` leaves it out where it fails.
        change: Changes a copy of the model in place; ``None`` where the model stays as it is.
        around: Makes a context for each forward.
        images: Changes the images before each forward.
        clones: Whether the next forward writes its answer to the same memory.
    """

    name: str
    label: str
    asked: bool
    change: Callable[[nn.Module], None] | None = None
    around: Callable[[], AbstractContextManager[Any]] | None = None
    images: Callable[[Tensor], Tensor] | None = None
    clones: bool = False


def with_resolution(digest: str, resolution: int | None) -> str:
    """The digest of a teacher that sees smaller images: what is learnt from it is not the same.

    Example:
        >>> with_resolution('1234', None)
        '1234'
    """
    return digest if resolution is None else hashlib.sha256(f'{digest} resolution {resolution}'.encode()).hexdigest()


def refuse_impossible(model: nn.Module, prepare: Prepare, where: str) -> None:
    """Refuse what was asked for by name and cannot be done to a model, wherever it will run.

    Args:
        model: The model.
        prepare: What was asked for.
        where: What it is for, for messages.

    Raises:
        ValueError: Naming the setting, and why.
    """
    if prepare.channels_last is True and not has_images(model):
        raise ValueError(
            f"{where}.prepare.channels_last: the teacher has no two-dimensional convolutions. Leave it at 'auto'.",
        )
    if prepare.fold_batchnorm is True:
        obstacle = find_pairs(model).obstacle
        if obstacle is not None:
            raise ValueError(
                f"{where}.prepare.fold_batchnorm: nothing can be folded, as {obstacle}. Leave it at 'auto', or give "
                'this teacher a prepare of its own.',
            )


def choose_steps(
    model: nn.Module, prepare: Prepare, device: torch.device, precision: Precision, placement: str, who: str,
) -> list[Step]:
    """The steps that a teacher is prepared by, in their order; the same on every rank.

    Args:
        model: The untouched model, where it will run.
        prepare: What was asked for.
        device: Where it runs.
        precision: Of the run.
        placement: Where its weights lie. Of those in parts or in host memory, no step changes any.
        who: The teacher, for messages.

    Raises:
        ValueError: For what was asked for by name and cannot be.
    """
    if prepare.nothing:
        return []
    whole = placement == 'replicated'
    named = {
        'channels_last': prepare.channels_last is True, 'fold_batchnorm': prepare.fold_batchnorm is True,
        'compile': prepare.compile is not None,
    }
    if not whole and any(named.values()):
        names = ' and '.join(f'prepare.{name}' for name, asked in named.items() if asked)
        raise ValueError(
            f"{who}: {names} cannot be had where its weights are '{placement}', as they stay as they are then. Leave "
            "it out, or use placement='replicated'.",
        )
    steps = [_smaller(prepare.resolution)] if prepare.resolution is not None else []
    steps += _rearranged(model, prepare, device, who) if whole else []
    steps += _precise(model, prepare.precision, device, precision, whole, who)
    if prepare.compile is not None:
        steps.append(_compiled(prepare.compile))
    hook = _hooked(model)
    if hook is not None and not all(step.asked or step.change is None for step in steps):
        # a hook sees the inside of one model, the user's, and may change it
        log.debug("%s: 'auto' leaves it as it is, as its module '%s' has hooks.", who, hook)
        steps = [step for step in steps if step.asked or step.change is None]
    return steps


def _hooked(model: nn.Module) -> str | None:
    return next((name for name, part in model.named_modules() if part._forward_hooks or part._forward_pre_hooks), None)


def _rearranged(model: nn.Module, prepare: Prepare, device: torch.device, who: str) -> list[Step]:
    steps = []
    if prepare.fold_batchnorm is not False:
        pairs = find_pairs(model)
        if pairs.names:
            steps.append(_folded(pairs, prepare.fold_batchnorm is True))
        else:
            log.debug('%s: no BatchNorm is folded, as %s.', who, pairs.obstacle)
    images = has_images(model) and (prepare.channels_last is True or device.type in ('cpu', 'cuda'))
    if images and prepare.channels_last is not False:
        last = partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
        asked = prepare.channels_last is True
        steps.append(Step('channels_last', 'channels_last', asked, to_channels_last, images=last))
    return steps


def _folded(pairs: Pairs, asked: bool) -> Step:
    return Step('fold_batchnorm', f'fold_batchnorm ({len(pairs.names)})', asked, partial(fold, names=pairs.names))


def _precise(
    model: nn.Module, said: str, device: torch.device, precision: Precision, whole: bool, who: str,
) -> list[Step]:
    if said in ('auto', 'run'):
        dtype = _RUNS.get(precision) if device.type == 'cuda' else None  # elsewhere Composer casts nothing
        if dtype is None or not whole or not castable(model):
            return []
        return [Step('precision', f'weights in {_SHORT[dtype]}', said == 'run', partial(keep_in, dtype=dtype))]
    if precision is Precision.AMP_FP8:
        raise ValueError(
            f"{who}: prepare.precision is '{said}', and the run's is amp_fp8, which transformer_engine's layers follow "
            "by themselves. Leave it at 'run'.",
        )
    dtype = _DTYPES.get(said)
    around = partial(torch.autocast, device.type, dtype=dtype, enabled=dtype is not None)
    keep = partial(keep_in, dtype=dtype) if whole and dtype is not None and castable(model) else None
    return [Step('precision', f'precision {said}', True, keep, around)]


def _compiled(arguments: Mapping[str, Any]) -> Step:
    def compiled(model: nn.Module) -> None:
        given: dict[str, Any] = {key: dict(value) if key == 'options' else value for key, value in arguments.items()}
        # Module.compile does nothing, without a word, for torch's own containers such as Sequential
        model.forward = torch.compile(model.forward, **given)

    backend = arguments.get('backend', 'inductor')
    told = [backend if isinstance(backend, str) else getattr(backend, '__name__', 'own'), arguments.get('mode')]
    options = arguments.get('options') or {}
    graphs = arguments.get('mode') in ('reduce-overhead', 'max-autotune') or options.get('triton.cudagraphs', False)
    return Step(
        'compile', f"compile ({', '.join(str(part) for part in told if part)})", True, compiled, clones=bool(graphs),
        around=_new_step if graphs else None,
    )


@contextmanager
def _new_step() -> Iterator[None]:
    # a CUDA graph writes its outputs to the same memory again: each answer is a run of its own, and copied
    torch.compiler.cudagraph_mark_step_begin()
    yield


def _smaller(side: int) -> Step:
    def smaller(images: Tensor) -> Tensor:
        least = min(images.shape[-2:])
        if least <= side:
            return images
        size = [math.floor(pixels * side / least + 0.5) for pixels in images.shape[-2:]]
        resized: Tensor = functional.interpolate(images, size, mode='bilinear', antialias=True)
        return resized

    return Step('resolution', f'resolution {side}', True, images=smaller)


def tolerance_of(
    said: float | None, steps: Sequence[Step], device: torch.device, precision: Precision,
) -> float:
    """How far the first answers may be off, as a share of their spread.

    Args:
        said: By the user.
        steps: That are taken.
        device: Where the teacher runs.
        precision: Of the run.
    """
    if said is not None:
        return said
    cuda = device.type == 'cuda'
    tf32 = cuda and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    few = tf32 or (cuda and precision is not Precision.FP32) or any(
        step.name == 'precision' and step.label != 'precision fp32' for step in steps
    )
    return 0.05 if few else 1e-3


def on_images(batch: Any, change: Callable[[Tensor], Tensor]) -> tuple[Any, int]:
    """A batch with its images changed, and how many tensors of images there were.

    Args:
        batch: A tensor, or a mapping or sequence of batches.
        change: What each floating-point tensor of four dimensions is passed through.
    """
    if isinstance(batch, Tensor):
        if batch.dim() != 4 or not batch.is_floating_point():
            return batch, 0
        return change(batch), 1
    if isinstance(batch, Mapping):
        done = {key: on_images(value, change) for key, value in batch.items()}
        return {key: value for key, (value, _) in done.items()}, sum(count for _, count in done.values())
    if isinstance(batch, (list, tuple)):
        parts = [on_images(value, change) for value in batch]
        values = [value for value, _ in parts]
        made = type(batch)(*values) if hasattr(batch, '_fields') else type(batch)(values)
        return made, sum(count for _, count in parts)
    return batch, 0
